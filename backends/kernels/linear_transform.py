"""The levels of CoeffsToSlots and SlotsToCoeffs on ciphertexts: hoisted baby steps, giant steps modulo Q*P.

All baby steps share one decomposition, and nothing is divided by P until a giant step needs it (double hoisting:
Bossuat, Mouchet, Troncoso-Pastoriza, Hubaux 2021). In evaluation order, all between is done prime by prime.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .arithmetic import anchor, canonical, collapse, fma, low, product_by, reduce
from .basis import F64, SMALLEST_RING, automorphism, subring_positions
from .evaluator import Ciphertext, Evaluator, collect_rows
from .keys import stacked
from .keyswitch import COLUMNS, key_sums
from .shape import LevelPlan
from .slots import C128, coefficients
from .threads import run
from .transforms import forward, scratch


@njit(nogil=True, error_model="numpy", cache=True)
def _babies(digits, source, keys, key_row, i, h, start, lift, orders, identity, rotated, work, q, inverse):  # type: ignore[no-untyped-def]
    """rotated[b] = the positions from ``start`` on of the b-th baby step's element h, modulo the prime of row i.

    identity: the step that is none. work: (3, positions), scratch.
    """
    size = rotated.shape[1]
    chained = i < source.shape[1]
    ratio = lift * inverse
    sums, taken, left = work[0], work[1], work[2]
    at = 0
    for b in range(rotated.shape[0]):
        o = rotated[b]
        if b == identity:
            if chained:
                x = source[h, i, start : start + size]
                for j in range(size):
                    o[j] = product_by(x[j], lift, ratio, q)
            else:
                for j in range(size):
                    o[j] = 0.0
            continue
        order = orders[at, start : start + size]
        base = order[0] - order[0] % size
        for first in range(0, size, COLUMNS):
            last = min(first + COLUMNS, size)
            x = source[0, i, base + first : base + last] if chained and h == 0 else sums[:0]
            part = sums[first:last]
            key_sums(digits, i, keys[at], h, key_row, base + first, x, lift, part, taken, left, q, inverse)
        for j in range(size):
            o[j] = sums[order[j] - base]
        at += 1


@njit(nogil=True, error_model="numpy", cache=True)
def _weigh(rotated, factors, g, i, first, shift, columns, out, work, q, inverse):  # type: ignore[no-untyped-def]
    """out = sum_b rotated[b] * factors[g, b, i], canonical, for the rows of a chunk: factors, from ``first`` on, repeat
    each row of ``columns`` 2^shift times. At most 15 babies."""
    babies, size = rotated.shape
    start = anchor(babies * 0.5 * q * q)
    taken, left = work[0, :columns], work[1, :columns]
    for r in range(size // columns):
        at = r * columns
        place = first + (r >> shift) * columns
        for j in range(columns):
            taken[j] = start
            left[j] = 0.0
        b = 0
        while b + 3 < babies:
            x0, x1 = rotated[b, at : at + columns], rotated[b + 1, at : at + columns]
            x2, x3 = rotated[b + 2, at : at + columns], rotated[b + 3, at : at + columns]
            f0, f1 = factors[g, b, i, place : place + columns], factors[g, b + 1, i, place : place + columns]
            f2, f3 = factors[g, b + 2, i, place : place + columns], factors[g, b + 3, i, place : place + columns]
            for j in range(columns):
                t = taken[j]
                t0 = fma(x0[j], f0[j], t)
                t1 = fma(x1[j], f1[j], t0)
                t2 = fma(x2[j], f2[j], t1)
                t3 = fma(x3[j], f3[j], t2)
                s = low(t, x0[j], f0[j], t0) + low(t0, x1[j], f1[j], t1)
                left[j] += s + (low(t1, x2[j], f2[j], t2) + low(t2, x3[j], f3[j], t3))
                taken[j] = t3
            b += 4
        while b < babies:
            x0, f0 = rotated[b, at : at + columns], factors[g, b, i, place : place + columns]
            for j in range(columns):
                t = taken[j]
                t0 = fma(x0[j], f0[j], t)
                left[j] += low(t, x0[j], f0[j], t0)
                taken[j] = t0
            b += 1
        o = out[at : at + columns]
        for j in range(columns):
            o[j] = canonical(collapse(taken[j], left[j], start, q, inverse), q)


@njit(nogil=True, error_model="numpy", cache=True)
def _level_chunks(  # type: ignore[no-untyped-def]
    first,
    last,
    digits,
    source,
    keys,
    key_rows,
    lift,
    orders,
    identity,
    factors,
    shift,
    columns,
    rows,
    out,
    which,
    moduli,
    inverses,
):
    """The inner sums of one level, out[giant, h, i], canonical; ranges count primes i and chunks of rows*columns.

    An automorphism takes the positions of one chunk to those of one chunk: they share the low bits of an exponent. So
    what is between keys and sums never leaves the cache.
    """
    size = rows * columns
    chunks = digits.shape[2] // size
    rotated = np.empty((factors.shape[1], size))
    work = np.empty((3, size))
    for k in range(first, last):
        i, c = k // chunks, k % chunks
        q, inverse = moduli[which[i]], inverses[which[i]]
        at = c * size
        place = c * (rows >> shift) * columns
        for h in range(2):
            row = key_rows[i]
            _babies(digits, source, keys, row, i, h, at, lift[i], orders, identity, rotated, work, q, inverse)
            for g in range(factors.shape[0]):
                o = out[g, h, i, at : at + size]
                _weigh(rotated, factors, g, i, place, shift, columns, o, work, q, inverse)


@njit(nogil=True, error_model="numpy", cache=True)
def _diagonal_rows(first, last, plaintexts, places, positions, out, which, tables, moduli, inverses):  # type: ignore[no-untyped-def]
    """Integer polynomials, (count, small n), |x| < 2^53, modulo primes: out[giant, baby, i] = the values at
    ``positions``, |v| <= q/2, so that products have small bounds.

    k counts polynomials and primes; places: giant and baby of each polynomial.
    """
    head, tail = tables
    buffer = scratch(tail)
    primes = which.shape[0]
    x = np.empty(plaintexts.shape[1], dtype=np.float64)
    for k in range(first, last):
        row, i = k // primes, k % primes
        p = which[i]
        q, inverse = moduli[p], inverses[p]
        source = plaintexts[row]
        for j in range(x.shape[0]):
            x[j] = reduce(source[j], q, inverse)
        forward(x, head[p], tail[p], buffer, q, inverse)
        o = out[places[row, 0], places[row, 1], i]
        for j in range(o.shape[0]):
            value = x[positions[j]]
            o[j] = value - q if value > 0.5 * q else value


class LevelTransform:
    """One level with its diagonals as plaintexts. Takes ciphertexts of one scale to those of another."""

    def __init__(
        self, evaluator: Evaluator, plan: LevelPlan, scale: float, weights: C128 | None = None, lead: bool = False
    ) -> None:
        """scale: the factor by which the scale of a message changes. weights: (2*slots,) factors, for where slots hold
        the two halves of complex numbers: of the level's input if ``lead``, of its output otherwise."""
        self._evaluator, self._plan = evaluator, plan
        shape, basis = evaluator.shape, evaluator.basis
        self._switch = evaluator.plan(plan.shape, plan.limbs)
        self._scale = scale
        babies, stride = plan.babies, plan.level.stride
        steps = [b * stride for b in babies if b]
        self._indices = [shape.rotation(s) for s in steps]
        self._identity = babies.index(0) if 0 in babies else -1
        self._orders = np.stack([automorphism(basis, i) for i in self._indices])
        self._keys = stacked(evaluator.keys, shape.baby_keys(plan))
        self._giants = [shape.rotation(g * stride) for g in plan.giants if g]
        plain = basis.primes[plan.limbs - 1] * scale
        self._shift, self._factors = self._encode(plain, weights, lead)

    def _encode(self, plain: float, weights: C128 | None, lead: bool) -> tuple[int, F64]:
        """The diagonals as residues: (giants, babies, primes, as many as are different); and how often one repeats."""
        evaluator, plan = self._evaluator, self._plan
        basis = evaluator.basis
        stride = plan.level.stride
        vectors: dict[tuple[int, int], C128] = {}
        for g, giant in enumerate(plan.giants):
            for b, baby in enumerate(plan.babies):
                diagonal = plan.level.diagonals.get(giant + baby)
                if diagonal is None:
                    continue
                if weights is not None:
                    at = (giant + baby) * stride
                    diagonal = np.resize(diagonal, len(weights)) * (np.roll(weights, -at) if lead else weights)
                vectors[g, b] = np.roll(diagonal, giant * stride)
        # a smaller ring than the smallest would not be faster
        period = min(basis.n // 2, max(SMALLEST_RING // 2, *(len(v) for v in vectors.values())))
        rows = basis.rows
        shift = min(rows.bit_length() - 1, (basis.n // (2 * period)).bit_length() - 1)
        size = basis.n >> shift
        which = self._switch.which
        out = np.zeros((len(plan.giants), len(plan.babies), len(which), size))
        # a diagonal of this period is a polynomial in a power of X: transformed in the ring of that power
        small = evaluator.subring(2 * period)
        positions = subring_positions(basis, small).reshape(-1, rows, basis.columns)[:, :: 1 << shift].reshape(size)
        plaintexts = np.stack([np.rint(coefficients(np.resize(v, period)) * plain) for v in vectors.values()])
        run(
            _diagonal_rows,
            len(vectors) * len(which),
            plaintexts,
            np.array(list(vectors), dtype=np.int64),
            positions,
            out,
            which,
            (small.head, small.tail),
            small.moduli,
            small.inverses,
        )
        return shift, out

    def __call__(self, x: Ciphertext) -> Ciphertext:
        """The level's image, with one prime less."""
        evaluator, plan, switch = self._evaluator, self._plan, self._switch
        basis = evaluator.basis
        n, rows = basis.n, switch.rows
        elements = x.elements[:, : plan.limbs]
        digits = evaluator.decomposed(elements[1], switch)
        inner = evaluator.scratch("inner", len(plan.giants), 2, rows, n)
        run(
            _level_chunks,
            rows * (n // (basis.rows * basis.columns)),
            digits,
            elements,
            self._keys,
            switch.key_rows,
            switch.lift,
            self._orders,
            self._identity,
            self._factors,
            self._shift,
            basis.columns,
            basis.rows,
            inner,
            switch.which,
            basis.moduli,
            basis.inverses,
        )
        total = inner[0]
        for g, index in enumerate(self._giants, start=1):
            key = evaluator.keys[evaluator.shape.automorphism_key(index, plan.shape).name]
            element = evaluator.scratch("element", plan.limbs, n)
            scratch = evaluator.scratch("y", rows, n), evaluator.scratch("lifted", plan.limbs, n)
            switch.divide(inner[g, 1:], element[None], 0, scratch)
            digits = evaluator.decomposed(element, switch)
            sums = evaluator.scratch("sums", 2, rows, n)
            inner[g, 1] = 0
            switch.inner(digits, key, sums, inner[g], np.ones(rows))
            run(collect_rows, rows, sums, evaluator.order(index), total, switch.which, basis.moduli)
        return Ciphertext(evaluator.divided(total, switch, 1), x.scale * self._scale)
