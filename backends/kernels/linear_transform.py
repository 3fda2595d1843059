"""The levels of CoeffsToSlots and SlotsToCoeffs on ciphertexts: hoisted baby steps, giant steps modulo Q*P.

All baby steps share one decomposition, and nothing is divided by P until a giant step needs it (double hoisting:
Bossuat, Mouchet, Troncoso-Pastoriza, Hubaux 2021). In evaluation order, all between is done prime by prime.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .arithmetic import canonical, product, product_by, reduce
from .basis import F64, SMALLEST_RING, automorphism, subring_positions
from .evaluator import Ciphertext, Evaluator, collect_rows
from .keys import stacked
from .shape import LevelPlan
from .slots import C128, coefficients
from .threads import run
from .transforms import forward


@njit(nogil=True, error_model="numpy", cache=True)
def _babies(digits, source, each, keys, key_row, number, lift, orders, identity, rotated, sums, q, inverse):  # type: ignore[no-untyped-def]
    """rotated[b] = the b-th baby step modulo one prime, whose number is ``number``; identity: the step that is none.

    The digits' rows of their own ``each`` primes are those of the source.
    """
    count, _, n = digits.shape
    chained = number < source.shape[1]
    own = number // each if chained else -1
    ratio = lift * inverse
    at = 0
    for b in range(rotated.shape[0]):
        if b == identity:
            for h in range(2):
                o = rotated[b, h]
                if chained:
                    x = source[h, number]
                    for j in range(n):
                        o[j] = product_by(x[j], lift, ratio, q)
                else:
                    for j in range(n):
                        o[j] = 0.0
            continue
        order = orders[at]
        for h in range(2):
            if chained and h == 0:
                x = source[0, number]
                for j in range(n):
                    sums[j] = product_by(x[j], lift, ratio, q)
            else:
                for j in range(n):
                    sums[j] = 0.0
            for d in range(count):
                x = source[1, number] if own == d else digits[d, number]
                k = keys[at, h, d, key_row]
                for j in range(n):
                    sums[j] += product(x[j], k[j], q, inverse)
            for j in range(n):
                sums[j] = reduce(sums[j], q, inverse)
            o = rotated[b, h]
            for j in range(n):
                o[j] = sums[order[j]]
        at += 1


@njit(nogil=True, error_model="numpy", cache=True)
def _weigh(rotated, factors, shift, columns, rows, out, q, inverse):  # type: ignore[no-untyped-def]
    """out[h] = sum_b rotated[b, h] * factors[b], canonical, where factors repeat each row of 2^shift in a chunk."""
    babies, _, n = rotated.shape
    per = rows >> shift
    for h in range(2):
        for c in range(n // (rows * columns)):
            for r in range(rows):
                start = (c * rows + r) * columns
                at = (c * per + (r >> shift)) * columns
                o = out[h, start : start + columns]
                for j in range(columns):
                    o[j] = 0.0
                for b in range(babies):
                    x = rotated[b, h, start : start + columns]
                    f = factors[b, at : at + columns]
                    for j in range(columns):
                        o[j] += product(x[j], f[j], q, inverse)
                for j in range(columns):
                    o[j] = canonical(reduce(o[j], q, inverse), q)


@njit(nogil=True, error_model="numpy", cache=True)
def _level_rows(  # type: ignore[no-untyped-def]
    first,
    last,
    digits,
    source,
    each,
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
    """The inner sums of one level modulo the primes first..last: out[giant, h, i], canonical."""
    n = digits.shape[2]
    rotated = np.empty((factors.shape[1], 2, n))
    sums = np.empty(n)
    for i in range(first, last):
        q, inverse = moduli[which[i]], inverses[which[i]]
        _babies(digits, source, each, keys, key_rows[i], i, lift[i], orders, identity, rotated, sums, q, inverse)
        for g in range(factors.shape[0]):
            _weigh(rotated, factors[g, :, i], shift, columns, rows, out[g, :, i], q, inverse)


@njit(nogil=True, error_model="numpy", cache=True)
def _diagonal_rows(first, last, plaintexts, places, positions, out, which, tables, moduli, inverses):  # type: ignore[no-untyped-def]
    """Integer polynomials, (count, small n), |x| < 2^53, modulo primes: out[giant, baby, i] = the values at
    ``positions``, |v| <= q/2, so that products have small bounds.

    k counts polynomials and primes; places: giant and baby of each polynomial.
    """
    head, tail = tables
    buffer = np.empty((tail.shape[2] + 1, tail.shape[3]), dtype=np.float64)
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
            _level_rows,
            rows,
            digits,
            elements,
            plan.shape.digit,
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
            switch.divide(inner[g, 1], element, 0, scratch)
            digits = evaluator.decomposed(element, switch)
            sums = evaluator.scratch("sums", 2, rows, n)
            switch.inner(digits, element, key, sums)
            moduli = basis.moduli
            order = evaluator.order(index)
            run(collect_rows, rows, sums, order, total, switch.which, moduli)
            run(collect_rows, rows, inner[g, :1], order, total, switch.which, moduli)
        return Ciphertext(evaluator.divided(total, switch, 1), x.scale * self._scale)
