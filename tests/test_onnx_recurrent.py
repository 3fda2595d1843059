"""Recurrent layers and loops, beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import build, i64, node

from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate
from tests.onnx_beside_runtime import floats, runtime, same

# -- recurrent layers --


def recurrent(op: str, direction: str, hidden: int = 4, features: int = 3, **attributes: Any) -> onnx.ModelProto:
    """Time first; steps (5, N, features); outputs y, the last state and, of LSTM, the last cell."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    count = 2 if direction == "bidirectional" else 1
    states = attributes.pop("states", False)
    constants: dict[str, Any] = {
        "w": floats(count, gates * hidden, features, seed=1),
        "r": floats(count, gates * hidden, hidden, seed=2),
        "b": floats(count, 2 * gates * hidden, seed=3),
    }
    operands = ["x", "w", "r", "b", ""]
    if states:
        constants["h0"] = np.repeat(floats(count, 1, hidden, seed=4), 2, axis=1)
        operands += ["h0"]
        if op == "LSTM":
            constants["c0"] = np.repeat(floats(count, 1, hidden, seed=5), 2, axis=1)
            operands += ["c0"]
    if attributes.pop("peepholes", False):
        constants["p"] = floats(count, 3 * hidden, seed=6)
        operands += [""] * (7 - len(operands)) + ["p"]
    outputs = ("y", "h", "c") if op == "LSTM" else ("y", "h")
    made = node(op, operands, list(outputs), hidden_size=hidden, direction=direction, **attributes)
    graph = helper.make_graph(
        [made],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 2 if states else "batch", features])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("RNN", {}),
        ("RNN", {"activations": ["Relu"]}),
        ("GRU", {}),
        ("GRU", {"linear_before_reset": 1}),
        ("LSTM", {}),
        ("LSTM", {"peepholes": True}),
        ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Tanh"]}),
    ],
    ids=["rnn", "rnn-relu", "gru", "gru-linear", "lstm", "lstm-peepholes", "lstm-others"],
)
def test_recurrent(op: str, attributes: dict[str, Any], direction: str) -> None:
    if direction == "bidirectional" and "activations" in attributes:
        attributes = {**attributes, "activations": attributes["activations"] * 2}
    model = recurrent(op, direction, **attributes)
    x = floats(6, 5, 3, seed=7, size=1.0)
    wanted = runtime(model, x.transpose(1, 0, 2))
    found = evaluate(read_onnx(model), {"x": x.astype(np.float64)})
    assert np.allclose(found["y"], wanted["y"].transpose(2, 0, 1, 3), atol=1e-5)
    for name in sorted(wanted.keys() - {"y"}):
        assert np.allclose(found[name], wanted[name].transpose(1, 0, 2), atol=1e-5)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_initial_states(op: str) -> None:
    """Given as constants; the file fixes the number of samples then, and takes them as one tensor."""
    model = recurrent(op, "bidirectional", states=True, **({"linear_before_reset": 1} if op == "GRU" else {}))
    x = floats(5, 2, 3, seed=7, size=1.0)
    found = evaluate(read_onnx(model, batch_axis=False), {"x": x[None].astype(np.float64)})
    for name, value in runtime(model, x).items():
        assert np.allclose(found[name][0], value, atol=1e-5)


def test_recurrent_layers_that_are_refused() -> None:
    for attributes, text in (({"clip": 1.0}, "clip"), ({"activations": ["Foo"]}, "Foo"), ({"direction": "up"}, "up")):
        model = recurrent("RNN", "forward")
        kept = [a for a in model.graph.node[0].attribute if a.name not in attributes]
        del model.graph.node[0].attribute[:]
        model.graph.node[0].attribute.extend([*kept, *(helper.make_attribute(k, v) for k, v in attributes.items())])
        model.graph.node[0].name = "layer"
        with pytest.raises(ModelError, match=text):
            read_onnx(model)


# -- loops --


def body(nodes: list[onnx.NodeProto], inputs: dict[str, int], outputs: dict[str, int]) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(n, t, None if t == TensorProto.FLOAT else []) for n, t in inputs.items()],
        [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
    )


