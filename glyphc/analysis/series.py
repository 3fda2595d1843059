"""Trigonometric series for functional bootstraps: f(x) = 2 Re sum_{k=0}^{d} c_k e^{2 pi i k x}.

The bootstrap evaluates such a series at every phase x in [-1/2, 1/2) (OpenFHE's ``EvalFBT``; Alexandru, Kim,
Polyakov, "General Functional Bootstrapping using CKKS", 2024, uses Hermite interpolation of look-up tables). Here the
coefficients are a ridge least-squares fit of the wanted function on |x| <= R only, a Fourier extension: outside, the
series is free to turn around, so the function need not be periodic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.series import LARGEST_BITS, LARGEST_REACH, Series, evaluate_coefficients

F64 = npt.NDArray[np.floating[Any]]

# Half of the torus that carries values; the rest is where the series turns around.
HALF_RANGE = 0.45
# Ridge weight relative to the largest singular value squared: bounds the coefficients, hence the bootstrap's noise.
_RIDGE = 1e-10
# Between the ends of its range a series is free, but a bootstrap does not hold what rises to more than so many times
# the largest value on the range: then the ridge grows by tens, up to this one.
_OVERSHOOT = LARGEST_REACH / 2.0**LARGEST_BITS
_LARGEST_RIDGE = 1e-4
# A coefficient of exactly zero makes OpenFHE skip powers that it later needs.
_TINY = 1e-12
# Default half-width of the neighbourhood of a jump that does not count, as a share of the half range.
DEAD_ZONE = 1 / 32
# A step of this share of the function's range, however close its ends, is a jump.
_JUMP = 0.01
# Share of a value below which its differences are rounding errors of float64.
_ROUNDING = 2.0**-40
# Of a density over a range. Standard deviations from the middle of a planned range to its ends.
_BINS = 64
_DEVIATIONS = 3.0
# Later steps of flattening lower the largest error hardly, but cost as much rms error as the first ones.
_FLATTENING_STEPS = 6


@lru_cache(maxsize=16)
def design(degree: int, half_range: float, points: int) -> tuple[F64, F64]:
    """Nodes (Chebyshev, dense at the edges where extensions err most) and basis 1, cos, sin at them."""
    x = half_range * np.cos(np.pi * (np.arange(points) + 0.5) / points)
    k = np.arange(1, degree + 1)
    phase = 2 * np.pi * np.outer(x, k)
    return x, np.hstack([np.ones((points, 1)), np.cos(phase), np.sin(phase)])


@dataclass(frozen=True)
class _Samples:
    """The wanted function on nodes of a fit. density: how often values lie there, relative to the mean."""

    x: F64
    basis: F64
    y: F64
    density: F64

    @property
    def degree(self) -> int:
        return self.basis.shape[1] // 2

    @property
    def span(self) -> float:
        return span_of(self.y)


@dataclass(frozen=True)
class _Solution:
    """Factors of the basis, and the errors they leave, as shares of the function's range."""

    factors: F64
    max_error: float
    rms_error: float

    @property
    def coefficients(self) -> tuple[F64, F64]:
        """Real and imaginary parts: 2 Re (c e^{ikx}) with c = (p - iq)/2 is p cos(kx) + q sin(kx)."""
        constant, (cos, sin) = self.factors[:1], np.split(self.factors[1:], 2)
        return np.concatenate([constant, cos]) / 2, np.concatenate([[0.0], -sin / 2])


