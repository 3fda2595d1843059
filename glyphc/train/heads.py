"""From the last sums to errors: the loss' function of them, minus the labels.

Errors come in parts where the last layer wants them in groups. A head's ``unit`` is what a message of 1 stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

from glyphc.analysis.series import fit
from glyphc.ir.functions import Function, compose
from glyphc.ir.instructions import Register
from glyphc.ir.series import Series

from .losses import BinaryCrossEntropy, Loss, MeanSquaredError, SoftmaxCrossEntropy
from .ranges import Ranges
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
    # logits that fill HALF_RANGE
    reach: float

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
        groups = range(self.units.used_groups)
        return _minus_labels(w, [w.decode(w.masked(in_slots, *self.units.kept(h))) for h in groups])


@dataclass(frozen=True)
class Softmax:
    """Two bootstraps: exponentials, then the inverses of their sums, multiplied while both are in slots.

    shift: the phase of sums that is subtracted, so that they fill the torus on both sides of zero. weight: that of
    exponentials in the sums.
    """

    exponential: Approximated
    inverse: Approximated
    units: Units
    unit: float
    shift: float
    weight: int
    # a phase p stands for the logit (p + offset) * reach / HALF_RANGE: logits reach further down than up
    reach: float
    offset: float

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
        assert self.units.used_groups == 1 and (2 * count - 1) * period <= self.units.ring
        (in_slots,) = w.bootstrap(w.raised(sums, -self.offset), self.exponential)
        exponentials = w.masked(in_slots, *self.units.kept())
        # at each output the sum over all outputs: what is beside them is zero
        spread = tuple(period * k for k in range(1 - count, count))
        totals = w.convolved(w.reduced(w.decode(exponentials), 1), spread, self.weight)
        (inverses,) = w.bootstrap(w.raised(totals, -self.shift), self.inverse)
        return _minus_labels(w, [w.decode(w.slot_product(exponentials, inverses))])


Head = Pointwise | Softmax


def _minus_labels(w: Writer, results: list[Register]) -> list[Register]:
    return [w.sum((result, 1), (w.load_data(label_name(h)), -1)) for h, result in enumerate(results)]


def label_name(group: int) -> str:
    return f"labels:{group}"


def label_data(head: Head, targets: F64) -> dict[str, F64]:
    """Messages of a batch's labels, from targets of shape (batch, outputs)."""
    units, values = head.units, (targets - head.centre) / head.unit
    places = units.samples[:, None] + units.units
    return {
        label_name(h): polynomial(units.ring, places[:, h :: units.groups], values[:, h :: units.groups])
        for h in range(units.used_groups)
    }


def pointwise(loss: Loss, units: Units, reach: float, degree: int, masked: bool) -> Pointwise:
    """The head of a loss whose gradient is a function of one logit."""
    if isinstance(loss, BinaryCrossEntropy):
        chain = (Function("affine", (reach / HALF_RANGE, 0.0)), Function("sigmoid"), Function("affine", (1.0, -_HALF)))
        return Pointwise(approximated(chain, degree), units, 1.0, _HALF, 1.0, masked, reach)
    assert isinstance(loss, MeanSquaredError)
    unit = 2 * reach
    return Pointwise(approximated(PASSED, degree), units, unit, 0.0, unit * 2.0 / units.count, masked, reach)


# A number as it is, from a phase to half of the slots' range.
PASSED = (Function("affine", (_HALF / HALF_RANGE, 0.0)),)


def approximated(functions: tuple[Function, ...], degree: int) -> Approximated:
    """Functions with their series of that degree."""
    return fit(lambda x: compose(functions, x), degree, HALF_RANGE), functions


# In the sums exponentials count twice: they may fill half of the slots only, sums both sides of the torus.
_WEIGHT = 2


def softmax(units: Units, ranges: Ranges, degree: int) -> Softmax:
    """The head of softmax cross-entropy."""
    (lowest, highest), down = ranges.exponentials, ranges.sums[-1]
    up = min(down, log(highest))
    reach, logit = (down + up) / 2, (up - down) / 2
    middle, half = (lowest + highest) / 2, (highest - lowest) / 2
    # exponentials are at most half of the slots' range, and their sums' distances from the middle fit on the torus
    unit = min(HALF_RANGE / (_WEIGHT * half), _HALF * exp(-up))
    phase = _WEIGHT * unit * half
    exponential = (Function("affine", (reach / HALF_RANGE, logit)), Function("exp"), Function("affine", (unit, 0.0)))
    inverse_unit = _HALF * lowest
    inverse = (
        Function("affine", (half / phase, middle)),
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
        reach,
        logit * HALF_RANGE / reach,
    )


def make_head(loss: Loss, units: Units, ranges: Ranges, degree: int, masked: bool) -> Head:
    """The head of any loss. masked: there may be garbage beside the sums."""
    if isinstance(loss, SoftmaxCrossEntropy):
        return softmax(units, ranges, degree)
    return pointwise(loss, units, ranges.sums[-1], degree, masked)
