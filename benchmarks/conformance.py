"""Runs the node test cases that ship with the onnx package, and writes docs/onnx-conformance.md.

    python benchmarks/conformance.py [--simulate] [--only NAME]

Each case is a model of one node (or of its expansion into others) with inputs and expected outputs. What this module
makes of it, which the page explains: some operands become encrypted inputs, the others constants; each input is
one sample, so no axis is taken for a batch.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.version_converter
from onnx import ModelProto, numpy_helper

import glyphc
from glyphc.errors import CalibrationError, GlyphcError, ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.frontends.onnx_opsets import OLDEST
from glyphc.frontends.onnx_rules import OPERATORS
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Affine, Apply, ArgMax, Dense, Gather, Hardmax, Scale
from glyphc.promises import promised

PAGE = Path(__file__).resolve().parents[1] / "docs" / "onnx-conformance.md"
Array = npt.NDArray[Any]

# Operands that become the encrypted input, by operator, each entry a variant of its own; for all others, the first one.
_BOTH = ((0,), (1,), (0, 1))
_TWO = (
    *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "MatMul", "Mul", "Or"),
    *("Pow", "Sub", "Xor"),
)
_ANY = ("Concat", "Max", "Mean", "Min", "Sum")
_OPERANDS: dict[str, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys(_TWO, _BOTH),
    "Gemm": ((0,), (1,), (0, 1), (0, 1, 2)),
    "ScatterElements": ((0,), (0, 2)),
    "ScatterND": ((0,), (0, 2)),
    "Where": ((1, 2), (0,)),
}
# Share of the result's range by which a simulated run may differ (root mean square over all elements that count).
SIMULATION_TOLERANCE = 0.02
# Next to a jump, noise decides: an element does not count if it changes by more than a tenth of the result's range when
# all inputs move by this share of their range.
_NEAR = 1 / 24
_JUMPS = frozenset(
    {"ceil", "floor", "fmod", "greater", "less", "mod", "near_zero", "quotient", "round", "shrink", "sign"}
    | {"thresholded_relu", "trunc"}
)
_RINGS = (1024, 2048, 4096)
# Tensors of more elements are not simulated: it takes too long.
_WIDEST = 1024


@dataclass(frozen=True)
class Case:
    """A test case of onnx with a choice of operands to encrypt. inputs, expected: by value name."""

    name: str
    operator: str
    encrypted: tuple[int, ...]
    model: ModelProto = field(repr=False)
    inputs: dict[str, Array] = field(repr=False)
    expected: dict[str, Array] = field(repr=False)
    rtol: float

    @property
    def expanded(self) -> bool:
        """Whether the operator is written out in others: then only its meaning is of interest."""
        return "_expanded" in self.name

    def __str__(self) -> str:
        return f"{self.name}[{','.join(map(str, self.encrypted))}]"


@dataclass(frozen=True)
class Result:
    """What became of a case. outcome: "passed", "refused", "failed" or "not simulated"; reason says why."""

    case: Case
    outcome: str
    reason: str = ""


# -- cases --


def cases(only: str = "") -> Iterator[Case]:
    """All variants of all node cases whose operator is claimed; their expansions into other operators too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # divisions by zero in onnx's own cases
        from onnx.backend.test.loader import load_model_tests

        tests = load_model_tests(kind="node")
    operators = {t.name: t.model.graph.node[0].op_type for t in tests if t.model and len(t.model.graph.node) == 1}
    for test in tests:
        plain = re.sub(r"_expanded(_ver\d+)?$", "", test.name)
        operator = operators.get(plain, "")
        if operator not in OPERATORS or only not in test.name or not test.data_sets:
            continue
        given, expected = test.data_sets[0]
        names = [i.name for i in test.model.graph.input]
        outputs = [o.name for o in test.model.graph.output]
        if len(names) != len(given) or not all(isinstance(v, np.ndarray | np.generic) for v in (*given, *expected)):
            continue  # sequences and optionals
        operands = _positions(test.model, operators[plain] == test.model.graph.node[0].op_type)
        for chosen in _variants(operator, operands, len(names)):
            inputs = dict(zip(names, map(np.asarray, given), strict=True))
            wanted = dict(zip(outputs, map(np.asarray, expected), strict=True))
            yield Case(test.name, operator, chosen, test.model, inputs, wanted, float(test.rtol))


def _positions(model: ModelProto, single: bool) -> list[int]:
    """For each input of the model, its first position among the node's operands."""
    if not single or len(model.graph.node) != 1:
        return list(range(len(model.graph.input)))
    operands = list(model.graph.node[0].input)
    return [operands.index(i.name) for i in model.graph.input if i.name in operands]


