"""Hybrid key switching (Han, Ki 2020): digits of several primes, and an auxiliary modulus P of primes of our own.

A key from s' to s for digits D_1, D_2, ... of the modulus holds b_d = -a_d*s + e_d + P*g_d*s', where g_d is 1 modulo
the primes of digit d and 0 modulo all others. An element x is decomposed into its residues modulo the D_d, each
converted to all primes; the sum of their products with the key, divided by P, is x*s' under s.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numba import njit

from .arithmetic import anchor, canonical, collapse, fma, low
from .basis import F64, I64, Basis, centred
from .conversion import Conversion, Division
from .threads import run

# Columns that are worked on at a time: what is held of them stays in the nearest cache.
COLUMNS = 1024


@dataclass(frozen=True)
class KeyShape:
    """chain: the primes of the modulus that a key is for; digit: how many make one digit; special: those of P.

    All are indices into a basis. A key serves any modulus that is a prefix of its chain.
    """

    chain: tuple[int, ...]
    digit: int
    special: tuple[int, ...]

    @property
    def digits(self) -> int:
        return -(-len(self.chain) // self.digit)

    @property
    def primes(self) -> tuple[int, ...]:
        """Those of a key's rows."""
        return (*self.chain, *self.special)


@dataclass(frozen=True, eq=False)
class SwitchingKey:
    """values: (2, digits, primes, n): all b, then all a; evaluation order, centred, |v| <= q/2."""

    shape: KeyShape
    values: F64


@njit(nogil=True, error_model="numpy", cache=True)
def key_sums(digits, number, key, h, row, first, addend, factor, out, taken, left, q, inverse):  # type: ignore[no-untyped-def]
    """out = sum_d digits[d, number] * key[h, d, row] + addend * factor, |r| <= 0.51 q, from the position ``first`` on.

    addend: as long as ``out``, or empty. taken, left: scratch of that length.
    """
    count, size = digits.shape[0], out.shape[0]
    start = anchor((count + 1) * 0.5 * q * q)
    last = first + size
    if addend.shape[0]:
        for j in range(size):
            t = fma(addend[j], factor, start)
            left[j] = low(start, addend[j], factor, t)
            taken[j] = t
    else:
        for j in range(size):
            taken[j] = start
            left[j] = 0.0
    d = 0
    while d + 1 < count:
        x0, x1 = digits[d, number, first:last], digits[d + 1, number, first:last]
        k0, k1 = key[h, d, row, first:last], key[h, d + 1, row, first:last]
        if d + 2 < count:
            for j in range(size):
                s = taken[j]
                t = fma(x0[j], k0[j], s)
                u = fma(x1[j], k1[j], t)
                left[j] += low(s, x0[j], k0[j], t) + low(t, x1[j], k1[j], u)
                taken[j] = u
        else:
            for j in range(size):
                s = taken[j]
                t = fma(x0[j], k0[j], s)
                u = fma(x1[j], k1[j], t)
                rest = left[j] + (low(s, x0[j], k0[j], t) + low(t, x1[j], k1[j], u))
                out[j] = collapse(u, rest, start, q, inverse)
        d += 2
    if d < count:
        x0, k0 = digits[d, number, first:last], key[h, d, row, first:last]
        for j in range(size):
            s = taken[j]
            t = fma(x0[j], k0[j], s)
            out[j] = collapse(t, left[j] + low(s, x0[j], k0[j], t), start, q, inverse)
    if count == 0:
        for j in range(size):
            out[j] = collapse(taken[j], left[j], start, q, inverse)


@njit(nogil=True, error_model="numpy", cache=True)
def inner_rows(first, last, digits, key, rows, addends, factors, out, which, moduli, inverses):  # type: ignore[no-untyped-def]
    """out[h, i] = sum_d digits[d, i] * key[h, d, rows[i]] + addends[h, i] * factors[i], canonical.

    Addends for as many rows as they have. At most 14 digits.
    """
    n = digits.shape[2]
    taken, left = np.empty(COLUMNS), np.empty(COLUMNS)
    for i in range(first, last):
        q, inverse = moduli[which[i]], inverses[which[i]]
        extra = i < addends.shape[1]
        for h in range(2):
            for at in range(0, n, COLUMNS):
                size = min(COLUMNS, n - at)
                o = out[h, i, at : at + size]
                x = addends[h, i, at : at + size] if extra else taken[:0]
                w = factors[i]
                key_sums(digits, i, key, h, rows[i], at, x, w, o, taken, left, q, inverse)
                for j in range(size):
                    o[j] = canonical(o[j], q)


