"""Small ONNX models for tests, and their results by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Input, Output

MODELS = Path(__file__).resolve().parents[1] / "models"
node = helper.make_node
Floats = npt.NDArray[np.floating]
Constants = dict[str, npt.NDArray[np.generic]]


def f32(*values: object) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def randoms(*shape: int, seed: int = 1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-2, 2, shape).astype(np.float32)


def i64(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def build(
    nodes: list[NodeProto],
    constants: Constants | None = None,
    shape: tuple[int | str | None, ...] = (4,),
    *,
    outputs: tuple[str, ...] = ("y",),
    batch: int | str | None = "N",
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    more_inputs: tuple[str, ...] = (),
    sample_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> ModelProto:
    """A model with input x (batch, *shape); onnx works out the types of outputs not in ``sample_shapes``."""
    inputs = [helper.make_tensor_value_info(n, dtype, [batch, *shape]) for n in ("x", *more_inputs)]
    graph = helper.make_graph(
        nodes,
        "test",
        inputs,
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    domains = {n.domain for n in nodes} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in sorted(domains))]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(known)
        if sample_shapes or not output.type.HasField("tensor_type"):
            dims = (sample_shapes or {}).get(output.name, shape)
            output.CopyFrom(helper.make_tensor_value_info(output.name, dtype, [batch, *dims]))
    return model


def run_onnxruntime(model: ModelProto, x: Floats) -> dict[str, npt.NDArray[np.generic]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # as the standard defines them: optimised, products of 8 bits saturate at 16 bits on processors without VNNI
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x}), strict=True))


def assert_same(model: ModelProto, x: Floats, atol: float = 1e-5, rtol: float = 1e-5) -> Graph:
    """Read the model, compare its results on x with ONNX Runtime's, and return the graph."""
    graph = read_onnx(model)
    (source,) = graph.of(Input)
    results = evaluate(graph, {source[1].name: x.astype(np.float64)})
    expected = run_onnxruntime(model, x)
    assert list(results) == list(expected)
    for name, value in expected.items():
        assert results[name].shape == value.shape, name
        np.testing.assert_allclose(results[name], value.astype(np.float64), atol=atol, rtol=rtol, err_msg=name)
    return graph


def ops(graph: Graph) -> list[type]:
    return [type(n.op) for n in graph if not isinstance(n.op, Input | Output)]


# Weights and bias of a dense layer for samples of four features.
W, B = randoms(4, 3, seed=2), randoms(3, seed=3)
