"""What the modulus of a result in slots holds: beyond it, the number of one sample spoils those of all others.

Slots are values of one polynomial, whose coefficients stand modulo the prime that is left at the end (the canonical
embedding: Cheon, Kim, Kim, Song, "Homomorphic Encryption for Arithmetic of Approximate Numbers", 2017, section 2). A
number v in one of N/2 slots makes coefficients of up to v / (N/2); one that leaves the modulus wraps, and is a part
of every slot. Numbers are real, so what wraps is as symmetric as they are: the imaginary parts, which show a decoder
its noise, show nothing of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .slot_parameters import SlotParameters

F64 = npt.NDArray[np.floating[Any]]

# Larger numbers leave too few bits of a double to wrap.
_EXACT = 2.0**40


def holds(numbers: F64, p: SlotParameters) -> bool:
    """Whether a ciphertext on its last prime holds these numbers, shape (slots,), as they are."""
    if not np.isfinite(numbers).all():
        return False
    # no coefficient is larger than the mean
    half = _modulus(p) / 2
    return bool(np.abs(numbers).mean() < half or np.abs(coefficients(numbers)).max() < half)


def wrapped(numbers: F64, p: SlotParameters) -> F64:
    """What a ciphertext on its last prime makes of these numbers, shape (slots,); NaN where doubles cannot tell."""
    if holds(numbers, p):
        return numbers
    if not np.abs(numbers).max() < _EXACT:
        return np.full(numbers.shape, np.nan)
    found = coefficients(numbers)
    return slots_of(found - _modulus(p) * np.rint(found / _modulus(p)))


def coefficients(numbers: F64) -> F64:
    """Those of the real polynomial with these numbers in its slots, shape (slots,): shape (N,)."""
    n = 2 * len(numbers)
    at = _roots(n)
    values = np.zeros(n)
    values[at], values[n - 1 - at] = numbers, numbers
    return np.asarray((np.fft.fft(values) * _turns(n).conj()).real / n)


def slots_of(polynomial: F64) -> F64:
    """The inverse: real parts of the slots of a polynomial, shape (N,)."""
    n = len(polynomial)
    return np.asarray((np.fft.ifft(polynomial * _turns(n)) * n).real[_roots(n)])


def _modulus(p: SlotParameters) -> float:
    """In units of the scale."""
    return float(2.0 ** (p.first_bits - p.scaling_bits))


def _turns(n: int) -> npt.NDArray[np.complexfloating[Any, Any]]:
    return np.asarray(np.exp(1j * np.pi * np.arange(n) / n))


@lru_cache(maxsize=4)
def _roots(n: int) -> npt.NDArray[np.int64]:
    """The odd power 2 i + 1 of the 2n-th root of unity that each slot is a value at, as i: a power of five."""
    powers = np.empty(n // 2, dtype=np.int64)
    power = 1
    for slot in range(n // 2):
        powers[slot] = power // 2
        power = power * 5 % (2 * n)
    return powers