def _variants(operator: str, positions: list[int], count: int) -> Iterator[tuple[int, ...]]:
    """Choices of the model's inputs (by number) to encrypt."""
    if operator in _ANY:
        wanted: Iterable[tuple[int, ...]] = {(0,), tuple(range(count))}
    else:
        wanted = _OPERANDS.get(operator, ((0,),))
    seen = set()
    for operands in wanted:
        chosen = tuple(i for i, p in enumerate(positions) if p in operands)
        if chosen and len(chosen) == len(operands) and chosen not in seen:
            seen.add(chosen)
            yield chosen


def current(model: ModelProto) -> ModelProto:
    """The same model for the oldest opset that glyphc reads, if it was written for one before."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, 8)  # before, constants had to be listed as inputs
    version = copy.opset_import[0].version
    if version < OLDEST and all(_since(n) <= version for n in model.graph.node):
        copy.opset_import[0].version = OLDEST  # no operator has changed in between
    elif version < OLDEST:
        try:
            return onnx.version_converter.convert_version(copy, OLDEST)
        except Exception as e:  # C++ with exceptions of its own
            raise ModelError(f"onnx cannot convert it to opset {OLDEST}") from e
    return copy


def _since(node: onnx.NodeProto) -> int:
    return int(onnx.defs.get_schema(node.op_type, OLDEST).since_version)


def encrypted_model(case: Case) -> ModelProto:
    """The case's model with the operands to encrypt as its inputs; the others are constants."""
    model = current(case.model)
    graph = model.graph
    names = [graph.input[i].name for i in case.encrypted]
    kept = [i for i in graph.input if i.name in names]
    for name, value in case.inputs.items():
        if name not in names:
            graph.initializer.append(numpy_helper.from_array(value, name))
    del graph.input[:]
    graph.input.extend(kept)
    return model


def sample(case: Case) -> dict[str, Array]:
    """The encrypted inputs, of the case's own values."""
    names = [case.model.graph.input[i].name for i in case.encrypted]
    return {n: case.inputs[n].astype(np.float64) for n in names}


# -- in clear --


def read(case: Case) -> Graph:
    """The case as a graph; ModelError for what is refused."""
    encrypted = [case.inputs[case.model.graph.input[i].name] for i in case.encrypted]
    if any(v.size == 0 for v in (*encrypted, *case.expected.values())):
        raise ModelError("tensors without elements")
    if not all(_finite(v) for v in (*case.inputs.values(), *case.expected.values())):
        raise ModelError("values that are not finite")
    return read_onnx(encrypted_model(case), batch_axis=False)


def _finite(value: Array) -> bool:
    return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())


def in_clear(case: Case) -> Result:
    """The case by the graph's plain evaluator against the expected outputs."""
    try:
        graph = read(case)
    except ModelError as e:
        return Result(case, "refused", reason(e))
    found = evaluate(graph, {name: x[None] for name, x in sample(case).items()})
    for name, value in case.expected.items():
        if name not in found:
            continue  # it does not depend on what is encrypted
        expected = value.astype(np.float64)
        got = found[name][0]
        # computed in float32 by onnx, in float64 here
        exact = 2.0**-7 if value.dtype.name == "bfloat16" else 1e-5
        tolerance = exact * max(1.0, float(np.abs(expected).max()))
        if got.shape != expected.shape:
            return Result(case, "failed", f"shape {got.shape} instead of {expected.shape}")
        rounding = 2.0**-7 if value.dtype.name == "bfloat16" else 1e-3
        if not np.allclose(got, expected, rtol=max(case.rtol, rounding), atol=tolerance):
            return Result(case, "failed", f"differs by {np.abs(got - expected).max():.3g}")
    return Result(case, "passed")


def reason(error: ModelError) -> str:
    """The part of a refusal that says why, in one line."""
    lines = str(error).splitlines()
    listed = [line for line in lines if re.match(r"  '.*' \(\w+\): ", line)]
    text = re.sub(r"^  '.*?' \((\w+)\): ", r"\1 ", listed[0]) if listed else lines[0]
    return re.sub(r"^the given ONNX model ", "", text)


# -- simulated --

# Values that differ by less than this share of their size are as good as constant: single precision has little more.
_CONSTANT = 1e-5


TOO_INEXACT = "the compiler says beforehand that it is too inexact"