def fit(
    function: Callable[[F64], F64],
    degree: int,
    half_range: float = HALF_RANGE,
    weights: tuple[int, ...] = (),
    dead_zone: float = DEAD_ZONE,
    max_error: float = 0.0,
) -> Series:
    """Fit a series of the given degree to ``function`` on phases |x| <= half_range.

    weights: histogram over [-half_range, half_range] of where values lie; empty means uniform. It shapes the fit
    mildly (the whole range stays covered) and weighs the reported rms error.

    dead_zone: half-width, as a share of half_range, of the neighbourhoods of jumps that are left out of fit and
    errors; the series records it when the function has any.

    max_error: the wanted largest error. A fit that misses it by less than a factor of 2 is made flatter, at the cost
    of a larger rms error, if that reaches it (at kinks, about a factor of 1.6 can be won). 0: least squares only.

    Errors are shares of the function's range (max - min; of a constant: its magnitude) over the interval, measured
    between the nodes of the fit.

    Raises ValueError when the function is not finite on the interval.
    """
    points = max(2000, 24 * degree)
    x, basis = design(degree, half_range, points)
    y = np.asarray(function(x))
    if y.shape != x.shape or not np.all(np.isfinite(y)):
        raise ValueError("the function is not finite on its whole input range")
    jumps = find_jumps(function, half_range)
    width = _zone(jumps, dead_zone * half_range)
    keep = ~near_to(x, jumps, width)
    samples = _Samples(x[keep], basis[keep], y[keep], density_at(x[keep], half_range, weights))
    grid = np.linspace(-half_range, half_range, 16 * points + 1)
    grid = grid[~near_to(grid, jumps, width)]
    wanted, density = function(grid), density_at(grid, half_range, weights)

    ridge = _RIDGE

    def solve(weight: F64) -> _Solution:
        solution = _Solution(_least_squares(samples, weight, ridge), 0.0, 0.0)
        error = evaluate_coefficients(*solution.coefficients, grid) - wanted
        rms = float(np.sqrt(np.average(error**2, weights=density)))
        return replace(solution, max_error=float(np.abs(error).max()) / samples.span, rms_error=rms / samples.span)

    torus = np.arange(16 * (degree + 1)) / (16 * (degree + 1))
    most = _OVERSHOOT * float(np.abs(wanted).max())

    def rises(solution: _Solution) -> bool:
        return bool(np.abs(evaluate_coefficients(*solution.coefficients, torus)).max() > most)

    best = solve(0.5 + 0.5 * samples.density)
    while rises(best) and ridge < _LARGEST_RIDGE:
        ridge *= 10
        best = solve(0.5 + 0.5 * samples.density)
    if max_error < best.max_error <= 2 * max_error:
        flatter = _flatter(samples, best, solve, max_error)
        best = best if rises(flatter) else flatter
    real, imag = best.coefficients
    return Series(
        tuple(float(c) if abs(c) > _TINY else _TINY for c in real),
        tuple(float(c) if abs(c) > _TINY else _TINY for c in imag),
        half_range,
        best.max_error,
        best.rms_error,
        width if jumps else 0.0,
    )


def fit_error(function: Callable[[F64], F64], degree: int, half_range: float, weights: tuple[int, ...]) -> float:
    """About the rms error that :func:`fit` reports of a function without jumps, at the nodes of a fit, and quickly."""
    x, basis = design(degree, half_range, 24 * degree)
    samples = _Samples(x, basis, np.asarray(function(x)), density_at(x, half_range, weights))
    error = basis @ _least_squares(samples, 0.5 + 0.5 * samples.density) - samples.y
    # nodes are dense at the ends
    even = samples.density * np.sqrt(1 - np.minimum((x / half_range) ** 2, 1.0))
    return float(np.sqrt(np.average(error**2, weights=even))) / samples.span


def _least_squares(samples: _Samples, weight: F64, ridge: float = _RIDGE) -> F64:
    """Factors of the basis that minimise the weighted squares of the errors, with a ridge."""
    root = np.sqrt(weight)
    return ridge_solution(samples.basis * root[:, None], samples.y * root, ridge)


def ridge_solution(a: F64, b: F64, ridge: float) -> F64:
    """x that minimises |a x - b|^2 and a little of |x|^2. ridge: relative to the largest singular value squared."""
    gram = a.T @ a
    # the largest singular value: of a symmetric matrix without negative eigenvalues, the largest of these
    regular = gram + ridge * np.linalg.eigvalsh(gram)[-1] * np.eye(gram.shape[0])
    solution = np.linalg.solve(regular, a.T @ b)
    # one step of iterative refinement: the normal equations lose half of the digits
    return np.asarray(solution + np.linalg.solve(regular, a.T @ (b - a @ solution)))


