"""Softmax in two bootstraps: exponentials, then the inverses of their sums, multiplied while both are in slots."""

from __future__ import annotations

from math import exp

from glyphc.approx.series import HALF_RANGE, fit
from glyphc.ir.functions import Function, compose
from glyphc.ir.series import Series

from .errors import TrainingError
from .server_plan import SoftmaxPlan

# Levels in slots: a mask and a product.
SOFTMAX_LEVELS = 2
# Logits of a softmax sum to zero if they did at the start, so a sum of exponentials is at least their number.
_LOWEST = 0.8
# The largest one has company.
_HIGHEST = 1.5
# In the sums exponentials count twice: they may fill half of the slots only, sums both sides of the torus.
_WEIGHT = 2
_HALF = 0.5
_DEGREES = (27, 59, 119)
# Of a fit, as a share of its range. Probabilities are small beside the product that they come from.
_MAX_ERROR = 2.0**-12


def softmax_sums(outputs: int, reach: float) -> tuple[float, float]:
    """Sums of exponentials that encrypted training computes, for logits of at most ``reach``."""
    return _LOWEST * outputs, _HIGHEST * exp(reach) + outputs


def plan_softmax(outputs: int, batch: int, reach: float) -> tuple[tuple[Function, ...], Series, SoftmaxPlan, float]:
    """The exponential with its series, the rest, and what a result of 1 stands for.

    TrainingError when no series follows the inverses.
    """
    lowest, highest = softmax_sums(outputs, reach)
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
    for degree in _DEGREES:
        first, second = (fit(lambda x, f=f: compose(f, x), degree) for f in (exponential, inverse))  # type: ignore[misc]
        if max(first.max_error, second.max_error) <= _MAX_ERROR:
            plan = SoftmaxPlan((second, inverse), _WEIGHT * unit * middle, _WEIGHT, batch)
            return exponential, first, plan, 1 / (unit * inverse_unit)
    raise TrainingError(
        f"no series follows a softmax over {outputs} classes on logits up to {reach:g}; ask for a smaller range "
        "(--logit-range 6), with features of smaller magnitude or a smaller learning rate, or train each class against "
        "the rest (--loss binary-cross-entropy)"
    )
