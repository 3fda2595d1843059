"""Masks on values in slots: plaintexts of zeros and ones, and the product with them, which takes one level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from .arithmetic import canonical, product
from .basis import F64, bit_reversal
from .evaluator import Ciphertext, Evaluator
from .slots import coefficients
from .threads import run

Kept = npt.NDArray[np.bool_]


@njit(nogil=True, error_model="numpy", cache=True)
def times_rows(first, last, x, weights, out, moduli, inverses):  # type: ignore[no-untyped-def]
    """out = x * weights, canonical; (2, rows, n) and (rows, n)."""
    for i in range(first, last):
        q, inverse = moduli[i], inverses[i]
        w = weights[i]
        for h in range(2):
            a, o = x[h, i], out[h, i]
            for j in range(a.shape[0]):
                o[j] = canonical(product(a[j], w[j], q, inverse), q)


class Masks:
    """Encodes masks once, and multiplies with them.

    Values stand as in :mod:`.slots`: in bit-reversed order, those of the two halves of the coefficients in a ciphertext
    each, or behind one another in one.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._encoded: dict[tuple[bytes, int, float], tuple[F64, ...]] = {}

    def prepare(self, kept: Kept, limbs: int, scale: float) -> tuple[F64, ...]:
        """The plaintexts of a mask, (limbs, n) each, at this scale: one for each ciphertext of values.

        kept: which coefficients stay, of those that have values, shape (2 * slots,).
        """
        key = kept.tobytes(), limbs, scale
        if key not in self._encoded:
            shape = self._evaluator.shape
            slots = shape.parameters.slots
            order = bit_reversal(slots.bit_length() - 1)
            halves = kept.reshape(2, slots)[:, order]
            vectors = halves if shape.packed_fully else halves.reshape(1, 2 * slots)
            self._encoded[key] = tuple(self._encode(vector, limbs, scale) for vector in vectors)
        return self._encoded[key]

    def _encode(self, kept: Kept, limbs: int, scale: float) -> F64:
        basis, which = self._evaluator.basis, np.arange(limbs)
        values = np.resize(kept, basis.n // 2).astype(np.complex128)
        out = basis.residues(np.rint(coefficients(values) * scale), which)
        basis.forward(out, which)
        return out

    def __call__(self, halves: Sequence[Ciphertext], kept: Kept, scale: float) -> list[Ciphertext]:
        """The ciphertexts of values on one limb less and at this scale, with zeros where the mask keeps nothing."""
        limbs = halves[0].limbs
        plain = scale * self._evaluator.basis.primes[limbs - 1] / halves[0].scale
        return self.times(halves, kept, scale, plain)

    def times(self, halves: Sequence[Ciphertext], kept: Kept, scale: float, plain: float) -> list[Ciphertext]:
        """The same where the scale of the mask is known, as it was prepared with."""
        limbs = halves[0].limbs
        return [self._times(x, w, scale) for x, w in zip(halves, self.prepare(kept, limbs, plain), strict=True)]

    def ones(self, kept: Kept, limbs: int, scale: float) -> list[Ciphertext]:
        """The mask as ciphertexts that hide nothing, on one limb less than it is prepared for."""
        plaintexts = (w[: limbs - 1] for w in self.prepare(kept, limbs, scale))
        return [Ciphertext(np.stack([w, np.zeros_like(w)]), scale) for w in plaintexts]

    def _times(self, x: Ciphertext, plain: F64, scale: float) -> Ciphertext:
        evaluator, basis = self._evaluator, self._evaluator.basis
        out = evaluator.scratch("tensor", 2, x.limbs, basis.n)
        run(times_rows, x.limbs, x.elements, plain, out, basis.moduli, basis.inverses)
        return Ciphertext(evaluator.rescale(out), scale)
