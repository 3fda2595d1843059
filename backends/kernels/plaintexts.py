"""Sparse integer polynomials as plaintexts: evaluated modulo the primes of sums, all rows side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from glyphc.ir.instructions import Polynomials

from .arithmetic import product_by, reduce
from .basis import F64, I64, Basis, centred
from .threads import run
from .transforms import forward, scratch


@njit(nogil=True, error_model="numpy", cache=True)
def _encode_rows(first, last, offsets, exponents, values, factors, out, which, tables, moduli, inverses):  # type: ignore[no-untyped-def]
    """out[k // primes, k % primes] = polynomial number k // primes, times a factor modulo each prime, |v| <= q/2.

    Coefficients, and sums of those that share an exponent: below 2^53.
    """
    head, tail = tables
    buffer = scratch(tail)
    primes = which.shape[0]
    for k in range(first, last):
        row, i = k // primes, k % primes
        p = which[i]
        q, inverse = moduli[p], inverses[p]
        w = factors[i]
        ratio = w * inverse
        o = out[row, i]
        for j in range(o.shape[0]):
            o[j] = 0.0
        for at in range(offsets[row], offsets[row + 1]):
            o[exponents[at]] += np.float64(values[at])
        for j in range(o.shape[0]):
            o[j] = product_by(reduce(o[j], q, inverse), w, ratio, q)
        forward(o, head[p], tail[p], buffer, q, inverse)
        for j in range(o.shape[0]):
            o[j] = o[j] - q if o[j] > 0.5 * q else o[j]


def encoded(basis: Basis, polynomials: Polynomials, which: I64, factors: Sequence[int]) -> F64:
    """Polynomials times a factor for each prime, evaluation order, centred: (polynomials, primes, n).

    which: the primes. IndexError for exponents beyond the ring.
    """
    exponents = polynomials.exponents
    if len(exponents) and not 0 <= exponents.min() <= exponents.max() < basis.n:
        raise IndexError(f"exponents beyond a ring of dimension {basis.n}")
    numbers = [centred(f, basis.primes[p]) for f, p in zip(factors, which, strict=True)]
    out = np.empty((len(polynomials), len(which), basis.n))
    run(
        _encode_rows,
        len(polynomials) * len(which),
        polynomials.offsets,
        exponents,
        polynomials.values,
        np.array(numbers, dtype=np.float64),
        out,
        which,
        (basis.head, basis.tail),
        basis.moduli,
        basis.inverses,
    )
    return out


def values(basis: Basis, integers: I64, which: I64, factors: Sequence[int] | None = None) -> F64:
    """One integer polynomial, (n,), times a factor for each prime (by default 1), as :func:`encoded`: (primes, n)."""
    n = len(integers)
    dense = Polynomials(np.array([0, n]), np.arange(n, dtype=np.int32), integers)
    found: F64 = encoded(basis, dense, which, [1] * len(which) if factors is None else factors)[0]
    return found
