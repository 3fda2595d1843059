"""Ranges that follow from a network and an optimizer, whatever the data: nothing is run in the clear.

All that is known of the data is a radius, the largest Euclidean norm of what the trained part reads (the client clips
to it), and of numbers as targets their largest magnitude. From these follow norms of weights before every step, and
from norms the ranges. A layer's weights can grow by at most rate * (norm of its gradient) in a step. For the last layer
there is a much better bound, since its loss f is convex in its weights w, never negative, and L-smooth, whatever the
values are that it reads: f(0) >= f(w) - <grad f, w>, and |grad f|^2 <= 2 L f (Nesterov, Lectures on convex
optimization, 2018, theorem 2.1.5). So a step of rate r <= 1/L has

    |w - r grad f|^2 <= |w|^2 + 2 r f(0) - 2 r (1 - r L) f(w) <= |w|^2 + 2 r f(0)

and weights grow as the square root of the sum of rates. f(0) is log 2 for a sigmoid, log C for a softmax of C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, isfinite, log, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.functions import compose
from glyphc.ir.graph import Node
from glyphc.ir.ops import Apply

from .errors import TrainingError
from .losses import BinaryCrossEntropy, Loss, MeanSquaredError, SoftmaxCrossEntropy
from .optimizers import SGD
from .ranges import Ranges
from .stages import Stage
from .step import State

F64 = npt.NDArray[np.floating[Any]]

# Points at which the extremes of an activation are looked for.
_POINTS = 4001
# A logit beyond this is of no use to any series; exp overflows soon after.
_MOST_LOGIT = 600.0


@dataclass(frozen=True)
class Known:
    """What is known of the data. radius: largest norm of a sample's features; target: largest magnitude of a target."""

    radius: float
    target: float = 1.0


def bounded_ranges(
    loss: Loss, optimizer: SGD, stages: tuple[Stage, ...], start: State, steps: int, known: Known
) -> Ranges:
    """Ranges that no data within ``known`` leave before any of the steps from ``start`` on, nor after the last one.

    They hold for exact arithmetic; a margin has to allow for the noise of encryption. TrainingError where a rate or a
    momentum is too large for any bound.
    """
    layers = [_Layer(stage, optimizer, start) for stage in stages]
    found: Ranges | None = None
    for step in range(start.step, steps + 1):
        passed = _pass(loss, stages, layers, known)
        found = passed.ranges if found is None else found.widened(passed.ranges)
        if not all(map(isfinite, (*found.sums, *found.back))) or found.sums[-1] > _MOST_LOGIT:
            raise TrainingError(
                f"no useful bound follows from the network: before step {step}, logits could be {found.sums[-1]:.3g}. "
                "Use a smaller learning rate, smaller features (--clip), no momentum or fewer steps; or public samples "
                "(--trial-data)"
            )
        for layer, gradient in zip(layers, passed.gradients, strict=True):
            layer.step(gradient, optimizer.rate(step))
    assert found is not None
    return found


@dataclass(frozen=True)
class _Gradient:
    """Of a layer. reads: norm of what its trained weights are multiplied by; unit, whole: norms of errors, of one unit
    and of all. curved: of the last layer's convex loss, else None."""

    reads: float
    unit: float
    whole: float
    curved: _Curved | None = None


@dataclass(frozen=True)
class _Curved:
    """A convex loss of weights. at_zero: its value at zero; smoothness: L for a norm of 1 of what is read.

    rows: whether the loss is a sum of one for each unit, so that it bounds every unit's weights by themselves.
    """

    at_zero: float
    smoothness: float
    rows: bool
    units: int


@dataclass(frozen=True)
class _Pass:
    """Of a step: forward and backward."""

    ranges: Ranges
    gradients: tuple[_Gradient, ...]


