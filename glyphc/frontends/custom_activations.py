"""Activations of the user's own, by name. An ONNX node of that type, in a domain that is not ONNX's own, computes one.

They are kept as tables: programs need neither the registry nor the callable, so they can be saved and run elsewhere.
(The module is not called ``activations``, because as an attribute of the package that would hide the function.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.analysis.series import HALF_RANGE, find_jumps
from glyphc.errors import ActivationError, one_line
from glyphc.ir.functions import Function

F64 = npt.NDArray[np.floating[Any]]

# Linear interpolation between so many points errs by 2^-20 of the range for tanh on [-8, 8], less than a bootstrap.
POINTS = 4097
# More than any series can follow, and loading a program takes about 0.1 ms for each in each layer.
_MOST_POINTS = 16385
# No smooth series follows so many: the neighbourhoods that do not count would fill the interval.
_MOST_JUMPS = 32
# Beyond this, float64 leaves too few digits for a fit.
_LARGEST = 1e15
# What a table may miss of its callable's range: as much as the series that is fitted to it. Only cusps come near it.
_RESOLUTION = 2.0**-7
# What a callable's results may differ by when elements are computed in other company: instructions for vectors round
# otherwise than those for single numbers, also in float32.
_ROUNDING = 1e-6
# Half of the width, as a share of the interval, in which a jump happens.
_SIDE = 1e-9

_REGISTERED: dict[str, Function] = {}


def register_activation(
    name: str,
    function: Callable[[F64], npt.ArrayLike] | npt.ArrayLike,
    lo: float,
    hi: float,
    points: int = POINTS,
    *,
    replace: bool = False,
) -> Function:
    """Make ``name`` an activation: an elementwise callable, or a table of its values, over [lo, hi].

    function: takes a one-dimensional float64 array of any length, with elements in [lo, hi] only, and returns as many
    real numbers, each computed from its own element; it is sampled at ``points`` equidistant points (2 to 16385) and
    not called again. Or the values themselves (2 to 16385) at equidistant points from lo to hi, both included. Between
    the points, values are interpolated linearly. Jumps of more than 1 % of a callable's range are found and stay
    jumps (with the left side's value at the jump itself); a table has none. What is narrower than a quarter of the
    points' distance can be missed.

    lo, hi: must include all values that the activation sees in calibration, else ``glyphc.compile`` raises
    CalibrationError. Values up to a quarter beyond those are computed too, with the end values where they leave
    [lo, hi]; so an interval that is a quarter wider than needed gives the more precise series.

    replace: allows a name that is registered already, or that ONNX has: nodes of ONNX's own domain keep their meaning.

    Returns the activation as a function of the IR. Raises ActivationError with a message that says what is wrong
    with the name, the interval, the callable or the table, and where.
    """
    _check_name(name, replace)
    _REGISTERED[name] = sampled = make_activation(name, function, lo, hi, points)
    return sampled


def make_activation(
    name: str, function: Callable[[F64], npt.ArrayLike] | npt.ArrayLike, lo: float, hi: float, points: int = POINTS
) -> Function:
    """The table that :func:`register_activation` keeps, without registering it; the same errors."""
    lo, hi = _interval(name, lo, hi)
    if callable(function):
        sampled = _sampled(_Callable(name, function, lo, hi), _count(name, points, "points"))
    else:
        values = _numbers(f"activation {name!r}: what is given is no callable, and as a table it", function)
        if values.ndim != 1:
            raise ActivationError(
                f"activation {name!r}: what is given is no callable, and as a table it has shape {values.shape}; give "
                "its values as one flat list"
            )
        _count(name, len(values), "values in the table")
        _check_bounds(name, np.linspace(lo, hi, len(values)), values, "put another value there")
        sampled = Function("table", (lo, hi, *map(float, values)))
    return sampled


def unregister_activation(name: str) -> None:
    """Forget an activation; programs that use it keep working. ActivationError if there is none of that name."""
    if name not in _REGISTERED:
        known = ", ".join(activations()) or "none"
        raise ActivationError(f"there is no activation {name!r} to unregister; registered: {known}")
    del _REGISTERED[name]


def activations() -> tuple[str, ...]:
    """Names of all registered activations, sorted."""
    return tuple(sorted(_REGISTERED))


def registered(name: str) -> Function | None:
    """The activation of that name, if there is one."""
    return _REGISTERED.get(name)


# -- arguments --


def _check_name(name: Any, replace: bool) -> None:
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii():
        raise ActivationError(
            f"{name!r} cannot name an activation; use letters, digits and underscores, and no digit in front"
        )
    if replace:
        return
    if name in _REGISTERED:
        raise ActivationError(
            f"activation {name!r} is registered already; use another name, or replace=True to register it anew"
        )
    from .onnx_rules import OPERATORS  # loads onnx

    if name in OPERATORS:
        raise ActivationError(
            f"{name!r} is an operator of ONNX that glyphc has; use another name, or replace=True if nodes of that "
            "type in a domain of your own shall compute this activation"
        )


def _interval(name: str, lo: Any, hi: Any) -> tuple[float, float]:
    for limit in (lo, hi):
        if isinstance(limit, bool) or not isinstance(limit, int | float | np.integer | np.floating):
            raise ActivationError(f"activation {name!r}: the limit {limit!r} of its interval is not a real number")
        if not -_LARGEST <= limit <= _LARGEST:  # also NaN
            raise ActivationError(
                f"activation {name!r}: the limit {limit!r} of its interval must be finite, at most {_LARGEST:g}"
            )
    lo, hi = float(lo), float(hi)
    if lo >= hi:
        raise ActivationError(f"activation {name!r}: the interval [{lo:g}, {hi:g}] is empty; lo must be less than hi")
    # every one of its points must be a number of its own
    if hi - lo < 1e-9 * max(abs(lo), abs(hi)) or hi - lo < 1 / _LARGEST:
        raise ActivationError(f"activation {name!r}: the interval [{lo!r}, {hi!r}] is too narrow for float64")
    return lo, hi


def _count(name: str, count: Any, what: str) -> int:
    if not isinstance(count, int | np.integer) or isinstance(count, bool):
        raise ActivationError(f"activation {name!r}: the number of points is {count!r}, not an integer")
    if not 2 <= count <= _MOST_POINTS:
        raise ActivationError(f"activation {name!r}: {count} {what}; 2 to {_MOST_POINTS} are possible")
    return int(count)


def _numbers(subject: str, given: Any) -> F64:
    """An array of float64 from whatever numpy can read as real numbers."""
    try:
        array = np.asarray(given)
        if array.dtype == object:  # e.g. from np.frompyfunc
            array = array.astype(np.float64)
    except Exception as e:  # numpy raises many; tensors of other libraries raise their own
        raise ActivationError(f"{subject} cannot be read as real numbers: {one_line(e)}") from None
    if array.dtype.kind not in "fiub":
        raise ActivationError(f"{subject} holds {array.dtype}, not real numbers")
    with np.errstate(over="ignore"):  # from longer floats; the bounds are checked
        return array.astype(np.float64)


def _check_bounds(name: str, x: F64, y: F64, advice: str) -> None:
    bad = ~(np.abs(y) <= _LARGEST)  # also NaN
    if np.any(bad):
        at = int(np.argmax(bad))
        raise ActivationError(
            f"activation {name!r} is {y[at]:.6g} at x = {x[at]:.10g}; its values must be finite, at most "
            f"{_LARGEST:g}: {advice}"
        )


# -- callables --


@dataclass(frozen=True)
class _Callable:
    """A user's callable with everything that it returns checked."""

    name: str
    function: Callable[[F64], npt.ArrayLike]
    lo: float
    hi: float

    def __call__(self, x: F64) -> F64:
        """Its values at x, which is first moved into [lo, hi] where rounding has left it."""
        x = np.clip(x, self.lo, self.hi)
        subject = f"activation {self.name!r}: what the callable returns"
        try:
            with np.errstate(all="ignore"):
                result = self.function(x.copy())  # a copy: it may work in place
        except Exception as e:
            raise ActivationError(
                f"activation {self.name!r}: the callable raised {type(e).__name__} ({one_line(e)}) for a float64 "
                f"array of shape {x.shape}; if it takes single numbers, wrap it in np.vectorize"
            ) from e
        y = _numbers(subject, result)
        if y.shape != x.shape:
            raise ActivationError(
                f"{subject} has shape {y.shape} for an argument of shape {x.shape}; it must give one value for each "
                "element"
            )
        _check_bounds(self.name, x, y, "choose an interval where they are")
        return y


def _sampled(function: _Callable, points: int) -> Function:
    x = np.linspace(function.lo, function.hi, points)
    _check_elementwise(function, x)
    table = _table(function, x)
    _check_resolution(function, points, table)
    return table


def _table(function: _Callable, x: F64) -> Function:
    """The callable at points x less its jumps, which is continuous; and the jumps."""
    places = _jumps(function)
    side = (function.hi - function.lo) * _SIDE
    for at in places:
        # on a jump itself a callable may have any value
        x = np.where(np.abs(x - at) <= side, at - side, x)
    y = function(x)
    heights = [float(np.diff(function(np.array([at - side, at + side])))[0]) for at in places]
    # a single point that differs from its neighbours (sin(x)/x at 0) is no jump
    jumps = [j for j in zip(places, heights, strict=True) if abs(j[1]) > 0.001 * np.ptp(y)]
    for at, height in jumps:
        y = y - np.where(x > at, height, 0.0)
    if not jumps:
        return Function("table", (function.lo, function.hi, *map(float, y)))
    steps = (number for jump in jumps for number in jump)
    return Function("table_with_jumps", (function.lo, function.hi, float(len(jumps)), *steps, *map(float, y)))


def _check_elementwise(function: _Callable, x: F64) -> None:
    """In another order, and without most of the others, every element must give what it gave."""
    y = function(x)
    order = np.random.default_rng(0).permutation(len(x))
    tolerance = _ROUNDING * np.abs(y).max()
    for chosen in (order, order[: len(x) // 3 + 1]):
        again = function(x[chosen])
        off = np.abs(again - y[chosen])
        if np.any(off > tolerance):
            at = int(np.argmax(off))
            raise ActivationError(
                f"activation {function.name!r} is not elementwise: at x = {x[chosen][at]:.6g} the callable gives "
                f"{y[chosen][at]:.6g}, and {again[at]:.6g} when other elements stand beside it; every result must "
                "depend on its own element alone, and on no chance"
            )


def _jumps(function: _Callable) -> list[float]:
    middle, to_x = (function.lo + function.hi) / 2, (function.hi - function.lo) / (2 * HALF_RANGE)
    phases = find_jumps(lambda phase: function(middle + to_x * phase), HALF_RANGE)
    # what bisection leaves open is rounded away, so that a jump at 0 is at 0
    digits = 11 - math.floor(math.log10(function.hi - function.lo))
    places = [round(middle + to_x * phase, digits) + 0.0 for phase in phases]
    if len(places) > _MOST_JUMPS:
        raise ActivationError(
            f"activation {function.name!r} jumps at {len(places)} places of [{function.lo:g}, {function.hi:g}], e.g. "
            f"at x = {places[0]:.6g}; at most {_MOST_JUMPS} are possible: choose a smaller interval"
        )
    return places


def _check_resolution(function: _Callable, points: int, table: Function) -> None:
    """Between the points, the table must be as good as a series can be."""
    x = np.random.default_rng(1).uniform(function.lo, function.hi, 4 * points)
    y = function(x)
    off = np.abs(table(x) - y)
    span = float(np.ptp(y))
    at = int(np.argmax(off))
    if off[at] > _RESOLUTION * span + 1e-12 * float(np.abs(y).max()):
        raise ActivationError(
            f"activation {function.name!r} is too steep or too restless for {points} points: near x = {x[at]:.6g}, "
            f"linear interpolation misses {off[at] / span:.2g} of its range; give more points (up to "
            f"{_MOST_POINTS}), or choose a smaller interval"
        )
