"""ONNX operators that move elements, reductions along axes, sizes computed in the model: against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper
from onnx_models import Constants, assert_same, build, f32, i64, node, ops, randoms
from strategies import examples

from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.ops import Add, Affine, Apply, Gather, Input, Mul, ReduceSum, Reshape, Scale

Shape = tuple[int, ...]
CASES: dict[str, tuple[list[NodeProto], Constants, Shape]] = {
    "transpose": ([node("Transpose", ["x"], ["y"], perm=[0, 3, 1, 2])], {}, (2, 3, 4)),
    "slice": (
        [node("Slice", ["x", "from", "to", "axes", "steps"], ["y"])],
        {"from": i64(-1, 0), "to": i64(-100, 3), "axes": i64(1, 2), "steps": i64(-2, 1)},
        (5, 4),
    ),
    "split": (
        [node("Split", ["x", "s"], ["a", "b"], axis=2), node("Sub", ["a", "b"], ["y"])],
        {"s": i64(2, 2)},
        (3, 4),
    ),
    "pad": ([node("Pad", ["x", "p"], ["y"])], {"p": i64(0, 0, 1, 0, 2, 0)}, (2, 3)),
    "pad with a number": ([node("Pad", ["x", "p", "v"], ["y"])], {"p": i64(0, 1, 0, 0), "v": f32(7)[0]}, (3,)),
    "pad by reflection": ([node("Pad", ["x", "p"], ["y"], mode="reflect")], {"p": i64(0, 2, 0, 1)}, (4,)),
    "pad by edges": ([node("Pad", ["x", "p"], ["y"], mode="edge")], {"p": i64(0, 2, 0, 1)}, (4,)),
    "cut by pad": ([node("Pad", ["x", "p"], ["y"])], {"p": i64(0, -1, 0, 1)}, (4,)),
    "squeeze": ([node("Squeeze", ["x", "a"], ["y"])], {"a": i64(1, -1)}, (1, 3, 1)),
    "unsqueeze": ([node("Unsqueeze", ["x", "a"], ["y"])], {"a": i64(1, 3)}, (3,)),
    "expand": ([node("Expand", ["x", "s"], ["y"])], {"s": i64(1, 3, 4)}, (3, 1)),
    "tile": ([node("Tile", ["x", "r"], ["y"])], {"r": i64(1, 2, 3)}, (2, 2)),
    "gather": ([node("Gather", ["x", "i"], ["y"], axis=2)], {"i": np.array([[0, -1], [2, 2]])}, (2, 3)),
    "gather one": ([node("Gather", ["x", "i"], ["y"], axis=1)], {"i": np.array(1)}, (2, 3)),
    "depth to space": ([node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")], {}, (8, 2, 3)),
    "space to depth": ([node("SpaceToDepth", ["x"], ["y"], blocksize=2)], {}, (2, 4, 2)),
    "nearest": ([node("Resize", ["x", "", "s"], ["y"], mode="nearest")], {"s": f32(1, 1, 2, 3)}, (2, 2, 2)),
    "triangle": ([node("Trilu", ["x"], ["y"], upper=0)], {}, (3, 3)),
    "constant condition": (
        [node("Neg", ["x"], ["n"]), node("Where", ["c", "x", "n"], ["y"])],
        {"c": np.array([[True, False, True]])},
        (2, 3),
    ),
    "concat": ([node("Neg", ["x"], ["n"]), node("Concat", ["x", "n"], ["y"], axis=-1)], {}, (2, 3)),
    "running sum": ([node("CumSum", ["x", "a"], ["y"], reverse=1, exclusive=1)], {"a": np.array(1)}, (3, 2)),
    "matrix on the right": ([node("MatMul", ["x", "w"], ["y"])], {"w": randoms(4, 3)}, (2, 4)),
    "matrix on the left": ([node("MatMul", ["w", "x"], ["y"])], {"w": randoms(1, 5, 4)}, (4, 3)),
    "stack of matrices": ([node("MatMul", ["x", "w"], ["y"])], {"w": randoms(1, 2, 3, 2)}, (2, 4, 3)),
    "vector": ([node("MatMul", ["x", "w"], ["y"])], {"w": randoms(4)}, (2, 4)),
    "enlarged by a constant": ([node("Add", ["x", "c"], ["y"])], {"c": randoms(2, 3)}, (1, 3)),
    "sum": ([node("ReduceSum", ["x", "a"], ["y"], keepdims=0)], {"a": i64(1, -1)}, (2, 3, 4)),
    "mean": ([node("ReduceMean", ["x"], ["y"], axes=[2])], {}, (2, 3, 4)),
    "largest": ([node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)], {}, (2, 3)),
    "smallest": ([node("ReduceMin", ["x"], ["y"], axes=[-1])], {}, (2, 3)),
    "magnitudes": ([node("ReduceL1", ["x"], ["y"], axes=[1, 2])], {}, (2, 3)),
    "length": ([node("ReduceL2", ["x"], ["y"], axes=[1])], {}, (2, 3)),
    "log of exponentials": ([node("ReduceLogSumExp", ["x"], ["y"], axes=[1])], {}, (2, 3)),
    "inner softmax": ([node("Softmax", ["x"], ["y"], axis=1)], {}, (3, 2)),
    "layer norm": (
        [node("LayerNormalization", ["x", "s", "b"], ["y"], axis=-1)],
        {"s": randoms(3), "b": randoms(3, seed=2)},
        (2, 3),
    ),
    "instance norm": (
        [node("InstanceNormalization", ["x", "s", "b"], ["y"])],
        {"s": randoms(2), "b": randoms(2, seed=2)},
        (2, 3, 2),
    ),
}


@pytest.mark.parametrize("batch", ["N", 3])
@pytest.mark.parametrize("name", CASES)
def test_against_onnxruntime(name: str, batch: int | str) -> None:
    nodes, constants, shape = CASES[name]
    assert_same(build(nodes, constants, shape, batch=batch), randoms(3, *shape), atol=1e-4)


@pytest.mark.parametrize("name", ["transpose", "slice", "pad by reflection", "expand", "gather", "nearest", "tile"])
def test_moves_are_gathers(name: str) -> None:
    nodes, constants, shape = CASES[name]
    assert set(ops(read_onnx(build(nodes, constants, shape)))) <= {Gather, Reshape, Scale}


@pytest.mark.parametrize("name", ["pad", "pad with a number", "cut by pad", "triangle"])
def test_moves_with_constants_are_affine(name: str) -> None:
    nodes, constants, shape = CASES[name]
    assert ops(read_onnx(build(nodes, constants, shape))) == [Affine]


@examples(60)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.data())
def test_every_permutation_of_a_samples_axes(shape: list[int], data: st.DataObject) -> None:
    perm = [0, *data.draw(st.permutations(range(1, len(shape) + 1)))]
    assert_same(build([node("Transpose", ["x"], ["y"], perm=perm)], {}, tuple(shape)), randoms(3, *shape))


# -- sizes computed in the model --


def flatten_as_pytorch_does() -> list[NodeProto]:
    """x.view(x.size(0), -1)"""
    return [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Concat", ["n1", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_a_view_by_sizes_of_the_input(batch: int | str) -> None:
    constants: Constants = {"zero": np.array(0), "axis": i64(0), "rest": i64(-1)}
    samples = batch if isinstance(batch, int) else 3
    graph = assert_same(build(flatten_as_pytorch_does(), constants, (2, 3), batch=batch), randoms(samples, 2, 3))
    assert ops(graph) == [Reshape]


def test_zeros_of_the_batchs_size() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("ConstantOfShape", ["s"], ["c"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])),
        node("Add", ["x", "c"], ["y"]),
    ]
    assert ops(assert_same(build(nodes, {}, (2, 3)), randoms(3, 2, 3))) == [Scale]


def test_a_size_that_is_no_batch_is_a_number() -> None:
    nodes = [
        node("Shape", ["x"], ["s"], start=1),
        node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        node("Div", ["x", "f"], ["y"]),
    ]
    assert ops(assert_same(build(nodes, {}, (4,)), randoms(3, 4))) == [Scale]


def test_functions_of_the_model_itself_are_inlined() -> None:
    model = build([node("Twice", ["x"], ["y"], "call", domain="local")])
    body = [node("Add", ["a", "a"], ["b"])]
    opset = helper.make_opsetid("", 17)
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, [opset]))
    assert ops(read_onnx(model)) == [Add]


# -- without batch axis --


def test_a_model_of_one_sample_may_move_all_axes() -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["t", "x"], ["y"])]
    with pytest.raises(ModelError, match="batch"):
        read_onnx(build(nodes, {}, (4,)))
    # with all sizes fixed, nothing says that axis 0 counts samples
    model = build(nodes, {}, (4,), batch=3)
    graph = read_onnx(model)
    assert graph == read_onnx(model, batch_axis=False)
    assert graph.inputs[0].op == Input("x", (3, 4))
    x = randoms(2, 3, 4).astype(np.float64)
    np.testing.assert_allclose(evaluate(graph, {"x": x})["y"], x.transpose(0, 2, 1) @ x)
    assert ops(graph) == [Gather, Gather, Gather, Mul, ReduceSum]


def test_without_batch_axis_all_sizes_must_be_known() -> None:
    with pytest.raises(ModelError, match="axis 0 of input 'x'"):
        read_onnx(build([node("Relu", ["x"], ["y"])]), batch_axis=False)


@pytest.mark.parametrize("kind", ["Conv", "MaxPool", "GlobalAveragePool", "BatchNormalization"])
def test_a_samples_own_axis_in_front(kind: str) -> None:
    """What ONNX calls the batch is an axis of the sample then: the same for each of its entries."""
    constants: Constants = {
        "Conv": {"w": randoms(2, 2, 2), "b": randoms(2)},
        "BatchNormalization": {"s": f32(1, 2), "b": f32(0, 1), "m": f32(1, 0), "v": f32(1, 4)},
    }.get(kind, {})
    attributes: dict[str, Any] = {"kernel_shape": [2]} if kind == "MaxPool" else {}
    model = build([node(kind, ["x", *constants], ["y"], **attributes)], constants, (2, 4), batch=3)
    x = randoms(3, 2, 4).astype(np.float64)
    whole = evaluate(read_onnx(model, batch_axis=False), {"x": x[None]})["y"][0]
    np.testing.assert_allclose(whole, evaluate(read_onnx(model), {"x": x})["y"])


# -- truth values --


def test_logic_of_comparisons() -> None:
    nodes = [
        node("Greater", ["x", "a"], ["p"]),
        node("LessOrEqual", ["x", "b"], ["q"]),
        node("And", ["p", "q"], ["inside"]),
        node("Not", ["inside"], ["outside"]),
        node("Or", ["p", "q"], ["any"]),
        node("Xor", ["any", "outside"], ["r"]),
        node("Where", ["r", "x", "b"], ["y"]),
    ]
    assert_same(build(nodes, {"a": f32(-0.5)[0], "b": f32(0.75)[0]}, (4,)), randoms(20, 4))


@pytest.mark.parametrize("value", [-3, 0, 2])
def test_comparisons_of_integers_jump_between_them(value: int) -> None:
    kinds = {"e": "Equal", "g": "GreaterOrEqual", "l": "Less"}
    nodes = [node(kind, ["x", "c"], [name]) for name, kind in kinds.items()]
    nodes += [node("Cast", [n], [f"{n}1"], to=TensorProto.INT64) for n in "egl"]
    model = build(nodes, {"c": i64(value)}, (9,), outputs=("e1", "g1", "l1"), dtype=TensorProto.INT64)
    graph = assert_same(model, np.arange(-4, 5)[None])
    for _, op in graph.of(Apply):
        for f in op.functions:  # no integer is close to a jump
            x = np.arange(-9.0, 10.0)
            assert np.array_equal(f(x - 0.4), f(x + 0.4))
