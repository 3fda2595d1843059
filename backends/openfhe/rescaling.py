"""Modulus switches of elements on several limbs, in residue number system arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
from numba import njit

from .ring import U64, Ring, _mul_shoup, _mulhi

_3 = np.uint64(3)
_61 = np.uint64(61)
_HALF = np.uint64(1 << 60)


@njit(nogil=True, cache=True)
def _convert(x, inverses, inverses_shoup, wholes, wholes_shoup, fractions, sources, targets, out):  # type: ignore[no-untyped-def]
    limbs, n = x.shape
    for at in range(n):
        high, low = np.uint64(0), np.uint64(0)
        for j in range(targets.shape[0]):
            out[j, at] = np.uint64(0)
        for i in range(limbs):
            y = _mul_shoup(x[i, at], inverses[i], inverses_shoup[i], sources[i])
            high += _mulhi(y, fractions[i])
            low += (y * fractions[i]) >> _3
            for j in range(targets.shape[0]):
                s = out[j, at] + _mul_shoup(y, wholes[i, j], wholes_shoup[i, j], targets[j])
                out[j, at] = s - targets[j] if s >= targets[j] else s
        high += (low + _HALF) >> _61
        for j in range(targets.shape[0]):
            out[j, at] = (out[j, at] + high % targets[j]) % targets[j]


@dataclass(frozen=True, eq=False)
class Rescaling:
    """round(x * Q'/Q) modulo Q', for x modulo Q: both products of at most 7 primes, given by the rings of these.

    With y_i = x_i * (Q/q_i)^-1 mod q_i, x = sum_i y_i * Q/q_i - v*Q for some integer v, so x * Q'/Q is
    sum_i y_i * Q'/q_i modulo Q', whatever v is (Halevi, Polyakov, Shoup 2018, section 2.3). Whole parts of Q'/q_i are
    summed modulo each q'_j, fractions in fixed point to 2^-64.
    """

    inverses: U64
    inverses_shoup: U64
    wholes: U64
    wholes_shoup: U64
    fractions: U64
    sources: U64
    targets: U64

    @staticmethod
    def between(source: Sequence[Ring], target: Sequence[Ring]) -> Rescaling:
        if not 1 <= len(source) <= 7:
            raise ValueError(f"a rescaling reads 1 to 7 limbs, not {len(source)}")
        old, new = prod(r.q for r in source), prod(r.q for r in target)
        inverses = [pow(old // r.q, -1, r.q) for r in source]
        wholes = [[new // r.q % t.q for t in target] for r in source]
        return Rescaling(
            _array(inverses),
            _array([(w << 64) // r.q for w, r in zip(inverses, source, strict=True)]),
            _array(wholes),
            _array([[(w << 64) // t.q for w, t in zip(row, target, strict=True)] for row in wholes]),
            _array([(new % r.q << 64) // r.q for r in source]),
            _array([r.q for r in source]),
            _array([r.q for r in target]),
        )

    def __call__(self, x: Sequence[U64]) -> list[U64]:
        """Residues (coefficients, natural order) for each target prime, from those for each source prime."""
        rows = np.ascontiguousarray(np.stack(list(x)))
        out = np.empty((len(self.targets), rows.shape[1]), dtype=np.uint64)
        _convert(
            rows,
            self.inverses,
            self.inverses_shoup,
            self.wholes,
            self.wholes_shoup,
            self.fractions,
            self.sources,
            self.targets,
            out,
        )
        return list(out)


def _array(values: list[int] | list[list[int]]) -> npt.NDArray[np.uint64]:
    return np.array(values, dtype=np.uint64)
