"""Polynomials of ciphertexts in few levels (Paterson, Stockmeyer 1973), in powers or in Chebyshev's basis.

A polynomial of degree up to 2^d - 2 takes d levels: p = sum_j q_j * T_(2^j) + r, where each q_j, one level earlier, has
a degree below 2^j (for the highest j below 2^j - 1), and r has degree 3 at most. Scales are exact: each factor is
computed with the scale that makes all products of a sum equal.

A mask m of zeros and ones in slots takes no level: m*p = sum_j (m*q_j) * x^(2j) + m*r, where m*q_j and m*r are sums of
m and m*x, which is there as early as x^2. So each product has one masked factor, and what is cleared is never added.
In powers, degrees up to 2^d - 3 take d levels then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .evaluator import Ciphertext, Evaluator

C128 = npt.NDArray[np.complex128]

_LEAF = 3


class Powers:
    """T_1, T_2, T_4, T_8, T_16, ... of a ciphertext, T_3 and T_6 once they are asked for: Chebyshev polynomials, or
    powers."""

    def __init__(self, evaluator: Evaluator, x: Ciphertext, degree: int, chebyshev: bool) -> None:
        self._evaluator, self._chebyshev, self._degree = evaluator, chebyshev, degree
        self.known: dict[int, Ciphertext] = {1: x}
        k = 2
        while k <= degree:
            self._make(k, k // 2, k // 2)
            k *= 2

    def _make(self, k: int, a: int, b: int) -> Ciphertext:
        x, y = self.known[a], self.known[b]
        limbs = min(x.limbs, y.limbs)
        scale = x.scale * y.scale / self._evaluator.basis.primes[limbs - 1]
        if not self._chebyshev:
            self.known[k] = self._evaluator.combine([(x, y)], [], 0, limbs, scale)
            return self.known[k]
        # T_(a+b) = 2 T_a T_b - T_(a-b). The two is one of values: as one of scale it would be squared from T_4 to T_8
        # to T_16, and leave these few bits
        linear = [(self.known[a - b], -1)] if a > b else []
        self.known[k] = self._evaluator.combine([(x, y)], linear, 0 if a > b else -1, limbs, scale, doubled=True)
        return self.known[k]

    def evaluate(self, coefficients: Sequence[complex] | C128, limbs: int, scale: float) -> Ciphertext:
        """sum_k coefficients[k] * T_k on so many limbs, with this scale."""
        if self._degree >= _LEAF and _LEAF not in self.known:
            self._make(_LEAF, 2, 1)
        leaves = {k: self.known[k] for k in range(1, _LEAF + 1) if k in self.known}
        giants = {k: t for k, t in self.known.items() if k & (k - 1) == 0}
        return self._evaluate(np.asarray(coefficients, dtype=np.complex128), limbs, scale, leaves, giants)

    def masked(
        self, coefficients: Sequence[complex] | C128, mask: Ciphertext, first: Ciphertext, limbs: int, scale: float
    ) -> Ciphertext:
        """The same in powers, times a mask. mask, first: the mask and its product with x, on one limb less than x."""
        if self._degree >= 6 and 6 not in self.known:
            self._make(6, 4, 2)
        giants = {k: t for k, t in self.known.items() if k % 2 == 0}
        return self._evaluate(np.asarray(coefficients, dtype=np.complex128), limbs, scale, {0: mask, 1: first}, giants)

    def _evaluate(
        self,
        p: C128,
        limbs: int,
        scale: float,
        leaves: Mapping[int, Ciphertext],
        giants: Mapping[int, Ciphertext],
    ) -> Ciphertext:
        """leaves: what the shortest polynomials are sums of; without 0 that is a constant."""
        whole = scale * self._evaluator.basis.primes[limbs]
        leaf = max(k for k, t in leaves.items() if t.limbs > limbs)
        products = []
        while len(p) - 1 > leaf:
            giant = max(k for k, t in giants.items() if k <= len(p) - 1 and t.limbs > limbs)
            quotient, p = self._divide(p, giant)
            factor = giants[giant]
            quotient_at = self._evaluate(quotient, limbs + 1, whole / factor.scale, leaves, giants)
            products.append((quotient_at, factor))
        linear = [(leaves[k], complex(c)) for k, c in enumerate(p) if k in leaves and c != 0]
        if not products and not linear:
            linear = [(leaves[1], 0j)]
        constant = 0j if 0 in leaves else complex(p[0])
        return self._evaluator.combine(products, linear, constant, limbs + 1, scale)

    def _divide(self, p: C128, k: int) -> tuple[C128, C128]:
        """q and r with p = q*T_k + r, deg r < k, for deg p < 2k."""
        high, low = p[k:], p[:k].copy()
        if not self._chebyshev:
            return high.copy(), low
        # T_(k+i) = 2 T_k T_i - T_(k-i)
        quotient = 2 * high
        quotient[0] = high[0]
        for i in range(1, len(high)):
            low[k - i] -= high[i]
        return quotient, low