def test_a_loop_of_constant_length() -> None:
    inner = body(
        [
            node("Identity", ["go"], ["on"]),
            node("Mul", ["h", "w"], ["scaled"]),  # w is the outer graph's
            node("Tanh", ["scaled"], ["next"]),
            node("Identity", ["next"], ["seen"]),
        ],
        {"i": TensorProto.INT64, "go": TensorProto.BOOL, "h": TensorProto.FLOAT},
        {"on": TensorProto.BOOL, "next": TensorProto.FLOAT, "seen": TensorProto.FLOAT},
    )
    nodes = [
        node("Loop", ["trips", "", "x"], ["last", "all"], body=inner),
        node("ReduceSum", ["all", "zero"], ["sum"], keepdims=0),
        node("Add", ["last", "sum"], ["y"]),
    ]
    model = build(nodes, {"trips": np.array(3), "w": floats(4), "zero": i64(0)}, (4,))
    same(model, floats(6, 4, seed=1))


def test_a_scan_over_a_constant() -> None:
    inner = body(
        [node("Mul", ["h", "w"], ["next"]), node("Add", ["next", "w"], ["out"])],
        {"h": TensorProto.FLOAT, "w": TensorProto.FLOAT},
        {"next": TensorProto.FLOAT, "out": TensorProto.FLOAT},
    )
    nodes = [
        node("Scan", ["x", "rows"], ["last", "all"], body=inner, num_scan_inputs=1, scan_output_directions=[1]),
        node("Gather", ["all", "one"], ["picked"], axis=0),
        node("Sub", ["last", "picked"], ["y"]),
    ]
    same(build(nodes, {"rows": floats(3, 4), "one": np.array(0)}, (4,)), floats(6, 4, seed=1))


def test_a_loop_that_slices_inside() -> None:
    """onnx's own inference does not survive all slices, so such loops are kept from it."""
    inner = body(
        [
            node("Identity", ["go"], ["on"]),
            node("Slice", ["h", "start", "end", "axis"], ["rest"]),
            node("Slice", ["h", "zero", "start", "axis"], ["first"]),
            node("Concat", ["rest", "first"], ["next"], axis=1),
        ],
        {"i": TensorProto.INT64, "go": TensorProto.BOOL, "h": TensorProto.FLOAT},
        {"on": TensorProto.BOOL, "next": TensorProto.FLOAT},
    )
    nodes = [node("Loop", ["trips", "", "x"], ["turned"], body=inner), node("Relu", ["turned"], ["y"])]
    constants = {"trips": np.array(2), "zero": i64(0), "start": i64(1), "end": i64(9), "axis": i64(1)}
    same(build(nodes, constants, (5,), sample_shapes={"y": (5,)}), floats(6, 5, seed=1))


def test_a_scan_over_samples_is_refused() -> None:
    inner = body(
        [node("Add", ["h", "e"], ["next"]), node("Identity", ["next"], ["out"])],
        {"h": TensorProto.FLOAT, "e": TensorProto.FLOAT},
        {"next": TensorProto.FLOAT, "out": TensorProto.FLOAT},
    )
    made = node("Scan", ["zeros", "x"], ["last", "y"], "sums", body=inner, num_scan_inputs=1)
    with pytest.raises(ModelError, match=r"'sums' \(Scan\): axis=0 is the batch"):
        read_onnx(build([made], {"zeros": np.zeros(4, np.float32)}, (4,)))


def test_a_condition_that_is_constant() -> None:
    then = body([node("Relu", ["x"], ["a"])], {}, {"a": TensorProto.FLOAT})
    other = body([node("Neg", ["x"], ["b"])], {}, {"b": TensorProto.FLOAT})
    made = node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    same(build([made], {"c": np.array(False)}, (4,)), floats(6, 4))


def test_loops_that_are_refused() -> None:
    inner = body(
        [node("Identity", ["go"], ["on"]), node("Relu", ["h"], ["next"])],
        {"i": TensorProto.INT64, "go": TensorProto.BOOL, "h": TensorProto.FLOAT},
        {"on": TensorProto.BOOL, "next": TensorProto.FLOAT},
    )
    with pytest.raises(ModelError, match="runs 1000000000 times"):
        read_onnx(build([node("Loop", ["n", "", "x"], ["y"], body=inner)], {"n": np.array(10**9)}, (4,)))