def _flatter(samples: _Samples, start: _Solution, solve: Callable[[F64], _Solution], max_error: float) -> _Solution:
    """The first of a few reweighted fits whose largest error is at most ``max_error``; ``start`` if none is.

    As in Lawson's algorithm, a node gains weight where the last fit errs, here by at most a factor of 2 in each step,
    so that the rms error grows no more than it must.
    """
    weight, solution = 0.5 + 0.5 * samples.density, start
    for _ in range(_FLATTENING_STEPS):
        error = np.abs(samples.basis @ solution.factors - samples.y)
        weight = weight * (1 + (error / error.max()) ** 2)
        solution = solve(weight)
        if solution.max_error <= max_error:
            return solution
    return start


def find_jumps(function: Callable[[F64], F64], half_range: float) -> tuple[float, ...]:
    """Phases where the function is discontinuous: steep steps on a grid that do not flatten under bisection."""
    x = np.linspace(-half_range, half_range, 4097)
    y = np.asarray(function(x))
    span = span_of(y)
    steep = np.nonzero(np.abs(np.diff(y)) > _JUMP * span)[0]
    if not len(steep):
        return ()
    left, right = x[steep], x[steep + 1]
    for _ in range(30):  # all of them at once: a fine staircase has thousands
        middle = (left + right) / 2
        f_left, f_middle, f_right = (np.asarray(function(v)) for v in (left, middle, right))
        first = np.abs(f_middle - f_left) > np.abs(f_right - f_middle)
        left, right = np.where(first, left, middle), np.where(first, middle, right)
    heights = np.abs(np.asarray(function(right)) - np.asarray(function(left)))
    jumps: list[float] = []
    for at in np.nonzero(heights > _JUMP * span)[0]:
        # a node that lies on a jump (sign at 0) shows it twice
        if not jumps or abs(jumps[-1] - left[at]) >= 1e-6:
            jumps.append(float((left[at] + right[at]) / 2))
    return tuple(jumps)


def span_of(y: F64) -> float:
    """The range of values; the magnitude of those that are equal but for rounding."""
    magnitude, spread = float(np.abs(y).max()), float(y.max() - y.min())
    return spread if spread > _ROUNDING * magnitude else magnitude or 1.0


def _zone(jumps: tuple[float, ...], width: float) -> float:
    """Dead zones of neighbouring jumps must leave most of the room in between."""
    gaps = np.diff(jumps)
    return min(width, float(gaps.min()) / 6) if len(gaps) else width


def near_to(x: F64, jumps: tuple[float, ...], width: float) -> npt.NDArray[np.bool_]:
    """Which x are less than ``width`` from a jump."""
    near = np.zeros(x.shape, dtype=bool)
    for jump in jumps:
        near |= np.abs(x - jump) < width
    return near


def density_at(x: F64, half_range: float, weights: tuple[int, ...]) -> F64:
    """Relative density of values at x, mean about 1, never zero (every phase must stay covered)."""
    if not weights or sum(weights) == 0:
        return np.ones_like(x)
    counts = np.array(weights, dtype=np.float64)
    bins = np.clip(((x / half_range + 1) / 2 * len(counts)).astype(int), 0, len(counts) - 1)
    return np.asarray(counts[bins] / counts.mean() + 1e-3)


def bell(lo: float, hi: float, half_range: float) -> tuple[int, ...]:
    """A histogram over [-half_range, half_range] of a normal distribution that hardly leaves [lo, hi]."""
    x = (np.arange(_BINS) + 0.5) / _BINS * 2 - 1
    middle, deviation = (lo + hi) / 2 / half_range, (hi - lo) / 2 / half_range / _DEVIATIONS
    return tuple(int(n) for n in np.rint(1e6 * np.exp(-(((x - middle) / deviation) ** 2) / 2)))
