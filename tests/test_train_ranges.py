"""Ranges without a run in the clear on the data: bounds that no data leave, and trials on other samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from test_train_chain import Skips, chain

import glyphc.train.foresee
from glyphc.cli import main
from glyphc.errors import DataError
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.train.bounds import Known, bounded_ranges
from glyphc.train.errors import TrainingError
from glyphc.train.foresee import trial_ranges
from glyphc.train.job import Job, Options, RangeSource, make_job
from glyphc.train.linear_models import linear_model
from glyphc.train.optimizers import SGD, Cosine
from glyphc.train.planning import plan_of
from glyphc.train.ranges import Ranges
from glyphc.train.stages import find_stages
from glyphc.trainer.loop import train

F64 = np.ndarray[Any, np.dtype[np.float64]]
BOUNDS, SAMPLE = RangeSource.BOUNDS, RangeSource.SAMPLE


def within(inner: Ranges, outer: Ranges) -> bool:
    """Whether nothing of one leaves the other, but for rounding."""
    least = min(outer.bits_beyond(inner))
    (low, high), (lowest, highest) = inner.exponentials, outer.exponentials
    return least > -1e-9 and lowest <= low * (1 + 1e-9) and high <= highest * (1 + 1e-9)


OPTIMIZERS = st.builds(
    SGD,
    learning_rate=st.sampled_from([0.05, 0.3, 1.0, 4.0]),
    momentum=st.sampled_from([0.0, 0.0, 0.5]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    schedule=st.sampled_from([Cosine(4), SGD().schedule]),
)
# Widths, and connections that skip layers.
LAYERS: st.SearchStrategy[tuple[tuple[int, ...], Skips]] = st.sampled_from(
    [
        *((widths, ()) for widths in ((3, 1), (2, 3), (3, 4, 1), (2, 3, 2), (3, 2, 3, 2))),
        ((3, 2, 2, 1), ((0, 1),)),
        ((2, 2, 3, 2, 1), ((0, 2),)),
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    LAYERS,
    OPTIMIZERS,
    st.sampled_from(["", "sigmoid", "softmax"]),
    st.sampled_from(["tanh", "relu", "softplus"]),
    st.sampled_from([(), ("layer1",), ("b1",), ("b0", "w1")]),
    st.integers(0, 1000),
)
def test_no_data_leave_the_bounds(
    chosen: tuple[tuple[int, ...], Skips],
    optimizer: SGD,
    ending: str,
    activation: str,
    frozen: tuple[str, ...],
    seed: int,
) -> None:
    """Nor after the last step. Labels are often those that the weights would not give, which push the most."""
    random = np.random.default_rng(seed)
    layers, skips = chosen
    if ending == "softmax" and layers[-1] < 2:
        ending = "sigmoid"
    network = chain(layers, ending, activation, seed, skips, activation)
    names = {node.location for node in network} | set(network.constants)
    x = random.normal(size=(12, layers[0])) * random.choice([0.1, 1.0, 5.0])
    classes = ending == "softmax" or (ending == "sigmoid" and layers[-1] > 1)
    y = random.integers(layers[-1] if classes else 2, size=12)
    if not ending:
        y = random.normal(size=(12, layers[-1])) * 3
    options = Options(
        optimizer,
        6,
        6,
        frozen=tuple(n for n in frozen if n in names),
        source=BOUNDS,
        seed=seed,
        loss="mean-squared-error" if not ending else None,
    )
    job = make_job(network, x, y, options)
    stages = find_stages(job.program)
    known = Known(job.widest, float(np.abs(job.y).max()))
    try:
        bound = bounded_ranges(job.loss, optimizer, stages, job.program.initial(), 5, known)
    except TrainingError:
        return
    try:
        seen = trial_ranges(job, stages)
    except TrainingError:  # it diverges, within its bounds
        return
    if ending != "softmax":
        seen = Ranges(seen.sums, seen.back, (1.0, 1.0))
    assert within(seen, bound)


def logistic(**options: Any) -> tuple[Job, F64, F64]:
    """Breast cancer, standardised and scaled to a mean square norm of 1, trained without decorrelation."""
    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[order], data.target[order]
    mean, deviation = x[:398].mean(axis=0), x[:398].std(axis=0)
    x = (x - mean) / deviation / np.sqrt(x.shape[1])
    return make_job(linear_model(x[:398], 1, "sigmoid", False), x[:398], y[:398], Options(**options)), x[398:], y[398:]


def accuracy(network: Graph, x: F64, y: F64) -> float:
    return float(np.mean((evaluate(network, {"x": x})["y"][:, 0] > 0.5) == y))


def no_run_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("something was run in the clear")

    monkeypatch.setattr(glyphc.train.foresee, "_steps", refuse)


def test_bounds_alone_train_as_well_as_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is run in the clear, and held-out accuracy is within a point of scikit-learn's."""
    job, x, y = logistic(optimizer=SGD(4.0), steps=20, source=BOUNDS, clip=2.0, insecure_ring=2048)
    no_run_in_the_clear(monkeypatch)
    report = train(job, "simulate")
    reference = LogisticRegression(max_iter=5000).fit(job.x, job.y[:, 0])
    assert report.reach is None and "nothing was run in the clear" in report.source
    assert accuracy(report.network, x, y) >= reference.score(x, y) - 0.01


