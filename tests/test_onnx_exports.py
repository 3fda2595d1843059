"""Whole models as PyTorch and scikit-learn export them, against ONNX Runtime in float and simulated."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import assert_same, randoms, run_onnxruntime
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, RobustScaler, StandardScaler
from sklearn.svm import LinearSVC

import glyphc
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate

DATA = Path(__file__).resolve().parent / "data"
TORCH = sorted(DATA.glob("torch-*.onnx"))


def shape_of(model: onnx.ModelProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]


@pytest.mark.parametrize("path", TORCH, ids=lambda p: p.stem)
def test_pytorch(path: Path) -> None:
    model = onnx.load(path)
    assert_same(model, randoms(5, *shape_of(model)), atol=1e-4)


def test_there_are_exports_of_both_kinds() -> None:
    assert {p.stem.rpartition("-")[2] for p in TORCH} == {"script", "dynamo"}
    assert len(TORCH) == 8


@pytest.mark.slow
@pytest.mark.parametrize("path", TORCH, ids=lambda p: p.stem)
def test_pytorch_simulated(path: Path) -> None:
    model = onnx.load(path)
    x = randoms(64, *shape_of(model), seed=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = glyphc.compile(model, x, batch=8, insecure_ring=1024)
    wanted = next(iter(run_onnxruntime(model, x).values())).astype(np.float64)
    found = np.asarray(program.run(x, mode="simulate"))
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.03 * np.ptp(wanted)


CANCER, DIGITS, DIABETES = load_breast_cancer, load_digits, load_diabetes
SCIKIT: list[tuple[Any, Any]] = [
    (make_pipeline(StandardScaler(), LogisticRegression()), CANCER),
    (LogisticRegression(max_iter=30), DIGITS),
    (make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=5, random_state=0)), DIGITS),
    (make_pipeline(StandardScaler(), MLPClassifier((8,), "logistic", max_iter=5, random_state=0)), CANCER),
    (make_pipeline(MinMaxScaler(), PCA(4), Ridge()), DIABETES),
    (make_pipeline(RobustScaler(), MLPRegressor(hidden_layer_sizes=(8,), activation="tanh", max_iter=5)), DIABETES),
    (LinearRegression(), DIABETES),
    (LinearSVC(), CANCER),
    (make_pipeline(Normalizer(), LogisticRegression(max_iter=30)), DIGITS),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "load"), SCIKIT, ids=lambda v: type(v).__name__ if not hasattr(v, "steps") else None)
def test_scikit_learn(model: Any, load: Any) -> None:
    from skl2onnx import to_onnx

    x, y = load(return_X_y=True)
    x = x.astype(np.float32)
    model.fit(x, y)
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    options = {"zipmap": False} if hasattr(last, "predict_proba") else None
    exported = to_onnx(model, x[:1], options=options, target_opset=17)
    found = evaluate(read_onnx(exported), {"X": x[:100].astype(np.float64)})
    wanted = run_onnxruntime(exported, x[:100])
    assert list(found) == list(wanted)
    for output, value in wanted.items():
        # float32 in ONNX Runtime; where scores are equal to that, labels may differ
        close = np.isclose(found[output], value.astype(np.float64), rtol=1e-3, atol=1e-3)
        assert close.mean() > 0.99, output


@pytest.mark.parametrize(
    ("name", "data"), [("mnist-lenet", "mnist"), ("digits-resnet", "digits"), ("elnino-cnn", "elnino")]
)
def test_convolutional_example_networks(name: str, data: str) -> None:
    models = DATA.parents[1] / "models"
    samples = models / "data" / f"{data}-test.npy"
    if samples.exists():
        x = np.load(samples)[:50]
    else:  # the MNIST images are not in the repository
        assert data == "mnist"
        x = np.random.default_rng(0).integers(0, 256, (20, 784)).astype(np.float32)
    assert_same(onnx.load(models / f"{name}.onnx"), x, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), [("digits-resnet", "digits"), ("elnino-cnn", "elnino")])
def test_convolutional_example_networks_simulated(name: str, data: str) -> None:
    """At 128-bit, as they are used."""
    models = DATA.parents[1] / "models"
    train, test = (np.load(models / "data" / f"{data}-{part}.npy") for part in ("train", "test"))
    x = test[:128]
    program = glyphc.compile(models / f"{name}.onnx", train, batch=128)
    found = np.asarray(program.run(x, mode="simulate"))
    (wanted,) = run_onnxruntime(onnx.load(models / f"{name}.onnx"), x).values()
    if data == "elnino":
        truth = np.load(models / "data" / "elnino-test-targets.npy")[:128]
        errors = [np.mean(np.abs(y - truth) / np.abs(truth)) for y in (found, wanted)]
        assert abs(errors[0] - errors[1]) < 0.005
    else:
        assert np.mean(found.argmax(axis=1) == np.asarray(wanted).argmax(axis=1)) >= 0.985
