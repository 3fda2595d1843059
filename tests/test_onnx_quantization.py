"""Quantised networks: QuantizeLinear and DequantizeLinear against ONNX Runtime, Brevitas' Quant against its formula."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import NodeProto
from onnx_models import Constants, W, assert_same, build, f32, node, ops, randoms

import glyphc
from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.ops import Apply, Dense, Scale
from glyphc.passes.base import Context
from glyphc.passes.fold import Fold


def qdq(name: str, result: str, **attributes: int) -> list[NodeProto]:
    return [
        node("QuantizeLinear", [name, "s", "z"], [f"{name}.q"], f"{name}.q", **attributes),
        node("DequantizeLinear", [f"{name}.q", "s", "z"], [result], f"{result}.dq", **attributes),
    ]


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_values_keep_their_grid(kind: type[np.generic]) -> None:
    """Rounded to 1/16 and clipped to what the integers hold."""
    zero = np.array(3, dtype=kind)
    model = build(qdq("x", "y"), {"s": np.float32(1 / 16), "z": zero}, (50,))
    graph = assert_same(model, 4 * randoms(4, 50))
    y = evaluate(graph, {"x": 4 * randoms(4, 50).astype(np.float64)})["y"]
    assert np.array_equal(y * 16, np.rint(y * 16))


def test_a_scale_for_every_channel() -> None:
    constants: Constants = {"s": f32(0.5, 0.25, 0.125), "z": np.array([0, 5, -3], dtype=np.int8)}
    assert_same(build(qdq("x", "y", axis=1), constants, (3, 4)), 5 * randoms(4, 3, 4) + np.float32(0.01))


def test_weights_are_dequantised_exactly() -> None:
    integers = np.rint(W * 50).astype(np.int8)
    nodes = [
        node("DequantizeLinear", ["w.q", "w.s", "w.z"], ["w"]),
        node("DequantizeLinear", ["b.q", "b.s", "b.z"], ["b"]),
        node("Gemm", ["x", "w", "b"], ["y"]),
    ]
    constants: Constants = {
        "w.q": integers,
        "w.s": np.float32(0.02),
        "w.z": np.array(1, dtype=np.int8),
        "b.q": np.array([100, -7, 3], dtype=np.int32),
        "b.s": np.float32(0.001),
        "b.z": np.array(0, dtype=np.int32),
    }
    graph = assert_same(build(nodes, constants), randoms(5, 4))
    assert ops(graph) == [Dense]


def test_a_network_as_quantize_static_writes_it() -> None:
    """Every tensor on a grid of 8 bits, from the input to the output; large weights and activations."""
    rng = np.random.default_rng(3)
    nodes = [
        *qdq("x", "x.d"),
        node("DequantizeLinear", ["w.q", "w.s", "w.z"], ["w"], axis=0),
        node("DequantizeLinear", ["b.q", "b.s", "b.z"], ["b"], axis=0),
        node("Conv", ["x.d", "w", "b"], ["c"], kernel_shape=[3, 3]),
        node("Relu", ["c"], ["r"]),
        *qdq("r", "r.d"),
        node("MaxPool", ["r.d"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        *qdq("p", "p.d"),
        node("Flatten", ["p.d"], ["f"]),
        node("DequantizeLinear", ["v.q", "v.s", "v.z"], ["v"]),
        node("Gemm", ["f", "v"], ["g"]),
        *qdq("g", "y"),
    ]
    constants: Constants = {
        "s": np.float32(1 / 32),
        "z": np.array(-128, dtype=np.int8),
        "w.q": rng.integers(100, 127, (2, 3, 3, 3)).astype(np.int8),
        "w.s": f32(0.001, 0.0005),
        "w.z": np.zeros(2, dtype=np.int8),
        "b.q": np.array([100, -700], dtype=np.int32),
        "b.s": f32(0.001, 0.001),
        "b.z": np.zeros(2, dtype=np.int32),
        "v.q": rng.integers(-127, 127, (8, 4)).astype(np.int8),
        "v.s": np.float32(0.01),
        "v.z": np.array(0, dtype=np.int8),
    }
    assert_same(build(nodes, constants, (3, 6, 6), opset=13), rng.uniform(0, 8, (5, 3, 6, 6)).astype(np.float32))


def network(width: int) -> tuple[list[NodeProto], Constants]:
    """A dense layer whose activations have a grid of ``width`` integers."""
    nodes = [
        node("Gemm", ["x", "w"], ["h"], "fc1"),
        node("Relu", ["h"], ["r"], "relu"),
        *qdq("r", "d"),
        node("Gemm", ["d", "v"], ["y"], "fc2"),
    ]
    constants: Constants = {"w": W, "v": randoms(3, 2, seed=8), "z": np.array(0, dtype=np.uint8)}
    return nodes, constants | {"s": np.float32(8 / width)}


def test_rounding_is_part_of_the_activation() -> None:
    """No bootstrap of its own."""
    nodes, constants = network(256)
    folded = Fold().run(read_onnx(build(nodes, constants)), Context())
    assert ops(folded) == [Dense, Apply, Dense]
    ((_, op),) = folded.of(Apply)
    assert [f.name for f in op.functions] == ["relu", "affine", "round", "affine", "clip"]


@pytest.mark.parametrize("width", [8, 256])
def test_a_quantised_network_runs(width: int) -> None:
    """Coarse steps are followed; of fine ones, the line through them is computed, half a step away at most."""
    nodes, constants = network(width)
    model = build(nodes, constants)
    x = randoms(128, 4, seed=9)
    program = glyphc.compile(model, x, batch=64, insecure_ring=1024)
    wanted = evaluate(read_onnx(model), {"x": x.astype(np.float64)})["y"]
    error = np.abs(np.asarray(program.run(x, mode="simulate")) - wanted)
    assert np.median(error) < 0.02 * np.ptp(wanted)


def quant(**attributes: int | str) -> NodeProto:
    return node("Quant", ["x", "s", "z", "b"], ["y"], domain="onnx.brevitas", **attributes)


@pytest.mark.parametrize(
    ("signed", "narrow", "lowest", "highest"), [(1, 0, -4, 3), (1, 1, -3, 3), (0, 0, 0, 7), (0, 1, 0, 6)]
)
def test_brevitas(signed: int, narrow: int, lowest: int, highest: int) -> None:
    constants: Constants = {"s": f32(0.5)[0], "z": f32(0)[0], "b": f32(3)[0]}
    rounded = quant(signed=signed, narrow=narrow, rounding_mode="ROUND")
    model = build([rounded], constants, (40,), sample_shapes={"y": (40,)})
    x = 3 * randoms(2, 40).astype(np.float64)
    y = evaluate(read_onnx(model), {"x": x})["y"]
    np.testing.assert_allclose(y, np.clip(np.rint(x / 0.5), lowest, highest) * 0.5)


def test_brevitas_weights_are_constants() -> None:
    nodes = [
        node("Quant", ["w", "s", "z", "b"], ["wq"], domain="onnx.brevitas", signed=1, narrow=0, rounding_mode="ROUND"),
        node("MatMul", ["x", "wq"], ["y"]),
    ]
    constants: Constants = {"w": W, "s": f32(0.25)[0], "z": f32(0)[0], "b": f32(4)[0]}
    graph = read_onnx(build(nodes, constants, sample_shapes={"y": (3,)}))
    assert ops(graph) == [Dense]
    x = randoms(3, 4).astype(np.float64)
    expected = x @ (np.clip(np.rint(W / 0.25), -8, 7) * 0.25)
    np.testing.assert_allclose(evaluate(graph, {"x": x})["y"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        (qdq("x", "y"), {"s": f32(-1)[0], "z": np.array(0, dtype=np.int8)}, "scale is not positive"),
        ([quant(rounding_mode="FLOOR")], {"s": f32(1)[0], "z": f32(0)[0], "b": f32(3)[0]}, "rounding_mode=FLOOR"),
    ],
)
def test_refused(nodes: list[NodeProto], constants: Constants, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        read_onnx(build(nodes, constants, (2,), sample_shapes={"y": (2,)}))


def test_scales_are_named_after_their_nodes() -> None:
    graph = read_onnx(build(qdq("x", "y"), {"s": np.float32(0.5), "z": np.array(0, dtype=np.int8)}))
    assert ops(graph) == [Scale, Apply, Scale]
    assert [op.functions[0] for _, op in graph.of(Apply)] == [Function("round", (1.0,))]
    assert [n.location for n, _ in graph.of(Scale)] == ["x.q", "y.dq"]
