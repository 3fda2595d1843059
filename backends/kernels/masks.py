"""Masks on values in slots: plaintexts of zeros and ones, and the product with them, which takes one level."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from glyphc.ir.masks import Mask

from .arithmetic import canonical, product
from .basis import F64, bit_reversal
from .evaluator import Ciphertext, Evaluator
from .slots import coefficients
from .threads import run


@njit(nogil=True, error_model="numpy", cache=True)
def _times_rows(first, last, x, weights, out, moduli, inverses):  # type: ignore[no-untyped-def]
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
        self._encoded: dict[Mask, tuple[F64, ...]] = {}

    @property
    def limbs(self) -> int:
        """Of what is multiplied: the product has one less, with which SlotsToCoeffs begins."""
        return self._evaluator.shape.slot_limbs + 1

    def prepare(self, mask: Mask) -> tuple[F64, ...]:
        """The plaintexts of a mask, (limbs, n) each: one for each ciphertext of values."""
        if mask not in self._encoded:
            shape = self._evaluator.shape
            slots = shape.parameters.slots
            kept = mask.kept(shape.n, shape.n // (2 * slots)).reshape(2, slots)[:, bit_reversal(slots.bit_length() - 1)]
            vectors = kept if shape.packed_fully else kept.reshape(1, 2 * slots)
            self._encoded[mask] = tuple(map(self._encode, vectors))
        return self._encoded[mask]

    def _encode(self, kept: npt.NDArray[np.bool_]) -> F64:
        """At the scale of the prime that the product is divided by, so that values keep theirs."""
        basis, which = self._evaluator.basis, np.arange(self.limbs)
        values = np.resize(kept, basis.n // 2).astype(np.complex128)
        out = basis.residues(np.rint(coefficients(values) * basis.primes[self.limbs - 1]), which)
        basis.forward(out, which)
        return out

    def __call__(self, halves: list[Ciphertext], mask: Mask) -> list[Ciphertext]:
        """The ciphertexts of values, on ``limbs`` limbs, with zeros where the mask keeps nothing."""
        return [self._times(x, plain) for x, plain in zip(halves, self.prepare(mask), strict=True)]

    def _times(self, x: Ciphertext, plain: F64) -> Ciphertext:
        evaluator, basis = self._evaluator, self._evaluator.basis
        if x.limbs != self.limbs:
            raise ValueError(f"values on {x.limbs} limbs cannot be masked on {self.limbs}")
        out = evaluator.scratch("tensor", 2, self.limbs, basis.n)
        run(_times_rows, self.limbs, x.elements, plain, out, basis.moduli, basis.inverses)
        return Ciphertext(evaluator.rescale(out), x.scale)
