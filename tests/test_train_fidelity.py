"""Training changes weights and nothing else: files keep their operators, layers their biases, labels their meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx_models import build, node, randoms, run_onnxruntime

from glyphc.cli import main
from glyphc.commands.trained_model import trained_model
from glyphc.errors import DataError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, Input, Output
from glyphc.ir.types import Level
from glyphc.train.errors import TrainingError
from glyphc.train.job import Options, make_job
from glyphc.train.linear_models import linear_model
from glyphc.train.losses import LOSSES, choose_loss
from glyphc.train.optimizers import SGD, Cosine, Steps
from glyphc.train.section import schedule_of
from glyphc.trainer.loop import train

RING = 1024
X = np.random.default_rng(1).normal(size=(20, 4))
Y = (X.sum(axis=1) > 0).astype(int)


def product(bias: bool) -> onnx.ModelProto:
    """A layer as a product, with or without an addition behind it."""
    nodes = [node("MatMul", ["x", "w"], ["h" if bias else "y"], name="fc")]
    if bias:
        nodes.append(node("Add", ["h", "b"], ["y"], name="add"))
    return build(nodes, {"w": randoms(4, 1) / 4, **({"b": randoms(1)} if bias else {})})


@pytest.mark.parametrize("mode", ["clear", "encrypted"])
def test_biases_are_those_of_the_model(mode: str) -> None:
    """None is added; one that is added by an operator of its own is trained."""
    options = Options(SGD(0.5), 3, insecure_ring=RING)
    for bias in (False, True):
        source = product(bias).SerializeToString()
        job = make_job(read_onnx(source), X, Y, options)
        written = trained_model(source, train(job, mode).network)
        assert [n.op_type for n in written.graph.node] == ["MatMul", *(["Add"] if bias else [])]
        before, after = (
            {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (product(bias), written)
        )
        assert before.keys() == after.keys()
        assert all(np.abs(before[name] - after[name]).max() > 1e-3 for name in before)
        weight, offset = before["w"].astype(float), before["b"].astype(float) if bias else np.zeros(1)
        for _ in range(3):  # by hand
            error = 1 / (1 + np.exp(-(X @ weight + offset))) - Y[:, None]
            weight, offset = weight - 0.5 * X.T @ error / 20, offset - 0.5 * error.mean(axis=0) * bias
        np.testing.assert_allclose(after["w"], weight, atol=2e-3)
        if bias:
            np.testing.assert_allclose(after["b"], offset, atol=2e-3)


def convolutional() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "k", "c"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        node("Dropout", ["a"], ["d"], name="drop"),
        node("Erf", ["d"], ["g"], name="gate"),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "w", "b"], ["y"], name="head", transB=1, alpha=0.5),
    ]
    constants = {"k": randoms(3, 1, 3, 3) / 3, "c": randoms(3), "w": randoms(2, 48) / 7, "b": randoms(2)}
    return build(nodes, constants, (1, 4, 4))


def test_a_file_keeps_its_operators(tmp_path: Path) -> None:
    """Convolutions stay convolutions; dropout is told; factors of products that cannot be put back are written anew."""
    x = np.random.default_rng(0).normal(size=(12, 1, 4, 4))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(12) % 2)
    model = convolutional()
    for alpha in (0.5, 1.0):
        model.graph.node[-1].attribute[1 if model.graph.node[-1].attribute[0].name == "transB" else 0].f = alpha
        onnx.save(model, tmp_path / "m.onnx")
        arguments = [
            "train",
            "m.onnx",
            "--data",
            "x.npy",
            "--labels",
            "y.npy",
            "--steps",
            "2",
            "--mode",
            "clear",
            "-o",
            "t.onnx",
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        assert "nothing is dropped at random in training: drop are left out" in result.stderr
        written = onnx.load(tmp_path / "t.onnx")
        kept = [n.op_type for n in written.graph.node] == [n.op_type for n in model.graph.node]
        assert kept is (alpha == 1.0)
    (p,) = run_onnxruntime(written, x.astype(np.float32)).values()
    expected = evaluate(read_onnx(tmp_path / "t.onnx"), {"x": x})["y"]
    np.testing.assert_allclose(p, expected, atol=1e-5)
    changed = [t.name for t, o in zip(written.graph.initializer, model.graph.initializer, strict=True) if t != o]
    assert changed == ["w", "b"]


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "swish", "mish", "quadratic", "softplus"])
def test_activations_are_written(name: str) -> None:
    parameters = {"swish": (1.5,), "quadratic": (0.5, -1.0, 2.0)}.get(name, ())
    graph = Graph(Level.SOURCE, 1)
    value = graph.add(Apply((Function(name, parameters),)), (graph.add(Input("x", (9,))),))
    graph.add(Output("y"), (value,))
    x = np.linspace(-4, 4, 9)[None]
    (y,) = run_onnxruntime(to_onnx(graph), x.astype(np.float32)).values()
    np.testing.assert_allclose(y, evaluate(graph, {"x": x})["y"], atol=2e-6)


def test_labels_mean_what_they_say() -> None:
    one, three = linear_model(X, 1), linear_model(X, 3, "softmax")
    assert choose_loss(one, Y).name == choose_loss(one, Y.astype(float)).name == "binary-cross-entropy"
    assert choose_loss(one, X[:, 0]).name == "mean-squared-error"
    assert choose_loss(linear_model(X, 1, "tanh-is-none"), Y * 2).name == "mean-squared-error"
    classes = np.arange(20) % 3
    loss = LOSSES["softmax-cross-entropy"]
    np.testing.assert_array_equal(loss.targets(np.eye(3)[classes], 3), loss.targets(classes, 3))
    smoothed = 0.9 * np.eye(3)[classes] + 0.1 / 3
    np.testing.assert_array_equal(loss.targets(smoothed, 3), smoothed)
    with pytest.raises(DataError, match="sum to 1 for every sample"):
        loss.targets(np.ones((20, 3)), 3)
    results = [
        train(make_job(three, X, y, Options(SGD(0.5), 3)), "clear").network.constant("weight")
        for y in (classes, np.eye(3)[classes])
    ]
    np.testing.assert_array_equal(*results)


def test_one_syntax_for_schedules() -> None:
    """That of ``.glyph`` files, which counts epochs; older text counts steps."""
    assert (
        schedule_of("cosine(epochs=5, final=0.1)", 4) == Cosine(20, 0.1) == schedule_of("cosine{steps=20,final=0.1}", 4)
    )
    assert schedule_of("step(every=2, factor=0.5)", 3) == Steps(6, 0.5)
    assert schedule_of("constant()", 3) == schedule_of("constant", 3)
    for text, message in (
        ("cosine(epoch=5)", r"write cosine\(epochs=..., final=...\)"),
        ("linear(a=1)", "unknown schedule"),
    ):
        with pytest.raises(TrainingError, match=message):
            schedule_of(text, 3)
