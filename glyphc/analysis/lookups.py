"""Tables for functional bootstraps: series of the Gray-code bits of an index (see ``glyphc.ir.series.Lookup``).

Bit k of the Gray code of an index is a wave of the phase: it changes at every 2^(k + 1)-th step between two entries,
and goes straight from one value to the other within that step. Where the degree is too low for the edges of the lowest
bits, they are rounded; how much the look-up then errs is measured as for any other series.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.series import LARGEST_BITS, LARGEST_REACH, Lookup, Series, reach
from glyphc.ir.tables import gray

from .series import HALF_RANGE, density_at, design, find_jumps, near_to, ridge_solution, span_of

F64 = npt.NDArray[np.floating[Any]]

# Nodes for each step of the table, at least.
_NODES = 24
# Ridge weights that are tried, as shares of the largest singular value squared, until bits stay near [0, 1] where the
# series are free.
_RIDGES = tuple(10.0**-power for power in range(10, 1, -1))
_LARGEST_BIT = 2.0


def fit_lookup(
    function: Callable[[F64], F64], bits: int, degree: int, half_range: float, weights: tuple[int, ...] = ()
) -> Lookup:
    """A table of 2^bits entries of ``function`` over phases |x| <= half_range, and series of the bits of its index.

    weights: as in ``series.fit``, of the error that is reported. Errors are shares of the function's range, measured
    between the entries; a step on either side of a jump does not count. Raises ValueError when the function is not
    finite on the interval.
    """
    steps = (1 << bits) - 1
    entries = np.linspace(-half_range, half_range, steps + 1)
    table = np.asarray(function(entries))
    grid = np.linspace(-half_range, half_range, _NODES * steps + 1)
    wanted = np.asarray(function(grid))
    if not np.all(np.isfinite(wanted)):
        raise ValueError("the function is not finite on its whole input range")
    jumps = find_jumps(function, half_range)
    width = 2 * half_range / steps if jumps else 0.0
    kept = ~near_to(grid, jumps, width)
    share = density_at(grid[kept], half_range, weights)
    for ridge in _RIDGES:
        found = Lookup(_bit_series(bits, degree, half_range, ridge), tuple(map(float, table)), half_range, 0.0, 0.0)
        if _bounded(found):
            break
    errors = (found.values(grid[kept]) - wanted[kept]) / span_of(wanted)
    largest, rms = float(np.abs(errors).max()), float(np.sqrt(np.average(errors**2, weights=share)))
    return Lookup(found.bits, found.table, half_range, largest, rms, width)


def least_degree(bits: int, half_range: float = HALF_RANGE) -> int:
    """Below which no series follows the wave of the lowest bit, so that the table would have fewer entries in truth."""
    steps_of_a_period = 4
    return int(np.ceil(((1 << bits) - 1) / (2 * half_range) / steps_of_a_period))


@lru_cache(maxsize=64)
def _bit_series(bits: int, degree: int, half_range: float, ridge: float) -> tuple[Series, ...]:
    """Of every bit, the lowest first."""
    steps = (1 << bits) - 1
    x, basis = design(degree, half_range, max(24 * degree, _NODES * steps))
    entries = np.linspace(-half_range, half_range, steps + 1)
    codes = gray(np.arange(steps + 1))
    waves = np.stack([np.interp(x, entries, (codes >> k & 1).astype(np.float64)) for k in range(bits)], axis=1)
    factors = ridge_solution(basis, waves, ridge)
    errors = basis @ factors - waves
    found = []
    for k in range(bits):
        cos, sin = np.split(factors[1:, k], 2)
        real, imag = np.concatenate([factors[:1, k], cos]) / 2, np.concatenate([[0.0], -sin / 2])
        largest, rms = float(np.abs(errors[:, k]).max()), float(np.sqrt(np.mean(errors[:, k] ** 2)))
        found.append(Series(tuple(map(float, real)), tuple(map(float, imag)), half_range, largest, rms))
    return tuple(found)


def _bounded(lookup: Lookup) -> bool:
    """Whether neither bits nor result rise far anywhere on the torus: unused coefficients have any phase."""
    most = LARGEST_REACH / 2.0**LARGEST_BITS * max(map(abs, lookup.table))
    return max(map(reach, lookup.bits)) <= _LARGEST_BIT and reach(lookup) <= most
