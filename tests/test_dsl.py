"""Networks in the DSL: what its statements and expressions mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_models import MODELS, build, node, run_onnxruntime

import glyphc
from glyphc.errors import GlyphcError
from glyphc.frontends.dsl_ast import Secrecy
from glyphc.frontends.dsl_network import NodePrecision, QuantizationHints, TensorSecrecy
from glyphc.frontends.dsl_training import CosineDecay, Loss, Sgd, StepDecay, Training
from glyphc.frontends.from_dsl import parse_glyph
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.ops import Apply, Output
from glyphc.passes.quantize import Quantize

RING = 1024
X = np.random.default_rng(0).uniform(-2, 2, (7, 4))


def result(statements: str, x: np.ndarray = X, folder: Path = Path(), name: str = "y") -> np.ndarray:
    """The value y of a network with input x, on samples."""
    graph = parse_glyph(
        f"input x: [{', '.join(map(str, x.shape[1:]))}]\n{statements}\noutput {name}", folder=folder
    ).graph
    return evaluate(graph, {"x": x})[name]


# -- the same program as from ONNX --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits-mlp", pytest.param("mnist-mlp", marks=pytest.mark.slow)])
def test_the_same_schedule_as_from_onnx(name: str) -> None:
    """Instruction by instruction, polynomial by polynomial, at 128-bit."""
    rows = np.random.default_rng(1)
    size = {"digits-mlp": (64, 16), "mnist-mlp": (784, 255)}[name]
    samples = rows.uniform(0, size[1], (64, size[0]))
    written, exported = (
        glyphc.compile(MODELS / f"{name}{suffix}", samples, batch=512).schedule for suffix in (".glyph", ".onnx")
    )
    assert written.instructions == exported.instructions
    assert written.client == exported.client
    assert written.polynomials.keys() == exported.polynomials.keys()
    for key, polynomials in written.polynomials.items():
        for part in ("offsets", "exponents", "values"):
            np.testing.assert_array_equal(getattr(polynomials, part), getattr(exported.polynomials[key], part))


# -- expressions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y = x", X),
        ("y = -x", -X),
        ("y = x / 16 + 1", X / 16 + 1),
        ("y = 1 - 2 * x", 1 - 2 * X),
        ("y = 3 / (x + 5)", 3 / (X + 5)),
        ("y = x ** 2", X**2),
        ("y = -x ^ 2", -(X**2)),
        ("y = x > 0.5", (X > 0.5) * 1.0),
        ("y = 0.5 > x", (X < 0.5) * 1.0),
        ("y = x * x + x", X * X + X),
        ("y = x - [1, 2, 3, 4]", X - [1, 2, 3, 4]),
        ("y = max(x, -x)", np.abs(X)),
        ("y = max(x, 0.25)", np.maximum(X, 0.25)),
        ("y = min(x, x * 2, 0.5)", np.minimum(np.minimum(X, 2 * X), 0.5)),
        ("y = x -> relu -> scale(2, 1)", 2 * np.maximum(X, 0) + 1),
        ("y = x → relu", np.maximum(X, 0)),
        ("y = relu(x -> scale(-1))", np.maximum(-X, 0)),
        ("y = x -> leaky_relu", np.where(X > 0, X, 0.01 * X)),
        ("y = x -> clip(-1, 1)", np.clip(X, -1, 1)),
        ("y = x -> swish", X / (1 + np.exp(-X))),
        ("y = apply(x, relu, affine(2, 1))", 2 * np.maximum(X, 0) + 1),
        ("y = concat(x, relu(x))", np.concatenate([X, np.maximum(X, 0)], axis=1)),
        ("y = x -> softmax", np.exp(X) / np.exp(X).sum(1, keepdims=True)),
        ("y = x -> argmax(keepdims=true)", X.argmax(1)[:, None] * 1.0),
        ("y = x -> dropout(0.5) -> identity", X),
        ("y = gather(x, indices=[3, 0])", X[:, [3, 0]]),
        ("y = x -> reshape([2, 2]) -> reduce_sum", X.reshape(7, 2, 2).sum(-1)),
        ("y = x + 1 as z -> relu\nw = z", np.maximum(X + 1, 0)),
        ("activation half(t) on [-4, 4] = max(t, 0) / 2\ny = half(x)", np.maximum(X, 0) / 2),
        ("activation stairs on [-2, 2] = table [0, 1, 0]\ny = x -> stairs", 1 - np.abs(X) / 2),
        ("`none` = relu(x)\ny = `none` + 0", np.maximum(X, 0)),
        ("`odd name/0` = relu(x)\ny = `odd name/0`", np.maximum(X, 0)),
    ],
)
def test_expressions(text: str, expected: np.ndarray) -> None:
    np.testing.assert_allclose(result(text), expected, atol=1e-5)


def test_images() -> None:
    x = np.random.default_rng(3).normal(size=(2, 3, 4, 4))
    pooled = x.reshape(2, 3, 2, 2, 2, 2).max((3, 5))
    np.testing.assert_array_equal(result("y = x -> max_pool(2)", x), pooled)
    np.testing.assert_array_equal(result("y = x -> global_max_pool -> flatten", x), x.max((2, 3)))


@pytest.mark.parametrize(
    ("call", "attributes", "weight", "size"),
    [
        ("conv(x, 4, 3)", {}, (4, 3, 3, 3), (3, 6, 5)),
        ("conv(x, 4, [3, 2], stride=2, padding=1)", {"strides": [2, 2], "pads": [1] * 4}, (4, 3, 3, 2), (3, 6, 5)),
        ("conv(x, 4, 3, padding=same, bias=none)", {"auto_pad": "SAME_UPPER"}, (4, 3, 3, 3), (3, 6, 5)),
        ("conv(x, stride=[1, 2], groups=2)", {"strides": [1, 2], "group": 2}, (6, 2, 3, 3), (4, 6, 5)),
        ("conv(x, 4, 3, groups=4)", {"group": 4}, (4, 1, 3, 3), (4, 5, 5)),
        ("conv(x, 2, 3)", {}, (2, 3, 3), (3, 7)),
    ],
)
def test_convolutions(
    call: str, attributes: dict[str, object], weight: tuple[int, ...], size: tuple[int, ...], tmp_path: Path
) -> None:
    """As ONNX Runtime computes them."""
    random = np.random.default_rng(6)
    x = random.normal(size=(2, *size)).astype(np.float32)
    w, b = (random.normal(size=s).astype(np.float32) for s in (weight, weight[:1]))
    np.savez(tmp_path / "w.npz", **{"c.weight": w, "c.bias": b})
    b = b * np.float32("bias=none" not in call)
    model = build([node("Conv", ["x", "w", "b"], ["y"], **attributes)], {"w": w, "b": b}, size)
    expected = run_onnxruntime(model, x)["y"]
    got = result(f'weights "w.npz"\nc = {call}\ny = c', x.astype(np.float64), tmp_path)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "op", "attributes"),
    [
        ("avg_pool(x, 2)", "AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("avg_pool(x, 3, stride=1, padding=1)", "AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4}),
        ("max_pool(x, [3, 2], stride=2)", "MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2]}),
        (
            "max_pool(x, 3, padding=same)",
            "MaxPool",
            {"kernel_shape": [3, 3], "strides": [3, 3], "auto_pad": "SAME_UPPER"},
        ),
        ("global_avg_pool(x)", "GlobalAveragePool", {}),
    ],
)
def test_poolings(call: str, op: str, attributes: dict[str, object]) -> None:
    x = np.random.default_rng(7).normal(size=(2, 3, 6, 5)).astype(np.float32)
    expected = run_onnxruntime(build([node(op, ["x"], ["y"], **attributes)], {}, (3, 6, 5)), x)["y"]
    np.testing.assert_allclose(result(f"y = {call}", x.astype(np.float64)), expected, atol=1e-5)


def test_a_convolutional_network_compiles(tmp_path: Path) -> None:
    path = tmp_path / "cnn.glyph"
    path.write_text(
        "weights he_normal(seed=1)\nbatch 4\ninput image: encrypted [1, 8, 8]\n"
        "features = image -> conv(2, 3, padding=same) as conv1 -> relu as relu1 -> avg_pool(2)\n"
        "logits = features -> flatten -> dense(3) as head\noutput logits\n"
    )
    x = np.random.default_rng(8).normal(size=(40, 1, 8, 8))
    program = glyphc.compile(path, x, insecure_ring=4096)
    exact = evaluate(program.stages["source"], {"image": x[:4]})["logits"]
    np.testing.assert_allclose(program.run(x[:4], "simulate"), exact, atol=0.05 * np.ptp(exact))


def test_tensors_of_a_file(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    w, v, b = random.normal(size=(3, 4)), random.normal(size=(2, 3)), random.normal(size=3)
    np.savez(tmp_path / "w.npz", **{"fc.weight": w, "fc.bias": b, "a/b": v})
    text = 'weights "w.npz"\ny = x -> dense(3) as fc -> dense(2, weight="a/b", bias=none)'
    np.testing.assert_allclose(result(text, folder=tmp_path), (X @ w.T + b) @ v.T)
    np.savez(tmp_path / "t.npz", **{"fc.weight": w.T, "fc.bias": b})
    expected = X @ w.T + b
    text = 'weights "t.npz" stored as (in, out)\nfc = dense(x)\ny = fc'
    np.testing.assert_allclose(result(text, folder=tmp_path), expected)
    text = 'weights "t.npz"\nfc = dense(x, 3, transpose(fc.weight))\ny = fc'
    np.testing.assert_allclose(result(text, folder=tmp_path), expected)
    text = 'weights "w.npz"\ny = dense(x, x, 3, weight=[fc.weight, fc.weight], bias=fc.bias)'
    np.testing.assert_allclose(result(text, folder=tmp_path), 2 * X @ w.T + b)


def test_batch_normalisation(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    weight, bias, mean, variance = random.uniform(0.5, 2, (4, 4))
    names = ("weight", "bias", "running_mean", "running_var")
    np.savez(tmp_path / "w.npz", **{f"bn.{n}": v for n, v in zip(names, (weight, bias, mean, variance), strict=True)})
    y = result('weights "w.npz"\nbn = batch_norm(x, epsilon=0.1)\ny = bn', folder=tmp_path)
    np.testing.assert_allclose(y, weight * (X - mean) / np.sqrt(variance + 0.1) + bias)


def test_registered_activations() -> None:
    glyphc.register_activation("bump", lambda x: np.exp(-(x**2)), -4, 4)
    try:
        np.testing.assert_allclose(result("y = x -> bump"), np.exp(-(X**2)), atol=1e-5)
    finally:
        glyphc.unregister_activation("bump")


def test_places_from_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{"pick.indices": np.array([[2, 0]])})
    text = 'weights "w.npz"\npick = gather(x)\ny = gather(pick, indices=pick.indices) + 0'
    graph = parse_glyph('weights "w.npz"\ninput x: [4]\npick = gather(x)\noutput pick', folder=tmp_path).graph
    assert evaluate(graph, {"x": X})["pick"].shape == (7, 1, 2)
    with pytest.raises(GlyphcError, match="reach beyond"):
        result(text, folder=tmp_path)


def test_a_table_of_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", curve=np.linspace(0, 1, 5) ** 2, other=np.zeros(2))
    graph = parse_glyph(
        'input x: [4]\nactivation curve on [0, 1] = table("t.npz", "curve")\ny = curve(x)\noutput y', folder=tmp_path
    ).graph
    ((_, op),) = graph.of(Apply)
    assert op.functions == (Function("table", (0.0, 1.0, 0.0, 0.0625, 0.25, 0.5625, 1.0)),)


def test_fresh_weights_are_reproducible_and_differ() -> None:
    text = "weights he_normal(seed=3)\ninput x: [400]\na = dense(x, 300)\nb = dense(x, 300)\noutput a, b"
    network, again = parse_glyph(text), parse_glyph(text)
    a, b = (network.graph.constant(f"{n}.weight") for n in "ab")
    assert network.graph == again.graph
    assert not np.allclose(a, b)
    assert a.std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    (note,) = network.notes
    assert "drawn at random" in note
    assert "he_normal(), seed 3" in note
    explicit = "input x: [400]\ny = dense(x, 3, weight=uniform(-1, 1, seed=2), bias=constant(0.5))\noutput y"
    graph = parse_glyph(explicit).graph
    assert np.abs(graph.constant("y.weight")).max() == pytest.approx(1, abs=0.02)
    assert (graph.constant("y.bias") == 0.5).all()


# -- the rest of a file -------------------------------------------------------------------------------------

WHOLE = """
network small
weights encrypted he_normal(seed=0)
public fc2.bias
batch 3
input x: encrypted [4]
input mask: public [4]
fc1 = x -> dense(8)
relu1 = fc1 -> relu
fc2 = relu1 -> dense(2)
output fc2 as logits
quantize { activation_bits = 10  margin = 1.5  x: 9 bits  relu1: 14 bits }
training {
  loss cross_entropy(fc2)
  optimizer sgd(0.1, momentum=0.9, nesterov=true)
  schedule step(every=5, factor=0.5)
  epochs 20
  freeze fc1
}
"""


def test_everything_becomes_typed_data() -> None:
    network = parse_glyph(WHOLE)
    assert (network.name, network.batch, network.public_inputs) == ("small", 3, ("mask",))
    assert [op.name for _, op in network.graph.of(Output)] == ["logits"]
    assert network.quantization == QuantizationHints(
        activation_bits=10, margin=1.5, nodes=(NodePrecision("x", 9), NodePrecision("relu1", 14))
    )
    assert network.secrecy == (
        TensorSecrecy("fc1.bias", Secrecy.ENCRYPTED),
        TensorSecrecy("fc1.weight", Secrecy.ENCRYPTED),
        TensorSecrecy("fc2.bias", Secrecy.PUBLIC),
        TensorSecrecy("fc2.weight", Secrecy.ENCRYPTED),
    )
    assert network.training == Training(
        Loss("cross_entropy", "fc2"), Sgd(0.1, 0.9, nesterov=True), StepDecay(5, 0.5), 20, ("fc1",)
    )


def test_layers_with_weights_of_their_own_can_be_frozen() -> None:
    text = """input x: [4]
