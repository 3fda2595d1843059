"""Base conversion: residues modulo some primes from those modulo others (Halevi, Polyakov, Shoup 2018), and divisions.

Of x modulo D = d_1...d_k let y_i = x * (D/d_i)^-1 mod d_i. Then x = sum_i y_i * D/d_i - v*D with v the integer
nearest to sum_i y_i/d_i, for x in (-D/2, D/2): exact but where x lies within 2^-50 D of the ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numba import njit

from .arithmetic import ROUND, anchor, canonical, collapse, fma, low, product_by
from .basis import F64, I64, Basis, centred
from .threads import run
from .transforms import forward, scratch

# Columns that are converted at a time: what a digit has of them stays in the processor's cache.
_COLUMNS = 1024


@njit(nogil=True, error_model="numpy", cache=True)
def convert(first, last, y, largest, whole, weights, fractions, out, rows, targets, moduli, inverses):  # type: ignore[no-untyped-def]
    """out[rows[j]] = x modulo the j-th target, reduced, from y: (sources, n), |y| < d <= largest.

    weights: (sources, len(targets)), D/d_i modulo each target, centred; whole: (len(targets),), D likewise. Up to 15
    products are summed.
    """
    sources = y.shape[0]
    carry = np.empty(_COLUMNS)
    taken = np.empty(_COLUMNS)
    left = np.empty(_COLUMNS)
    for at in range(first, last, _COLUMNS):
        size = min(_COLUMNS, last - at)
        for i in range(size):
            carry[i] = 0.0
        for s in range(sources):
            part = y[s, at : at + size]
            fraction = fractions[s]
            for i in range(size):
                carry[i] += part[i] * fraction
        for i in range(size):
            carry[i] = (carry[i] + ROUND) - ROUND
        for j in range(targets.shape[0]):
            q, inverse = moduli[targets[j]], inverses[targets[j]]
            w = -whole[j]
            # multiples of D are fewer than products, and count as one of 16 q at most
            start = anchor((sources * largest + 16.0) * 0.5 * q)
            for i in range(size):
                t = fma(carry[i], w, start)
                left[i] = low(start, carry[i], w, t)
                taken[i] = t
            s = 0
            while s + 3 < sources:
                w0, w1, w2, w3 = weights[s, j], weights[s + 1, j], weights[s + 2, j], weights[s + 3, j]
                y0, y1 = y[s, at : at + size], y[s + 1, at : at + size]
                y2, y3 = y[s + 2, at : at + size], y[s + 3, at : at + size]
                for i in range(size):
                    t = taken[i]
                    t0 = fma(y0[i], w0, t)
                    t1 = fma(y1[i], w1, t0)
                    t2 = fma(y2[i], w2, t1)
                    t3 = fma(y3[i], w3, t2)
                    a = low(t, y0[i], w0, t0) + low(t0, y1[i], w1, t1)
                    left[i] += a + (low(t1, y2[i], w2, t2) + low(t2, y3[i], w3, t3))
                    taken[i] = t3
                s += 4
            while s < sources:
                w0, y0 = weights[s, j], y[s, at : at + size]
                for i in range(size):
                    t = taken[i]
                    t0 = fma(y0[i], w0, t)
                    left[i] += low(t, y0[i], w0, t0)
                    taken[i] = t0
                s += 1
            row = out[rows[j], at : at + size]
            for i in range(size):
                row[i] = collapse(taken[i], left[i], start, q, inverse)


@njit(nogil=True, error_model="numpy", cache=True)
def _subtract(first, last, x, rows, lifted, factors, out, targets, tables, moduli, inverses):  # type: ignore[no-untyped-def]
    """out[j] = (x[rows[j]] - lifted[j]) * factors[j], canonical; all reduced. lifted: coefficients, which are
    transformed here, as a row of them stays in the cache."""
    head, tail = tables
    buffer = scratch(tail)
    for j in range(first, last):
        p = targets[j]
        q, inverse = moduli[p], inverses[p]
        w = factors[j]
        ratio = w * inverse
        a, b, c = x[rows[j]], lifted[j], out[j]
        forward(b, head[p], tail[p], buffer, q, inverse)
        for i in range(a.shape[0]):
            c[i] = canonical(product_by(a[i] - b[i], w, ratio, q), q)


@dataclass(frozen=True, eq=False)
class Conversion:
    """From residues modulo the primes ``sources`` to ``targets`` (indices into the basis)."""

    basis: Basis
    sources: I64
    targets: I64
    constants: F64
    largest: float
    whole: F64
    weights: F64
    fractions: F64

    @staticmethod
    def of(basis: Basis, sources: Sequence[int], targets: Sequence[int]) -> Conversion:
        if not 1 <= len(sources) <= 15:
            raise ValueError(f"a conversion reads 1 to 15 primes, not {len(sources)}")
        primes = [basis.primes[s] for s in sources]
        others = [basis.primes[t] for t in targets]
        whole = prod(primes)
        return Conversion(
            basis,
            np.array(sources, dtype=np.int64),
            np.array(targets, dtype=np.int64),
            basis.scaling(sources, [pow(whole // d, -1, d) for d in primes]),
            float(max(primes)),
            np.array([centred(whole, q) for q in others], dtype=np.float64),
            np.array([[centred(whole // d, q) for q in others] for d in primes], dtype=np.float64).reshape(
                len(primes), len(others)
            ),
            np.array([1.0 / d for d in primes]),
        )

    def __call__(self, y: F64, out: F64, rows: I64 | None = None) -> None:
        """Coefficients for each target, reduced. rows: where they go in ``out``."""
        rows = np.arange(len(self.targets)) if rows is None else rows
        basis = self.basis
        run(
            convert,
            basis.n,
            y,
            self.largest,
            self.whole,
            self.weights,
            self.fractions,
            out,
            rows,
            self.targets,
            basis.moduli,
            basis.inverses,
            grain=_COLUMNS,
        )


@dataclass(frozen=True, eq=False)
class Division:
    """Division by the product D of some primes, rounded: residues modulo the primes that are left.

    round(x/D) = (x - [x]_D)/D, where [x]_D comes from base conversion.
    """

    conversion: Conversion
    factors: F64

    @staticmethod
    def of(basis: Basis, divisors: Sequence[int], kept: Sequence[int]) -> Division:
        whole = prod(basis.primes[d] for d in divisors)
        factors = [centred(pow(whole, -1, basis.primes[k]), basis.primes[k]) for k in kept]
        return Division(Conversion.of(basis, divisors, kept), np.array(factors, dtype=np.float64))

    def __call__(self, x: F64, divisor_rows: I64, kept_rows: I64, out: F64, scratch: tuple[F64, F64]) -> None:
        """x: (elements, rows, n) in evaluation order; which rows of each belong to the divisors and the primes kept.

        out: (elements, kept, n), canonical. scratch: two arrays of at least as many rows as all divisors and all kept.
        """
        conversion = self.conversion
        basis = conversion.basis
        count, rows, n = x.shape
        first = rows * np.arange(count)[:, None]
        digits = scratch[0][: count * len(divisor_rows)].reshape(count, -1, n)
        lifted = scratch[1][: count * len(kept_rows)].reshape(count, -1, n)
        targets = np.tile(conversion.targets, count)
        flat = x.reshape(-1, n)
        basis.backward(
            flat,
            np.tile(conversion.sources, count),
            np.tile(conversion.constants, count),
            digits.reshape(-1, n),
            (first + divisor_rows).reshape(-1),
        )
        for y, found in zip(digits, lifted, strict=True):
            conversion(y, found)
        run(
            _subtract,
            len(targets),
            flat,
            (first + kept_rows).reshape(-1),
            lifted.reshape(-1, n),
            np.tile(self.factors, count),
            out.reshape(-1, n),
            targets,
            (basis.head, basis.tail),
            basis.moduli,
            basis.inverses,
        )
