"""Error budgets: the tolerated loss decides the degrees, and what is promised is what a run shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from test_merge import Network

import glyphc
from glyphc.cli import main
from glyphc.diagnostics import summary
from glyphc.errors import GlyphcError
from glyphc.inspector.build import build
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, ArgMax, Bootstrap, Const, Dense, Output
from glyphc.passes.assign_budget import AssignBudget
from glyphc.passes.pipeline import DEFAULT
from glyphc.program import Program
from glyphc.reasons import why

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "models" / "digits-mlp.onnx"
TRAIN, TEST = (np.load(ROOT / "models" / "data" / f"digits-{part}.npy") for part in ("train", "test"))
SAMPLES = np.random.default_rng(11).normal(size=(400, 4))


def chain(*functions: str, outputs: int = 3, classes: bool = False) -> Graph:
    net = Network()
    value = net.x
    for i, function in enumerate(functions):
        value = net.layer([value], 8, function, f"h{i}")
    last = net.dense([value], outputs, "last")
    if classes:
        last = net.graph.add(ArgMax(False), (last,), location="argmax")
    net.graph.add(Output("y"), (last,), location="y")
    return net.graph


# Networks of random weights do not look like classifiers.
CLASSES: Any = {"measure": {"y": "classes"}}


def compiled(source: Graph, **options: Any) -> Program:
    return glyphc.compile(source, SAMPLES, 64, insecure_ring=1024, **options)


def degrees(program: Program) -> dict[str, int]:
    return {node.location: op.series.degree for node, op in program.graph.of(Bootstrap)}


def rms(x: npt.ArrayLike) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def bootstraps(program: Program) -> list[Node]:
    return [n for n, _ in program.graph.of(Bootstrap)]


def test_tighter_tolerances_take_higher_degrees() -> None:
    source = chain("relu", "abs")
    wanted = evaluate(source, {"x": SAMPLES})["y"]
    found = []
    for share in (0.1, 0.03, 0.01, 0.003):
        tolerance = share * rms(wanted)
        program = compiled(source, logit_tolerance=tolerance)
        error = rms(np.asarray(program.run(SAMPLES, mode="simulate")) - wanted)
        assert error <= 1.1 * tolerance
        found.append(sum(degrees(program).values()))
    assert found == sorted(found)
    assert len(set(found)) > 1


def test_precision_goes_where_it_matters() -> None:
    """Two branches of one function; the result hardly depends on one of them."""
    net = Network()
    branches = [net.layer([net.layer([net.x], 4, "tanh", f"t{name}")], 4, "relu", name) for name in ("much", "little")]
    last = net.dense(branches, 3, "last")
    assert last.operands == tuple(b.id for b in branches)
    weak = net.graph.constant("last.w.1")
    weak.setflags(write=True)
    weak *= 1e-3
    net.graph.add(Output("y"), (last,), location="y")
    program = glyphc.compile(
        net.graph, SAMPLES, 4, logit_tolerance=0.0001, insecure_ring=1024, passes=DEFAULT.replace("merge,", "")
    )
    found = degrees(program)
    assert found["relu little"] == 13 < found["relu much"]
    for node in bootstraps(program):
        assert any(d.made_by == "assign-budget" for d in node.decisions)


@pytest.mark.parametrize("classes", [False, True])
def test_classes_are_kept(classes: bool) -> None:
    source = chain("relu", "sigmoid", classes=classes)
    wanted = evaluate(source, {"x": SAMPLES})["y"]
    got = np.asarray(compiled(source, tolerance=0.5, **CLASSES).run(SAMPLES, mode="simulate"))
    lost = got != wanted if classes else got.argmax(axis=1) != wanted.argmax(axis=1)
    # by the simulation of ciphertexts, which adds noise to what the budget was chosen with
    assert 100 * np.mean(lost) <= 1.0


def test_a_single_output_is_kept_to_a_share_of_its_range() -> None:
    source = chain("abs", "relu", outputs=1)
    wanted = evaluate(source, {"x": SAMPLES})["y"]
    got = compiled(source).run(SAMPLES, mode="simulate")
    assert rms(np.asarray(got) - wanted) < 0.006 * np.ptp(wanted)


def test_what_rounding_loses_is_told_once() -> None:
    """Four bits of inputs lose more than is tolerated, whatever the series."""
    passes = DEFAULT.replace("quantize", "quantize{input_bits=4}")
    program = glyphc.compile(
        chain("tanh", "relu"), SAMPLES, 4, tolerance=0.01, passes=passes, insecure_ring=1024, **CLASSES
    )
    assert len(bootstraps(program)) == 2
    (warning,) = [line for line in summary(program).splitlines() if line.startswith("warning")]
    assert (
        "calibration samples changes: more than the tolerated 0.01 %; rounding and noise alone, with exact functions:"
        in warning
    )
    assert "0.01 % tolerated" not in summary(program)
    assert len(build(program, "x").notes) == 1
    assert "higher degrees would not help: ask for more bits (input_bits, " in warning
    assert max(degrees(program).values()) <= 27


def test_what_limits_the_series_is_named() -> None:
    """A jump among values that lie all around it: no degree decides those near by, and no bits would."""
    program = compiled(chain("tanh", "sign"), logit_tolerance=1e-3)
    (warning,) = [line for line in summary(program).splitlines() if line.startswith("warning")]
    assert "higher degrees would not help" not in warning
    assert re.search(r"by %\d+ \(apply @sign h1\) alone, whose series of degree \d+.* spans \[", warning)


def test_what_rounding_nearly_uses_up_leaves_the_limit_to_the_series() -> None:
    """The reserve cannot be kept then; but no more degrees than the limit asks for, and no warning."""
    passes = DEFAULT.replace("quantize", "quantize{input_bits=5}")
    options: Any = {"passes": passes, "insecure_ring": 1024}
    tight = glyphc.compile(chain("tanh", "relu"), SAMPLES, 4, logit_tolerance=1e-6, **options)
    alone = re.search(r"with exact functions: rms error ([\d.e-]+)", summary(tight))
    assert alone is not None
    program = glyphc.compile(chain("tanh", "relu"), SAMPLES, 4, logit_tolerance=float(alone[1]) / 0.92, **options)
    assert "warning" not in summary(program)
    assert max(degrees(program).values()) < 119


@pytest.mark.parametrize("halves", [0, 40])
def test_values_at_a_jump_do_not_decide_on_all_others(halves: int) -> None:
    """Integers against 0.5, and some samples that lie on it: no series decides those, but all others can be precise."""
    net = Network(1)
    eye = Const(net.graph.add_constant("eye", np.eye(1)))
    value = net.graph.add(Dense((eye,), Const(net.graph.add_constant("zero", np.zeros(1)))), (net.x,), location="same")
    above = net.graph.add(Apply((Function("greater", (0.5,)),)), (value,), location="above")
    net.graph.add(Output("y"), (net.dense([above], 2, "last"),), location="y")
    whole = np.random.default_rng(1).integers(-2, 3, size=(200 - halves, 1))
    x = np.concatenate([whole, np.full((halves, 1), 0.5)]).astype(np.float64)
    program = glyphc.compile(net.graph, x, 8, insecure_ring=1024, measure={"y": "relative"})
    (budget,) = [d for n in program.graph for d in n.decisions if d.made_by == "assign-budget"]
    off = np.asarray(program.run(whole, mode="simulate")) - evaluate(net.graph, {"x": whole})["y"]
    assert rms(off) < 0.0075 * np.std(evaluate(net.graph, {"x": whole})["y"])
    # what cannot be kept is said
    assert bool(budget.warning) == bool(halves)


@pytest.mark.parametrize(
    ("outputs", "options", "words"),
    [
        (
            3,
            CLASSES,
            r"the class of 0\.\d\d % of 200 held-out calibration samples changes( \(\d near.*\))?, 0\.5 % tolerated",
        ),
        (1, {}, r"rms error 0\.\d+ % of the spread on 200 held-out calibration samples, 0\.75 % tolerated"),
        (
            3,
            {"logit_tolerance": 0.25},
            r"rms error 0\.\d+ of the outputs on 200 held-out calibration samples, 0\.25 tolerated",
        ),
    ],
)
def test_the_measure_is_named(outputs: int, options: dict[str, Any], words: str) -> None:
    text = summary(compiled(chain("relu", outputs=outputs), **options))
    assert re.search(f"accuracy    simulated: {words} \\(series: 1 of degree ", text), text


def test_what_users_see_of_it() -> None:
    program = glyphc.compile(DIGITS, TRAIN, 64, insecure_ring=4096)
    words = "the class of 0.00 % of 512 held-out calibration samples changes, 0.5 % tolerated (series: 2 of degree 13)"
    assert f"accuracy    simulated: {words}" in summary(program)
    (first, *_) = bootstraps(program)
    assert "assign-budget chose 2 of degree 13" in why(first)
    wanted = glyphc.compile(DIGITS, TRAIN, 64, insecure_ring=4096, passes=DEFAULT.replace("assign-budget,", ""))
    assert set(degrees(wanted).values()) == {27}, "without a budget, every fit is kept to 2^-10 rms"
    same = program.run(TEST, mode="simulate").argmax(1) == program.run(TEST, mode="clear").argmax(1)
    assert np.mean(same) >= 0.99


@given(st.sampled_from(["relu", "tanh", "exp", "abs", "sigmoid"]), st.floats(0.001, 0.3))
@examples(15)
def test_simulated_errors_keep_to_any_tolerance(function: str, share: float) -> None:
    source = chain(function)
    wanted = evaluate(source, {"x": SAMPLES})["y"]
    tolerance = share * rms(wanted)
    program = compiled(source, logit_tolerance=tolerance)
    if not any(d.warning for n in program.graph for d in n.decisions):
        assert rms(np.asarray(program.run(SAMPLES, mode="simulate")) - wanted) <= 1.15 * tolerance + 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": -1.0}, "points=-1.0 is out of range"),
        ({"tolerance": 101.0}, "points=101.0 is out of range"),
        ({"logit_tolerance": 0.0}, "must be positive"),
        ({"logit_tolerance": -2.0}, "must be positive"),
        ({"tolerance": 1.0, "logit_tolerance": 1.0}, "either a tolerance"),
    ],
)
def test_bad_tolerances(options: dict[str, float], message: str) -> None:
    with pytest.raises(GlyphcError, match=message):
        compiled(chain("tanh"), **options)
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    result = CliRunner().invoke(
        main, ["compile", str(DIGITS), "--calibration", str(ROOT / "models/data/digits-train.npy"), *arguments]
    )
    assert result.exit_code != 0
    assert message in result.output


@pytest.mark.parametrize("option", ["points", "logits", "samples"])
def test_bad_options(option: str) -> None:
    with pytest.raises(GlyphcError, match=f"'assign-budget': {option}=-1"):
        AssignBudget(**{option: -1})  # type: ignore[arg-type]
