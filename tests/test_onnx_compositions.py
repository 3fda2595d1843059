"""Recurrent layers, Einsum, attention, loops, quantised operators, look-ups and the like, against ONNX Runtime."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_models import build, f32, i64, node, randoms

import glyphc
from glyphc.errors import CalibrationError, DataError, ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.frontends.onnx_sorting import network
from glyphc.ir.evaluate import evaluate
from glyphc.ir.ops import Bootstrap, Input, Output, Steps
from glyphc.ir.text import parse, to_text

Floats = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(5)


def floats(*shape: int, seed: int = 0, size: float = 0.5) -> Floats:
    return (size * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def runtime(model: onnx.ModelProto, x: Floats) -> dict[str, Floats]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, map(np.asarray, session.run(None, {"x": x})), strict=True))


def same(model: onnx.ModelProto, x: Floats, atol: float = 1e-5, moved: int = 0) -> None:
    """Every output as ONNX Runtime has it; moved: the axis of the samples in its tensors."""
    wanted = runtime(model, np.moveaxis(x, 0, moved))
    found = evaluate(read_onnx(model), {"x": x.astype(np.float64)})
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        axis = moved if value.ndim == x.ndim or not moved else value.ndim - 2
        assert np.allclose(found[name], np.moveaxis(value, axis, 0), atol=atol), name


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


# -- Einsum --


@pytest.mark.parametrize(
    ("equation", "shape", "constant"),
    [
        ("bi,oi->bo", (4,), (3, 4)),
        ("bti,oi->bto", (5, 4), (3, 4)),
        ("...i,io->...o", (2, 5, 4), (4, 3)),
        ("bthd,hde->bte", (3, 2, 4), (2, 4, 5)),
        ("bij,jk", (3, 4), (4, 2)),
        ("bi,i->b", (4,), (4,)),
    ],
)
def test_einsum_with_constants(equation: str, shape: tuple[int, ...], constant: tuple[int, ...]) -> None:
    made = node("Einsum", ["x", "w"], ["y"], equation=equation)
    same(build([made], {"w": floats(*constant)}, shape), floats(6, *shape, seed=1))


@pytest.mark.parametrize("equation", ["bij,bkj->bik", "bij,bij->bi", "bhi,bhj->bhij", "bij,bkj->bki"])
def test_einsum_of_encrypted_tensors(equation: str) -> None:
    made = [node("Mul", ["x", "two"], ["d"]), node("Einsum", ["x", "d"], ["y"], equation=equation)]
    same(build(made, {"two": f32(2.0)}, (3, 3)), floats(6, 3, 3, seed=1))


@pytest.mark.parametrize("equation", ["bij->bji", "bij->b", "bij->bj"])
def test_einsum_of_one_operand(equation: str) -> None:
    same(build([node("Einsum", ["x"], ["y"], equation=equation)], None, (3, 4)), floats(6, 3, 4))


@pytest.mark.parametrize(("equation", "text"), [("bii->bi", "diagonal"), ("bij,jk->bik", "operands")])
def test_einsum_that_is_refused(equation: str, text: str) -> None:
    model = build([node("Identity", ["x"], ["y"])], None, (3, 3))
    model.graph.node[0].CopyFrom(node("Einsum", ["x"], ["y"], equation=equation))
    with pytest.raises(ModelError, match=text):
        read_onnx(model)


# -- attention --


def attention(mask: Floats | None = None, kv_heads: int = 2, **attributes: Any) -> onnx.ModelProto:
    """Queries, keys and values from one tensor of 4 tokens."""
    size = 3 * 2
    constants: dict[str, Any] = {
        "wq": floats(5, size, seed=1),
        "wk": floats(5, 3 * kv_heads, seed=2),
        "wv": floats(5, 3 * kv_heads, seed=3),
    }
    if mask is not None:
        constants["mask"] = mask
    nodes = [node("MatMul", ["x", f"w{n}"], [n]) for n in "qkv"]
    operands = ["q", "k", "v", *(["mask"] if mask is not None else [])]
    nodes.append(node("Attention", operands, ["y"], q_num_heads=2, kv_num_heads=kv_heads, **attributes))
    return build(nodes, constants, (4, 5), opset=23, sample_shapes={"y": (4, size)})


def reference_attention(model: onnx.ModelProto, x: Floats) -> Floats:
    """By ONNX's own reference: not every ONNX Runtime has the operator."""
    from onnx.reference import ReferenceEvaluator

    return np.asarray(ReferenceEvaluator(model).run(None, {"x": x})[0])


