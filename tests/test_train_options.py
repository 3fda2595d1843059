"""Whitening, weights of samples and classes, shuffled epochs: in the clear and encrypted (small rings)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import build, node, run_onnxruntime
from test_train_chain import F64, chain

from glyphc.errors import DataError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.train.batches import Batches, Shuffle
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job, Keeper, Options, make_job
from glyphc.train.optimizers import SGD
from glyphc.train.predict import different_batches
from glyphc.train.weighting import class_factors, repeated, sample_factors
from glyphc.train.whitening import Whitening, unwhitened
from glyphc.trainer.estimator import EncryptedLogisticRegression
from glyphc.trainer.loop import train
from tests.training_runs import invoke, weights

RING = 1024


def correlated(samples: int = 60) -> tuple[F64, np.ndarray[Any, Any]]:
    """Features that differ little from one another, and by size; classes by their differences."""
    random = np.random.default_rng(5)
    hidden = random.normal(size=(samples, 3))
    x = 0.4 + hidden @ np.array([[1.0, 1.0, 1.0, 0.9], [0.1, -0.1, 0.0, 0.1], [0.0, 0.02, -0.03, 0.05]])
    return x, (hidden[:, 1] > 0).astype(int)


def job(whiten: float | None, widths: tuple[int, ...] = (4, 1), **more: Any) -> Job:
    x, y = correlated()
    options = Options(SGD(0.5), 4, 20, "binary-cross-entropy", insecure_ring=RING, whiten=whiten, **more)
    return make_job(chain(widths), x, y, options)


# -- whitening --


@pytest.mark.parametrize(("widths", "frozen"), [((4, 1), ()), ((4, 3, 2), ()), ((4, 6, 2), ("layer0",))])
def test_whitening_changes_no_function(widths: tuple[int, ...], frozen: tuple[str, ...]) -> None:
    given, (x, _) = chain(widths), correlated()
    of = job(0.3, widths, frozen=frozen)
    (before,), (after,) = (evaluate(g, {"x": x}).values() for g in (given, of.network))
    np.testing.assert_allclose(after, before, atol=1e-9)
    back = unwhitened(of.network)
    assert back.constants.keys() == given.constants.keys() and len(list(back)) == len(list(given))
    for name, value in given.constants.items():
        np.testing.assert_allclose(back.constant(name), value, atol=1e-9)
    # what is encrypted has no correlations, but for those that the ridge leaves
    features = np.concatenate([of.batch(n)[0] for n in range(3)])
    covariance = np.cov(features, rowvar=False)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-9


def test_a_step_is_one_on_white_features() -> None:
    x, y = correlated()
    of, given = job(0.3), chain((4, 1))
    a, shift = Whitening(0.3).layer(x)
    white = x @ a.T + shift
    w = given.constant("w0")[0] @ np.linalg.inv(a)
    b = given.constant("b0")[0] - w @ shift
    for step in range(4):
        rows = of.batches.rows(step % 3)
        errors = (1 / (1 + np.exp(-(white[rows] @ w + b))) - y[rows]) / len(rows)
        w, b = w - 0.5 * errors @ white[rows], b - 0.5 * errors.sum()
    found = train(of, "clear").network
    np.testing.assert_allclose(found.constant("w0")[0], w @ a, atol=1e-9)
    np.testing.assert_allclose(found.constant("b0")[0], b + w @ shift, atol=1e-9)


def test_whitening_by_the_commands(tmp_path: Path) -> None:
    """Trained encrypted, by one command and by roles: the file has the layers that it had."""
    x, y = correlated()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    constants = {"w": np.full((1, 4), 0.1, np.float32), "b": np.zeros(1, np.float32)}
    nodes = [node("Gemm", ["x", "w", "b"], ["z"], name="head", transB=1), node("Sigmoid", ["z"], ["y"])]
    (tmp_path / "m.onnx").write_bytes(build(nodes, constants).SerializeToString())
    common = (tmp_path / "m.onnx", "--data", tmp_path / "x.npy", "--labels", tmp_path / "y.npy", "--whiten", 0.3)
    options = ("--steps", 5, "--batch", 30, "--learning-rate", 2, "--insecure-ring", RING)
    for mode in ("clear", "encrypted"):
        invoke("train", *common, *options, "--mode", mode, "-o", tmp_path / f"{mode}.onnx")
    found, expected = weights(tmp_path / "encrypted.onnx"), weights(tmp_path / "clear.onnx")
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in constants.items()}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-3)
    p = run_onnxruntime(onnx.load(tmp_path / "encrypted.onnx"), x.astype(np.float32))["y"][:, 0]
    plain = invoke("train", *common[:-2], *options, "--mode", "clear", "-o", tmp_path / "plain.onnx")
    assert plain.exit_code == 0
    without = run_onnxruntime(onnx.load(tmp_path / "plain.onnx"), x.astype(np.float32))["y"][:, 0]
    assert np.mean((p > 0.5) == y) > 0.9 > np.mean((without > 0.5) == y)
    places = ("--client", tmp_path / "client", "--server", tmp_path / "server")
    invoke("training", "prepare", *common, *options, *places)
    invoke("training", "run", "--server", tmp_path / "server")
    invoke("training", "finish", *places, "-o", tmp_path / "roles.onnx")
    for name, value in weights(tmp_path / "roles.onnx").items():
        np.testing.assert_allclose(value, expected[name], atol=2e-3)


def test_what_cannot_be_whitened() -> None:
    x, y = correlated()
    for options, problem in (
        ({"whiten": 0.0}, "takes a ridge above 0"),
        ({"whiten": 0.3, "keep_on": Keeper.SERVER}, "does not go with --keep-on server"),
    ):
        with pytest.raises(TrainingError, match=problem):
            make_job(chain((4, 1)), x, y, Options(SGD(0.5), 1, **options))
    with pytest.raises(TrainingError, match="the same for all samples"):
        make_job(chain((4, 1)), np.ones_like(x), y, Options(SGD(0.5), 1, whiten=0.3))
    # without a bias, nothing is shifted
    constants = {"w": np.full((1, 4), 0.1, np.float32)}
    graph = read_onnx(build([node("Gemm", ["x", "w"], ["z"], transB=1), node("Sigmoid", ["z"], ["y"])], constants))
    of = make_job(graph, x, y, Options(SGD(0.5), 1, whiten=0.3))
    assert not of.network.constant("glyphc.whitening.bias").any()
    assert unwhitened(of.network).constants.keys() == graph.constants.keys()


def test_an_estimator_that_whitens() -> None:
    x, y = correlated()
    scores = {
        whiten: EncryptedLogisticRegression(
            mode="clear", steps=5, learning_rate=2.0, standardise=False, whiten=whiten
        ).fit(x, y).score(x, y)
        for whiten in (None, 0.3)
    }  # fmt: skip
    assert scores[0.3] > 0.9 > scores[None]


# -- weights --


def test_weights_of_classes_and_samples_are_repetitions(tmp_path: Path) -> None:
    """A step of the command is the step of the weighted mean."""
    x, y = correlated(30)
    counts = np.random.default_rng(1).integers(0, 3, 30)
    for name, value in (("x", x), ("y", y), ("s", counts)):
        np.save(tmp_path / f"{name}.npy", value)
    constants = {"w": np.full((1, 4), 0.1, np.float32), "b": np.zeros(1, np.float32)}
    nodes = [node("Gemm", ["x", "w", "b"], ["z"], name="head", transB=1), node("Sigmoid", ["z"], ["y"])]
    (tmp_path / "m.onnx").write_bytes(build(nodes, constants).SerializeToString())
    common = (tmp_path / "m.onnx", "--data", tmp_path / "x.npy", "--labels", tmp_path / "y.npy", "--mode", "clear")
    more = ("--class-weights", "1=2", "--sample-weights", tmp_path / "s.npy", "--steps", 1, "--learning-rate", 1)
    result = invoke("train", *common, *more, "-o", tmp_path / "out.onnx")
    each = counts * np.where(y == 1, 2, 1)
    assert f"weights: 30 samples count as {each.sum()}, by repetition" in result.stderr
    errors = (1 / (1 + np.exp(-0.1 * x.sum(axis=1))) - y) * each / each.sum()
    np.testing.assert_allclose(weights(tmp_path / "out.onnx")["w"][0], 0.1 - errors @ x, atol=1e-6)
    for wrong, problem in (
        (("--class-weights", "7=2"), "no class 7"),
        (("--class-weights", "much"), "'balanced' or CLASS=WEIGHT, not 'much'"),
        (("--class-weights", "0=0,1=0"), "all samples weigh nothing"),
        (("--sample-weights", tmp_path / "x.npy"), "one for each of 30 samples; got shape [30, 4]"),
    ):
        refused = invoke("train", *common, *wrong, "-o", tmp_path / "no.onnx", code=2)
        assert problem in refused.stderr
    assert not (tmp_path / "no.onnx").exists()


def test_balanced_classes_count_as_much() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 2, 2, 2])
    rows = repeated(class_factors("balanced", labels))
    assert (labels[rows] == 0).sum() == (labels[rows] == 2).sum()
    with pytest.raises(DataError, match="classes as labels"):
        class_factors("balanced", np.array([0.5, 1.0]))
    with pytest.raises(DataError, match="the weight of sample 1 is -1"):
        sample_factors([1.0, -1.0], 2)


# -- shuffled epochs --


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 3), st.sampled_from(Shuffle), st.integers(1, 4))
def test_every_epoch_sees_all_samples(samples: int, batch: int, seed: int, shuffle: Shuffle, epochs: int) -> None:
    batches = Batches(samples, min(batch, samples), seed, shuffle=shuffle)
    per = batches.per_epoch
    orders = []
    for epoch in range(epochs):
        numbers = [batches.number(step) for step in range(epoch * per, (epoch + 1) * per)]
        seen = np.concatenate([batches.rows(number) for number in numbers])
        assert set(seen.tolist()) == set(range(samples)) and len(seen) == per * batches.batch
        orders.append(numbers)
    used = {n for numbers in orders for n in numbers}
    # numbers without gaps: each is a batch to encrypt
    assert used == set(range(len(used)))
    assert len(used) == different_batches(batches, epochs * per)
    assert len(used) == (epochs * per if shuffle is Shuffle.SAMPLES and per > 1 else per)


def test_epochs_differ_as_asked() -> None:
    once, order, anew = (Batches(100, 10, 0, shuffle=s) for s in Shuffle)
    first = [once.number(step) for step in range(10)]
    assert [once.number(step) for step in range(10, 20)] == first
    assert [order.number(step) for step in range(10)] == first != [order.number(step) for step in range(10, 20)]
    np.testing.assert_array_equal(anew.rows(3), once.rows(3))
    assert set(anew.rows(13).tolist()) not in [set(once.rows(n).tolist()) for n in range(10)]


@pytest.mark.parametrize("shuffle", [Shuffle.BATCHES, Shuffle.SAMPLES])
def test_shuffled_epochs_encrypted(shuffle: Shuffle) -> None:
    """Two epochs and a half; another order of batches leads to other weights."""
    x, y = correlated(24)
    found = {}
    for mode, how in (("encrypted", shuffle), ("clear", shuffle), ("clear", Shuffle.ONCE)):
        of = make_job(chain((4, 1)), x, y, Options(SGD(4.0), 8, 8, insecure_ring=RING, shuffle=how))
        found[mode, how] = train(of, mode).network.constant("w0")
    np.testing.assert_allclose(found["encrypted", shuffle], found["clear", shuffle], atol=2e-4)
    assert np.abs(found["clear", shuffle] - found["clear", Shuffle.ONCE]).max() > 1e-3
