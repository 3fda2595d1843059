"""Recurrent layers, Einsum, attention, loops, quantised operators, look-ups and the like, against ONNX Runtime."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from onnx_models import build, f32, i64, node

import glyphc
from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.frontends.onnx_sorting import network
from glyphc.ir.evaluate import evaluate
from glyphc.ir.ops import Output
from tests.onnx_beside_runtime import RNG, Floats, floats, runtime, same

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


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("moved", [False, True])
def test_resize_to_the_size_of_another_tensor(mode: str, moved: bool) -> None:
    """Its sizes have the number of samples among them, wherever the samples are."""
    perm = [1, 0, 2, 3] if moved else [0, 1, 2, 3]
    nodes = [
        node("Transpose", ["x"], ["t"], perm=perm),
        node("AveragePool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", ["p"], ["q"], perm=perm),
        node("Shape", ["t"], ["s"]),
        node("Resize", ["q", "", "", "s"], ["r"], mode=mode),
        node("Transpose", ["r"], ["y"], perm=perm),
    ]
    same(build(nodes, None, (2, 4, 6)), floats(3, 2, 4, 6))


def test_resize_of_samples_is_refused() -> None:
    made = node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    with pytest.raises(ModelError, match="axis=0 is the batch"):
        read_onnx(build([made], {"scales": f32(2, 1, 2)}, (2, 3)))


@pytest.mark.parametrize(
    ("made", "shape"),
    [
        (node("LRN", ["x"], ["y"], size=3, alpha=0.2, beta=0.6, bias=1.5), (5, 2, 3)),
        (node("LpNormalization", ["x"], ["y"], axis=1, p=1), (3, 2)),
        (node("LpNormalization", ["x"], ["y"], axis=-1, p=2), (3, 2)),
        (node("LpPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[1, 2], pads=[1, 0, 0, 1], p=3), (2, 4, 4)),
        (node("GlobalLpPool", ["x"], ["y"], p=1), (2, 3, 3)),
        (node("MeanVarianceNormalization", ["x"], ["y"], axes=[1, 3]), (2, 3, 3)),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_norms(made: onnx.NodeProto, shape: tuple[int, ...]) -> None:
    same(build([made], None, shape, opset=18), floats(4, *shape, size=1.0))


@pytest.mark.parametrize("kind", ["Attention", "MultiHeadAttention"])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_as_the_runtime_fuses_it(kind: str, causal: int) -> None:
    constants: dict[str, Any] = {"w": floats(5, 12), "b": floats(12, seed=1)}
    given = {"domain": "com.microsoft", "num_heads": 2, "unidirectional": causal}
    if kind == "Attention":
        nodes = [node("Attention", ["x", "w", "b"], ["y"], **given)]
    else:
        nodes = [
            node("MatMul", ["x", "w"], ["m"]),
            node("Split", ["m", "sizes"], ["q", "k", "v"], axis=2),
            node("MultiHeadAttention", ["q", "k", "v", "b"], ["y"], **given),
        ]
        constants["sizes"] = i64(4, 4, 4)
    same(build(nodes, constants, (3, 5), sample_shapes={"y": (3, 4)}), floats(6, 3, 5, seed=2))


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
