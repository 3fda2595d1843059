"""CKKS slots: polynomials from slot values, and the transform between coefficients and slots in levels.

Slot j of a(X) is a(zeta^(5^j)), zeta = e^(i pi/N), j < N/2 (Cheon, Kim, Kim, Song 2017). The transform is a product of
log2(N/2) butterfly stages (special FFT); a level of a bootstrap's transform is the product of some of them, a matrix
with few diagonals (Chen, Chillotti, Song 2019). The bit reversal is left out, on both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
C128 = npt.NDArray[np.complex128]
I64 = npt.NDArray[np.int64]

Diagonals = dict[int, C128]


@lru_cache(maxsize=32)
def _fives(count: int) -> I64:
    """5^j modulo 4*count for j < count, a power of two."""
    out: I64 = np.ones(1, dtype=np.int64)
    while len(out) < count:
        out = np.concatenate([out, out * pow(5, len(out), 4 * count) % (4 * count)])
    return out


def coefficients(values: C128) -> F64:
    """The 2p real coefficients of the polynomial with these p slots, p a power of two."""
    p = len(values)
    at = _fives(p)
    odd = np.zeros(2 * p, dtype=np.complex128)  # index t: the value at zeta^(2t + 1)
    odd[at // 2] = values
    odd[(4 * p - at) // 2] = values.conj()
    return np.asarray((np.fft.fft(odd) * _twist(p)).real)


@lru_cache(maxsize=32)
def _twist(p: int) -> C128:
    """Where roots of X^(2p) - 1 are to be those of X^(2p) + 1; divided by 2p."""
    return np.asarray(np.exp(-1j * np.pi * np.arange(2 * p) / (2 * p)) / (2 * p))


def slot_values(polynomial: F64) -> C128:
    """The inverse of :func:`coefficients`."""
    p = len(polynomial) // 2
    k = np.arange(2 * p)
    odd = np.fft.ifft(polynomial * np.exp(1j * np.pi * k / (2 * p))) * (2 * p)
    return np.asarray(odd[_fives(p) // 2])


def _stage(length: int, back: bool) -> Diagonals:
    """One butterfly on blocks of ``length`` slots, or its inverse; diagonals of period ``length`` by offset."""
    half = length // 2
    root = np.exp(2j * np.pi * _fives(length)[:half] / (4 * length))
    zero, one = np.zeros(half, dtype=np.complex128), np.ones(half, dtype=np.complex128)
    if back:
        # u = (x + y)/2, w = (x - y)/2 * conj(root)
        down = root.conj() / 2
        return {
            0: np.concatenate([one / 2, -down]),
            half: np.concatenate([one / 2, zero]),
            -half: np.concatenate([zero, down]),
        }
    # x = u + root*w, y = u - root*w
    return {
        0: np.concatenate([one, -root]),
        half: np.concatenate([root, zero]),
        -half: np.concatenate([zero, one]),
    }


def _times(a: Diagonals, b: Diagonals) -> Diagonals:
    """The matrix a after the matrix b: (ab)_r[j] = sum over s + t = r of a_s[j] * b_t[j + s]."""
    out: Diagonals = {}
    for s, x in a.items():
        for t, y in b.items():
            period = max(len(x), len(y))
            wide, other = np.resize(x, period), np.resize(y, period)
            out[s + t] = out.get(s + t, 0) + wide * np.roll(other, -s)
    return out


@dataclass(frozen=True)
class Level:
    """One level of a transform: diagonals by offset in units of ``stride`` slots, each of some period of slots."""

    stride: int
    diagonals: Diagonals


def split_stages(stages: int, levels: int) -> list[int]:
    """How many stages each of so many levels takes: as equal as possible, larger ones first."""
    each, rest = divmod(stages, levels)
    return [each + (level < rest) for level in range(levels)]


def transform(slots: int, levels: int, back: bool) -> list[Level]:
    """SlotsToCoeffs, or CoeffsToSlots if ``back``, of vectors of ``slots`` complex numbers, first level first.

    SlotsToCoeffs takes slots that hold a_k + i*a_(k + slots), in bit-reversed order of k, to the slots of the
    polynomial with these coefficients.
    """
    lengths = [2 << s for s in range(slots.bit_length() - 1)]
    found = []
    counts = split_stages(len(lengths), levels)
    if back:
        lengths.reverse()
    else:
        counts.reverse()
    at = 0
    for count in counts:
        group = lengths[at : at + count]
        at += count
        matrix = _stage(group[0], back)
        for length in group[1:]:
            matrix = _times(_stage(length, back), matrix)
        stride = min(group) // 2
        by_offset: Diagonals = {}
        for offset, diagonal in matrix.items():
            # offsets are modulo the number of slots
            turns = offset % slots
            turns = (turns - slots if turns > slots // 2 else turns) // stride
            by_offset[turns] = by_offset.get(turns, 0) + diagonal
        found.append(Level(stride, {t: d for t, d in sorted(by_offset.items()) if np.abs(d).max() > 1e-12}))
    return found
