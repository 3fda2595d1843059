"""Images of sums under automorphisms, each whole in one thread: what unpackings and sums over conjugates take many of.

What one of them is switched with passes from step to step in one kernel, and nothing waits for other threads in
between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from ..processors import thread_count
from .arithmetic import canonical, product, product_by, reduce
from .basis import F64, I64
from .conversion import convert
from .evaluator import Evaluator
from .keyswitch import Plan
from .threads import run
from .transforms import backward_rows, forward_rows

# Rows that one image is worked on in, at most: its digit, what is lifted, and the products of both elements.
ROWS = 2 + 2 + 2 * 4


@njit(nogil=True, error_model="numpy", cache=True)
def lift(element, up, tables, which, moduli, inverses, scratch):  # type: ignore[no-untyped-def]
    """The result: an element, (limbs, n), modulo the auxiliary primes, in ``scratch``; see :class:`Images`."""
    head, tail, head_back, tail_back = tables
    limbs, n = element.shape
    own, special = which[:limbs], which[limbs:]
    y, lifted = scratch[:limbs], scratch[2 : 2 + len(special)]
    rows = np.arange(2)
    constants, largest, whole, weights, fractions = up
    backward_rows(0, limbs, element, rows, y, own, head_back, tail_back, constants, moduli, inverses)
    convert(0, n, y, largest, whole, weights, fractions, lifted, rows, special, moduli, inverses)
    forward_rows(0, len(special), lifted, rows, special, head, tail, moduli, inverses)
    return lifted


@njit(nogil=True, error_model="numpy", cache=True)
def _key_product(second, lifted, key, i, out, which, moduli, inverses):  # type: ignore[no-untyped-def]
    """out = row i of the second element, which is lifted, times that of a key's element, (1, primes, n)."""
    q, inverse = moduli[which[i]], inverses[which[i]]
    limbs = second.shape[0]
    x, k = second[i] if i < limbs else lifted[i - limbs], key[0, i]
    for j in range(out.shape[0]):
        out[j] = product(x[j], k[j], q, inverse)


@njit(nogil=True, error_model="numpy", cache=True)
def switched(piece, lifted, key, down, tables, which, moduli, inverses, scratch):  # type: ignore[no-untyped-def]
    """Both elements under another secret, canonical: the first rows of the result's, (2, primes, n), in ``scratch``.

    lifted: of the second element; it may be in ``scratch``, and is overwritten then. key: (2, 1, primes, n).
    """
    head, tail, head_back, tail_back = tables
    limbs, n = piece.shape[1], piece.shape[2]
    primes = len(which)
    own, special = which[:limbs], which[limbs:]
    y, back, sums = scratch[: len(special)], scratch[2 : 2 + limbs], scratch[4 : 4 + 2 * primes].reshape(2, primes, n)
    rows = np.arange(primes)
    for h in range(2):
        for i in range(primes):
            _key_product(piece[1], lifted, key[h], i, sums[h, i], which, moduli, inverses)
    constants, largest, whole, weights, fractions, factors = down
    for h in range(2):
        divided = rows[limbs:]
        backward_rows(0, len(special), sums[h], divided, y, special, head_back, tail_back, constants, moduli, inverses)
        convert(0, n, y, largest, whole, weights, fractions, back, rows, own, moduli, inverses)
        forward_rows(0, limbs, back, rows, own, head, tail, moduli, inverses)
        for p in range(limbs):
            q, inverse = moduli[own[p]], inverses[own[p]]
            w = factors[p]
            ratio = w * inverse
            s, b, c = sums[h, p], back[p], piece[h, p]
            if h == 0:
                for j in range(n):
                    v = canonical(product_by(s[j] - b[j], w, ratio, q), q) + c[j]
                    s[j] = v - q if v >= q else v
            else:
                for j in range(n):
                    s[j] = canonical(product_by(s[j] - b[j], w, ratio, q), q)
    return sums


@njit(nogil=True, error_model="numpy", cache=True)
def _image(piece, lifted, key, order, out, down, tables, which, moduli, inverses, scratch):  # type: ignore[no-untyped-def]
    """out = g(piece), (2, limbs, n), canonical; order: of the automorphism."""
    sums = switched(piece, lifted, key, down, tables, which, moduli, inverses, scratch)
    for h in range(2):
        for p in range(piece.shape[1]):
            s, o = sums[h, p], out[h, p]
            for j in range(o.shape[0]):
                o[j] = s[order[j]]


