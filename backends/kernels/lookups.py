"""Tables that bootstraps look up: products of the bits of an index, in slots.

Paterson and Stockmeyer's idea for the polynomial of several bits that a table is: sums over low bits, each times a
product of high bits. All of the latter are added up before they are relinearised, once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from glyphc.ir.series import Lookup, Series
from glyphc.ir.tables import halves, parted

from .evaluator import Ciphertext, Evaluator
from .polynomials import Powers


@dataclass
class _Products:
    """Products of sets of bits, each made once. A set is the number in which its bits are set."""

    evaluator: Evaluator
    known: dict[int, Ciphertext] = field(default_factory=dict)

    def of(self, chosen: int) -> Ciphertext:
        if chosen not in self.known:
            a, b = map(self.of, halves(chosen))
            limbs = min(a.limbs, b.limbs)
            scale = a.scale * b.scale / self.evaluator.basis.primes[limbs - 1]
            self.known[chosen] = self.evaluator.combine([(a, b)], [], 0, limbs, scale)
        return self.known[chosen]


def looked_up(evaluator: Evaluator, powers: Powers, lookup: Lookup, limbs: int, scale: float) -> Ciphertext:
    """The table's values, real numbers in slots, on so many limbs and with this scale."""
    at = limbs + lookup.levels
    bits = {1 << k: _real(evaluator, powers, series, at, scale) for k, series in enumerate(lookup.bits)}
    products = _Products(evaluator, bits)
    factors, low_bits = lookup.factors, parted(len(lookup.bits))[0]
    sums = [[(products.of(low), complex(row[low])) for low in range(1, len(row))] for row in factors]
    whole = scale * evaluator.basis.primes[limbs]
    pairs = []
    for high in range(1, len(factors)):
        factor = products.of(high << low_bits)
        inner = evaluator.combine([], sums[high], complex(factors[high, 0]), limbs + 2, whole / factor.scale)
        pairs.append((inner, factor))
    return evaluator.combine(pairs, sums[0], complex(factors[0, 0]), limbs + 1, scale)


def _real(evaluator: Evaluator, powers: Powers, series: Series, limbs: int, scale: float) -> Ciphertext:
    """2 Re of a series."""
    c = np.array(series.real) + 1j * np.array(series.imag)
    half = powers.evaluate(c, limbs, scale)
    shape = evaluator.shape
    conjugate = evaluator.automorphism(half, 2 * shape.n - 1, shape.key_shape(shape.encoded_limbs))
    return evaluator.add(half, conjugate)