def simulated(case: Case) -> Result:
    """The case compiled for a small ring and simulated with its noise, on the case's own values."""
    graph, x = read(case), sample(case)
    if not any(isinstance(n.op, Affine | Apply | Dense | Gather | Scale) for n in graph):
        return Result(case, "not simulated", "the client computes all of it")
    counts = _away_from_jumps(graph, x, case)
    if not any(c.any() for c in counts.values()):
        return Result(case, "not simulated", "every element lies next to a jump, where noise decides")
    try:
        # a quarter: what counts is one sample, where the compiler bounds the mean of several
        spans = [_span(v.astype(np.float64)) for v in case.expected.values()]
        program = _compiled(graph, x, SIMULATION_TOLERANCE / 4 * min(spans))
    except GlyphcError as e:
        return Result(case, "not simulated", re.sub(r"%\d+ \((\w+) @[^)]*\)", r"\1", str(e).splitlines()[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = program.run({name: v[None] for name, v in x.items()}, mode="simulate")
    found = found if isinstance(found, dict) else {program.client.outputs[0].name: found}
    for name, value in case.expected.items():
        if name not in found:  # left out, as it does not depend on what is encrypted
            continue
        expected = value.astype(np.float64)
        error = np.abs(np.asarray(found[name])[0] - expected)[counts[name]]
        rms = float(np.sqrt(np.mean(error**2))) / _span(expected) if error.size else 0.0
        if rms > SIMULATION_TOLERANCE and not all(loss.kept for loss in promised(program)):
            return Result(case, "not simulated", TOO_INEXACT)
        if rms > SIMULATION_TOLERANCE:
            return Result(case, "failed", f"rms error {rms:.1%} of the range in simulation")
    return Result(case, "passed")


def _span(x: Array) -> float:
    """What errors are a share of: the range, or the size of values that are as good as constant.

    Cases of saturated networks have results from 0.999999 to 1, where every error is a large share of the range.
    """
    span, size = float(np.ptp(x)), float(np.abs(x).max())
    return (span if span > _CONSTANT * size else size) or 1.0


def _away_from_jumps(graph: Graph, x: dict[str, Array], case: Case) -> dict[str, npt.NDArray[np.bool_]]:
    """Which elements of the results keep their values when the inputs move a little; all, if nothing jumps."""
    steps = any(f.name in _JUMPS for _, op in graph.of(Apply) for f in op.functions)
    if not steps and not any(isinstance(n.op, ArgMax | Hardmax) for n in graph):
        return {name: np.ones(value.shape, dtype=bool) for name, value in case.expected.items()}
    rng = np.random.default_rng(0)
    moved = {n: v + _NEAR * _span(v) * rng.choice([-1.0, 1.0], size=(32, *v.shape)) for n, v in x.items()}
    found = evaluate(graph, {n: np.concatenate([v[None], moved[n]]) for n, v in x.items()})
    return {
        name: (np.abs(found[name][1:] - found[name][:1]) <= 0.1 * _span(found[name][0])).all(axis=0)
        for name in case.expected
    }


def _compiled(graph: Graph, x: dict[str, Array], tolerance: float) -> glyphc.Program:
    """For the smallest ring that holds it; calibrated on the case's values, smaller ones and others in their places."""
    widest = max(node.type.size for node in graph)
    rings = [ring for ring in _RINGS if ring >= widest] if widest <= _WIDEST else []
    if not rings:
        raise GlyphcError(f"{widest} values in one tensor: too many to simulate for a table")
    rng = np.random.default_rng(0)
    last: GlyphcError | None = None
    for several in (True, False):  # some functions are not defined for others
        samples = {n: _variations(v, rng) if several else v[None] for n, v in x.items()}
        for ring in rings:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    return glyphc.compile(graph, samples, 1, logit_tolerance=tolerance, insecure_ring=ring)
            except CalibrationError as e:
                last = e
                break
            except GlyphcError as e:
                last = e
    assert last is not None
    raise last


def _variations(x: Array, rng: np.random.Generator) -> Array:
    """A tensor, smaller ones, and its values in other places."""
    others = [rng.permutation(x.reshape(-1)).reshape(x.shape) for _ in range(3)]
    return np.stack([x, 0.5 * x, 0.8 * x, *others])


# -- the page --


def page(clear: list[Result], simulation: list[Result]) -> str:
    """The page as Markdown."""
    operators = sorted({r.case.operator for r in clear})
    rows = []
    for operator in operators:
        mine = [r for r in clear if r.case.operator == operator]
        noisy = [r for r in simulation if r.case.operator == operator]
        rows.append(
            f"| {operator} | {len(mine)} | {_count(mine, 'passed')} | {_count(mine, 'refused') or ''} | "
            f"{_count(mine, 'failed') or ''} | {_count(noisy, 'passed') if simulation else ''} | "
            f"{_count(noisy, 'not simulated') or ''} | "
            f"{_count(noisy, 'failed') or ''} |"
        )
    failures = _reasons(r for r in (*clear, *simulation) if r.outcome == "failed")
    return _PAGE.format(
        onnx=onnx.__version__,
        total=len(clear),
        operators=len(operators),
        option=" --simulate" if simulation else "",
        passed=_count(clear, "passed"),
        refused=_count(clear, "refused"),
        failed=_count(clear, "failed"),
        simulated=_count(simulation, "passed") + _count(simulation, "failed"),
        simulation_failed=_count(simulation, "failed"),
        tolerance=f"{SIMULATION_TOLERANCE:.0%}",
        widest=_WIDEST,
        rows="\n".join(rows),
        refusals=_reasons(r for r in clear if r.outcome == "refused"),
        failures=_HEAD + failures if failures else "None.",
        not_simulated=_reasons(r for r in simulation if r.outcome == "not simulated"),
    )


def _count(results: Iterable[Result], outcome: str) -> int:
    return sum(r.outcome == outcome for r in results)


def _reasons(results: Iterable[Result]) -> str:
    """One line for each operator and reason, with the number of cases."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        text = re.sub(r"^\w+ (?=[a-z])", "", result.reason) if result.outcome == "refused" else result.reason
        text = re.sub(r"(constant|input|output) '[^']*'", r"\1", text)
        text = re.sub(r"^\d+ values in one tensor: ", "", text)
        groups[result.case.operator, text].append(result)
    return "\n".join(
        f"| {operator} | {len(found)} | {text} | {found[0].case.name} |"
        for (operator, text), found in sorted(groups.items())
    )


_HEAD = """\
| operator | cases | reason | e.g. |
| --- | --- | --- | --- |
"""

_PAGE = """\
# ONNX conformance

Made by `python benchmarks/conformance.py{option}`; do not edit.

The onnx package ({onnx}) ships node test cases: models of one operator, with inputs and expected results, and for many
of them the same operator written out in others (`..._expanded`). These are the results of all {total} cases of the
{operators} operators that glyphc reads: **{passed} pass, {refused} are refused with a reason, {failed} fail**.

How they are run:

- *Encrypted operands.* An operator's data operands are encrypted and its weights, shapes and other parameters are
  constants. Operators of several data operands are run with each of them encrypted alone and with all of them: each
  choice counts as a case.
- *No batch axis.* The cases know no batch: axis 0 is an axis like others. They are read by
  `read_onnx(model, batch_axis=False)`, which takes the whole tensor as one sample. Networks are usually read
  with a batch axis, and what would combine samples with one another is refused.
- *Opsets.* Cases are read as they are, from opset 7 on; older ones are converted to that.
- *In clear*: the graph that the compiler starts from, evaluated in float64, agrees with the expected results up to the
  case's own tolerance (at least 1e-3 relative; bfloat16: 2^-7).
- *Simulated*: compiled for a small ring and run with the approximations and the noise of encryption. The root mean
  square error is at most {tolerance} of the result's range. Next to the jumps of functions that jump, noise decides:
  elements that change when the inputs move by 1/24 of their range are not compared. {simulated} cases were simulated
  for this page, of which {simulation_failed} failed. Expansions were not, nor what has tensors of more than {widest}
  elements, as that takes long; a test simulates all others. Without `--simulate`, none is simulated for the page.

| operator | cases | passed | refused | failed | passed in simulation | not simulated | failed in simulation |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

## Refused

| operator | cases | reason | e.g. |
| --- | --- | --- | --- |
{refusals}

## Failed

{failures}

## Not simulated

| operator | cases | reason | e.g. |
| --- | --- | --- | --- |
{not_simulated}
"""


def main() -> None:
    """Run the cases; print what does not pass; write the page if all were run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this; writes no page")
    parser.add_argument("--simulate", action="store_true", help="simulate what passes in clear, too")
    arguments = parser.parse_args()
    clear, simulation = [], []
    for case in cases(arguments.only):
        clear.append(in_clear(case))
        if clear[-1].outcome == "passed" and arguments.simulate and not case.expanded:
            simulation.append(simulated(case))
        for result in (clear[-1], *simulation[-1:]):
            if result.case is case and result.outcome != "passed":
                print(f"{case} {result.outcome}: {result.reason}", flush=True)
    if not arguments.only:
        PAGE.write_text(page(clear, simulation))
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    sys.exit(main())
