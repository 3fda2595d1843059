"""Trigonometric series for functional bootstraps: f(x) = 2 Re sum_{k=0}^{d} c_k e^{2 pi i k x}.

The bootstrap evaluates such a series at every phase x in [-1/2, 1/2) (OpenFHE's ``EvalFBT``; Alexandru, Kim,
Polyakov, "General Functional Bootstrapping using CKKS", 2024, uses Hermite interpolation of look-up tables). Here the
coefficients are a ridge least-squares fit of the wanted function on |x| <= R only, a Fourier extension: outside, the
series
is free to turn around, so the function need not be periodic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.series import Series, evaluate_coefficients

F64 = npt.NDArray[np.floating[Any]]

# Half of the torus that carries values; the rest is where the series turns around.
HALF_RANGE = 0.45
# Ridge weight relative to the largest singular value squared: bounds the coefficients, hence the bootstrap's noise
# gain.
_RIDGE = 1e-10
# A coefficient of exactly zero makes OpenFHE skip powers that it later needs.
_TINY = 1e-12


@lru_cache(maxsize=16)
def _design(degree: int, half_range: float, points: int) -> tuple[F64, F64]:
    """Nodes (Chebyshev, dense at the edges where extensions err most) and basis 1, cos, sin at them."""
    x = half_range * np.cos(np.pi * (np.arange(points) + 0.5) / points)
    k = np.arange(1, degree + 1)
    phase = 2 * np.pi * np.outer(x, k)
    return x, np.hstack([np.ones((points, 1)), np.cos(phase), np.sin(phase)])


def fit(
    function: Callable[[F64], F64],
    degree: int,
    half_range: float = HALF_RANGE,
    weights: tuple[int, ...] = (),
) -> Series:
    """Fit a series of the given degree to ``function`` on phases |x| <= half_range.

    weights: histogram over [-half_range, half_range] of where values lie; empty means uniform. It shapes the fit
    mildly (the
    whole range stays covered) and weighs the reported rms error. Errors are reported as a share of the function's
    range (max - min) over the interval, measured between the nodes of the fit.

    Raises ValueError when the function is not finite on the interval.
    """
    points = max(2000, 24 * degree)
    x, basis = _design(degree, half_range, points)
    y = function(x)
    if not np.all(np.isfinite(y)):
        raise ValueError("the function is not finite on its whole input range")
    root = np.sqrt(0.5 + 0.5 * _density(x, half_range, weights))
    a, b = basis * root[:, None], y * root
    gram = a.T @ a
    ridge = _RIDGE * np.linalg.norm(gram, 2)
    solution = np.linalg.solve(gram + ridge * np.eye(gram.shape[0]), a.T @ b)
    # one step of iterative refinement: the normal equations lose half of the digits
    solution += np.linalg.solve(gram + ridge * np.eye(gram.shape[0]), a.T @ (b - a @ solution))
    constant, cos, sin = solution[0], solution[1 : degree + 1], solution[degree + 1 :]
    # 2 Re (c e^{ikx}) with c = (p - iq)/2 is p cos(kx) + q sin(kx)
    real = np.concatenate([[constant / 2], cos / 2])
    imag = np.concatenate([[0.0], -sin / 2])
    span = float(y.max() - y.min()) or 1.0
    grid = np.linspace(-half_range, half_range, 4 * points + 1)
    error = evaluate_coefficients(real, imag, grid) - function(grid)
    density = _density(grid, half_range, weights)
    rms = float(np.sqrt(np.average(error**2, weights=density)))
    return Series(
        tuple(float(c) if abs(c) > _TINY else _TINY for c in real),
        tuple(float(c) if abs(c) > _TINY else _TINY for c in imag),
        half_range,
        float(np.abs(error).max()) / span,
        rms / span,
    )


def _density(x: F64, half_range: float, weights: tuple[int, ...]) -> F64:
    """Relative density of values at x, mean about 1, never zero (every phase must stay covered)."""
    if not weights or sum(weights) == 0:
        return np.ones_like(x)
    counts = np.array(weights, dtype=np.float64)
    bins = np.clip(((x / half_range + 1) / 2 * len(counts)).astype(int), 0, len(counts) - 1)
    return np.asarray(counts[bins] / counts.mean() + 1e-3)
