"""Polynomials of ciphertexts in few levels (Paterson, Stockmeyer 1973), in powers or in Chebyshev's basis.

A polynomial of degree up to 2^d - 2 takes d levels: p = sum_j q_j * T_(2^j) + r, where each q_j, one level earlier, has
a degree below 2^j (for the highest j below 2^j - 1), and r has degree 3 at most. Scales are exact: each factor is
computed with the scale that makes all products of a sum equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .evaluator import Ciphertext, Evaluator

C128 = npt.NDArray[np.complex128]

_LEAF = 3


class Powers:
    """T_1, T_2, T_3, T_4, T_8, T_16, ... of a ciphertext: Chebyshev polynomials, or powers."""

    def __init__(self, evaluator: Evaluator, x: Ciphertext, degree: int, chebyshev: bool) -> None:
        self._evaluator, self._chebyshev = evaluator, chebyshev
        self.known: dict[int, Ciphertext] = {1: x}
        if degree >= 2:
            self._make(2, 1, 1)
        if degree >= 3:
            self._make(3, 2, 1)
        k = 4
        while k <= degree:
            self._make(k, k // 2, k // 2)
            k *= 2

    def _make(self, k: int, a: int, b: int) -> None:
        x, y = self.known[a], self.known[b]
        limbs = min(x.limbs, y.limbs)
        scale = x.scale * y.scale / self._evaluator.basis.primes[limbs - 1]
        if not self._chebyshev:
            self.known[k] = self._evaluator.combine([(x, y)], [], 0, limbs, scale)
            return
        # T_(a+b) = 2 T_a T_b - T_(a-b). The two is one of values: as one of scale it would be squared from T_4 to T_8
        # to T_16, and leave these few bits
        double = self._evaluator.add(x, x)
        linear = [(self.known[a - b], -1)] if a > b else []
        self.known[k] = self._evaluator.combine([(double, y)], linear, 0 if a > b else -1, limbs, scale)

    def evaluate(self, coefficients: Sequence[complex] | C128, limbs: int, scale: float) -> Ciphertext:
        """sum_k coefficients[k] * T_k on so many limbs, with this scale."""
        found = self._evaluate(np.asarray(coefficients, dtype=np.complex128), limbs, scale)
        return found

    def _evaluate(self, p: C128, limbs: int, scale: float) -> Ciphertext:
        whole = scale * self._evaluator.basis.primes[limbs]
        products = []
        while len(p) - 1 > self._leaf(limbs):
            giant = max(k for k, t in self.known.items() if k <= len(p) - 1 and t.limbs > limbs and k & (k - 1) == 0)
            quotient, p = self._divide(p, giant)
            factor = self.known[giant]
            products.append((self._evaluate(quotient, limbs + 1, whole / factor.scale), factor))
        linear = [(self.known[k], complex(c)) for k, c in enumerate(p) if k and c != 0]
        if not products and not linear:
            linear = [(self.known[1], 0j)]
        return self._evaluator.combine(products, linear, complex(p[0]), limbs + 1, scale)

    def _leaf(self, limbs: int) -> int:
        """Up to which degree sums of multiples on more limbs than these do."""
        return max(k for k, t in self.known.items() if k <= _LEAF and t.limbs > limbs)

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
