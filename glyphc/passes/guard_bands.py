"""Which values number formats hold: ranges that calibration saw, margins that follow from their tails, and reserves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.analysis.series import HALF_RANGE, bell, find_jumps, fit_error
from glyphc.errors import CalibrationError
from glyphc.ir.errors import IRError
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply
from glyphc.ir.types import Guard
from glyphc.rounding import down, outward

from .tails import margin as tail_margin

F64 = npt.NDArray[np.floating[Any]]

# Share of a value below which its differences are rounding errors of float64 sums.
_ROUNDING = 2.0**-40
# Ways to leave samples out: each of so many parts once.
_FOLDS = 5
_FEWEST_TO_SPLIT = 20
# Half widths that a reserve may reach, beside the range without it; the first whose price is bearable.
_RESERVES = (2.0, 1.5, 1.25)
_PRICE = 1.25
_PRICE_DEGREE = 27
# Errors below what the noise of a bootstrap is do not matter.
_NOISE = 2.0**-16
_EDGE_BITS = 24
# A function is nearly constant where it changes by at most this share of its range.
_FLAT = 2.0**-8


@dataclass(frozen=True)
class Allowed:
    """What a format holds, [lo, hi], and how that came about."""

    lo: float
    hi: float
    guard: Guard


def allowed(node: Node, graph: Graph, values: F64, factor: float, reserve: bool = True) -> Allowed:
    """The range of a dense map's result: what calibration saw, with a margin, rounded outward, with a reserve.

    values: on the calibration samples, shape (samples, size). factor: by which it may leave the calibrated range, a
    fixed margin; 0: what the tail of the values asks for. reserve: whether there may be one. Towards the edge of the
    domain of a function that reads it (log, reciprocal), the range grows by a part of what is left. CalibrationError
    where it is beyond that.
    """
    lows, highs = values.min(axis=1), values.max(axis=1)
    functions = tuple(user.op.functions for user in graph.users(node) if isinstance(user.op, Apply))
    edges = _edges(graph, node, float(lows.min()), float(highs.max()))
    lo, hi = _within(_planned(lows, highs, factor), (float(lows.min()), float(highs.max())), edges)
    reserve_lo, reserve_hi, price = (
        _reserve(functions, lo, hi) if reserve and functions and np.isinf(edges).all() else (lo, hi, 1.0)
    )
    beyond = (lo - reserve_lo, reserve_hi - hi)
    left, held_out = _held_out(lows, highs, factor, beyond, edges)
    return Allowed(reserve_lo, reserve_hi, Guard(lo, hi, price, left, held_out))


def _planned(lows: F64, highs: F64, factor: float) -> tuple[float, float]:
    """Range with margin for values that reach from lows to highs, by sample; rounded outward."""
    lo, hi = float(lows.min()), float(highs.max())
    middle, half = (lo + hi) / 2, (hi - lo) / 2
    # equal values differ by how numpy sums them up: a range of that size is none
    if half <= _ROUNDING * abs(middle):
        half = max(abs(middle), 1.0)
        lo, hi = middle - half, middle + half
    elif factor:
        lo, hi = middle - half * factor, middle + half * factor
    else:
        lo, hi = lo - tail_margin(-lows, half), hi + tail_margin(highs, half)
    low, high = outward(lo, hi)
    return float(low), float(high)


def _edges(graph: Graph, node: Node, lo: float, hi: float) -> tuple[float, float]:
    """The open interval in which all functions of a value are defined."""
    left, right = -np.inf, np.inf
    for user in graph.users(node):
        if isinstance(user.op, Apply):
            try:
                first, last = _domain(user.op.functions, lo, hi)
            except IRError as e:
                raise CalibrationError(f"{user} cannot be computed: {e}, where calibration saw values") from None
            left, right = max(left, first), min(right, last)
    return _inward(left, 1.0), _inward(right, -1.0)


def _inward(edge: float, way: float) -> float:
    """An edge that was searched for from where calibration saw values, to the digits that do not depend on them."""
    if edge == 0 or not np.isfinite(edge):
        return edge
    step = 2.0 ** (np.floor(np.log2(abs(edge))) - _EDGE_BITS)
    return float(way * np.ceil(way * edge / step - 0.5**8) * step)


def _within(planned: tuple[float, float], seen: tuple[float, float], edges: tuple[float, float]) -> tuple[float, float]:
    """A range that keeps half of the way between what was seen and the edge, which is rounded like all that is seen."""
    (lo, hi), (left, right) = planned, edges
    if np.isfinite(left):
        lo = max(lo, left + down(seen[0] - left) / 2)
    if np.isfinite(right):
        hi = min(hi, right - down(right - seen[1]) / 2)
    return lo, hi


def _held_out(
    lows: F64, highs: F64, factor: float, beyond: tuple[float, float], edges: tuple[float, float]
) -> tuple[int, int]:
    """How many samples leave the range that the others ask for, and of how many."""
    count = len(lows)
    if count < _FEWEST_TO_SPLIT:
        return 0, 0
    left = 0
    for first in range(_FOLDS):
        out = np.zeros(count, dtype=bool)
        out[first::_FOLDS] = True
        seen = float(lows[~out].min()), float(highs[~out].max())
        lo, hi = _within(_planned(lows[~out], highs[~out], factor), seen, edges)
        left += int(((lows[out] < lo - beyond[0]) | (highs[out] > hi + beyond[1])).sum())
    return left, count


def _reserve(functions: tuple[tuple[Function, ...], ...], lo: float, hi: float) -> tuple[float, float, float]:
    """The range with more room where all functions are nearly constant, and by what factor errors grow with it."""
    for times in _RESERVES:
        more = (times - 1) * (hi - lo) / 2
        low = lo - more * all(_flat(f, lo, lo - more, (lo, hi)) for f in functions)
        high = hi + more * all(_flat(f, hi, hi + more, (lo, hi)) for f in functions)
        if (low, high) == (lo, hi):
            continue
        price = max(_price(f, (lo, hi), (low, high)) for f in functions)
        if price <= _PRICE:
            return low, high, price
    return lo, hi, 1.0


def _flat(functions: tuple[Function, ...], end: float, beyond: float, inside: tuple[float, float]) -> bool:
    """Whether a composition hardly changes from the end of its range on."""
    y, usual = compose(functions, np.linspace(end, beyond, 129)), compose(functions, np.linspace(*inside, 1025))
    return bool(np.all(np.isfinite(y)) and np.abs(y - y[0]).max() <= _FLAT * np.ptp(usual))


def _price(functions: tuple[Function, ...], inside: tuple[float, float], whole: tuple[float, float]) -> float:
    """How many times as large the rms error of a series is when it has to hold on a wider range.

    Infinite for functions that jump: the neighbourhood of a jump that goes wrong would grow, too.
    """
    before = _error(functions, inside, inside)
    return max(1.0, _error(functions, inside, whole) / before) if np.isfinite(before) else np.inf


@lru_cache(maxsize=4096)
def _error(functions: tuple[Function, ...], inside: tuple[float, float], whole: tuple[float, float]) -> float:
    """Rms error of a series on ``whole`` for values inside; infinite for functions that jump."""
    middle, unit = (whole[0] + whole[1]) / 2, (whole[1] - whole[0]) / 2 / HALF_RANGE

    def target(x: F64) -> F64:
        return compose(functions, middle + unit * x)

    if inside == whole and find_jumps(target, HALF_RANGE):
        return np.inf
    weights = bell((inside[0] - middle) / unit, (inside[1] - middle) / unit, HALF_RANGE)
    return max(fit_error(target, _PRICE_DEGREE, HALF_RANGE, weights), _NOISE)


def _domain(functions: tuple[Function, ...], lo: float, hi: float) -> tuple[float, float]:
    """Open interval around [lo, hi] where a composition is defined; IRError if it is not on [lo, hi] itself.

    Exact as far as the first function but scalings tells; what those behind it leave of that is searched for.
    """
    domains: list[tuple[float, float]] = []
    values = np.linspace(lo, hi, 4097)
    factor, shift, exact = 1.0, 0.0, (-np.inf, np.inf)
    first = True
    for function in functions:
        domains.append(function.domain(float(values.min()), float(values.max())))
        values = compose((function,), values)
        if first and function.name == "affine":
            a, b = function.parameters
            factor, shift = a * factor, a * shift + b
        elif first:
            first = False
            if factor:
                left, right = sorted((edge - shift) / factor for edge in domains[-1])
                exact = left, right
    reach = 8 * ((hi - lo) or max(abs(lo), 1.0))
    below, above = (_edge(functions, domains, end, end + way) for end, way in ((lo, -reach), (hi, reach)))
    return max(exact[0], below), min(exact[1], above)


def _edge(functions: tuple[Function, ...], domains: list[tuple[float, float]], inside: float, outside: float) -> float:
    """Where between a point inside the domain and one that may be outside a composition ceases to be defined."""

    def defined(x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
        good = np.ones(x.shape, dtype=bool)
        with np.errstate(all="ignore"):
            for function, (left, right) in zip(functions, domains, strict=True):
                good &= np.isfinite(x) & (left < x) & (x < right)
                x = np.asarray(compose((function,), x), dtype=np.float64)
        return np.asarray(good & np.isfinite(x))

    x = np.linspace(inside, outside, 4097)
    wrong = np.flatnonzero(~defined(x))
    if not len(wrong) or wrong[0] == 0:
        return float(np.copysign(np.inf, outside - inside))
    good, bad = float(x[wrong[0] - 1]), float(x[wrong[0]])
    for _ in range(60):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if defined(np.array([middle]))[0] else (good, middle)
    return good
