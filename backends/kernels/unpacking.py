"""Unpacking of sums: residue classes of exponents, halved level by level by automorphisms.

A level has many pieces, so threads take whole pieces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from .arithmetic import canonical, product
from .basis import F64
from .images import Images, lift, switched
from .plaintexts import values
from .threads import run


@njit(nogil=True, error_model="numpy", cache=True)
def _halve(piece, even, odd, wanted, key, order, monomial, up, down, tables, which, moduli, inverses, scratch):  # type: ignore[no-untyped-def]
    """even = piece + g(piece); odd = (piece - g(piece)) * monomial, where it is wanted: (2, limbs, n), canonical.

    order: of the automorphism g. The others: see :class:`.images.Images`.
    """
    n = piece.shape[2]
    lifted = lift(piece[1], up, tables, which, moduli, inverses, scratch)
    sums = switched(piece, lifted, key, down, tables, which, moduli, inverses, scratch)
    image = scratch[0]
    for h in range(2):
        for p in range(piece.shape[1]):
            q, inverse = moduli[which[p]], inverses[which[p]]
            s, c, o = sums[h, p], piece[h, p], even[h, p]
            for j in range(n):
                image[j] = s[order[j]]
            for j in range(n):
                v = c[j] + image[j]
                o[j] = v - q if v >= q else v
            if wanted:
                o, m = odd[h, p], monomial[p]
                for j in range(n):
                    o[j] = canonical(product(c[j] - image[j], m[j], q, inverse), q)


class Unpacking:
    """Halves pieces with the keys of one client."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._monomials: dict[int, F64] = {}

    def halved(self, pieces: Sequence[F64], distance: int, odd: int) -> list[F64]:
        """What stands at even multiples of a distance in each piece, then at odd ones in the first so many, moved to
        even ones; elsewhere pieces have nothing. All twice as large."""
        images = self._images
        n = images.evaluator.basis.n
        index = 1 + n // distance
        fixed = images.key(index), images.evaluator.order(index), self._monomial(distance)
        made: list[F64] = [np.empty((2, images.limbs, n)) for _ in range(len(pieces) + max(0, odd))]

        def work(first: int, last: int) -> None:
            scratch = images.scratch()
            for at in range(first, last):
                wanted = at < odd
                other = made[len(pieces) + at] if wanted else made[at]
                _halve(pieces[at], made[at], other, wanted, *fixed, images.up, images.down, *images.fixed, scratch)

        run(work, len(pieces))
        return made

    def _monomial(self, by: int) -> F64:
        """X^-by = -X^(n-by), centred values."""
        if by not in self._monomials:
            basis = self._images.evaluator.basis
            integers = np.zeros(basis.n, dtype=np.int64)
            integers[-by] = -1
            self._monomials[by] = values(basis, integers, self._images.which[: self._images.limbs])
        return self._monomials[by]