CAUSAL = np.tri(4, dtype=bool)


@pytest.mark.parametrize(
    ("mask", "attributes"),
    [
        (None, {}),
        (None, {"scale": 0.3}),
        (None, {"softcap": 2.0}),
        (None, {"is_causal": 1}),
        (CAUSAL, {}),
        (np.where(CAUSAL, 0, -np.inf).astype(np.float32), {}),
        (floats(4, 4, seed=9), {}),
    ],
    ids=["plain", "scale", "cap", "causal", "truth", "infinite", "bias"],
)
def test_attention(mask: Floats | None, attributes: dict[str, Any]) -> None:
    model = attention(mask, **attributes)
    x = floats(3, 4, 5, seed=8, size=1.0)
    found = evaluate(read_onnx(model), {"x": x.astype(np.float64)})["y"]
    assert np.allclose(found, reference_attention(model, x), atol=1e-5)


def test_heads_that_share_keys() -> None:
    model = attention(kv_heads=1)
    x = floats(3, 4, 5, seed=8, size=1.0)
    q, k, v = (x @ floats(5, n, seed=s) for s, n in ((1, 6), (2, 3), (3, 3)))
    scores = np.einsum("bthd,bsd->bhts", q.reshape(3, 4, 2, 3), k) / np.sqrt(3)
    shares = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    wanted = np.einsum("bhts,bsd->bthd", shares, v).reshape(3, 4, 6)
    assert np.allclose(evaluate(read_onnx(model), {"x": x.astype(np.float64)})["y"], wanted, atol=1e-5)


@pytest.mark.parametrize("nothing", [-np.inf, np.finfo(np.float32).min, -1e9])
@pytest.mark.parametrize("kind", ["add", "where"])
def test_scores_that_are_masked(kind: str, nothing: float) -> None:
    """As exporters write causal masks; elements that are left out must not widen any range."""
    if kind == "add":
        constants = {"m": np.where(CAUSAL, 0, nothing).astype(np.float32)}
        nodes = [node("Add", ["x", "m"], ["s"])]
    else:
        constants = {"m": CAUSAL, "n": np.float32(nothing)}
        nodes = [node("Where", ["m", "x", "n"], ["s"])]
    model = build([*nodes, node("Softmax", ["s"], ["y"], axis=-1)], constants, (4, 4))
    x = floats(6, 4, 4, seed=3, size=2.0)
    same(model, x)
    values = glyphc.ir.evaluate.evaluate_all(read_onnx(model), {"x": x.astype(np.float64)})
    assert max(float(np.abs(v).max()) for v in values.values()) < 100


def test_masks_that_nothing_takes_away() -> None:
    constants = {"m": np.where(CAUSAL, 0, -np.inf).astype(np.float32)}
    nodes = [node("Add", ["x", "m"], ["s"]), node("Relu", ["s"], ["y"])]
    with pytest.raises(ModelError, match="minus infinity"):
        read_onnx(build(nodes, constants, (4, 4)))
    with pytest.raises(ModelError, match="minus infinity"):
        read_onnx(build([node("Add", ["x", "m"], ["y"])], constants, (4, 4)))


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


# -- integers --


def quantised(x: Floats, scale: float, zero: int) -> Floats:
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8)


