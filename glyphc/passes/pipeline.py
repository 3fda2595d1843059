"""Pipelines: sequences of passes, also from text such as ``fold,calibrate,quantize{input_bits=12}``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from glyphc.errors import GlyphcError, ModelError
from glyphc.ir import memory
from glyphc.ir.errors import IRError, TooLargeError
from glyphc.ir.graph import Graph
from glyphc.ir.types import Level
from glyphc.ir.verify import verify

from .assign_budget import AssignBudget
from .assign_layout import AssignLayout
from .base import Context, Pass, parse_option
from .calibrate import Calibrate
from .expand import Expand
from .fit_integers import FitIntegers
from .fit_polynomials import FitPolynomials
from .fit_words import FitWords
from .fold import Fold
from .merge import Merge
from .quantize import Quantize
from .schemes import AssignScheme, InsertSwitches
from .select_integers import SelectIntegers
from .select_parameters import SelectParameters
from .select_slots import SelectSlots
from .steps import RankInputs
from .validate import ValidateLayout, ValidateNoise, ValidateRange, ValidateSecurity

PASSES: dict[str, type[Pass]] = {
    p.name: p
    for p in (
        RankInputs,
        Expand,
        Fold,
        Calibrate,
        Quantize,
        ValidateRange,
        AssignScheme,
        InsertSwitches,
        FitPolynomials,
        SelectSlots,
        FitIntegers,
        SelectIntegers,
        FitWords,
        Merge,
        AssignLayout,
        ValidateLayout,
        AssignBudget,
        SelectParameters,
        ValidateNoise,
        ValidateSecurity,
    )
}
DEFAULT = ",".join(PASSES)

_ITEM = re.compile(r"\s*([a-z-]+)\s*(?:\{([^}]*)\})?\s*(?:,|$)")


def parse_pipeline(text: str) -> list[Pass]:
    """Passes from text; GlyphcError names the part that is wrong."""
    passes: list[Pass] = []
    text, at = text.rstrip(), 0
    while at < len(text):
        match = _ITEM.match(text, at)
        if match is None:
            raise GlyphcError(f"cannot read passes at {text[at:]!r}; write e.g. {DEFAULT!r}")
        passes.append(_parse_pass(match[1], match[2] or ""))
        at = match.end()
    return passes


# The last pass of each level: what a graph of that level has behind it.
_REACHED = {Level.SOURCE: None, Level.QUANTIZED: Quantize, Level.ASSIGNED: InsertSwitches, Level.LAIDOUT: AssignLayout}


def remaining(graph: Graph, start: str | None, passes: str | None) -> tuple[str, str]:
    """Name of the stage that a graph is at, and the passes to go (``passes`` if they are given).

    start: a level, or a pass whose result the graph is; by default the graph's level. GlyphcError if it cannot be.
    """
    level = graph.level
    last: type[Pass] | None
    if start in (None, level.value):
        last = SelectParameters if graph.parameters is not None else _REACHED[level]
    elif start in PASSES:
        last, gives = PASSES[start], PASSES[start].ensures
        if gives is not level:
            raise GlyphcError(f"pass {start!r} gives graphs at level {gives.value!r}, this one is at {level.value!r}")
    else:
        levels = ", ".join(v.value for v in Level)
        wrong = f"the graph is at level {level.value!r}, not {start!r}" if start in levels else f"no stage {start!r}"
        raise GlyphcError(f"{wrong}; levels: {levels}; passes: {', '.join(PASSES)}")
    names = list(PASSES)
    rest = names if last is None else names[names.index(last.name) + 1 :]
    return "source" if last is None else last.name, ",".join(rest) if passes is None else passes


def _parse_pass(name: str, options: str) -> Pass:
    if name not in PASSES:
        raise GlyphcError(f"unknown pass {name!r}; known: {', '.join(PASSES)}")
    kind = PASSES[name]
    defaults = {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]
    chosen = {}
    for option in filter(None, (o.strip() for o in options.split(","))):
        key, equals, value = option.partition("=")
        if not equals or key.strip() not in defaults:
            known = ", ".join(defaults) or "none"
            raise GlyphcError(f"pass {name!r} has no option {option!r}; its options: {known}")
        chosen[key.strip()] = parse_option(value.strip(), defaults[key.strip()], f"{name}{{{option}}}")
    return kind(**chosen)


def run_pipeline(
    graph: Graph,
    passes: Sequence[Pass],
    context: Context,
    observe: Callable[[str, Graph], None] = lambda name, graph: None,
) -> Graph:
    """Run the passes in order, but those that are about other graphs.

    After each, the verifier of the level it ensures, then ``observe(name, graph)``.
    """
    for step in passes:
        if not step.applies(graph):
            continue
        if graph.level is not step.requires:
            raise GlyphcError(
                f"pass {step.name!r} needs a graph at level {step.requires.value!r}, this one is at "
                f"{graph.level.value!r}"
            )
        if graph.level is Level.SOURCE:
            context = replace(context, floats=graph)
        try:
            _require_memory(graph, context)
            graph = step.run(graph, context)
        except TooLargeError as e:
            raise ModelError(f"the network is too large to be compiled (pass {step.name!r}): {e}") from None
        try:
            verify(graph)
        except IRError as e:
            raise IRError(f"after pass {step.name!r}: {e}") from e
        observe(step.name, graph)
    return graph


def _require_memory(graph: Graph, context: Context) -> None:
    """TooLargeError when the values of all nodes on all calibration samples are too large: passes hold all of them.

    Two of each: the values, and one working copy.
    """
    samples = max((len(x) for x in context.samples.values() if x.ndim), default=0)
    needed = 0
    for node in graph:
        needed += 2 * 8 * samples * node.type.size
        memory.require(needed, f"{node} (with the nodes before it, on {samples} calibration samples)")
