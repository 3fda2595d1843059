"""Products modulo X^n + 1 in double precision, by complex transforms; those of what is multiplied often are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.floating[Any]]
C128 = npt.NDArray[np.complex128]

# Bytes of transforms that are kept, and about as many of what they are of.
_KEPT = 1 << 27


class NegacyclicFFT:
    """A complex transform of length n/2 on twisted coefficients."""

    def __init__(self, n: int) -> None:
        self._half = n // 2
        self._twist = np.exp(1j * np.pi * np.arange(self._half) / n)

    def forward(self, a: F64) -> C128:
        """Values of a at half of the odd 2n-th roots of unity (the other half are conjugates)."""
        return np.asarray(np.fft.fft((a[: self._half] + 1j * a[self._half :]) * self._twist))

    def inverse(self, values: C128) -> F64:
        a = np.fft.ifft(values) * self._twist.conj()
        return np.concatenate([a.real, a.imag])


class Spectra:
    """The transforms of polynomials that several sums of products read: those used last are kept."""

    def __init__(self, fft: NegacyclicFFT, size: int) -> None:
        """size: coefficients of a polynomial."""
        self._fft, self._most = fft, max(1, _KEPT // (8 * size))
        # by the identity of a polynomial, which is kept with them, and what was made of it
        self._found: OrderedDict[tuple[int, object], tuple[F64, list[C128]]] = OrderedDict()
        self._count = 0

    def of(self, source: F64) -> C128:
        """Of a polynomial, which nobody changes afterwards."""
        (found,) = self._kept(source, None, lambda: [source])
        return found

    def of_parts(self, source: F64, what: object, parts: Callable[[], list[F64]]) -> list[C128]:
        """Of what is made of a polynomial, where ``what`` says how."""
        return self._kept(source, what, parts)

    def _kept(self, source: F64, what: object, parts: Callable[[], list[F64]]) -> list[C128]:
        key = id(source), what
        if key not in self._found:
            self._found[key] = source, [self._fft.forward(part) for part in parts()]
            self._count += len(self._found[key][1])
            while self._count > self._most and len(self._found) > 1:
                _, (_, dropped) = self._found.popitem(last=False)
                self._count -= len(dropped)
        self._found.move_to_end(key)
        return self._found[key][1]