def test_qlinear_layers() -> None:
    """A convolution and a product of 8-bit integers: ours are computed between the same grids, in float."""
    constants: dict[str, Any] = {
        "xs": f32(0.02)[0], "xz": np.uint8(128), "ws": np.array([0.01, 0.02], np.float32),
        "wz": np.zeros(2, np.int8), "ys": f32(0.05)[0], "yz": np.uint8(120),
        "w": RNG.integers(-90, 90, (2, 1, 3, 3)).astype(np.int8), "b": RNG.integers(-200, 200, 2).astype(np.int32),
        "m": RNG.integers(0, 255, (4, 3)).astype(np.uint8), "ms": f32(0.01)[0], "mz": np.uint8(127),
        "os": f32(0.1)[0], "oz": np.uint8(128), "flat": i64(0, -1), "rows": i64(0, 2, 4),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        node("QLinearConv", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["c"], kernel_shape=[3, 3]),
        node("Reshape", ["c", "rows"], ["rc"]),
        node("QLinearMatMul", ["rc", "ys", "yz", "m", "ms", "mz", "os", "oz"], ["p"]),
        node("DequantizeLinear", ["p", "os", "oz"], ["d"]),
        node("Reshape", ["d", "flat"], ["y"]),
    ]
    model = build(nodes, constants, (1, 4, 4))
    x = floats(16, 1, 4, 4, seed=2, size=0.8)
    found = evaluate(read_onnx(model), {"x": x.astype(np.float64)})["y"]
    wanted = runtime(model, x)["y"]
    # ties of the two roundings may fall differently
    assert np.abs(found - wanted).max() <= 0.1 + 1e-5 and np.mean(np.abs(found - wanted) < 1e-5) > 0.9


def test_dynamic_quantisation_is_computed_in_float() -> None:
    w = RNG.integers(0, 255, (6, 3)).astype(np.uint8)
    constants = {"w": w, "wz": np.uint8(120), "ws": f32(0.02)[0]}
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["s", "ws"], ["scale"]),
        node("Mul", ["f", "scale"], ["y"]),
    ]
    model = build(nodes, constants, (6,))
    x = floats(8, 6, seed=2)
    found = evaluate(read_onnx(model), {"x": x.astype(np.float64)})["y"]
    exact = x.astype(np.float64) @ (w.astype(float) - 120) * 0.02
    assert np.allclose(found, exact, atol=1e-6)
    # each sample by itself: the grid is that of all values together
    grids = [runtime(model, row[None])["y"][0] for row in x]
    assert np.abs(found - grids).max() < 0.05 * np.ptp(exact)


@pytest.mark.parametrize(
    ("op", "constants", "attributes"),
    [
        ("BiasGelu", {"b": floats(4)}, {}),
        ("FastGelu", {"b": floats(4)}, {}),
        ("Gelu", {}, {}),
        ("QuickGelu", {}, {"alpha": 1.5}),
        ("FusedMatMul", {"w": floats(3, 4)}, {"alpha": 0.5, "transB": 1}),
        ("FusedGemm", {"w": floats(4, 3), "c": floats(3)}, {"activation": "Relu"}),
        ("SkipLayerNormalization", {"s": floats(1, 1, 4), "g": floats(4), "b": floats(4)}, {}),
    ],
)
def test_fused_operators(op: str, constants: dict[str, Any], attributes: dict[str, Any]) -> None:
    made = node(op, ["x", *constants], ["y"], domain="com.microsoft", **attributes)
    shape = (3, 4) if op == "SkipLayerNormalization" else (4,)
    if op == "SkipLayerNormalization":
        constants = {**constants, "s": np.broadcast_to(constants["s"], (1, 3, 4)).copy()}
    model = build([made], constants, shape, sample_shapes={"y": shape})
    x = floats(1 if op == "SkipLayerNormalization" else 6, *shape, seed=1, size=1.0)
    wanted = runtime(model, x)["y"]
    found = evaluate(read_onnx(model), {"x": x.astype(np.float64)})["y"]
    assert np.allclose(found, wanted, atol=2e-4)  # ONNX Runtime's own approximations


