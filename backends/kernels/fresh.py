"""Fresh encryptions as the kernels keep sums (see :mod:`.linear`). Holds the secret; never imported by the server's
modules.

A message m modulo t is the phase round(m*Q/t) + e under the secret s: (phase - a*s, a). The uniform a are drawn in
evaluation order, where they need no transform; errors by :mod:`..gaussian`.
"""

from __future__ import annotations

import os
from math import prod

import numpy as np
import numpy.typing as npt
from numba import njit

from ..gaussian import gaussian
from .arithmetic import canonical, product, product_by, reduce
from .basis import Basis, centred
from .keygen import ternary_values
from .linear import Sum
from .shape import EngineShape
from .threads import run
from .transforms import forward, scratch
from .uniform import UniformRows

I64 = npt.NDArray[np.int64]


@njit(nogil=True, error_model="numpy", cache=True)
def _fresh_rows(first, last, message, error, t, rest, factors, s, a, out, which, tables, moduli, inverses):  # type: ignore[no-untyped-def]
    """out = round(message*Q/t) + error - a*s in evaluation order, canonical; rows are primes.

    (m*Q - r)/t with r = m*Q mod t, so -r/t modulo each prime. rest: Q mod t, factors: -1/t, both centred. t: a power of
    two below 2^50, as |message| is. a, s: canonical values.
    """
    head, tail = tables
    buffer = scratch(tail)
    part = 1.0 / t
    for i in range(first, last):
        p = which[i]
        q, inverse = moduli[p], inverses[p]
        w = factors[i]
        ratio = w * inverse
        o, u, v = out[i], a[i], s[i]
        for j in range(o.shape[0]):
            r = reduce(product(np.float64(message[j]), rest, t, part), t, part)
            o[j] = reduce(product_by(r, w, ratio, q) + np.float64(error[j]), q, inverse)
        forward(o, head[p], tail[p], buffer, q, inverse)
        for j in range(o.shape[0]):
            o[j] = canonical(reduce(o[j] - product(u[j], v[j], q, inverse), q, inverse), q)


class Encryptor:
    """Encrypts under one secret."""

    def __init__(self, shape: EngineShape, basis: Basis, ternary: I64) -> None:
        """ternary: the secret's coefficients, shape (N,)."""
        t = shape.parameters.plaintext_modulus
        self._basis = basis
        self._which = np.array(shape.linear, dtype=np.int64)
        self._primes = [basis.primes[p] for p in shape.linear]
        self._modulus = float(t)
        self._rest = float(centred(prod(self._primes), t))
        self._factors = np.array([centred(-pow(t, -1, q), q) for q in self._primes], dtype=np.float64)
        self._secret = ternary_values(basis, ternary, self._which)

    def __call__(self, message: I64) -> Sum:
        """Of message integers, shape (N,)."""
        basis = self._basis
        out = np.empty((2, len(self._which), basis.n))
        uniform = UniformRows(os.urandom(32), "fresh")
        for row, q in zip(out[1], self._primes, strict=True):
            row[:] = uniform.row(basis.n, q)
        run(
            _fresh_rows,
            len(self._which),
            message,
            gaussian(basis.n),
            self._modulus,
            self._rest,
            self._factors,
            self._secret,
            out[1],
            out[0],
            self._which,
            (basis.head, basis.tail),
            basis.moduli,
            basis.inverses,
        )
        return out
