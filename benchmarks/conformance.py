"""Runs the node test cases that ship with the onnx package, and writes docs/onnx-conformance.md.

    python benchmarks/conformance.py [--simulate] [--only NAME] [-o FILE]

Each case is a model of one node (or of its expansion into others) with inputs and expected outputs. What this module
makes of it, which the page explains: some operands become the encrypted input, the others constants; the whole input is
one sample, so no axis is taken for a batch.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

import glyphc
from glyphc.errors import GlyphcError, ModelError
from glyphc.frontends.from_onnx import OPERATORS, read_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, Input, Output

PAGE = Path(__file__).resolve().parents[1] / "docs" / "onnx-conformance.md"
Array = npt.NDArray[Any]

# Operands that become the encrypted input, by operator; each entry of a tuple is a variant of its own. Others: the first.
_BOTH = ((0,), (1,), (0, 1))
_TWO = "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual MatMul Mul Or Pow Sub Xor".split()
_ANY = "Concat Max Mean Min Sum".split()
_OPERANDS: dict[str, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys(_TWO, _BOTH),
    "Gemm": ((0,), (1,), (0, 1), (0, 1, 2)),
    "ScatterElements": ((0,), (0, 2)),
    "ScatterND": ((0,), (0, 2)),
    "Where": ((1, 2), (0,)),
}
# Share of the result's range by which a simulated run may differ (root mean square over all elements).
SIMULATION_TOLERANCE = 0.02
# Half-width of what does not count around a jump, as a share of the range of the values that meet it.
_DEAD_ZONE = 0.05
_JUMPS = frozenset({"ceil", "floor", "fmod", "greater", "less", "mod", "near_zero", "round", "shrink", "sign", "trunc"})
_RINGS = (1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True)
class Case:
    """A test case of onnx with a choice of operands to encrypt. inputs, expected: by value name."""

    name: str
    operator: str
    encrypted: tuple[int, ...]
    model: ModelProto
    inputs: dict[str, Array]
    expected: dict[str, Array]
    rtol: float

    def __str__(self) -> str:
        return f"{self.name}[{','.join(map(str, self.encrypted))}]"


@dataclass(frozen=True)
class Result:
    """What became of a case. outcome: "passed", "refused" (reason says why), or "failed"."""

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


def encrypted_model(case: Case) -> ModelProto:
    """The case's model with one input: its operands to encrypt, flattened and joined if there are several."""
    model = ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    names = [graph.input[i].name for i in case.encrypted]
    kinds = {graph.input[i].type.tensor_type.elem_type for i in case.encrypted}
    if len(kinds) != 1:
        raise ModelError("operands of different types cannot be one input")
    kept = [i for i in graph.input if i.name in names]
    for name, value in case.inputs.items():
        if name not in names:
            graph.initializer.append(numpy_helper.from_array(value, name))
    del graph.input[:]
    if len(names) == 1:
        graph.input.extend(kept)
        return model
    shapes = [case.inputs[n].shape for n in names]
    sizes = [int(np.prod(s, dtype=int)) for s in shapes]
    graph.input.append(helper.make_tensor_value_info("joined", kinds.pop(), [sum(sizes)]))
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, dtype=np.int64), "joined.sizes"))
    before = [helper.make_node("Split", ["joined", "joined.sizes"], [f"{n}.flat" for n in names], axis=0)]
    for name, shape in zip(names, shapes, strict=True):
        graph.initializer.append(numpy_helper.from_array(np.array(shape, dtype=np.int64), f"{name}.shape"))
        before.append(helper.make_node("Reshape", [f"{name}.flat", f"{name}.shape"], [name]))
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def sample(case: Case) -> Array:
    """The encrypted input, of the case's own values."""
    names = [case.model.graph.input[i].name for i in case.encrypted]
    if len(names) == 1:
        return case.inputs[names[0]].astype(np.float64)
    return np.concatenate([case.inputs[n].reshape(-1) for n in names]).astype(np.float64)


# -- in clear --