@pytest.mark.parametrize("encrypted", [True, False])
def test_quantisation_with_a_scale_for_each_channel(encrypted: bool) -> None:
    """QONNX's Quant: (clip(round(x / scale + zero)) - zero) * scale, with bits by attribute-like operands."""
    scale = np.array([0.1, 0.3, 0.05], np.float32)
    constants: dict[str, Any] = {"s": scale, "z": f32(0.0), "b": f32(4.0)}
    made = node("Quant", ["x" if encrypted else "w", "s", "z", "b"], ["q"], domain="qonnx.custom_op.general")
    x = floats(6, 3, seed=1)
    wanted = np.clip(np.rint(x / scale), -8, 7) * scale
    if not encrypted:
        constants["w"] = x[:1]
        wanted = x + np.clip(np.rint(x[:1] / scale), -8, 7) * scale
    end = [node("Identity", ["q"], ["y"])] if encrypted else [node("Add", ["x", "q"], ["y"])]
    model = build([made, *end], constants, (3,), sample_shapes={"y": (3,)})
    assert np.allclose(evaluate(read_onnx(model), {"x": x.astype(np.float64)})["y"], wanted, atol=1e-6)


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
    x = (RNG.normal(size=(64, 4)) * 20).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = glyphc.compile(model, x, 4, insecure_ring=2048)
    found = program.run(x, mode="clear")
    for name, value in runtime(model, x).items():
        assert np.sqrt(np.mean((np.asarray(found[name]) - value) ** 2)) < 0.03


def test_a_tensor_over_itself_is_one() -> None:
    model = build([node("Div", ["x", "x"], ["o"]), node("Add", ["o", "x"], ["y"])], None, (4,))
    x = np.abs(RNG.normal(size=(8, 4))).astype(np.float32) + 0.1
    np.testing.assert_allclose(evaluate(read_onnx(model), {"x": x})["y"], x + 1, rtol=1e-6)


# -- look-ups --


def of_ids(nodes: list[onnx.NodeProto], constants: dict[str, Any], tokens: int) -> onnx.ModelProto:
    return build(nodes, constants, (tokens,), dtype=TensorProto.INT64)


def same_of_ids(model: onnx.ModelProto, ids: Floats) -> glyphc.ir.graph.Graph:
    graph = read_onnx(model)
    found = evaluate(graph, {"x": ids.astype(np.float64)})
    for name, value in runtime(model, ids).items():
        assert np.allclose(found[name], value, atol=1e-6)
    return graph


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_embeddings(rows: int, tokens: int, width: int, seed: int) -> None:
    model = of_ids([node("Gather", ["table", "x"], ["y"])], {"table": floats(rows, width, seed=seed)}, tokens)
    same_of_ids(model, np.random.default_rng(seed).integers(0, rows, (7, tokens)))


@pytest.mark.parametrize("axis", [-1, 1])
def test_one_hot(axis: int) -> None:
    made = node("OneHot", ["x", "depth", "values"], ["y"], axis=axis)
    model = of_ids([made], {"depth": np.array(5), "values": f32(-1.0, 2.0)}, 3)
    same_of_ids(model, RNG.integers(0, 5, (9, 3)))