y = x -> dense(4, weight=he_normal(seed=1), bias=zeros()) as l1 -> relu -> dense(2, weight=zeros(), bias=none) as l2
output y
training { loss mse(y) optimizer sgd(0.1) freeze l1, l2 }"""
    training = parse_glyph(text).training
    assert training is not None
    assert training.frozen == ("l1", "l2")


def test_only_tensors_named_after_a_layer_are_in_its_way() -> None:
    text = "weights zeros()\ninput x: [4]\ny = x -> dense(3, weight=ones(), bias=none) -> dense(2)\noutput y"
    assert parse_glyph(text.replace("ones()", "constant(1)")).graph.outputs[0].type.shape == (2,)


def test_other_schedules() -> None:
    text = (
        "input x: [1]\ny = relu(x)\noutput y\ntraining { loss mse(y) optimizer sgd(1) schedule cosine(10, final=0.1) }"
    )
    training = parse_glyph(text).training
    assert training == Training(Loss("mse", "y"), Sgd(1.0), CosineDecay(10, 0.1))


def compiled(tmp_path: Path, more: str, **options: object) -> glyphc.Program:
    path = tmp_path / "net.glyph"
    path.write_text(
        "weights he_normal(seed=1)\nbatch 5\ninput x: [4]\n"
        f"y = x -> dense(6) as fc1 -> relu as relu1 -> dense(2) as fc2\noutput y\n{more}"
    )
    return glyphc.compile(path, np.random.default_rng(2).normal(size=(50, 4)), insecure_ring=RING, **options)


def bits(program: glyphc.Program) -> dict[str, int]:
    return {
        n.location or n.op.mnemonic: n.type.fixed.bits
        for n in program.quantized
        if n.type.fixed and n.op.mnemonic != "linear"
    }


def test_hints_reach_the_quantizer(tmp_path: Path) -> None:
    plain = compiled(tmp_path, "")
    assert plain.requested_batch == 5
    assert bits(plain) == {"input": 13, "relu1": 12}
    hinted = compiled(tmp_path, "quantize { input_bits = 9  relu1: 15 bits }")
    assert bits(hinted) == {"input": 9, "relu1": 15}
    by_hand = compiled(tmp_path, "quantize { input_bits = 9 }", passes=None, batch=2)
    assert by_hand.requested_batch == 2
    x = np.random.default_rng(3).uniform(-1, 1, (5, 4))
    errors = []
    for program in (compiled(tmp_path, "quantize { relu1: 4 bits }"), hinted):
        exact = evaluate(program.stages["source"], {"x": x})["y"]
        errors.append(np.abs(program.run(x, "clear") - exact).max())
    assert errors[0] > 5 * errors[1]


def test_options_by_hand_come_first(tmp_path: Path) -> None:
    from glyphc.passes.pipeline import DEFAULT

    passes = DEFAULT.replace("quantize", "quantize{input_bits=11}")
    assert bits(compiled(tmp_path, "quantize { input_bits = 9 }", passes=passes))["input"] == 11


def test_bits_of_a_dense_layer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GlyphcError, match="no input or activation 'fc1'"):
        compiled(tmp_path, "quantize { fc1: 9 bits }")
    with pytest.raises(GlyphcError, match="at most"):
        compiled(tmp_path, "quantize { relu1: 18 bits }")
    with pytest.raises(GlyphcError, match="not NAME:BITS"):
        Quantize(node_bits="relu1=3")


def test_notes_say_what_is_left_out(tmp_path: Path) -> None:
    program = compiled(tmp_path, "training { loss mse(y) optimizer sgd(0.1) }")
    random, training = program.notes
    assert "drawn at random" in random
    assert "training section" in training
