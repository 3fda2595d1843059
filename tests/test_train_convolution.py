"""Networks with convolutions: these stay as they are, the dense head behind them is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx_models import run_onnxruntime

from glyphc.cli import main
from glyphc.frontends.from_dsl import parse_glyph
from glyphc.frontends.from_onnx import read_onnx
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.evaluate import evaluate, evaluate_all
from glyphc.ir.ops import Affine, Dense
from glyphc.sources import read_model
from glyphc.train import autodiff
from glyphc.train.errors import TrainingError
from glyphc.train.job import Options, make_job
from glyphc.train.optimizers import SGD
from glyphc.train.step import make_step

NETWORK = """
weights he_normal(seed=1)
input x: [1, 6, 6]
h = x -> conv(2, 3) as c1 -> relu -> conv(3, 3) as c2 -> relu -> flatten
z = h -> dense(1) as head
p = sigmoid(z)
output p
training { loss binary_cross_entropy(p) optimizer sgd(0.5) epochs 1 freeze c1, c2 }
"""


def samples() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Bright on the left, or on the right."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 40)
    x = 0.3 * rng.normal(size=(40, 1, 6, 6))
    x[y == 0, :, :, :3] += 1.0
    x[y == 1, :, :, 3:] += 1.0
    return x, y


@pytest.mark.parametrize("mode", ["clear", "encrypted"])
def test_the_head_is_trained(mode: str, tmp_path: Path) -> None:
    (tmp_path / "net.glyph").write_text(NETWORK)
    x, y = samples()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    files = ("--data", str(tmp_path / "x.npy"), "--labels", str(tmp_path / "y.npy"), "-o", str(tmp_path / "out.onnx"))
    options = ("--mode", mode, "--steps", "6", "--batch", "20", "--insecure-ring", "1024")
    result = CliRunner().invoke(main, ["train", str(tmp_path / "net.glyph"), *files, *options])
    assert result.exit_code == 0, result.output
    assert "keep their weights: c1, c2" in result.output
    p = run_onnxruntime(onnx.load(tmp_path / "out.onnx"), x.astype(np.float32))["p"]
    assert np.mean((p[:, 0] > 0.5) == y) > 0.9
    before = read_model(tmp_path / "net.glyph").graph
    assert np.mean((evaluate(before, {"x": x})["p"][:, 0] > 0.5) == y) < 0.8


def test_written_convolutions_compute_the_same_and_stay_sparse() -> None:
    graph, (x, _) = parse_glyph(NETWORK).graph, samples()
    expected = evaluate(graph, {"x": x})["p"]
    written = to_onnx(graph)
    np.testing.assert_allclose(run_onnxruntime(written, x.astype(np.float32))["p"], expected, atol=1e-5)
    again = read_onnx(written)
    np.testing.assert_allclose(evaluate(again, {"x": x})["p"], expected, atol=1e-5)
    assert len(list(again.of(Dense))) == 1
    assert len(list(graph.of(Affine))) == 2


def test_what_is_frozen_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the batch; as part of a step it would be limited."""
    monkeypatch.setattr(autodiff, "_MOST_ENTRIES", 10_000)
    graph, (x, y) = parse_glyph(NETWORK).graph, samples()
    job = make_job(graph, x, y, Options(SGD(), 1))
    assert not list(job.split.head.of(Affine))
    features, _ = job.batch(0)
    whole = evaluate_all(graph, {"x": x})[job.split.boundary]
    np.testing.assert_allclose(features, whole, atol=1e-12)
    with pytest.raises(TrainingError, match=r"affine @c1.* too many for a batch of 40 samples; .* at most \d+"):
        make_step(graph, job.loss, SGD(), 40)