def test_an_embedding_takes_no_bootstrap_of_its_own() -> None:
    """The client encrypts comparisons of the tokens; what follows is linear up to the first function."""
    table = floats(9, 4, seed=1)
    nodes = [
        node("Gather", ["table", "x"], ["e"]),
        node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0),
        node("Relu", ["m"], ["r"]),
        node("MatMul", ["r", "w"], ["y"]),
    ]
    model = of_ids(nodes, {"table": table, "w": floats(4, 2)}, 3)
    ids = RNG.integers(0, 9, (64, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = glyphc.compile(model, ids, 4, insecure_ring=1024)
    assert len(list(program.graph.of(Bootstrap))) == 1
    wanted = runtime(model, ids)["y"]
    found = np.asarray(program.run(ids, mode="simulate"))
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.01 * np.ptp(wanted)
    ((_, op),) = program.graph.of(Input)
    assert op.ranks is not None and set(op.ranks.counts) == {1}


@pytest.mark.parametrize(
    ("added", "ids", "text"), [(0, 9, "id 9 at element 1"), (2, 7, "id 7"), (0, -1, "id -1"), (0, 1.5, "id 1.5")]
)
def test_ids_outside_the_table_are_refused(added: int, ids: float, text: str) -> None:
    """Encrypted, they would give the first or last row; told before, in every mode, on clients between machines too."""
    nodes = [node("Add", ["x", "added"], ["more"]), node("Gather", ["table", "more"], ["y"])]
    model = of_ids(nodes, {"table": floats(9, 2), "added": i64(added)}, 3)
    good = RNG.integers(0, 9 - added, (32, 3)).astype(np.float64)
    bad = good.copy()
    bad[4, 1] = ids
    with pytest.raises(CalibrationError, match=f"sample 4 has {text}"):
        glyphc.compile(model, bad, 4, insecure_ring=1024)
    program = glyphc.compile(model, good, 4, insecure_ring=1024)
    for mode in ("clear", "simulate", "encrypted"):
        with pytest.raises(DataError, match=f"'x': sample 4 has {text}.* from {-added} to {8 - added} "):
            program.run(bad, mode=mode)
    assert parse(to_text(program.graph)) == program.graph


def test_a_look_up_of_what_the_network_computes() -> None:
    """Without ranks: steps between the integers."""
    nodes = [node("Add", ["x", "one"], ["more"]), node("Gather", ["table", "more"], ["y"])]
    graph = same_of_ids(of_ids(nodes, {"table": floats(6, 2), "one": i64(1)}, 2), RNG.integers(0, 5, (9, 2)))
    assert list(graph.of(Steps))


def ml(op: str, operands: list[str], constants: dict[str, Any] | None = None, **attributes: Any) -> onnx.ModelProto:
    made = node(op, operands, ["y"], domain="ai.onnx.ml", **attributes)
    return build([made], constants, (3,), sample_shapes={"y": (3,)})


def test_one_hot_encoder() -> None:
    x = RNG.choice([0.0, 2.0, 3.0, 7.0], (12, 3)).astype(np.float32)
    found = evaluate(read_onnx(ml("OneHotEncoder", ["x"], cats_int64s=[7, 0, 2])), {"x": x.astype(np.float64)})["y"]
    assert np.array_equal(found, x[..., None] == np.array([7, 0, 2]))


def test_imputer() -> None:
    x = RNG.choice([-1.0, 0.5, 2.0], (12, 3)).astype(np.float32)
    model = ml("Imputer", ["x"], imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=-1.0)
    same(model, x)
    plain = ml("Imputer", ["x"], imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=float("nan"))
    same(plain, x)


def test_label_encoder_of_encrypted_categories() -> None:
    x = RNG.integers(0, 5, (12, 3)).astype(np.float32)
    keys = {"keys_floats": [0.0, 1.0, 4.0], "values_floats": [2.5, -1.0, 7.0], "default_float": 9.0}
    model = ml("LabelEncoder", ["x"], **keys)
    model.opset_import[1].version = 2
    same(model, x)


def test_labels_of_labels() -> None:
    nodes = [
        node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
        node(
            "LabelEncoder",
            ["named"],
            ["y"],
            domain="ai.onnx.ml",
            keys_strings=["a", "b", "c"],
            values_int64s=[30, 10, 20],
        ),
    ]
    nodes.insert(1, node("ArrayFeatureExtractor", ["names", "i"], ["named"], domain="ai.onnx.ml"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, None)],
        [helper.make_tensor("names", TensorProto.STRING, [3], [b"a", b"b", b"c"])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    network = read_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    ((_, op),) = network.of(Output)
    x = randoms(8, 3)
    assert op.labels is not None
    found = op.labels.of(evaluate(network, {"x": x.astype(np.float64)})["y"])
    assert np.array_equal(found, np.array([30, 10, 20])[np.argmax(x, axis=1)])


# -- others --


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("transform", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
def test_resize(mode: str, transform: str) -> None:
    made = node(
        "Resize", ["x", "", "scales"], ["y"], mode=mode, coordinate_transformation_mode=transform, cubic_coeff_a=-0.75
    )
    same(build([made], {"scales": f32(1, 1, 2, 1.5)}, (2, 3, 4)), floats(4, 2, 3, 4), atol=1e-5)


def test_resize_to_sizes() -> None:
    made = node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear")
    same(build([made], {"sizes": i64(4, 2, 7, 2)}, (2, 3, 4), batch=4), floats(4, 2, 3, 4))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_reduce_prod(size: int) -> None:
    made = node("ReduceProd", ["x"], ["y"], axes=[2], keepdims=0)
    same(build([made], None, (3, size)), floats(6, 3, size, size=1.0))


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize(("k", "axis"), [(1, 1), (3, -1), (6, -1), (2, 1)])
def test_top_k(k: int, axis: int, largest: int) -> None:
    made = node("TopK", ["x", "k"], ["y", "i"], axis=axis, largest=largest)
    model = build([made], {"k": i64(k)}, (2, 6), outputs=("y", "i"))
    same(model, floats(9, 2, 6))


def test_top_k_of_nearly_equal_elements_errs_little() -> None:
    model = build([node("TopK", ["x", "k"], ["y", "i"])], {"k": i64(3)}, (5,), outputs=("y",))
    close = floats(128, 5, size=1.0)
    close[:, 1] = close[:, 0] + 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = glyphc.compile(model, close, 4, insecure_ring=2048, measure={"y": "relative"})
        found = np.asarray(program.run(close, mode="simulate"))
    wanted = runtime(model, close)["y"]
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.01 * np.ptp(wanted)


@given(st.integers(1, 20), st.data())
def test_sorting_networks(size: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, size))
    values = data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    found = list(values)
    for stage in network(size, k):
        assert len({i for pair in stage for i in pair}) == 2 * len(stage)
        for i, j in stage:
            found[i], found[j] = max(found[i], found[j]), min(found[i], found[j])
    assert found[:k] == sorted(values, reverse=True)[:k]


def test_powers_with_an_exponent_each() -> None:
    made = node("Pow", ["x", "p"], ["y"])
    x = np.random.default_rng(0).uniform(0.5, 2, (6, 20)).astype(np.float32)
    same(build([made], {"p": np.linspace(0.1, 3, 20).astype(np.float32)}, (20,)), x)


# -- support vector machines --


@pytest.mark.parametrize("kernel", ["linear", "rbf", "poly", "sigmoid"])
@pytest.mark.parametrize("classes", [2, 3])
def test_support_vector_classifiers(kernel: str, classes: int) -> None:
    from skl2onnx import to_onnx
    from sklearn.datasets import load_iris
    from sklearn.svm import SVC

    x, y = load_iris(return_X_y=True)
    x, y = (x[y < classes] - x.mean(axis=0)).astype(np.float32), y[y < classes]
    estimator = SVC(kernel=kernel, gamma=0.1).fit(x, y)
    model = to_onnx(estimator, x[:1], options={"zipmap": False})
    graph = read_onnx(model)
    found = evaluate(graph, {"X": x.astype(np.float64)})
    label = next(op for _, op in graph.of(Output) if op.labels is not None)
    assert label.labels is not None
    assert np.mean(label.labels.of(found[label.name]) == estimator.predict(x)) > 0.99


@pytest.mark.parametrize("kernel", ["linear", "rbf", "poly", "sigmoid"])
def test_support_vector_regressors(kernel: str) -> None:
    from skl2onnx import to_onnx
    from sklearn.datasets import load_diabetes
    from sklearn.svm import SVR

    x, y = load_diabetes(return_X_y=True)
    x = (20 * x[:60]).astype(np.float32)
    estimator = SVR(kernel=kernel, C=10, gamma=0.05).fit(x, y[:60])
    found = evaluate(read_onnx(to_onnx(estimator, x[:1])), {"X": x.astype(np.float64)})["variable"]
    assert np.allclose(found[:, 0], estimator.predict(x), atol=1e-3 * np.ptp(y))