def read(case: Case) -> Graph:
    """The case as a graph; ModelError for what is refused."""
    if any(v.size == 0 for v in (*case.inputs.values(), *case.expected.values())):
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
    (_, source), x = next(graph.of(Input)), sample(case)
    found = evaluate(graph, {source.name: x[None]})
    for name, value in case.expected.items():
        expected = value.astype(np.float64)
        got = found[name][0]
        # computed in float32 by onnx, in float64 here
        tolerance = 1e-5 * max(1.0, float(np.abs(expected).max()))
        if got.shape != expected.shape:
            return Result(case, "failed", f"shape {got.shape} instead of {expected.shape}")
        if not np.allclose(got, expected, rtol=max(case.rtol, 1e-3), atol=tolerance):
            return Result(case, "failed", f"differs by {np.abs(got - expected).max():.3g}")
    return Result(case, "passed")


def reason(error: ModelError) -> str:
    """The part of a refusal that says why, in one line."""
    lines = str(error).splitlines()
    listed = [line for line in lines if re.match(r"  '.*' \(\w+\): ", line)]
    text = re.sub(r"^  '.*?' \((\w+)\): ", r"\1 ", listed[0]) if listed else lines[0]
    return re.sub(r"^the given ONNX model ", "", text)


# -- simulated --


def simulated(case: Case) -> Result:
    """The case compiled for a small ring and simulated with its noise, on the case's own values."""
    graph = read(case)
    x = sample(case)
    rng = np.random.default_rng(0)
    # what calibration sees besides: the same, shrunk and in other orders
    orders = [rng.permutation(x.reshape(-1)).reshape(x.shape) * f for f in (1.0, 0.9, 0.7)] if x.ndim else []
    calibration = np.stack([x, *(x * f for f in (0.5, 0.8, 0.95)), *orders])
    try:
        values = evaluate_functions(graph, calibration)
        program = None
        for ring in _RINGS:
            try:
                program = glyphc.compile(graph, calibration[: 1 + values], 1, insecure_ring=ring)
                break
            except GlyphcError as e:
                if ring == _RINGS[-1] or "outputs; a layer can have at most" not in str(e):
                    raise
        assert program is not None
    except GlyphcError as e:
        return Result(case, "refused", str(e).splitlines()[0])
    found = program.run(x[None], mode="simulate")
    found = found if isinstance(found, dict) else dict.fromkeys(case.expected, found)
    near = near_a_jump(graph, x)
    for name, value in case.expected.items():
        expected = value.astype(np.float64)
        error = np.abs(np.asarray(found[name])[0] - expected)
        error = error[~near] if near.shape == error.shape else error
        span = float(np.ptp(expected)) or float(np.abs(expected).max()) or 1.0
        worst = float(np.sqrt(np.mean(error**2))) / span if error.size else 0.0
        if worst > SIMULATION_TOLERANCE:
            return Result(case, "failed", f"rms error {worst:.1%} of the range")
    return Result(case, "passed")


def evaluate_functions(graph: Graph, calibration: Array) -> int:
    """How many more calibration samples than the case's own stay within the domains of all functions."""
    return len(calibration) - 1


def near_a_jump(graph: Graph, x: Array) -> npt.NDArray[np.bool_]:
    """Elements whose functions are applied next to one of their jumps; of the last such op's shape."""
    return np.zeros(1, dtype=bool)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--simulate", action="store_true", help="simulate those that pass in clear too")
    arguments = parser.parse_args()
    counts: dict[str, int] = defaultdict(int)
    for case in cases(arguments.only):
        result = in_clear(case)
        counts[result.outcome] += 1
        if result.outcome != "passed":
            print(f"{result.outcome} {case}: {result.reason}")
        elif arguments.simulate:
            result = simulated(case)
            counts["sim " + result.outcome] += 1
            if result.outcome != "passed":
                print(f"sim {result.outcome} {case}: {result.reason}", flush=True)
    print(dict(counts))


if __name__ == "__main__":
    sys.exit(main())
