"""Encrypted indices, group normalisation, choices between branches, and what follows from sizes alone."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx_models import build, f32, node, randoms

import glyphc
from glyphc.errors import DataError, ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate

Array = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(0)


def model_of(nodes: list[NodeProto], inputs: dict[str, Array], constants: dict[str, Array], batch: bool) -> ModelProto:
    """inputs: samples of each; batch: that axis 0 counts them, and is open; otherwise a file for one sample."""
    kinds = {n: helper.np_dtype_to_tensor_dtype(v.dtype) for n, v in inputs.items()}
    shapes = {n: ["N", *v.shape[1:]] if batch else list(v.shape[1:]) for n, v in inputs.items()}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, kinds[n], shapes[n]) for n in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def same(nodes: list[NodeProto], inputs: dict[str, Array], batch: bool, **constants: Array) -> ModelProto:
    """As ONNX Runtime computes it."""
    model = model_of(nodes, inputs, constants, batch)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    count = len(next(iter(inputs.values())))
    if batch:
        (wanted,) = session.run(None, inputs)
    else:
        wanted = np.array(
            [session.run(None, {n: np.asarray(v[r]) for n, v in inputs.items()})[0] for r in range(count)]
        )
    found = evaluate(read_onnx(model), {n: v.astype(np.float64) for n, v in inputs.items()})["y"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    return model


def ids(most: int, *shape: int) -> Array:
    return RNG.integers(0, most, shape)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_by_encrypted_ids(axis: int) -> None:
    x = randoms(5, 3, 4, 2)
    same([node("Gather", ["x", "i"], ["y"], axis=axis)], {"x": x, "i": ids(x.shape[1:][axis], 5, 2, 2)}, False)


def test_gather_of_one_row_and_one_number() -> None:
    same([node("Gather", ["x", "i"], ["y"])], {"x": randoms(5, 3), "i": ids(3, 5)}, False)
    same([node("Gather", ["x", "i"], ["y"], axis=1)], {"x": randoms(5, 3, 4), "i": ids(4, 5)}, False)


@pytest.mark.parametrize(("axis", "batch"), [(0, False), (1, False), (1, True), (2, True), (-1, True)])
def test_gather_elements(axis: int, batch: bool) -> None:
    x = randoms(5, 3, 4)
    most = x.shape[axis] if batch else x.shape[1:][axis]
    same([node("GatherElements", ["x", "i"], ["y"], axis=axis)], {"x": x, "i": ids(most, 5, 2, 4)}, batch)


def test_gather_elements_of_a_constant() -> None:
    same([node("GatherElements", ["c", "i"], ["y"], axis=0)], {"i": ids(3, 5, 2, 4)}, False, c=randoms(3, 4))


@pytest.mark.parametrize(("width", "batch_dims", "batch"), [(1, 0, False), (2, 0, False), (2, 1, True), (1, 2, True)])
def test_gather_nd(width: int, batch_dims: int, batch: bool) -> None:
    x = randoms(5, 2, 2, 2)
    same(
        [node("GatherND", ["x", "i"], ["y"], batch_dims=batch_dims)],
        {"x": x, "i": ids(2, 5, 2, width)},
        batch,
    )


@pytest.mark.parametrize("constant", [False, True])
def test_scatter_elements(constant: bool) -> None:
    x, at, u = (
        randoms(5, 3, 4),
        np.array([RNG.permutation(4)[:2] for _ in range(15)]).reshape(5, 3, 2),
        randoms(5, 3, 2),
    )
    made = [node("ScatterElements", ["x", "i", "u"], ["y"], axis=-1)]
    if not constant:
        same(made, {"x": x, "i": at, "u": u}, True)
        return
    model = model_of(made, {"x": x, "i": at}, {"u": u[:1]}, True)
    found = evaluate(read_onnx(model), {"x": x, "i": at.astype(np.float64)})["y"]
    wanted = x.copy()
    np.put_along_axis(wanted, at, np.broadcast_to(u[:1], at.shape), axis=-1)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(ModelError, match="differs along the batch"):
        read_onnx(model_of(made, {"x": x, "i": at}, {"u": u}, True))


@pytest.mark.parametrize("width", [1, 2])
def test_scatter_nd(width: int) -> None:
    at = np.array([np.stack([RNG.permutation(3)[:2] for _ in range(width)], axis=-1) for _ in range(5)])
    x = randoms(5, 3, 3)
    u = randoms(5, 2, 3) if width == 1 else randoms(5, 2)
    same([node("ScatterND", ["x", "i", "u"], ["y"])], {"x": x, "i": at, "u": u}, False)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
@pytest.mark.parametrize("constant", [False, True])
def test_scatter_with_reduction(reduction: str, constant: bool) -> None:
    """Several updates of one element follow one another."""
    x, u = randoms(5, 3, 4), randoms(5, 3, 5, seed=2)
    at = np.random.default_rng(1).integers(0, 4, (1, 3, 5))
    made = node("ScatterElements", ["x", "i", "u"], ["y"], axis=2, reduction=reduction)
    if constant:
        model = model_of([made], {"x": x}, {"i": at, "u": u[:1]}, True)
        u = np.broadcast_to(u[:1], u.shape)
    else:
        model = model_of([made], {"x": x, "u": u}, {"i": at}, True)
    found = evaluate(read_onnx(model), {"x": x} if constant else {"x": x, "u": u})["y"]
    wanted = x.astype(np.float64)
    function = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction]
    for s, r, j in np.ndindex(5, 3, 5):
        wanted[s, r, at[0, r, j]] = function(wanted[s, r, at[0, r, j]], u[s, r, j])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_choices_compile_and_refuse_other_ids() -> None:
    x = {"x": randoms(64, 3), "i": ids(3, 64, 2)}
    model = same([node("GatherElements", ["x", "i"], ["y"], axis=1)], x, True)
    program = glyphc.compile(model, x, 4, insecure_ring=1024)
    found = np.asarray(program.run(x, mode="simulate"))
    assert np.abs(found - np.take_along_axis(x["x"], x["i"], axis=1)).max() < 0.05
    with pytest.raises(DataError, match=r"'i': sample 1 has id 3 at element 0"):
        program.run({"x": x["x"][:2], "i": np.array([[0, 1], [3, 0]])}, mode="clear")


@pytest.mark.parametrize(("layout", "rows"), [("NCHW", 3), ("NCHW", 1), ("NHWC", 2)])
def test_thresholds_by_channel(layout: str, rows: int) -> None:
    """As quantisation-aware tools write staircases; a number on a threshold has reached it."""
    x, thresholds = np.round(randoms(4, 3, 2) * 4) / 4, np.sort(np.round(randoms(rows, 5) * 4) / 4, axis=1)
    made = node(
        *("MultiThreshold", ["x", "t"], ["y"]),
        domain="qonnx.custom_op.general",
        data_layout=layout,
        out_scale=0.5,
        out_bias=-1.0,
    )
    model = model_of([made], {"x": x}, {"t": thresholds}, True)
    channels = np.moveaxis(x, 1 if layout == "NCHW" else 2, -1)
    wanted = (channels[..., None] >= thresholds).sum(axis=-1) * 0.5 - 1
    found = evaluate(read_onnx(model), {"x": x.astype(np.float64)})["y"]
    np.testing.assert_allclose(np.moveaxis(found, 1 if layout == "NCHW" else 2, -1), wanted)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_normalization(groups: int) -> None:
    x = randoms(3, 4, 2, 3)
    made = node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=groups, epsilon=0.1)
    same([made], {"x": x}, True, s=randoms(4), b=randoms(4, seed=2))


def test_sizes_alone() -> None:
    """Nothing that is encrypted is NaN or infinite."""
    nodes = [
        node("IsNaN", ["x"], ["nan"]),
        node("Where", ["nan", "zero", "x"], ["w"]),
        node("IsInf", ["w"], ["inf"]),
        node("Where", ["inf", "zero", "w"], ["y"]),
    ]
    same(nodes, {"x": randoms(3, 4)}, True, zero=np.float32(0))
    same([node("EyeLike", ["x"], ["e"], k=1), node("Mul", ["x", "e"], ["y"])], {"x": randoms(5, 3, 4)}, False)


def branch(name: str, *nodes: NodeProto) -> Any:
    return helper.make_graph(list(nodes), name, [], [onnx_value(nodes[-1].output[0])])


def onnx_value(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def test_an_encrypted_condition_takes_both_branches() -> None:
    yes, no = branch("a", node("Neg", ["x"], ["p"])), branch("b", node("Mul", ["x", "two"], ["q"]))
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["c"]),
        node("If", ["c"], ["y"], then_branch=yes, else_branch=no),
    ]
    x = randoms(6, 4)
    x[x.sum(axis=1) ** 2 < 1e-4] += 1
    same(nodes, {"x": x}, False, zero=np.float32(0), two=f32(2.0))


def test_softmaxes_that_are_written_out() -> None:
    """exp(x - log sum exp(x)) and exp(x - max x) reach over ranges that no series of exp could."""
    nodes = [
        node("ReduceLogSumExp", ["x"], ["l"], axes=[1], keepdims=1),
        node("Sub", ["x", "l"], ["d"]),
        node("Exp", ["d"], ["y"]),
        node("ReduceMax", ["x"], ["m"], axes=[1], keepdims=1),
        node("Sub", ["x", "m"], ["c"]),
        node("Exp", ["c"], ["z"]),
    ]
    model = build(nodes, None, (4,), outputs=("y", "z"))
    x = (np.random.default_rng(0).normal(size=(64, 4)) * 20).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = glyphc.compile(model, x, 4, insecure_ring=2048).run(x, mode="clear")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, value in zip(("y", "z"), session.run(["y", "z"], {"x": x}), strict=True):
        assert np.sqrt(np.mean((np.asarray(found[name]) - value) ** 2)) < 0.03


def test_a_tensor_over_itself_is_one() -> None:
    model = build([node("Div", ["x", "x"], ["o"]), node("Add", ["o", "x"], ["y"])], None, (4,))
    x = randoms(8, 4)
    np.testing.assert_allclose(evaluate(read_onnx(model), {"x": x})["y"], x + 1, rtol=1e-6)