class _Layer:
    """Norms of a layer's trained parameters, of one unit and of all, and of those that are frozen."""

    def __init__(self, stage: Stage, optimizer: SGD, start: State) -> None:
        weight, bias = (start.weights[slot.name] for slot in (stage.weight, stage.bias))
        self.weight, self.bias = stage.weight.trained, stage.bias.trained
        self.units = len(bias)
        self._optimizer = optimizer
        self._decay = optimizer.weight_decay if self.weight and stage.weight.decayed else 0.0
        moving = [v for v, trained in ((weight, self.weight), (bias[:, None], self.bias)) if trained]
        trained = np.hstack(moving) if moving else np.zeros((self.units, 1))
        self.unit, self.whole = float(np.linalg.norm(trained, axis=1).max()), float(np.linalg.norm(trained))
        self._velocity = self._norms([start.velocity.get(slot.name) for slot in (stage.weight, stage.bias)])
        # of what is frozen: a unit's weights and bias, and all
        self._still = (
            (0.0, 0.0) if self.weight else (float(np.linalg.norm(weight, axis=1).max()), float(np.linalg.norm(weight)))
        )
        self._offset = (0.0, 0.0) if self.bias else (float(np.abs(bias).max()), float(np.linalg.norm(bias)))
        self.total = float(np.linalg.norm(np.concatenate([weight, bias[:, None]], axis=1).sum(axis=0)))

    @staticmethod
    def _norms(velocity: list[F64 | None]) -> list[float]:
        """Of the velocities of a unit's weights and bias, the largest, and of all."""
        moving = [v.reshape(len(v), -1) for v in velocity if v is not None]
        if not moving:
            return [0.0, 0.0]
        joined = np.hstack(moving)
        return [float(np.linalg.norm(joined, axis=1).max()), float(np.linalg.norm(joined))]

    def reads(self, values: float) -> float:
        """Norm of what the trained parameters are multiplied by."""
        return sqrt((values**2 if self.weight else 0.0) + (1.0 if self.bias else 0.0))

    def still(self, values: float) -> tuple[float, float]:
        """What frozen parameters add to the sums of a unit, and of all."""
        return self._still[0] * values + self._offset[0], self._still[1] * values + self._offset[1]

    def sums(self, values: float) -> tuple[float, float]:
        """The largest sum, and the norm of all of a sample."""
        unit, whole = self.still(values)
        return self.unit * self.reads(values) + unit, self.whole * self.reads(values) + whole

    @property
    def gain(self) -> float:
        """How much longer errors may get when they are sent back."""
        return self.whole if self.weight else self._still[1]

    def step(self, g: _Gradient, rate: float) -> None:
        if not (self.weight or self.bias):
            return
        curved, alone = g.curved, None if g.curved is None or not g.curved.rows else g.curved
        together = None if curved is None else (curved.at_zero * (curved.units if curved.rows else 1), curved)
        self.whole = self._grown(1, self.whole, g.reads, g.whole, rate, together)
        unit = self._grown(0, self.unit, g.reads, g.unit, rate, None if alone is None else (alone.at_zero, alone))
        self.unit = min(unit, self.whole)

    def _grown(
        self, which: int, norm: float, reads: float, error: float, rate: float, convex: tuple[float, _Curved] | None
    ) -> float:
        """A norm after a step."""
        optimizer, decay, push = self._optimizer, self._decay, reads * error
        if optimizer.momentum:
            push += decay * norm
            velocity = optimizer.momentum * self._velocity[which] + push
            self._velocity[which] = velocity
            return norm + rate * (push + optimizer.momentum * velocity if optimizer.nesterov else velocity)
        # weights decay, biases do not
        shrinks = decay if not self.bias else 0.0
        plain = (1 - rate * shrinks) * norm + rate * push
        if convex is None:
            return plain
        at_zero, curved = convex
        smoothness = curved.smoothness * reads**2 + decay
        more = 2 * rate * at_zero
        if rate * smoothness <= 1:
            kept = 1 - rate * shrinks * (1 - rate * smoothness)
            return min(plain, sqrt(kept * norm**2 + more))
        if decay:
            return plain
        # the worst loss is that at which |grad|^2 <= 2 L f and |grad| <= push say the same
        return min(plain, sqrt(norm**2 + more + push**2 * (rate**2 - rate / smoothness)))


