"""Training a network again, in the clear, after its nonlinearities were replaced.

A classifier learns what the network that it stands for says of the samples, not the labels alone: the probabilities of
all classes, at a temperature that shows the small ones (Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural
Network", 2015; 2.5 to 4 did best there for small networks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.errors import DataError
from glyphc.ir.evaluate import evaluate_all
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Input
from glyphc.progress import Reporter, Silent

from .builder import Builder
from .errors import TrainingError
from .job import Options, check_loss, make_job, samples_of
from .losses import Loss, SoftmaxCrossEntropy, choose_loss
from .optimizers import SGD, Cosine
from .step import with_weights

F64 = npt.NDArray[np.floating[Any]]

# Which is best is told by samples that are not trained on: every seventh of those given.
_APART = 7
_BATCH = 64
_EPOCHS = 60
_MOMENTUM = 0.9
_DECAY = 1e-4
# Of what a classifier learns.
_TEMPERATURE = 4.0
# A network that knows less than this share of the samples teaches nothing.
_FEWEST_RIGHT = 0.8
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


@dataclass(frozen=True)
class _Distillation(SoftmaxCrossEntropy):
    """Cross entropy to probabilities at ``_TEMPERATURE``, times its square: gradients are as large as at 1."""

    name: ClassVar[str] = "distillation"

    def value(self, b: Builder, z: Node, y: Node) -> Node:
        return b.times(super().value(b, b.times(z, 1 / _TEMPERATURE), y), _TEMPERATURE**2)

    def gradient(self, b: Builder, z: Node, y: Node) -> Node:
        return b.times(super().gradient(b, b.times(z, 1 / _TEMPERATURE), y), _TEMPERATURE)


def distilled(teacher: Graph, data: Data) -> Data | None:
    """The samples with a network's probabilities of all classes in place of labels.

    Where the network itself is wrong about a sample, the label counts. None where it is no classifier, or is wrong
    about too many; DataError for unusable labels.
    """
    loss = choose_loss(teacher, data.labels)
    if type(loss) is not SoftmaxCrossEntropy:
        return None
    last = loss.attachment(teacher, teacher.outputs[0])
    hard = loss.targets(data.labels, last.type.size)
    ((_, op),) = teacher.of(Input)
    z = np.asarray(evaluate_all(teacher, {op.name: samples_of(teacher, data.x)})[last.id], dtype=np.float64)
    right = z.argmax(axis=1) == hard.argmax(axis=1)
    if right.mean() < _FEWEST_RIGHT:
        return None
    soft = np.exp((z - z.max(axis=1, keepdims=True)) / _TEMPERATURE)
    return Data(data.x, np.where(right[:, None], soft / soft.sum(axis=1, keepdims=True), hard))


def retrain(
    network: Graph, data: Data, reporter: Reporter | None = None, seed: int = 0, teacher: Graph | None = None
) -> Retrained:
    """Stochastic gradient descent with momentum, from the weights that are there.

    teacher: the network that this one stands for; where it is a classifier, its probabilities are learned.
    The learning rate is the one with the smallest loss on every seventh sample after training on the others; then all
    samples are trained on. TrainingError where the network cannot be trained, or training diverges at all rates;
    DataError for unusable samples.
    """
    if len(data.x) < 2 * _APART:
        raise DataError(f"retraining takes at least {2 * _APART} samples, not {len(data.x)}")
    learned = None if teacher is None else distilled(teacher, data)
    loss: Loss | None = None if learned is None else _Distillation()
    data = learned or data
    apart = np.arange(len(data.x)) % _APART == _APART - 1
    some, others = (Data(data.x[rows], data.labels[rows]) for rows in (~apart, apart))
    found: list[tuple[float, float]] = []
    problem = ""
    for rate in _RATES:
        try:
            trained = _trained(network, some, rate, seed, reporter or Silent(), loss)
        except TrainingError as e:
            problem = str(e)
            continue
        left = _loss(trained, others, loss)
        if np.isfinite(left):
            found.append((left, rate))
    if not found:
        raise TrainingError(f"retraining diverges at all learning rates: {problem}")
    left, rate, trained = _best(network, data, sorted(found), seed, reporter or Silent(), loss)
    what = "" if learned is None else "; it learned the given network's probabilities"
    note = (
        f"retrained in the clear on {len(data.x)} samples for {_EPOCHS} epochs at rate {rate:g}, the "
        f"best of {len(_RATES)} by the loss on {len(others.x)} samples after training on the "
        f"others: {_loss(network, others, loss):.3g} before, {left:.3g} after{what}"
    )
    return Retrained(trained, note)


def _best(
    network: Graph, data: Data, found: list[tuple[float, float]], seed: int, reporter: Reporter, loss: Loss | None
) -> tuple[float, float, Graph]:
    """Trained on all samples at the first of several rates, with the loss that each left, at which that converges."""
    for left, rate in found:
        try:
            return left, rate, _trained(network, data, rate, seed, reporter, loss)
        except TrainingError as e:
            problem = str(e)
    raise TrainingError(f"retraining diverges at all learning rates: {problem}")


def _trained(network: Graph, data: Data, rate: float, seed: int, reporter: Reporter, loss: Loss | None = None) -> Graph:
    """All epochs at a rate. TrainingError when training diverges."""
    batch = min(_BATCH, len(data.x))
    steps = _EPOCHS * -(-len(data.x) // batch)
    optimizer = SGD(rate, _MOMENTUM, weight_decay=_DECAY, schedule=Cosine(steps, 0.0))
    job = make_job(network, data.x, data.labels, Options(optimizer, steps, batch, seed=seed), loss=loss)
    state = job.program.initial()
    first: float | None = None
    reporter.stage(f"retrain at rate {rate:g}", steps)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # divergence is seen in the loss
            for step in range(steps):
                x, y = job.batch(job.batches.number(step))
                state, now = job.program.run(state, job.named(x), y)
                first = now if first is None else first
                check_loss(step, now, first)
                reporter.advance(1, f"loss {now:.4g}")
    finally:
        reporter.done()
    return with_weights(job.network, state.weights)


def _loss(network: Graph, data: Data, loss: Loss | None = None) -> float:
    """The mean loss on samples."""
    job = make_job(network, data.x, data.labels, Options(SGD(1.0), 1, None), loss=loss)
    features, targets = job.batch(0)
    with np.errstate(over="ignore", invalid="ignore"):
        _, found = job.program.run(job.program.initial(), job.named(features), targets)
    return found
