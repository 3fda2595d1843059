"""Training on words of bits: what every word of a step stands for, and the step in the clear, which is the definition.

Every tensor has its own binary point, so that products with powers of two are shifts, which cost no gate. Sums are
exact; where another product or a table reads them they are rounded to a word, and saturate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, isclose, log2
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.train.errors import TrainingError
from glyphc.train.job import Job

from .chain import Chain, Layer, chain_of
from .seen import LEAST, Seen

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class WordLayer:
    """Binary points: log2 of what an integer stands for, of what the layer reads, of its weights, of its sums as words,
    of values and slopes behind them, and of errors. table, slopes: of all words, the lowest first; empty for none.
    raw: binary point of errors before they are rounded."""

    layer: Layer
    read: int
    weight: int
    sums: int
    value: int
    slope: int
    error: int
    raw: int
    table: tuple[int, ...] = ()
    slopes: tuple[int, ...] = ()

    @property
    def one(self) -> int:
        """By how many bits an integer is shifted that biases are multiplied by, which stands for 1 or less."""
        return max(0, -self.read)

    @property
    def sum_shift(self) -> int:
        return self.sums - self.read - self.weight

    @property
    def error_shift(self) -> int:
        return self.error - self.raw

    def update_shift(self, rate: int) -> int:
        """Bits by which weights are shifted before gradients are taken away. rate: log2 of the factor of gradients."""
        return self.weight - (rate + self.read + self.error)


@dataclass(frozen=True)
class WordFormats:
    """bits: of words. rate: log2 of what gradients are multiplied by. samples: binary point of samples."""

    chain: Chain
    bits: int
    rate: int
    layers: tuple[WordLayer, ...]

    def samples(self, x: F64) -> I64:
        """Words of samples."""
        return self._words(x, self.layers[0].read)

    def targets(self, y: F64) -> I64:
        """Words of targets."""
        return self._words(y, self.layers[-1].value)

    def integers(self, weights: Mapping[str, F64]) -> dict[str, I64]:
        """Words of weights and biases."""
        found = {}
        for f in self.layers:
            found[f.layer.weight] = self._words(weights[f.layer.weight], f.weight)
            if f.layer.bias is not None:
                found[f.layer.bias] = self._words(weights[f.layer.bias], f.weight + f.one + f.read)
        return found

    def real(self, state: Mapping[str, npt.NDArray[Any]]) -> dict[str, F64]:
        """The inverse, exactly."""
        found: dict[str, F64] = {}
        for f in self.layers:
            found[f.layer.weight] = state[f.layer.weight] * 2.0**f.weight
            if f.layer.bias is not None:
                found[f.layer.bias] = state[f.layer.bias] * 2.0 ** (f.weight + f.one + f.read)
        return found

    def after(self, state: Mapping[str, npt.NDArray[Any]], x: I64, y: I64) -> dict[str, I64]:
        """A step, from words of samples, shape (samples, inputs), and of targets."""
        read, slopes = [x], []
        for f in self.layers:
            z = read[-1] @ state[f.layer.weight].T
            z = z if f.layer.bias is None else z + (state[f.layer.bias] << f.one)
            z = shortened(z, f.sum_shift, self.bits)
            index = z + (1 << self.bits - 1)
            read.append(np.array(f.table, dtype=np.int64)[index] if f.table else z)
            slopes.append(np.array(f.slopes, dtype=np.int64)[index] if f.slopes else np.ones_like(z))
        raw = read[-1] - y
        raw = raw * slopes[-1] if self.chain.sloped else raw
        new: dict[str, I64] = {}
        for at in reversed(range(len(self.layers))):
            f = self.layers[at]
            errors = shortened(raw, f.error_shift, self.bits)
            gradients = {f.layer.weight: errors.T @ read[at]}
            if f.layer.bias is not None:
                gradients[f.layer.bias] = errors.sum(axis=0) << f.one
            shift = f.update_shift(self.rate)
            for name, gradient in gradients.items():
                total = (state[name] << max(shift, 0)) - (gradient << max(-shift, 0))
                new[name] = shortened(total, max(shift, 0), self.bits)
            if at:
                raw = errors @ state[f.layer.weight] * slopes[at - 1]
        return new

    def _words(self, x: npt.NDArray[Any], point: int) -> I64:
        limit = 1 << self.bits - 1
        return np.asarray(np.clip(np.rint(x * 2.0**-point), -limit, limit - 1)).astype(np.int64)


def shortened(values: I64, shift: int, bits: int) -> I64:
    """The nearest words of values without their lowest bits, halves up; they saturate."""
    limit = 1 << bits - 1
    return np.asarray(np.clip(values + ((1 << shift) >> 1) >> shift, -limit, limit - 1))


def word_formats_of(job: Job, name: str, bits: int) -> WordFormats:
    """Formats by a trial in the clear. name: of the strategy, for messages.

    TrainingError for what cannot be trained so, a learning rate that is no shift, and where the trial diverges.
    """
    chain = chain_of(job, name)
    factor = job.options.optimizer.learning_rate * chain.scale
    rate = round(log2(factor))
    if not isclose(factor, 2.0**rate):
        raise TrainingError(
            f"the strategy {name!r} multiplies gradients by a power of two, which is a shift: use --learning-rate "
            f"{2.0**rate / chain.scale:g}, or that times a power of two"
        )
    seen = Seen.of(job, name)

    def point(largest: float) -> int:
        return ceil(log2(max(largest, LEAST) / ((1 << bits - 1) - 1)))

    read, found = point(seen.inputs), []
    for at, layer in enumerate(chain.layers):
        weight = point(seen.weights[at])
        sums = max(point(seen.sums[at]), read + weight)
        value, slope = sums, 0
        table: tuple[int, ...] = ()
        slope_table: tuple[int, ...] = ()
        if layer.functions:
            x = np.arange(-(1 << bits - 1), 1 << bits - 1) * 2.0**sums
            values, slopes = layer.value(x), layer.slope(x)
            if not (np.isfinite(values).all() and np.isfinite(slopes).all()):
                raise TrainingError(f"{', then '.join(map(str, layer.functions))} is not finite on all words")
            value, slope = point(float(np.abs(values).max())), point(float(np.abs(slopes).max()))
            table, slope_table = _entries(values, value, bits), _entries(slopes, slope, bits)
        found.append(WordLayer(layer, read, weight, sums, value, slope, 0, 0, table, slope_table))
        read = value
    last = found[-1]
    raw = last.value + (last.slope if chain.sloped and last.slopes else 0)
    layers: list[WordLayer] = []
    for at in reversed(range(len(found))):
        f = found[at]
        error = max(point(seen.errors[at]), raw)
        layers.insert(0, WordLayer(f.layer, f.read, f.weight, f.sums, f.value, f.slope, error, raw, f.table, f.slopes))
        if at:
            raw = f.weight + error + (found[at - 1].slope if found[at - 1].slopes else 0)
    return WordFormats(chain, bits, rate, tuple(layers))


def _entries(y: F64, point: int, bits: int) -> tuple[int, ...]:
    limit = (1 << bits - 1) - 1
    return tuple(int(v) for v in np.clip(np.rint(y * 2.0**-point), -limit - 1, limit))