@njit(nogil=True, error_model="numpy", cache=True)
def _accumulate(piece, key, order, sums, firsts, up, tables, which, moduli, inverses, scratch):  # type: ignore[no-untyped-def]
    """sums += what g switches the second element of a piece to, (2, primes, n), not yet divided; firsts += g(the
    first)."""
    lifted = lift(piece[1], up, tables, which, moduli, inverses, scratch)
    products, n = scratch[4], piece.shape[2]
    for h in range(2):
        for i in range(len(which)):
            _key_product(piece[1], lifted, key[h], i, products, which, moduli, inverses)
            q, inverse, o = moduli[which[i]], inverses[which[i]], sums[h, i]
            for j in range(n):
                o[j] = canonical(reduce(o[j] + products[order[j]], q, inverse), q)
    for p in range(piece.shape[1]):
        q, c, o = moduli[which[p]], piece[0, p], firsts[p]
        for j in range(n):
            v = o[j] + c[order[j]]
            o[j] = v - q if v >= q else v


class Images:
    """Makes images with the keys of one client.

    fixed: what the kernels take of all keys alike: of the conversion to the auxiliary primes (constants, largest,
    whole, weights, fractions), of the division by them (the same, and its factors), the tables of transforms, which
    primes a key has (those of sums, then the auxiliary ones), their moduli and inverses.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.which: I64 = np.array(evaluator.shape.linear_shape.primes, dtype=np.int64)
        self.limbs = len(evaluator.shape.linear)
        basis, plan = evaluator.basis, self._plan
        ((_, up, _),) = plan.conversions
        division, _, _ = plan.division(0)
        down = division.conversion
        self.up = up.constants, up.largest, up.whole, up.weights, up.fractions
        self.down = down.constants, down.largest, down.whole, down.weights, down.fractions, division.factors
        self.fixed = (
            (basis.head, basis.tail, basis.head_back, basis.tail_back),
            self.which,
            basis.moduli,
            basis.inverses,
        )

    @property
    def _plan(self) -> Plan:
        return self.evaluator.plan(self.evaluator.shape.linear_shape, self.limbs)

    def key(self, index: int) -> F64:
        """Of the automorphism X -> X^index, (2, 1, primes, n)."""
        return self.evaluator.keys[self.evaluator.shape.linear_key(index).name].values

    def scratch(self) -> F64:
        """Of this thread."""
        return self.evaluator.scratch("images", ROWS, self.evaluator.basis.n)

    def of(self, piece: F64, indices: Sequence[int]) -> list[F64]:
        """The images of one sum, which is lifted once for all of them."""
        n = self.evaluator.basis.n
        lifted = lift(piece[1], self.up, *self.fixed, np.empty((4, n)))
        made: list[F64] = [np.empty((2, self.limbs, n)) for _ in indices]
        keys, orders = self._prepared(indices)

        def work(first: int, last: int) -> None:
            scratch = self.scratch()
            for at in range(first, last):
                _image(piece, lifted, keys[at], orders[at], made[at], self.down, *self.fixed, scratch)

        run(work, len(made))
        return made

    def total(self, pieces: Sequence[F64], indices: Sequence[int]) -> F64:
        """The sum of what all sums are under an automorphism of each one's own; what they are switched with is added
        up before it is divided, once."""
        n = self.evaluator.basis.n
        keys, orders = self._prepared(indices)
        # each thread adds up some of them
        groups = min(len(pieces), thread_count())
        sums, firsts = np.zeros((groups, 2, len(self.which), n)), np.zeros((groups, self.limbs, n))

        def work(first: int, last: int) -> None:
            scratch = self.scratch()
            for group in range(first, last):
                for at in range(group, len(pieces), groups):
                    kept = sums[group], firsts[group]
                    _accumulate(pieces[at], keys[at], orders[at], *kept, self.up, *self.fixed, scratch)

        run(work, groups)
        out = self.evaluator.divided(self._added(sums, self.which), self._plan, 0)
        out[0] = self._added(np.stack([*firsts, out[0]]), self.which[: self.limbs])
        return out

    def _added(self, rows: F64, which: I64) -> F64:
        """The sum over the first axis of canonical rows."""
        moduli = self.evaluator.basis.moduli[which][:, None]
        total: F64 = rows[0]
        for more in rows[1:]:
            total = total + more
            total -= np.where(total >= moduli, moduli, 0.0)
        return total

    def _prepared(self, indices: Sequence[int]) -> tuple[list[Any], list[Any]]:
        # permutations are made here, not by several threads at once
        return [self.key(g) for g in indices], [self.evaluator.order(g) for g in indices]