def sampled(count: int, job: Job) -> tuple[F64, F64]:
    return job.x[:count], job.y[:count, 0]


def test_thirty_samples_are_enough_for_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only these are run in the clear; what the others then need is within the ranges."""
    plain, x, y = logistic(optimizer=SGD(8.0), steps=20)
    options = Options(SGD(8.0), 20, source=SAMPLE, insecure_ring=2048)
    job = make_job(plain.network, plain.x, plain.y, options, sampled(30, plain))
    assert job.clipped < 30
    seen: list[int] = []
    steps = glyphc.train.foresee._steps

    def watched(job: Job) -> Any:
        seen.append(len(job.x))
        return steps(job)

    monkeypatch.setattr(glyphc.train.foresee, "_steps", watched)
    report = train(job, "simulate")
    assert seen == [30] and "30 other samples" in report.source
    reference = LogisticRegression(max_iter=5000).fit(job.x, job.y[:, 0])
    assert accuracy(report.network, x, y) >= reference.score(x, y) - 0.01
    assert report.ranges is not None
    same = make_job(plain.network, plain.x, plain.y, Options(SGD(8.0), 20, clip=job.radius))
    needed = trial_ranges(same, find_stages(same.program))
    assert report.ranges.bits_beyond(needed)[0] > 0


def test_a_hidden_layer_by_thirty_samples() -> None:
    plain, x, y = logistic(optimizer=SGD(2.0), steps=1)
    network = chain((30, 6, 1), seed=1)
    options = Options(SGD(3.0), 20, 64, source=SAMPLE, insecure_ring=2048)
    report = train(make_job(network, plain.x, plain.y, options, sampled(30, plain)), "simulate")
    reference = LogisticRegression(max_iter=5000).fit(plain.x, plain.y[:, 0])
    assert accuracy(report.network, x, y) >= reference.score(x, y) - 0.01


def test_encrypted_by_bounds_as_in_the_clear() -> None:
    job, _, _ = logistic(optimizer=SGD(1.0), steps=3, batch=16, source=BOUNDS, clip=1.0, insecure_ring=1024)
    encrypted, clear = (train(job, mode).network.constant("weight") for mode in ("encrypted", "clear"))
    assert np.abs(clear).max() > 0.05
    assert np.abs(encrypted - clear).max() < 1e-3


def test_wider_ranges_cost_bits() -> None:
    narrow, wide = (
        plan_of(logistic(optimizer=SGD(1.0), steps=3, margin=margin, insecure_ring=2048)[0]) for margin in (1.5, 6.0)
    )
    assert wide.ranges.bits_beyond(narrow.ranges)[0] == pytest.approx(2, abs=0.25)
    assert wide.ranges.sums[0] > narrow.ranges.sums[0]


def test_samples_are_clipped_to_a_norm() -> None:
    job, _, _ = logistic(optimizer=SGD(1.0), steps=3, clip=0.5, insecure_ring=2048)
    x, _ = job.batch(0)
    lengths = np.linalg.norm(job.x, axis=1)
    assert job.clipped == (lengths > 0.5).sum() > 100
    np.testing.assert_allclose(x, job.x * np.minimum(1, 0.5 / lengths)[:, None])


@pytest.mark.parametrize(
    ("options", "trial", "error", "message"),
    [
        ({"margin": 0.5}, False, TrainingError, "a margin is a factor of at least 1, not 0.5"),
        ({"clip": 0.0}, False, TrainingError, "clipped to a positive norm"),
        ({"reach": 8.0, "source": BOUNDS}, False, TrainingError, "leave margin and bounds out"),
        ({"source": SAMPLE}, False, TrainingError, "take samples and labels for a trial"),
        ({}, True, TrainingError, "and other ranges none"),
        (
            {"optimizer": SGD(50.0, 0.9), "source": BOUNDS},
            False,
            TrainingError,
            "no useful bound follows .* smaller features",
        ),
    ],
)
def test_mistakes(options: dict[str, Any], trial: bool, error: type[Exception], message: str) -> None:
    plain, _, _ = logistic(optimizer=SGD(1.0), steps=20)

    def planned() -> None:
        chosen = Options(**({"optimizer": SGD(1.0), "steps": 20, "insecure_ring": 2048} | options))
        plan_of(make_job(plain.network, plain.x, plain.y, chosen, sampled(30, plain) if trial else None))

    with pytest.raises(error, match=message):
        planned()


def test_a_trial_needs_as_many_labels_as_samples() -> None:
    plain, _, _ = logistic(optimizer=SGD(1.0), steps=20)
    other = (plain.x[:2], plain.y[:3, 0])
    with pytest.raises(DataError, match="2 samples for a trial, but 3 labels"):
        make_job(plain.network, plain.x, plain.y, Options(SGD(1.0), 20, source=SAMPLE), other)


def test_the_command_says_where_ranges_come_from(tmp_path: Path) -> None:
    job, _, _ = logistic(optimizer=SGD(1.0), steps=2)
    for name, array in {"x": job.x[:64], "y": job.y[:64, 0], "tx": job.x[64:94], "ty": job.y[64:94, 0]}.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "m.onnx").write_bytes(to_onnx(job.network).SerializeToString())
    usual = ["train", tmp_path / "m.onnx", "--data", tmp_path / "x.npy", "--labels", tmp_path / "y.npy"]
    usual += ["--steps", 3, "-o", tmp_path / "out.onnx", "--insecure-ring", 1024]
    trial = ["--trial-data", tmp_path / "tx.npy", "--trial-labels", tmp_path / "ty.npy"]

    def ran(*more: object) -> Any:
        return CliRunner().invoke(main, [str(a) for a in (*usual, *more)])

    bounds = ran("--ranges", "bounds", "--clip", 0.9, "--mode", "simulate")
    assert "samples of norm 0.9, and 5% more (0.1 bits); nothing was run in the clear" in bounds.stdout, bounds.output
    assert "samples are scaled down to a norm of 0.9" in bounds.stderr and "range used" not in bounds.stdout
    dry = ran(*trial, "--margin", 2, "--dry-run")
    assert "a trial run in the clear on 30 other samples, and 100% more (1.0 bits)" in dry.stderr, dry.output
    assert "degree 13, series within 2^-1" in dry.stderr
    assert "go together" in ran("--trial-data", tmp_path / "tx.npy").stderr
    assert "--ranges sample takes --trial-data" in ran("--ranges", "bounds", *trial).stderr
