"""Unpacking of sums: residue classes of exponents, halved level by level by automorphisms.

A level has many pieces, so threads take whole pieces: what one of them is switched with passes from step to step in one
kernel, and nothing waits for other threads in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from .arithmetic import canonical, product, product_by
from .basis import F64, I64
from .conversion import convert
from .evaluator import Evaluator
from .plaintexts import values
from .threads import run
from .transforms import backward_rows, forward_rows

# Rows that one piece is worked on in: its digit, what is lifted, and the products of both elements.
ROWS = 2 + 2 + 2 * 4


@njit(nogil=True, error_model="numpy", cache=True)
def _halve(piece, even, odd, wanted, key, order, monomial, up, down, tables, which, moduli, inverses, scratch):  # type: ignore[no-untyped-def]
    """even = piece + g(piece); odd = (piece - g(piece)) * monomial, where it is wanted: (2, 2, n), canonical.

    key: (2, 1, 4, n), for both primes of the sums and both auxiliary ones, whose indices ``which`` has in this order.
    up, down: of the conversions to the auxiliary primes and of the division by them, (constants, largest, whole,
    weights, fractions), and its factors. order: of the automorphism.
    """
    head, tail, head_back, tail_back = tables
    n = piece.shape[2]
    y, lifted, sums = scratch[:2], scratch[2:4], scratch[4:].reshape(2, 4, n)
    own, special = which[:2], which[2:]
    rows = np.arange(2)
    constants, largest, whole, weights, fractions = up
    backward_rows(0, 2, piece[1], rows, y, own, head_back, tail_back, constants, moduli, inverses)
    convert(0, n, y, largest, whole, weights, fractions, lifted, rows, special, moduli, inverses)
    forward_rows(0, 2, lifted, rows, special, head, tail, moduli, inverses)
    for h in range(2):
        for i in range(4):
            q, inverse = moduli[which[i]], inverses[which[i]]
            x = piece[1, i] if i < 2 else lifted[i - 2]
            k, o = key[h, 0, i], sums[h, i]
            for j in range(n):
                o[j] = product(x[j], k[j], q, inverse)
    constants, largest, whole, weights, fractions, factors = down
    for h in range(2):
        backward_rows(0, 2, sums[h], rows + 2, y, special, head_back, tail_back, constants, moduli, inverses)
        convert(0, n, y, largest, whole, weights, fractions, lifted, rows, own, moduli, inverses)
        forward_rows(0, 2, lifted, rows, own, head, tail, moduli, inverses)
        for p in range(2):
            q, inverse = moduli[own[p]], inverses[own[p]]
            w = factors[p]
            ratio = w * inverse
            s, b, c = sums[h, p], lifted[p], piece[h, p]
            if h == 0:
                for j in range(n):
                    v = canonical(product_by(s[j] - b[j], w, ratio, q), q) + c[j]
                    s[j] = v - q if v >= q else v
            else:
                for j in range(n):
                    s[j] = canonical(product_by(s[j] - b[j], w, ratio, q), q)
            image, o = y[0], even[h, p]
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

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._which: I64 = np.array(evaluator.shape.linear_shape.primes, dtype=np.int64)
        self._monomials: dict[int, F64] = {}

    def halved(self, pieces: Sequence[F64], distance: int, odd: int) -> list[F64]:
        """What stands at even multiples of a distance in each piece, then at odd ones in the first so many, moved to
        even ones; elsewhere pieces have nothing. All twice as large."""
        evaluator = self._evaluator
        basis, n = evaluator.basis, evaluator.basis.n
        spec = evaluator.shape.linear_key(1 + n // distance)
        plan = evaluator.plan(spec.shape, 2)
        ((_, up, _),) = plan.conversions
        division, _, _ = plan.division(0)
        down = division.conversion
        fixed = (
            evaluator.keys[spec.name].values,
            evaluator.order(1 + n // distance),
            self._monomial(distance),
            (up.constants, up.largest, up.whole, up.weights, up.fractions),
            (down.constants, down.largest, down.whole, down.weights, down.fractions, division.factors),
            (basis.head, basis.tail, basis.head_back, basis.tail_back),
            self._which,
            basis.moduli,
            basis.inverses,
        )
        made: list[F64] = [np.empty((2, 2, n)) for _ in range(len(pieces) + max(0, odd))]

        def work(first: int, last: int) -> None:
            scratch = evaluator.scratch("unpacking", ROWS, n)
            for at in range(first, last):
                wanted = at < odd
                other = made[len(pieces) + at] if wanted else made[at]
                _halve(pieces[at], made[at], other, wanted, *fixed, scratch)

        run(work, len(pieces))
        return made

    def _monomial(self, by: int) -> F64:
        """X^-by = -X^(n-by), centred values."""
        if by not in self._monomials:
            basis = self._evaluator.basis
            integers = np.zeros(basis.n, dtype=np.int64)
            integers[-by] = -1
            self._monomials[by] = values(basis, integers, self._which[:2])
        return self._monomials[by]