def _pass(loss: Loss, stages: tuple[Stage, ...], layers: list[_Layer], known: Known) -> _Pass:
    values, reads, slopes = known.radius, list[float](), list[float]()
    sums: list[tuple[float, float]] = []
    # of activations the largest one, and the norm of all of a sample
    activations: dict[int, tuple[float, float]] = {}
    for stage, layer in zip(stages, layers, strict=True):
        if stage.slope is not None:
            unit, whole = sums[-1]
            largest, at_zero = _extremes(stage.values, unit), _at_zero(stage.values)
            steepest = _extremes(stage.slope, unit)
            count = sqrt(stage.weight.shape[1])
            values = min(largest * count, at_zero * count + steepest * whole)
            slopes.append(steepest)
            activations[stage.values.id] = largest, values
        reads.append(values)
        added = activations[stage.added.id] if stage.added is not None else (0.0, 0.0)
        unit, whole = layer.sums(values)
        sums.append((unit + added[0], whole + added[1]))
    last, (logits, whole) = layers[-1], sums[-1]
    unit, together = _errors(loss, last.units, logits, known)
    gradients = [_Gradient(last.reads(values), unit, together, _curved(loss, last, values, known))]
    back: list[float] = []
    for layer, below, read, slope in zip(layers[:0:-1], layers[-2::-1], reads[-2::-1], slopes[::-1], strict=True):
        at = len(layers) - len(gradients)
        sent = gradients[0].whole * layer.gain
        for stage, gradient in zip(stages[at:], gradients, strict=True):
            if stage.added is not None and stage.added.id == stages[at].values.id:
                sent += gradient.whole
        back.insert(0, sent)
        gradients.insert(0, _Gradient(below.reads(read), slope * sent, slope * sent))
    exponentials = (1.0, 1.0)
    if isinstance(loss, SoftmaxCrossEntropy):
        exponentials = _exponentials(last.units, logits, whole, last.total * sqrt(values**2 + 1))
    return _Pass(Ranges(tuple(s for s, _ in sums), tuple(back), exponentials), tuple(gradients))


def _errors(loss: Loss, units: int, logits: float, known: Known) -> tuple[float, float]:
    """Of the gradient of a sample's loss by its logits: the largest magnitude, and the norm."""
    if isinstance(loss, SoftmaxCrossEntropy):
        return 1.0, sqrt(2.0)
    if isinstance(loss, BinaryCrossEntropy):
        return 1.0, sqrt(units)
    error = 2 * (logits + known.target) / units
    return error, error * sqrt(units)


def _curved(loss: Loss, last: _Layer, values: float, known: Known) -> _Curved:
    """At weights and biases of zero, where those that are frozen stay."""
    still, _ = last.still(values)
    if isinstance(loss, SoftmaxCrossEntropy):
        return _Curved(log(last.units) + 2 * still, 1 / 2, False, last.units)
    if isinstance(loss, BinaryCrossEntropy):
        return _Curved(log(2) if not still else float(np.logaddexp(0, still)), 1 / 4, True, last.units)
    assert isinstance(loss, MeanSquaredError)
    return _Curved((known.target + still) ** 2 / last.units, 2 / last.units, True, last.units)


def _exponentials(units: int, logits: float, whole: float, total: float) -> tuple[float, float]:
    """Least and largest sum of exponentials of logits z, |z_k| <= logits, |z| <= whole, and |sum of z| <= total.

    Jensen's inequality; and exp z <= 1 + z + z^2 (exp m - 1 - m) / m^2 for z <= m. Errors of a softmax sum to zero, so
    the sum over its units of weights and biases never grows.
    """
    if logits > _MOST_LOGIT:
        return 1.0, inf
    total = min(total, units * logits, whole * sqrt(units))
    curve = (exp(logits) - 1 - logits) / logits**2 if logits > 1e-3 else 0.5 + logits
    low = max(units * exp(-total / units), units * exp(-logits))
    return low, min(units + total + curve * whole**2, units * exp(logits))


def _extremes(node: Node, reach: float) -> float:
    """The largest magnitude of a function of sums."""
    assert isinstance(node.op, Apply)
    if not isfinite(reach):
        return inf
    return float(np.abs(compose(node.op.functions, np.linspace(-reach, reach, _POINTS))).max())


def _at_zero(node: Node) -> float:
    assert isinstance(node.op, Apply)
    return float(np.abs(compose(node.op.functions, np.zeros(1))[0]))