class Plan:
    """How elements on a modulus (a prefix of a shape's chain) are switched with keys of that shape."""

    def __init__(self, basis: Basis, shape: KeyShape, limbs: int) -> None:
        self.basis, self.shape, self.limbs = basis, shape, limbs
        chain = shape.chain[:limbs]
        primes = (*chain, *shape.special)
        self.rows = len(primes)
        self.which: I64 = np.array(primes, dtype=np.int64)
        # a key's rows of these primes
        self.key_rows: I64 = np.array(
            [*range(limbs), *range(len(shape.chain), len(shape.chain) + len(shape.special))], dtype=np.int64
        )
        auxiliary = prod(basis.primes[p] for p in shape.special)
        self.lift: F64 = np.array(
            [centred(auxiliary, basis.primes[p]) for p in primes], dtype=np.float64
        )  # P modulo each prime
        self._divisions: dict[int, tuple[Division, I64, I64]] = {}
        self.conversions: list[tuple[slice, Conversion, I64]] = []
        for number, first in enumerate(range(0, limbs, shape.digit)):
            own = slice(first, min(first + shape.digit, limbs))
            others = [r for r in range(self.rows) if not own.start <= r < own.stop]
            conversion = Conversion.of(basis, chain[own], [primes[r] for r in others])
            self.conversions.append((own, conversion, np.array(others, dtype=np.int64) + number * self.rows))
        self.constants = np.concatenate([c.constants for _, c, _ in self.conversions])
        self.transformed = np.concatenate([r for _, _, r in self.conversions])
        self.transformed_primes = np.concatenate([c.targets for _, c, _ in self.conversions])

    @property
    def digits(self) -> int:
        return len(self.conversions)

    def decompose(self, x: F64, out: F64, scratch: F64) -> None:
        """x: (limbs, n), values; out: (digits, rows, n), canonical; scratch: at least (limbs, n)."""
        y = scratch[: self.limbs]
        self.basis.backward(x, self.which[: self.limbs], self.constants, y)
        flat = out.reshape(-1, self.basis.n)
        for number, (own, conversion, rows) in enumerate(self.conversions):
            conversion(y[own], flat, rows)
            out[number, own] = x[own]
        self.basis.forward(flat, self.transformed_primes, self.transformed)

    def inner(
        self, digits: F64, key: SwitchingKey, out: F64, addends: F64 | None = None, factors: F64 | None = None
    ) -> None:
        """out = factors*addends + sum of digits times key, (2, rows, n), canonical. addends: (2, up to rows, n).

        factors: for each row; by default those that P is.
        """
        if key.shape != self.shape:
            raise ValueError(f"a key of the shape {key.shape} where {self.shape} is expected")
        addends = np.empty((2, 0, self.basis.n)) if addends is None else addends
        moduli = self.basis.moduli, self.basis.inverses
        factors = self.lift if factors is None else factors
        run(inner_rows, self.rows, digits, key.values, self.key_rows, addends, factors, out, self.which, *moduli)

    def division(self, dropped: int) -> tuple[Division, I64, I64]:
        """Division by P and the last ``dropped`` primes of the modulus; the rows of divisors and of what is kept."""
        if dropped not in self._divisions:
            self._divisions[dropped] = self._division(dropped)
        return self._divisions[dropped]

    def _division(self, dropped: int) -> tuple[Division, I64, I64]:
        kept = list(range(self.limbs - dropped))
        divisors = list(range(self.limbs - dropped, self.rows))
        primes = [int(p) for p in self.which]
        division = Division.of(self.basis, [primes[r] for r in divisors], [primes[r] for r in kept])
        return division, np.array(divisors, dtype=np.int64), np.array(kept, dtype=np.int64)

    def divide(self, x: F64, out: F64, dropped: int, scratch: tuple[F64, F64]) -> None:
        """x: (elements, rows, n), divided by P and the last ``dropped`` primes: out: (elements, limbs - dropped, n),
        canonical. scratch: as of ``Division``."""
        division, divisors, kept = self.division(dropped)
        division(x, divisors, kept, out, scratch)
