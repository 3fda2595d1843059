"""Trigonometric series: what a functional bootstrap evaluates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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


def evaluate_series(series: Series, x: F64) -> F64:
    """The series at phases x (any shape)."""
    return evaluate_coefficients(np.array(series.real), np.array(series.imag), x)


def reach(series: Series) -> float:
    """The largest absolute value on the whole torus, also where nothing is fitted."""
    x = np.arange(16 * (series.degree + 1)) / (16 * (series.degree + 1))
    return float(np.abs(evaluate_series(series, x)).max())


def rms_slope(series: Series) -> float:
    """Rms derivative by the phase over the usable range: how strongly noise of the phase reaches the result."""
    x = np.linspace(-series.half_range, series.half_range, 1025)
    k = 2j * np.pi * np.arange(len(series.real))
    derivative = k * (np.array(series.real) + 1j * np.array(series.imag))
    return float(np.sqrt(np.mean(evaluate_coefficients(derivative.real, derivative.imag, x) ** 2)))
