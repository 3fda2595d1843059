"""Every univariate ONNX operator: read from ONNX, in clear, through the schedule, and encrypted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import glyphc
from glyphc.ir.ops import Bootstrap

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """An operator between two dense layers. lo, hi: what its operand spans. tolerance: share of the result's range."""

    op: str
    lo: float = -3.0
    hi: float = 3.0
    operands: tuple[float | None, ...] = ()
    attributes: tuple[tuple[str, float | str], ...] = ()
    tolerance: float = 2**-7
    opset: int = 17

    def __str__(self) -> str:
        return "-".join([self.op, *map(str, self.operands), *(f"{k}={v}" for k, v in self.attributes)])


CASES = [
    Case("Abs", tolerance=2**-6),
    Case("Celu", attributes=(("alpha", 0.7),)),
    Case("Clip", operands=(-1.0, 1.5), tolerance=2**-6),
    Case("Clip", operands=(None, 1.5)),
    Case("Clip", operands=(-1.0,)),
    Case("Cos"),
    Case("Elu", attributes=(("alpha", 1.3),)),
    Case("Erf"),
    Case("Exp"),
    Case("Gelu", opset=20),
    Case("Gelu", attributes=(("approximate", "tanh"),), opset=20),
    Case("HardSigmoid"),
    Case("HardSigmoid", attributes=(("alpha", 0.3), ("beta", 0.4))),
    Case("HardSwish", lo=-5, hi=5),
    Case("LeakyRelu", attributes=(("alpha", 0.2),)),
    Case("Log", lo=0.2, hi=3.0),
    Case("Mish", opset=18),
    Case("PRelu", operands=(0.25,)),
    Case("Pow", operands=(3.0,)),
    Case("Pow", lo=0.2, operands=(-0.5,)),
    Case("Reciprocal", lo=0.3),
    Case("Reciprocal", lo=-3.0, hi=-0.3),
    Case("Relu"),
    Case("Selu"),
    Case("Sigmoid", lo=-6, hi=6),
    Case("Sin"),
    Case("Softplus"),
    Case("Softsign"),
    Case("Sqrt", lo=0.1),
    Case("Tanh"),
    Case("Max", operands=(0.5,)),
    Case("Min", operands=(0.5,)),
]
# Discontinuous: values inside the dead zone of a jump do not count.
STEPS = [
    Case("Sign"),
    Case("Floor"),
    Case("Round"),
    Case("ThresholdedRelu", attributes=(("alpha", 1.0),)),
    Case("Greater", operands=(0.5,)),
    Case("Less", operands=(0.5,)),
]


def model(case: Case) -> onnx.ModelProto:
    """x (N, 8) -> identity layer of the wanted range -> operator -> sum and difference of neighbours (N, 8)."""
    scale, middle = (case.hi - case.lo) / 2, (case.hi + case.lo) / 2
    mix = np.eye(8) + 0.5 * np.roll(np.eye(8), 1, axis=1)
    constants = {"w1": np.eye(8) * scale, "b1": np.full(8, middle), "w2": mix}
    constants |= {f"c{i}": np.array(c) for i, c in enumerate(case.operands) if c is not None}
    names = [f"c{i}" if c is not None else "" for i, c in enumerate(case.operands)]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first"),
        helper.make_node(case.op, ["h", *names], ["f"], name="function", **dict(case.attributes)),
        helper.make_node("Gemm", ["f2" if case.op in ("Greater", "Less") else "f", "w2"], ["y"], name="second"),
    ]
    if case.op in ("Greater", "Less"):
        nodes.insert(2, helper.make_node("Cast", ["f"], ["f2"], name="cast", to=TensorProto.FLOAT))
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 8]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=9)


def samples(count: int) -> npt.NDArray[np.float32]:
    """The whole range, in even steps and in random order."""
    x = np.linspace(-1, 1, count * 8)
    return np.random.default_rng(5).permutation(x).reshape(count, 8).astype(np.float32)


def reference(m: onnx.ModelProto, x: npt.NDArray[np.float32]) -> F64:
    (y,) = onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"x": x})
    return np.asarray(y, dtype=np.float64)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_clear_and_simulated(case: Case) -> None:
    m, x = model(case), samples(64)
    wanted = reference(m, x)
    program = glyphc.compile(m, x, batch=64, insecure_ring=1024)
    clear, simulated = (np.asarray(program.run(x, mode=mode)) for mode in ("clear", "simulate"))
    span = np.ptp(wanted)
    assert np.abs(clear - wanted).max() < 2e-3 * span
    assert np.abs(simulated - wanted).max() < (case.tolerance + 2e-3) * 1.5 * span


@pytest.mark.parametrize("case", STEPS, ids=str)
def test_steps_away_from_their_jumps(case: Case) -> None:
    m = model(case)
    x = samples(64)
    program = glyphc.compile(m, x, batch=64, insecure_ring=1024)
    ((_, op),) = program.graph.of(Bootstrap)
    assert op.series.dead_zone > 0
    # on a coarse grid in the middle between jumps
    half = (case.hi - case.lo) / 2
    safe = np.array([-2.75, -2.25, -1.75, -1.25, -0.75, -0.25, 0.25, 0.75])
    y = np.tile(safe / half, (64, 1)).astype(np.float32)
    wanted = reference(m, y)
    simulated = np.asarray(program.run(y, mode="simulate"))
    assert np.abs(simulated - wanted).max() < 0.03 * max(1.0, np.ptp(wanted))


@pytest.mark.parametrize("case", [Case("Gelu", opset=20), Case("Log", lo=0.2)], ids=str)
def test_encrypted(case: Case) -> None:
    """To a bootstrap, functions are coefficients: a smooth one, and one that ends at the edge of its domain."""
    m, x = model(case), samples(64)
    wanted = reference(m, x)
    program = glyphc.compile(m, x, batch=64, insecure_ring=1024)
    encrypted = np.asarray(program.run(x))
    assert np.abs(encrypted - wanted).max() < (case.tolerance + 2e-3) * 1.5 * np.ptp(wanted)


def test_a_constant_divided_by_a_tensor() -> None:
    base = model(Case("Reciprocal", lo=0.3))
    base.graph.node[1].CopyFrom(helper.make_node("Div", ["two", "h"], ["f"], name="function"))
    base.graph.initializer.append(numpy_helper.from_array(np.float32(2.0), "two"))
    x = samples(16)
    program = glyphc.compile(base, x, batch=16, insecure_ring=1024)
    assert np.allclose(np.asarray(program.run(x, mode="clear")), reference(base, x), atol=0.02)


@pytest.mark.parametrize("op", ["Log", "Reciprocal"])
def test_outside_the_domain(op: str) -> None:
    """Calibration reaches where the function is not defined: the node is named."""
    m, x = model(Case(op, lo=-1.0, hi=3.0)), samples(16)
    with pytest.raises(glyphc.GlyphcError, match="function"):
        glyphc.compile(m, x, batch=16, insecure_ring=1024)


def test_the_guard_band_stops_at_the_domain() -> None:
    m, x = model(Case("Log", lo=0.05, hi=3.0)), samples(16)
    program = glyphc.compile(m, x, batch=16, insecure_ring=1024)
    formats = [n.type.fixed for n in program.quantized if n.location == "first"]
    assert formats[0] is not None and 0 < formats[0].real_lo < 0.05
