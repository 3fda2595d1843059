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

from .arithmetic import ROUND, canonical, product, product_by, reduce
from .basis import F64, I64, Basis, centred
from .threads import run

# Columns that are converted at a time: what a digit has of them stays in the processor's cache.
_COLUMNS = 1024


@njit(nogil=True, error_model="numpy", cache=True)
def convert(first, last, y, whole, weights, fractions, out, rows, targets, moduli, inverses):  # type: ignore[no-untyped-def]
    """out[rows[j]] = x modulo the j-th target, reduced, from y: (sources, n), |y| < d.

    weights: (sources, len(targets)), D/d_i modulo each target, centred; whole: (len(targets),), D likewise. Up to 15
    reduced products are summed: below 2^52.
    """
    sources = y.shape[0]
    carry = np.empty(_COLUMNS)
    total = np.empty(_COLUMNS)
    for start in range(first, last, _COLUMNS):
        size = min(_COLUMNS, last - start)
        for i in range(size):
            carry[i] = 0.0
        for s in range(sources):
            part = y[s, start : start + size]
            fraction = fractions[s]
            for i in range(size):
                carry[i] += part[i] * fraction
        for i in range(size):
            carry[i] = (carry[i] + ROUND) - ROUND
        for j in range(targets.shape[0]):
            q, inverse = moduli[targets[j]], inverses[targets[j]]
            w = -whole[j]
            for i in range(size):
                total[i] = product(carry[i], w, q, inverse)
            s = 0
            while s + 1 < sources:
                w0, w1 = weights[s, j], weights[s + 1, j]
                r0, r1 = w0 * inverse, w1 * inverse
                y0 = y[s, start : start + size]
                y1 = y[s + 1, start : start + size]
                for i in range(size):
                    total[i] += product_by(y0[i], w0, r0, q) + product_by(y1[i], w1, r1, q)
                s += 2
            if s < sources:
                w0 = weights[s, j]
                r0 = w0 * inverse
                y0 = y[s, start : start + size]
                for i in range(size):
                    total[i] += product_by(y0[i], w0, r0, q)
            row = out[rows[j], start : start + size]
            for i in range(size):
                row[i] = reduce(total[i], q, inverse)


@njit(nogil=True, error_model="numpy", cache=True)
def _subtract(first, last, x, rows, lifted, factors, out, targets, moduli, inverses):  # type: ignore[no-untyped-def]
    """out[j] = (x[rows[j]] - lifted[j]) * factors[j], canonical; all reduced."""
    for j in range(first, last):
        q, inverse = moduli[targets[j]], inverses[targets[j]]
        w = factors[j]
        ratio = w * inverse
        a, b, c = x[rows[j]], lifted[j], out[j]
        for i in range(a.shape[0]):
            c[i] = canonical(product_by(a[i] - b[i], w, ratio, q), q)


@dataclass(frozen=True, eq=False)
class Conversion:
    """From residues modulo the primes ``sources`` to ``targets`` (indices into the basis)."""

    basis: Basis
    sources: I64
    targets: I64
    constants: F64
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
            np.array([centred(whole, q) for q in others], dtype=np.float64),
            np.array([[centred(whole // d, q) for q in others] for d in primes], dtype=np.float64).reshape(
                len(primes), len(others)
            ),
            np.array([1.0 / d for d in primes]),
        )

    def digits(self, values: F64, out: F64, rows: I64 | None = None) -> None:
        """y of an element in evaluation order. rows: where its limbs stand in ``values``."""
        self.basis.backward(values, self.sources, self.constants, out, rows)

    def __call__(self, y: F64, out: F64, rows: I64 | None = None) -> None:
        """Coefficients for each target, reduced. rows: where they go in ``out``."""
        rows = np.arange(len(self.targets)) if rows is None else rows
        basis = self.basis
        run(
            convert,
            basis.n,
            y,
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
        """x: (rows, n) in evaluation order; which of its rows belong to the divisors and the primes kept.

        out: (kept, n), canonical. scratch: two arrays of at least (divisors, n) and (kept, n).
        """
        conversion = self.conversion
        basis = conversion.basis
        digits, lifted = scratch[0][: len(divisor_rows)], scratch[1][: len(kept_rows)]
        conversion.digits(x, digits, divisor_rows)
        conversion(digits, lifted)
        basis.forward(lifted, conversion.targets)
        run(
            _subtract,
            len(kept_rows),
            x,
            kept_rows,
            lifted,
            self.factors,
            out,
            conversion.targets,
            basis.moduli,
            basis.inverses,
        )
