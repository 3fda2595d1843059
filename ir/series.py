"""Trigonometric series, and tables that they look up: what a functional bootstrap evaluates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import IRError
from .tables import gray, lookup_levels, moebius, parted

# What a bootstrap puts out stands this many bits below its series: the value 1 becomes the phase 2^-OUTPUT_BITS. The
# same for all programs, because OpenFHE keeps the factor with a context that equal programs share. The noise of the
# transform behind the series shrinks with the factor, so it is as small as the noise below it lets it be.
OUTPUT_BITS = 16
# Largest value of a series on its range. Between the range's ends, where it is free, it may be several times larger.
LARGEST_BITS = 3
# Largest value anywhere on the torus: beyond, coefficients between the powers overflow OpenFHE's moduli and all results
# are wrong. Seen at degree 59: 46 and 64 hold, 93 and 128 do not.
LARGEST_REACH = 48.0

F64 = npt.NDArray[np.floating[Any]]

# Phases that are evaluated at a time.
_BLOCK = 1 << 14
# Bits of the index of a table that a bootstrap looks up.
FEWEST_LOOKUP_BITS, MOST_LOOKUP_BITS = 2, 8
# A difference of phases that a slope is taken over.
_NEAR = 1e-7


@dataclass(frozen=True)
class Series:
    """f(x) = 2 Re sum_k c_k e^{2 pi i k x}, for torus phases |x| <= half_range.

    max_error and rms_error: of the fit, as a share of the function's own range; the rms is weighted by where
    calibration saw values. dead_zone: half-width, as a phase, of the neighbourhoods of the function's jumps that do
    not count:
    there the series passes from one side to the other.
    """

    real: tuple[float, ...]
    imag: tuple[float, ...]
    half_range: float
    max_error: float
    rms_error: float
    dead_zone: float = 0.0

    @property
    def degree(self) -> int:
        return len(self.real) - 1

    def values(self, x: F64) -> F64:
        """At phases of any shape."""
        return evaluate_coefficients(np.array(self.real), np.array(self.imag), x)


@dataclass(frozen=True)
class Lookup:
    """A table of 2^d entries, looked up by the Gray-code bits of an index, each a series of the phase.

    Entry j is that of the phase half_range * (2 j / (2^d - 1) - 1). Neighbouring indices differ in one bit of their
    Gray code, so between two entries one bit alone is a fraction, and the result lies between them: d series that go
    straight from 0 to 1 where their bit changes interpolate linearly, and in plain binary they would meet entries far
    away. bits: the series, that of the lowest bit first; all of one degree and half_range. max_error, rms_error,
    dead_zone: of the result, as those of a series. IRError for bits that do not fit the table.
    """

    bits: tuple[Series, ...]
    table: tuple[float, ...]
    half_range: float
    max_error: float
    rms_error: float
    dead_zone: float = 0.0

    def __post_init__(self) -> None:
        if not FEWEST_LOOKUP_BITS <= len(self.bits) <= MOST_LOOKUP_BITS or len(self.table) != 1 << len(self.bits):
            raise IRError(
                f"a table of {len(self.table)} entries is not looked up by {len(self.bits)} bits; there are "
                f"{FEWEST_LOOKUP_BITS} to {MOST_LOOKUP_BITS} of them"
            )

    @property
    def degree(self) -> int:
        return self.bits[0].degree

    @property
    def levels(self) -> int:
        """That its products take in slots."""
        return lookup_levels(len(self.bits))

    @cached_property
    def factors(self) -> F64:
        """Of products of bits: entry (h, l) is that of all high bits that are set in h and all low ones set in l."""
        coded = np.empty(len(self.table))
        coded[gray(np.arange(len(self.table)))] = self.table
        return np.asarray(moebius(coded).reshape(-1, 1 << parted(len(self.bits))[0]))

    def values(self, x: F64) -> F64:
        """At phases of any shape, of the series as they are."""
        phases = np.asarray(x, dtype=np.float64)
        flat, out = phases.reshape(-1), np.empty(phases.size)
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            out[start : start + _BLOCK] = self.combined([series.values(block) for series in self.bits])
        return out.reshape(phases.shape)

    def combined(self, bits: list[F64]) -> F64:
        """What a bootstrap makes of the bits, fractions or not: the sum of products of them, times the factors."""
        table = np.empty((len(self.table), *(1,) * bits[0].ndim))
        table[gray(np.arange(len(self.table)))] = np.array(self.table).reshape(table.shape)
        found: F64 = table
        for bit in reversed(bits):
            # the highest one first: of each half of what is left, so much
            low, high = np.split(found, 2)
            found = low + (high - low) * bit
        return np.asarray(found[0])

    def nearest(self, x: F64) -> F64:
        """The entries of the nearest indices: what the table is."""
        last = len(self.table) - 1
        index = np.clip(np.rint((np.asarray(x) / self.half_range + 1) / 2 * last), 0, last).astype(np.int64)
        return np.asarray(np.array(self.table)[index])


# What a bootstrap can compute of a phase.
Approximation = Series | Lookup


def series_of(what: Approximation) -> tuple[Series, ...]:
    """All series that a bootstrap evaluates for it."""
    return what.bits if isinstance(what, Lookup) else (what,)


def series_problem(what: Approximation) -> str:
    """In words, what is wrong with its series; empty if nothing is."""
    for series in series_of(what):
        if series.degree < 1 or len(series.real) != len(series.imag):
            return f"an empty series, or one of unequal parts ({len(series.real)} and {len(series.imag)} coefficients)"
        if (series.degree, series.half_range) != (what.degree, what.half_range):
            return f"series of different degrees or ranges: {series.degree} and {what.degree}"
    return ""


def evaluate_coefficients(real: F64, imag: F64, x: F64) -> F64:
    """The series at phases x (any shape), by Horner's rule in e^{2 pi i x}."""
    phases = np.asarray(x, dtype=np.float64)
    flat, factors = phases.reshape(-1), real[::-1] + 1j * imag[::-1]
    out = np.empty(flat.size)
    # so many at a time as stay in the processor's cache
    for start in range(0, flat.size, _BLOCK):
        z = np.exp(2j * np.pi * flat[start : start + _BLOCK])
        total = np.zeros_like(z)
        for factor in factors:
            total *= z
            total += factor
        out[start : start + _BLOCK] = 2 * total.real
    return out.reshape(phases.shape)


def evaluate_series(series: Approximation, x: F64) -> F64:
    """What a bootstrap makes of phases x (any shape), without noise."""
    return series.values(x)


def reach(series: Approximation) -> float:
    """The largest absolute value on the whole torus, also where nothing is fitted."""
    x = np.arange(16 * (series.degree + 1)) / (16 * (series.degree + 1))
    return float(np.abs(series.values(x)).max())


def rms_slope(series: Approximation) -> float:
    """Rms derivative by the phase over the usable range: how strongly noise of the phase reaches the result."""
    x = np.linspace(-series.half_range, series.half_range, 1025)
    if isinstance(series, Lookup):
        slope = (series.values(x + _NEAR) - series.values(x - _NEAR)) / (2 * _NEAR)
        return float(np.sqrt(np.mean(slope**2)))
    k = 2j * np.pi * np.arange(len(series.real))
    derivative = k * (np.array(series.real) + 1j * np.array(series.imag))
    return float(np.sqrt(np.mean(evaluate_coefficients(derivative.real, derivative.imag, x) ** 2)))
