"""Pipelines as text, and the order of passes."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Any

import numpy as np
import pytest
from pass_networks import SAMPLES, Network, mlp, upto

import glyphc
from glyphc.errors import GlyphcError
from glyphc.ir.errors import IRError
from glyphc.ir.graph import Graph
from glyphc.ir.types import Level
from glyphc.passes.base import Context, Pass
from glyphc.passes.pipeline import DEFAULT, PASSES, parse_pipeline, run_pipeline
from glyphc.passes.quantize import Quantize
from glyphc.passes.steps import RankInputs
from glyphc.passes.tolerance import TolerancePass


def as_text(passes: list[Pass]) -> str:
    return ",".join(map(str, passes))


def changed(name: str, default: Any) -> Any:
    """Another valid value of an option."""
    match default:
        case bool():
            return not default
        case "HEStd_128_classic":
            return "insecure"
        case 65536:
            return 2048
        case "auto" if name == "images":
            return "never"
        case "auto":
            return "glyph"
        case float():
            return default + 0.5
        case Enum():
            return next(other for other in type(default) if other is not default)
        case 0 if name in ("table_bits", "word_bits"):
            return 8
        case 0:
            return 2048
        case "":
            return "relu1:14;gate:9"
        case bool():
            return not default
        case _:
            return default - 1


def test_the_default_pipeline_and_its_text() -> None:
    passes = parse_pipeline(DEFAULT)
    assert as_text(passes) == DEFAULT
    assert [type(p) for p in passes] == list(PASSES.values())
    assert parse_pipeline("") == []


@pytest.mark.parametrize("kind", PASSES.values(), ids=list(PASSES))
def test_every_option_survives_its_text(kind: type[Pass]) -> None:
    options = {f.name: changed(f.name, f.default) for f in fields(kind)}  # type: ignore[arg-type]
    if kind is Quantize:
        options["margin"] = 1.5  # from 1 on
    if issubclass(kind, TolerancePass):
        options["measures"] = "y=relative;z=classes"
    if "degree" in options:
        options["degree"] = 4
    given = kind(**options)
    (read,) = parse_pipeline(str(given))
    assert read == given
    for name, value in options.items():
        (one,) = parse_pipeline(f" {kind.name} {{ {name} = {value} }} ,")
        assert one == kind(**{name: value})
        assert type(getattr(one, name)) is type(value)
        assert str(one) == f"{kind.name}{{{name}={value}}}"


def test_white_space_is_free() -> None:
    text = " fold ,\n\tcalibrate{ bins = 32 } , quantize { input_bits=12 , margin = 1.5 }, "
    assert as_text(parse_pipeline(text)) == "fold,calibrate{bins=32},quantize{input_bits=12,margin=1.5}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("fold,optimise", ["unknown pass 'optimise'", "known:", "validate-noise"]),
        ("Fold", ["Fold"]),
        ("fold calibrate", ["'fold calibrate'"]),
        ("fold;calibrate", ["fold;calibrate"]),
        ("fold,,calibrate", ["',calibrate'"]),
        (",fold", ["',fold'"]),
        ("quantize{input_bits=12", ["quantize{input_bits=12"]),
        ("quantize}", ["quantize}"]),
        ("quantize{bits=12}", ["'quantize'", "'bits=12'", "input_bits", "margin"]),
        ("quantize{input_bits}", ["'quantize'", "'input_bits'"]),
        ("fold{x=1}", ["'fold'", "'x=1'", "none"]),
        ("quantize{input_bits=many}", ["'many'", "int"]),
        ("quantize{input_bits=12.5}", ["'12.5'", "int"]),
        ("quantize{input_bits=}", ["''", "int"]),
        ("quantize{margin=wide}", ["'wide'", "float"]),
        ("quantize{name=x}", ["'name=x'"]),
    ],
)
def test_unreadable_pipelines(text: str, parts: list[str]) -> None:
    with pytest.raises(GlyphcError) as caught:
        parse_pipeline(text)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("quantize", ["calibrate"]),
        ("fold,quantize", ["calibrate"]),
        ("fold,calibrate,quantize,fold", ["'fold'", "'source'", "'quantized'"]),
        ("fold,calibrate,assign-scheme", ["'assign-scheme'", "'quantized'", "'source'"]),
        ("fold,calibrate,quantize,assign-layout", ["'assign-layout'", "'assigned'", "'quantized'"]),
        (f"{DEFAULT},quantize", ["'quantize'", "'laidout'"]),
        ("fold,calibrate,quantize", ["end before parameters are selected"]),
        ("", ["end before parameters are selected"]),
        ("validate-noise", ["'validate-noise'", "'laidout'", "'source'"]),
        (upto("assign-layout") + ",validate-noise", ["select-parameters"]),
        (upto("assign-layout") + ",validate-security", ["select-parameters"]),
        (upto("assign-layout"), ["end before parameters are selected"]),
    ],
)
def test_passes_in_the_wrong_order(text: str, parts: list[str]) -> None:
    with pytest.raises(GlyphcError) as caught:
        glyphc.compile(mlp(), SAMPLES, passes=text)
    for part in parts:
        assert part in str(caught.value)


def moved(name: str, behind: str = "") -> str:
    """The default pipeline with one pass behind another one, or without it."""
    names = [n for n in DEFAULT.split(",") if n != name]
    at = names.index(behind) + 1 if behind else 0
    return ",".join([*names[:at], *([name] if behind else []), *names[at:]])


@pytest.mark.parametrize("text", [moved("expand"), moved("fold"), moved("fold", "calibrate"), moved("expand", "fold")])
def test_without_the_canonical_form(text: str) -> None:
    """Whatever a pipeline leaves out, the answer is a program that is right or an error that says what is wrong."""
    assert text != DEFAULT
    n = Network(2, 3)
    x = n.dense(n.apply(n.dense(n.dense(n.x, 8, "fc1"), 5, "fc2"), "tanh"), 4, "fc3")
    n.output(x)
    try:
        program = glyphc.compile(n.graph, SAMPLES, passes=text, insecure_ring=1024)
    except GlyphcError:
        return
    wanted = glyphc.compile(n.graph, SAMPLES, insecure_ring=1024).run(SAMPLES[:5], mode="clear")
    assert np.abs(program.run(SAMPLES[:5], mode="clear") - wanted).max() < 0.01


OPTIONS = [(kind.name, f.name, f.default) for kind in PASSES.values() for f in fields(kind)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["-1", "0", "1", "3", "1000", "1000000000", "0.5", "-0.0", "nan", "inf", "-inf", "1e400"]
)
@pytest.mark.parametrize(("name", "option", "default"), OPTIONS, ids=[f"{n}.{o}" for n, o, _ in OPTIONS])
def test_no_option_value_ends_in_a_traceback(name: str, option: str, default: Any, value: str) -> None:
    """An unusable value is an error of the user: GlyphcError; everything else would be shown as a bug."""
    text = upto("validate-security")
    chosen = f"{name}{{security=insecure,{option}={value}}}" if "select" in name else f"{name}{{{option}={value}}}"
    items = [chosen if item.startswith(name) else item for item in text.split(",")]
    try:
        program = glyphc.compile(mlp(), SAMPLES, passes=",".join(items))
    except GlyphcError as e:
        assert len(str(e)) > 20  # noqa: PT017
        return
    error = program.run(SAMPLES[:5], mode="clear")
    assert np.all(np.isfinite(error))


def test_each_pass_is_followed_by_the_verifier() -> None:
    class Break(Pass):
        name, requires, ensures = "break", Level.SOURCE, Level.SOURCE

        def run(self, graph: Graph, context: Context) -> Graph:
            return Graph(Level.SOURCE, 1)

    with pytest.raises(IRError, match="after pass 'break'"):
        run_pipeline(mlp(), [Break()], Context())


def test_stages_are_observed_in_order() -> None:
    seen: list[tuple[str, Level]] = []
    context = Context({"x": SAMPLES})
    run_pipeline(
        mlp(), parse_pipeline(upto("validate-security")), context, lambda name, g: seen.append((name, g.level))
    )
    # coefficients, where nothing else is asked; no comparisons
    taken = [
        kind for kind in PASSES.values() if kind.slots is not True and kind.only is None and kind is not RankInputs
    ]
    assert [name for name, _ in seen] == [kind.name for kind in taken]
    assert [level for _, level in seen] == [kind.ensures for kind in taken]
