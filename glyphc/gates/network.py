"""Dense networks on words: integers with a common binary point, tables for nonlinearities, weights public or encrypted.

As in Yoo and Yoon, "t-BMPNet" (2021): every value is a word of so many bits, of which some are behind the point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .circuit import Bit, Circuit
from .words import Word, Words, constant

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Format:
    """Words of ``bits`` bits, ``fraction`` of them behind the binary point."""

    bits: int
    fraction: int

    @property
    def limit(self) -> int:
        """The largest integer."""
        return (1 << self.bits - 1) - 1

    def integers(self, x: npt.ArrayLike) -> I64:
        """The nearest words, or the last ones."""
        scaled = np.rint(np.asarray(x, dtype=np.float64) * (1 << self.fraction))
        return np.asarray(np.clip(scaled, -self.limit - 1, self.limit)).astype(np.int64)

    def reals(self, words: npt.ArrayLike) -> F64:
        """What words stand for."""
        return np.asarray(words, dtype=np.float64) / (1 << self.fraction)

    def table(self, function: Callable[[F64], F64]) -> tuple[int, ...]:
        """A function of a word to a word."""
        every = np.arange(-self.limit - 1, self.limit + 1)
        return tuple(int(v) for v in self.integers(function(self.reals(every))))


@dataclass(frozen=True)
class Layer:
    """weights: integers of the format, shape (out, in); bias: (out,). table: of its function, empty without one."""

    weights: I64
    bias: I64
    table: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class NetworkCircuit:
    """Inputs are the bits of all input words, then, where they are encrypted, those of all weights and biases."""

    circuit: Circuit
    format: Format
    outputs: tuple[Word, ...]
    encrypted: bool

    @property
    def bits(self) -> tuple[Bit, ...]:
        """Of all outputs, one after another."""
        return tuple(bit for word in self.outputs for bit in word)

    @property
    def gates(self) -> int:
        """Bootstraps of a sample."""
        return len(self.circuit.needed(self.bits))


def network_circuit(layers: Sequence[Layer], format: Format, encrypted: bool = False) -> NetworkCircuit:
    """The circuit of a network. encrypted: whether weights and biases are inputs, and not in the circuit."""
    circuit = Circuit()
    words = Words(circuit)
    values: list[Word] = [circuit.word(format.bits) for _ in range(layers[0].weights.shape[1])]
    hidden = [_parameters(circuit, layer, format) for layer in layers] if encrypted else []
    for number, layer in enumerate(layers):
        wide = 2 * format.bits + (layer.weights.shape[1] + 1).bit_length()
        rows = []
        for row in range(len(layer.weights)):
            if encrypted:
                weights, bias = hidden[number][0][row], hidden[number][1][row]
                products = [words.multiply(x, w, wide) for x, w in zip(values, weights, strict=True)]
            else:
                bias = constant(int(layer.bias[row]), format.bits)
                products = [words.scale(x, int(w), wide) for x, w in zip(values, layer.weights[row], strict=True)]
            shifted = (*([False] * format.fraction), *bias)
            total = words.total([*products, shifted], wide)
            # rounded down to the binary point
            value = words.saturate(total[format.fraction :], format.bits)
            rows.append(words.lookup(value, layer.table, format.bits) if layer.table else value)
        values = rows
    return NetworkCircuit(circuit, format, tuple(values), encrypted)


def _parameters(circuit: Circuit, layer: Layer, format: Format) -> tuple[list[list[Word]], list[Word]]:
    weights = [[circuit.word(format.bits) for _ in row] for row in layer.weights]
    return weights, [circuit.word(format.bits) for _ in layer.bias]


def network_integers(layers: Sequence[Layer], format: Format, x: I64) -> I64:
    """What the circuit computes, on integers: shape (samples, out) from (samples, in)."""
    values = x.astype(np.int64)
    for layer in layers:
        total = values @ layer.weights.T + (layer.bias << format.fraction)
        values = np.clip(total >> format.fraction, -format.limit - 1, format.limit)
        if layer.table:
            values = np.array(layer.table, dtype=np.int64)[values + format.limit + 1]
    return values


def input_bits(layers: Sequence[Layer], format: Format, x: I64, encrypted: bool) -> npt.NDArray[np.bool_]:
    """The bits that a client encrypts for one sample, shape (in,), in the order of the circuit's inputs."""
    numbers = [x]
    if encrypted:
        for layer in layers:
            numbers += [layer.weights.ravel(), layer.bias]
    integers = np.concatenate([np.asarray(n).ravel() for n in numbers])
    return np.array([[bool(v >> k & 1) for k in range(format.bits)] for v in integers.tolist()]).ravel()


def output_integers(format: Format, bits: npt.NDArray[np.bool_]) -> I64:
    """Signed integers of output bits, shape (outputs * bits,)."""
    words = bits.reshape(-1, format.bits).astype(np.int64)
    places = 1 << np.arange(format.bits, dtype=np.int64)
    return np.asarray(words @ places - (words[:, -1] << format.bits))
