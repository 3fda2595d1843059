"""From the last sums to errors: the loss' function of them, minus the labels.

Errors come in parts where the last layer wants them in groups. A head's ``unit`` is what a message of 1 stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import numpy as np

from glyphc.approx.series import fit
from glyphc.ir.ckks import Register
from glyphc.ir.functions import Function, compose
from glyphc.ir.series import Series

from .losses import BinaryCrossEntropy, Loss, MeanSquaredError, SoftmaxCrossEntropy
from .units import F64, HALF_RANGE, Units, polynomial
from .writer import Writer

Approximated = tuple[Series, tuple[Function, ...]]

# A series fills at most half of the slots' [-1, 1].
_HALF = 0.5


@dataclass(frozen=True)
class Pointwise:
    """A function of each sum: a sigmoid, moved to the middle of the slots' range, or the sum itself."""

    function: Approximated
    units: Units
    unit: float
    centre: float
    # errors of a message of 1, for the gradient of the loss
    error: float
    masked: bool

    slot_levels = 1

    @property
    def functions(self) -> tuple[Approximated, ...]:
        return (self.function,)

    def errors(self, w: Writer, sums: Register) -> list[Register]:
        """For each group of units."""
        if not self.masked:
            series, functions = self.function
            return _minus_labels(w, [w.refresh(sums, series, functions)])
        (in_slots,) = w.bootstrap(sums, self.function)
        groups = self.units.groups
        return _minus_labels(w, [w.decode(w.masked(in_slots, *self.units.kept(h, groups))) for h in range(groups)])


@dataclass(frozen=True)
class Softmax:
    """Two bootstraps: exponentials, then the inverses of their sums, multiplied while both are in slots.

    centre: the phase of sums that is subtracted, so that they fill the torus on both sides of zero. weight: that of
    exponentials in the sums.
    """

    exponential: Approximated
    inverse: Approximated
    units: Units
    unit: float
    shift: float
    weight: int

    slot_levels = 2
    centre = 0.0

    @property
    def error(self) -> float:
        return self.unit

    @property
    def functions(self) -> tuple[Approximated, ...]:
        return (self.exponential, self.inverse)

    def errors(self, w: Writer, sums: Register) -> list[Register]:
        """For all units; groups are not supported."""
        period, count = self.units.period, self.units.count
        (in_slots,) = w.bootstrap(sums, self.exponential)
        exponentials = w.masked(in_slots, *self.units.kept())
        # at each output the sum over all outputs: what is beside them is zero
        spread = tuple(period * k for k in range(1 - count, count))
        totals = w.convolved(w.reduced(w.decode(exponentials), 1), spread, self.weight)
        (inverses,) = w.bootstrap(w.raised(totals, -self.shift), self.inverse)
        return _minus_labels(w, [w.decode(w.slot_product(exponentials, inverses))])


Head = Pointwise | Softmax


def _minus_labels(w: Writer, results: list[Register]) -> list[Register]:
    return [w.sum((result, 1), (w.load(label_name(h)), -1)) for h, result in enumerate(results)]


def label_name(group: int) -> str:
    return f"labels:{group}"


def label_data(head: Head, targets: F64) -> dict[str, F64]:
    """Messages of a batch's labels, from targets of shape (batch, outputs)."""
    units, values = head.units, (targets - head.centre) / head.unit
    places = units.samples[:, None] + units.units
    return {
        label_name(h): polynomial(units.ring, places[:, h :: units.groups], values[:, h :: units.groups])
        for h in range(units.groups)
    }


def pointwise(loss: Loss, units: Units, reach: float, degree: int, masked: bool) -> Pointwise:
    """The head of a loss whose gradient is a function of one logit."""
    if isinstance(loss, BinaryCrossEntropy):
        chain = (Function("affine", (reach / HALF_RANGE, 0.0)), Function("sigmoid"), Function("affine", (1.0, -_HALF)))
        return Pointwise(approximated(chain, degree), units, 1.0, _HALF, 1.0, masked)
    assert isinstance(loss, MeanSquaredError)
    unit = 2 * reach
    return Pointwise(approximated(PASSED, degree), units, unit, 0.0, unit * 2.0 / units.count, masked)


# A number as it is, from a phase to half of the slots' range.
PASSED = (Function("affine", (_HALF / HALF_RANGE, 0.0)),)


def approximated(functions: tuple[Function, ...], degree: int) -> Approximated:
    """Functions with their series of that degree."""
    return fit(lambda x: compose(functions, x), degree, HALF_RANGE), functions


# -- softmax --

# Logits of a softmax sum to zero if they did at the start, so a sum of exponentials is at least their number.
_LOWEST = 0.8
# The largest one has company.
_HIGHEST = 1.5
# In the sums exponentials count twice: they may fill half of the slots only, sums both sides of the torus.
_WEIGHT = 2


def softmax_sums(outputs: int, reach: float) -> tuple[float, float]:
    """Sums of exponentials that encrypted training computes, for logits of at most ``reach``."""
    return _LOWEST * outputs, _HIGHEST * exp(reach) + outputs


def softmax(units: Units, reach: float, degree: int) -> Softmax:
    """The head of softmax cross-entropy."""
    lowest, highest = softmax_sums(units.count, reach)
    middle, half = (lowest + highest) / 2, (highest - lowest) / 2
    unit = HALF_RANGE / (_WEIGHT * half)
    exponential = (Function("affine", (reach / HALF_RANGE, 0.0)), Function("exp"), Function("affine", (unit, 0.0)))
    inverse_unit = _HALF * lowest
    inverse = (
        Function("affine", (half / HALF_RANGE, middle)),
        Function("maximum", (lowest / 2,)),
        Function("reciprocal"),
        Function("affine", (inverse_unit, 0.0)),
    )
    return Softmax(
        approximated(exponential, degree),
        approximated(inverse, degree),
        units,
        1 / (unit * inverse_unit),
        _WEIGHT * unit * middle,
        _WEIGHT,
    )


def reached(head: Head, logits: F64, reach: float) -> dict[str, tuple[float, float]]:
    """Largest magnitudes that the head's bootstraps see, and how large they may be."""
    found = {"logits": (float(np.abs(logits).max()), reach)}
    if isinstance(head, Softmax):
        sums = np.exp(logits).sum(axis=1)
        lowest, highest = softmax_sums(head.units.count, reach)
        found["sums of exponentials"] = (float(sums.max()), highest)
        found["inverses of sums of exponentials"] = (float(1 / sums.min()), 1 / lowest)
    return found


def make_head(loss: Loss, units: Units, reach: float, degree: int, masked: bool) -> Head:
    """The head of any loss. masked: there may be garbage beside the sums."""
    if isinstance(loss, SoftmaxCrossEntropy):
        return softmax(units, reach, degree)
    return pointwise(loss, units, reach, degree, masked)
