"""Training's instructions on plain numbers: exactly (their definition), and with what encryption adds.

A "ciphertext" is its message: N real numbers, as float64. How many limbs it has is checked ahead of the execution
(``glyphc.ir.instructions.ckks.check``) and does not matter here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glyphc.ir.functions import Function, compose
from glyphc.ir.instructions.ckks import Bootstrap, Refresh
from glyphc.ir.noise import HYBRID_KEY_SWITCH, ROUNDING, SIGMA, bootstrap, bootstrap_bits, public_encryption
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import Series, evaluate_series, rms_slope

from .cleartext import F64
from .spectra import NegacyclicFFT


class ClearCKKS:
    """Exact arithmetic; a bootstrap computes its functions themselves."""

    def __init__(self, parameters: Parameters) -> None:
        self._ring = parameters.ring
        self._grid = parameters.ring // (2 * parameters.slots)
        self._fft = NegacyclicFFT(parameters.ring)

    def encrypt(self, message: F64, limbs: int) -> F64:
        """A message of shape (N,) as this backend's ciphertext."""
        return np.array(message, dtype=np.float64)

    def decrypt(self, ciphertext: F64) -> F64:
        """The message, shape (N,)."""
        return ciphertext.copy()

    def scaled(self, source: F64, factor: float) -> F64:
        return np.asarray(source * factor)

    def product(self, pairs: Sequence[tuple[F64, F64]]) -> F64:
        total = np.zeros(self._ring // 2, dtype=np.complex128)
        for a, b in pairs:
            total += self._fft.forward(a) * self._fft.forward(b)
        return self._fft.inverse(total)

    def sum(self, terms: Sequence[tuple[F64, int]]) -> F64:
        return np.asarray(sum(sign * value for value, sign in terms))

    def unpack(self, source: F64, parts: int, stride: int, count: int) -> list[F64]:
        pieces: list[F64] = []
        for r in range(count):
            piece = np.zeros(self._ring)
            piece[:: stride * parts] = parts * source[stride * r :: stride * parts]
            pieces.append(piece)
        return pieces

    def pack(self, sources: Sequence[F64 | None], parts: int, stride: int) -> F64:
        out = np.zeros(self._ring)
        for r, source in enumerate(sources):
            if source is not None:
                out[stride * r :: stride * parts] = stride * parts * source[:: stride * parts]
        return out

    def refresh(self, source: F64, instruction: Refresh) -> F64:
        return self._on_grid(self._function(source, instruction.functions, instruction.series))

    def reverse(self, source: F64) -> F64:
        return np.concatenate([source[:1], -source[:0:-1]])

    def convolved(self, source: F64, exponents: Sequence[int], weight: int) -> F64:
        factor = np.zeros(self._ring)
        wrapped = np.asarray(exponents) % (2 * self._ring)
        np.add.at(factor, wrapped % self._ring, np.where(wrapped < self._ring, weight, -weight))
        return self._fft.inverse(self._fft.forward(source) * self._fft.forward(factor))

    def raised(self, source: F64, value: float) -> F64:
        return np.asarray(source + value)

    def reduced(self, source: F64, limbs: int) -> F64:
        return source

    def bootstrap(self, source: F64, instruction: Bootstrap) -> list[F64]:
        both = zip(instruction.functions, instruction.series, strict=True)
        return [self._on_grid(self._function(source, functions, series)) for functions, series in both]

    def masked(self, source: F64, conditions: Sequence[tuple[int, int, int]]) -> F64:
        keep = np.ones(self._ring, dtype=bool)
        for period, start, stop in conditions:
            keep &= np.arange(self._ring) % period >= start
            keep &= np.arange(self._ring) % period < stop
        return np.asarray(source * keep)

    def slot_product(self, a: F64, b: F64) -> F64:
        return np.asarray(a * b)

    def decode(self, source: F64) -> F64:
        return source

    def _function(self, source: F64, functions: tuple[Function, ...], series: Series) -> F64:
        x = source[:: self._grid]
        return compose(functions, x - np.rint(x))

    def _on_grid(self, values: F64) -> F64:
        out = np.zeros(self._ring)
        out[:: self._grid] = values
        return out


class SimulatedCKKS(ClearCKKS):
    """Adds Gaussian noise of the measured sizes (``glyphc.ir.noise``), and evaluates series instead of functions.

    engine: which one computes the run that is simulated.
    """

    def __init__(self, parameters: Parameters, seed: int | tuple[int, ...] = 0, engine: str = "openfhe") -> None:
        super().__init__(parameters)
        self._unit = 2.0**-parameters.linear_bits
        self._scaling_bits = bootstrap_bits(parameters.scaling_bits, engine)
        self._random = np.random.default_rng(seed)

    def encrypt(self, message: F64, limbs: int) -> F64:
        return super().encrypt(message, limbs) + self._noise(SIGMA * self._unit)

    def encrypt_publicly(self, message: F64, limbs: int) -> F64:
        """The same under a public key, which is noisier."""
        return super().encrypt(message, limbs) + self._noise(public_encryption(self._ring) * self._unit)

    def scaled(self, source: F64, factor: float) -> F64:
        rounded = np.rint(factor / self._unit) * self._unit
        return super().scaled(source, rounded) + self._noise(ROUNDING * self._unit)

    def product(self, pairs: Sequence[tuple[F64, F64]]) -> F64:
        return super().product(pairs) + self._noise(ROUNDING * self._unit)

    def unpack(self, source: F64, parts: int, stride: int, count: int) -> list[F64]:
        return [piece + self._tree(parts) for piece in super().unpack(source, parts, stride, count)]

    def pack(self, sources: Sequence[F64 | None], parts: int, stride: int) -> F64:
        return super().pack(sources, parts, stride) + self._tree(stride * parts)

    def _tree(self, factor: int) -> F64:
        """Noise of key switches, each doubled by all later levels of the tree."""
        return self._noise(HYBRID_KEY_SWITCH * self._unit * factor / np.sqrt(3)) if factor > 1 else self._noise(0.0)

    def _function(self, source: F64, functions: tuple[Function, ...], series: Series) -> F64:
        values = evaluate_series(series, source[:: self._grid])
        deviation = bootstrap(self._ring, rms_slope(series), self._scaling_bits)
        return values + self._random.normal(0, deviation, len(values))

    def _noise(self, deviation: float) -> F64:
        return self._random.normal(0, deviation, self._ring)
