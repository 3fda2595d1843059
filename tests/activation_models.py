"""What tests of activations of one's own share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from glyphc.ir.functions import Function

F64 = npt.NDArray[np.float64]
# What a table of POINTS values may miss of the range of a smooth function.
SAMPLING = 2**-18


def model(op: str, reach: float = 3.0, domain: str = "custom", count: int = 1, **attributes: float) -> onnx.ModelProto:
    """x (N, 8) in [-1, 1] -> times reach -> the activation -> sum of neighbours (N, 8)."""
    mix = np.eye(8) + 0.5 * np.roll(np.eye(8), 1, axis=1)
    constants = {"w1": np.eye(8) * reach, "w2": mix}
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["h"], name="first"),
        helper.make_node(op, ["h"] * count, ["f"], name="own", domain=domain, **attributes),
        helper.make_node("Gemm", ["f", "w2"], ["y"], name="second"),
    ]
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 8]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def samples(count: int = 64) -> F64:
    """The whole range, in even steps and in random order."""
    return np.random.default_rng(5).permutation(np.linspace(-1, 1, count * 8)).reshape(count, 8)


def expected(function: Callable[[F64], F64], x: F64, reach: float = 3.0) -> F64:
    y = function(reach * x)
    return np.asarray(y + 0.5 * np.roll(y, 1, axis=1))


def deviation(table: Function, function: Callable[[F64], F64], lo: float, hi: float) -> float:
    """Largest, as a share of the range, on points of no particular kind."""
    x = np.random.default_rng(9).uniform(lo, hi, 50001)
    y = function(x)
    return float(np.abs(table(x) - y).max() / np.ptp(y))
