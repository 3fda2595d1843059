"""The training section of a .glyph file decides what its user leaves open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from glyphc.cli import main
from glyphc.errors import GlyphcError
from glyphc.sources import read_model
from glyphc.train.optimizers import SGD, Constant, Cosine, Steps
from glyphc.train.section import Defaults

NETWORK = """
network line
weights zeros()
input x: encrypted [2]
z = dense(x, 1) as fc
p = sigmoid(z)
output p
training {{
  loss binary_cross_entropy(p)
  optimizer sgd(learning_rate=0.5, momentum=0.5)
  schedule {schedule}
  epochs 3
}}
"""


def model(folder: Path, schedule: str = "constant()") -> Path:
    path = folder / "line.glyph"
    path.write_text(NETWORK.format(schedule=schedule))
    return path


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant()", Constant()),
        ("step(every=2, factor=0.5)", Steps(20, 0.5)),
        ("exponential(factor=0.9)", Steps(10, 0.9)),
        ("cosine(epochs=3, final=0.1)", Cosine(30, 0.1)),
    ],
)
def test_schedules_count_epochs(schedule: str, wanted: object, tmp_path: Path) -> None:
    defaults = Defaults.of(read_model(model(tmp_path, schedule)).training, 10)
    assert defaults.optimizer.schedule == wanted
    assert (defaults.loss, defaults.epochs, defaults.frozen) == ("binary-cross-entropy", 3, ())


def test_without_a_section() -> None:
    assert Defaults.of(None, 7) == Defaults(None, SGD(0.1), 1, ())


def test_options_come_before_the_section(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", (x @ [1.0, -2.0] > 0).astype(np.int64))
    arguments = ["train", str(model(tmp_path)), "--data", str(tmp_path / "x.npy"), "--labels", str(tmp_path / "y.npy")]
    arguments += ["-o", str(tmp_path / "trained.onnx"), "--mode", "clear", "--batch", "20"]
    for options, said in (
        ((), "binary-cross-entropy, rate 0.5, constant, momentum 0.5; 6 steps of 20 of 40 samples"),
        (("--learning-rate", "0.25", "--epochs", "5"), "rate 0.25, constant, momentum 0.5; 10 steps of 20"),
        (("--nesterov", "--weight-decay", "0.01"), "constant, Nesterov momentum 0.5, weight decay 0.01; 6 steps"),
        (("--schedule", "steps{every=2,decay=0.5}", "--steps", "1"), "steps{every=2,decay=0.5}, momentum 0.5; 1 steps"),
    ):
        result = CliRunner().invoke(main, [*arguments, *options])
        assert result.exit_code == 0, result.output
        assert said in result.output
    weights = read_model(tmp_path / "trained.onnx").graph.constants
    assert any(np.any(w) for w in weights.values())


def test_a_section_that_cannot_hold(tmp_path: Path) -> None:
    path = model(tmp_path)
    path.write_text(path.read_text().replace("learning_rate=0.5", "learning_rate=-1"))
    with pytest.raises(GlyphcError, match="learning"):
        Defaults.of(read_model(path).training, 1)
