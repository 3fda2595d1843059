"""Training on integers: what every integer of a step stands for, and the step in the clear, which is the definition.

Weights are integers of a few bits, and so are samples, errors and what functions give. The client brings sums back to
such integers where it decrypts and encrypts again: in front of functions, of errors, and of the weights after a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.rescaling import rescaled, table_indices
from glyphc.slots.integers import polynomial_of
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job

from .chain import Chain, Layer, chain_of
from .seen import LEAST, Seen

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.floating[Any]]

# Bits by which a polynomial's coefficients are finer than what they are multiplied by.
_COEFFICIENT_BITS = 8


@dataclass(frozen=True)
class Precision:
    """Signed bits of integers. refreshed: of what polynomials read; 0 for tables, with an index of so many bits."""

    inputs: int = 8
    weights: int = 12
    errors: int = 10
    refreshed: int = 8
    index: int = 0
    entries: int = 8


@dataclass(frozen=True)
class PolynomialBehind:
    """A function and its derivative as polynomials. ratio: by which the client multiplies sums. coefficients, slope:
    integers, of x^0 first. unit, slope_unit: what an integer of values and of slopes stands for."""

    ratio: float
    coefficients: tuple[int, ...]
    slope: tuple[int, ...]
    unit: float
    slope_unit: float

    def of(self, sums: I64) -> tuple[I64, I64]:
        """Values and slopes."""
        x = rescaled(sums, self.ratio)
        return _evaluated(self.coefficients, x), _evaluated(self.slope, x)


@dataclass(frozen=True)
class TableBehind:
    """The same as tables. The client finds the index round(ratio * sum + shift), of so many bits. entries, slopes: of
    the tables."""

    ratio: float
    shift: float
    bits: int
    entries: tuple[int, ...]
    slopes: tuple[int, ...]
    unit: float
    slope_unit: float

    def of(self, sums: I64) -> tuple[I64, I64]:
        """Values and slopes."""
        index = table_indices(sums, self.ratio, self.shift, self.bits)
        return np.array(self.entries, dtype=np.int64)[index], np.array(self.slopes, dtype=np.int64)[index]


Behind = PolynomialBehind | TableBehind


@dataclass(frozen=True)
class LayerFormat:
    """one: the integer that stands for 1 among what the layer reads. behind: its function, None for none.

    error_ratio: by which the client multiplies errors. gain: of gradients, beside ``Formats.weight_factor`` of weights.
    Largest magnitudes that are planned for: sum_limit, error_limit: of sums and errors as the client decrypts them.
    total_limit: the same of what becomes new weights.
    """

    layer: Layer
    weight_unit: float
    read_unit: float
    one: int
    behind: Behind | None
    error_ratio: float
    gain: int
    sum_limit: int
    error_limit: int
    total_limit: int


@dataclass(frozen=True)
class Formats:
    """target_unit: of the labels' integers. weight_factor: what weights are multiplied by before gradients are taken
    away; the client divides by it, and rounds."""

    chain: Chain
    layers: tuple[LayerFormat, ...]
    input_unit: float
    target_unit: float
    weight_factor: int

    @property
    def bits(self) -> float:
        """log2 of the modulus that holds all that the client decrypts."""
        largest = max(max(f.sum_limit, f.error_limit, f.total_limit) for f in self.layers)
        return log2(2 * largest + 1)

    def samples(self, x: F64) -> I64:
        return _nearest(x, self.input_unit)

    def targets(self, y: F64) -> I64:
        return _nearest(y, self.target_unit)

    def integers(self, weights: Mapping[str, F64]) -> dict[str, I64]:
        """The nearest integers of weights and biases."""
        found = {}
        for f in self.layers:
            found[f.layer.weight] = _nearest(weights[f.layer.weight], f.weight_unit)
            if f.layer.bias is not None:
                found[f.layer.bias] = _nearest(weights[f.layer.bias], f.weight_unit * f.one * f.read_unit)
        return found

    def real(self, state: Mapping[str, npt.NDArray[Any]]) -> dict[str, F64]:
        """The inverse of :meth:`integers`, exactly."""
        found: dict[str, F64] = {}
        for f in self.layers:
            found[f.layer.weight] = state[f.layer.weight] * f.weight_unit
            if f.layer.bias is not None:
                found[f.layer.bias] = state[f.layer.bias] * (f.weight_unit * f.one * f.read_unit)
        return found

    def after(self, state: Mapping[str, npt.NDArray[Any]], x: I64, y: I64) -> dict[str, I64]:
        """A step, from samples of shape (samples, inputs) and targets of (samples, outputs).

        TrainingError where values leave what is planned for.
        """
        read, slopes = [x], []
        for at, f in enumerate(self.layers):
            z = read[-1] @ state[f.layer.weight].T
            z = z if f.layer.bias is None else z + f.one * state[f.layer.bias]
            if f.behind is not None:
                check_limit(z, f.sum_limit, f"sums of trained layer {at + 1}")
            a, s = (z, np.ones_like(z)) if f.behind is None else f.behind.of(z)
            read.append(a)
            slopes.append(s)
        raw = read[-1] - y
        raw = raw * slopes[-1] if self.chain.sloped else raw
        new: dict[str, I64] = {}
        for at in reversed(range(len(self.layers))):
            f = self.layers[at]
            check_limit(raw, f.error_limit, f"errors of trained layer {at + 1}")
            errors = rescaled(raw, f.error_ratio)
            gradients = {f.layer.weight: errors.T @ read[at]}
            if f.layer.bias is not None:
                gradients[f.layer.bias] = f.one * errors.sum(axis=0)
            for name, gradient in gradients.items():
                total = self.weight_factor * state[name] - f.gain * gradient
                check_limit(total, f.total_limit, f"weights of trained layer {at + 1}")
                new[name] = rescaled(total, 1 / self.weight_factor)
            if at:
                raw = errors @ state[f.layer.weight] * slopes[at - 1]
        return new


def check_limit(values: I64, limit: int, what: str) -> None:
    """TrainingError for integers beyond a planned limit."""
    if values.size and int(np.abs(values).max()) > limit:
        raise TrainingError(
            f"the {what} left the range that was planned; use a larger --margin or a smaller learning rate"
        )


def formats_of(job: Job, name: str, precision: Precision) -> Formats:
    """Formats by a trial in the clear. name: of the strategy, for messages.

    TrainingError for what cannot be trained so, and where the trial diverges.
    """
    chain = chain_of(job, name)
    seen = Seen.of(job, name)
    input_unit = seen.inputs / _limit(precision.inputs)
    read_unit = input_unit
    behind: list[Behind | None] = []
    units: list[tuple[float, float, int]] = []
    for at, layer in enumerate(chain.layers):
        one = max(1, round(1 / read_unit))
        # of biases, an integer stands for one * read_unit times as much
        weight_unit = seen.weights[at] / _limit(precision.weights)
        sum_unit = read_unit * weight_unit
        made = _behind(layer, sum_unit, seen.sums[at], precision, name)
        behind.append(made)
        units.append((read_unit, weight_unit, one))
        read_unit = sum_unit if made is None else made.unit
    target_unit = read_unit
    rate = job.options.optimizer.learning_rate * chain.scale
    last = behind[-1]
    raw_unit = target_unit * (last.slope_unit if last is not None and chain.sloped else 1.0)
    powers, ratios, raws, limits = [0] * len(units), [0.0] * len(units), [0.0] * len(units), [0] * len(units)
    for at in reversed(range(len(units))):
        read_unit, weight_unit, _ = units[at]
        wanted = seen.errors[at] / _limit(precision.errors)
        # of errors, a unit by which an update is a power of two of gradients for a unit of weights
        power = max(0, ceil(log2(weight_unit / (rate * read_unit * wanted))))
        while raw_unit * rate * read_unit * 2.0**power > weight_unit and power:
            power -= 1
        error_unit = weight_unit / (rate * read_unit * 2.0**power)
        if raw_unit > error_unit:
            raise TrainingError(
                f"the strategy {name!r}: gradients of trained layer {at + 1} are coarser than its weights; use a "
                "smaller learning rate or more samples in a step"
            )
        powers[at], ratios[at], raws[at] = power, raw_unit / error_unit, raw_unit
        limits[at] = ceil(seen.errors[at] / error_unit)
        if at:
            before = behind[at - 1]
            raw_unit = weight_unit * error_unit * (before.slope_unit if before is not None else 1.0)
    factor = 1 << max(powers)
    layers = []
    for at, layer in enumerate(chain.layers):
        read_unit, weight_unit, one = units[at]
        reads = max(ceil(seen.values[at] / read_unit), one)
        gain = factor >> powers[at]
        total = 2 * factor * _limit(precision.weights) + gain * job.batches.batch * reads * (limits[at] + 1)
        format = LayerFormat(
            layer,
            weight_unit,
            read_unit,
            one,
            behind[at],
            ratios[at],
            gain,
            ceil(seen.sums[at] / (read_unit * weight_unit)) + 1,
            ceil(seen.errors[at] / raws[at]) + 1,
            total,
        )
        layers.append(format)
    return Formats(chain, tuple(layers), input_unit, target_unit, factor)


def _behind(layer: Layer, sum_unit: float, reach: float, precision: Precision, name: str) -> Behind | None:
    """reach: planned magnitude of the sums. None where there is no function."""
    if not layer.functions:
        return None
    if precision.index:
        return _table(layer, sum_unit, reach, precision)
    unit = reach / _limit(precision.refreshed)
    # integers are never made finer than the sums are
    unit = max(unit, sum_unit)
    real = polynomial_of(layer.functions, reach)
    if real is None:
        raise TrainingError(
            f"the strategy {name!r} takes polynomials, not {', then '.join(map(str, layer.functions))}; a function at "
            "the end of the network is left out with --loss mean-squared-error"
        )
    x = np.linspace(-reach, reach, 1025)
    largest = max(float(np.abs(np.polynomial.polynomial.polyval(x, real)).max()), LEAST)
    degree = len(real) - 1
    bits = degree * (precision.refreshed - 1) + _COEFFICIENT_BITS
    value_unit = largest * 2.0**-bits
    integers = tuple(round(float(c) * unit**k / value_unit) for k, c in enumerate(real))
    slope = tuple(k * c for k, c in enumerate(integers))[1:]
    return PolynomialBehind(sum_unit / unit, integers, slope, value_unit, value_unit / unit)


def _table(layer: Layer, sum_unit: float, reach: float, precision: Precision) -> TableBehind:
    last = (1 << precision.index) - 1
    step = 2 * reach / last
    x = -reach + step * np.arange(last + 1)
    found = []
    for y in (layer.value(x), layer.slope(x)):
        if not np.isfinite(y).all():
            raise TrainingError(f"{', then '.join(map(str, layer.functions))} is not finite on [{-reach:g}, {reach:g}]")
        unit = max(float(np.abs(y).max()), LEAST) / _limit(precision.entries)
        found.append((tuple(int(v) for v in np.rint(y / unit)), unit))
    (entries, unit), (slopes, slope_unit) = found
    return TableBehind(sum_unit / step, reach / step, precision.index, entries, slopes, unit, slope_unit)


def _limit(bits: int) -> int:
    return (1 << bits - 1) - 1


def _nearest(x: npt.NDArray[Any], unit: float) -> I64:
    return np.asarray(np.rint(x / unit)).astype(np.int64)


def _evaluated(coefficients: tuple[int, ...], x: I64) -> I64:
    total = np.zeros_like(x)
    for c in reversed(coefficients):
        total = total * x + c
    return total
