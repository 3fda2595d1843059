"""Training a network again, in the clear, after its nonlinearities were replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import DataError
from glyphc.ir.graph import Graph
from glyphc.progress import Reporter, Silent

from .errors import TrainingError
from .job import Options, check_loss, make_job
from .optimizers import SGD, Cosine
from .step import with_weights

F64 = npt.NDArray[np.floating[Any]]

# Which is best is told by samples that are not trained on: every seventh of those given.
_APART = 7
_BATCH = 64
_EPOCHS = 60
_MOMENTUM = 0.9
_DECAY = 1e-4
# Learning rates: polynomials make some networks diverge at rates that others need.
_RATES = (0.1, 0.02, 0.004)


@dataclass(frozen=True, eq=False)
class Data:
    """Samples of shape (samples, *input shape), and their labels or targets."""

    x: npt.NDArray[Any]
    labels: npt.NDArray[Any]

    def __post_init__(self) -> None:
        if self.x.ndim < 1 or self.labels.ndim < 1 or len(self.x) != len(self.labels):
            raise DataError(
                f"retraining takes as many labels as samples, not {list(self.labels.shape)} for {list(self.x.shape)}"
            )


@dataclass(frozen=True, eq=False)
class Retrained:
    """network: with new weights. note: what was done, in words."""

    network: Graph
    note: str


def retrain(network: Graph, data: Data, reporter: Reporter | None = None, seed: int = 0) -> Retrained:
    """Stochastic gradient descent with momentum, from the weights that are there.

    The learning rate is the one with the smallest loss on every seventh sample after training on the others; then all
    samples are trained on. TrainingError where the network cannot be trained, or training diverges at all rates;
    DataError for unusable samples.
    """
    if len(data.x) < 2 * _APART:
        raise DataError(f"retraining takes at least {2 * _APART} samples, not {len(data.x)}")
    apart = np.arange(len(data.x)) % _APART == _APART - 1
    some, others = (Data(data.x[rows], data.labels[rows]) for rows in (~apart, apart))
    found: list[tuple[float, float]] = []
    problem = ""
    for rate in _RATES:
        try:
            trained = _trained(network, some, rate, seed, reporter or Silent())
        except TrainingError as e:
            problem = str(e)
            continue
        loss = _loss(trained, others)
        if np.isfinite(loss):
            found.append((loss, rate))
    if not found:
        raise TrainingError(f"retraining diverges at all learning rates: {problem}")
    loss, rate = min(found)
    note = (
        f"retrained in the clear on {len(data.x)} samples for {_EPOCHS} epochs at rate {rate:g}, the "
        f"best of {len(_RATES)} by the loss on {len(others.x)} samples after training on the "
        f"others: {_loss(network, others):.3g} before, {loss:.3g} after"
    )
    return Retrained(_trained(network, data, rate, seed, reporter or Silent()), note)


def _trained(network: Graph, data: Data, rate: float, seed: int, reporter: Reporter) -> Graph:
    """All epochs at a rate. TrainingError when training diverges."""
    batch = min(_BATCH, len(data.x))
    steps = _EPOCHS * -(-len(data.x) // batch)
    optimizer = SGD(rate, _MOMENTUM, weight_decay=_DECAY, schedule=Cosine(steps, 0.0))
    job = make_job(network, data.x, data.labels, Options(optimizer, steps, batch, seed=seed))
    state = job.program.initial()
    first: float | None = None
    reporter.stage(f"retrain at rate {rate:g}", steps)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # divergence is seen in the loss
            for step in range(steps):
                x, y = job.batch(job.batches.number(step))
                state, loss = job.program.run(state, job.named(x), y)
                first = loss if first is None else first
                check_loss(step, loss, first)
                reporter.advance(1, f"loss {loss:.4g}")
    finally:
        reporter.done()
    return with_weights(job.network, state.weights)


def _loss(network: Graph, data: Data) -> float:
    """The mean loss on samples."""
    job = make_job(network, data.x, data.labels, Options(SGD(1.0), 1, None))
    features, targets = job.batch(0)
    with np.errstate(over="ignore", invalid="ignore"):
        _, loss = job.program.run(job.program.initial(), job.named(features), targets)
    return loss
