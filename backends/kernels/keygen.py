"""The client's side: keys of the kernels' shapes. Holds the secret; never imported by the server's modules.

The secret comes from OpenFHE, errors from the operating system's randomness (:mod:`..gaussian`). The uniform halves are
expanded from a public seed. The sparse secret of the modulus raise is drawn here, from the operating system's
randomness, too, and forgotten.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from math import prod

import numpy as np
import numpy.typing as npt
from numba import njit

from .arithmetic import canonical, product, product_by, reduce
from .basis import F64, I32, Basis, automorphism, centred
from .keys import KeyRoom
from .keyswitch import SwitchingKey
from .shape import SPARSE_WEIGHT, EngineShape, KeySpec
from .threads import run
from .transforms import forward, scratch
from .uniform import UniformRows

I64 = npt.NDArray[np.int64]


@njit(nogil=True, error_model="numpy", cache=True)
def _key_rows(  # type: ignore[no-untyped-def]
    first, last, a, errors, source, source_rows, target, order, gadget, out, which, tables, moduli, inverses
):
    """out[d, i] = errors[d] - a[d, i]*target + gadget[d, i]*source, centred values modulo the i-th prime.

    errors: coefficients. source: values, in the rows ``source_rows``. target: values modulo all primes; where ``order``
    is not empty, at these places. k counts digits d and primes i.
    """
    head, tail = tables
    buffer = scratch(tail)
    primes = which.shape[0]
    for k in range(first, last):
        d, i = k // primes, k % primes
        p = which[i]
        q, inverse = moduli[p], inverses[p]
        g = gadget[d, i]
        ratio = g * inverse
        u, e, s, t, o = a[d, i], errors[d], source[source_rows[i]], target[p], out[d, i]
        for j in range(o.shape[0]):
            o[j] = np.float64(e[j])
        forward(o, head[p], tail[p], buffer, q, inverse)
        if order.shape[0]:
            for j in range(o.shape[0]):
                o[j] = o[j] - product(u[j], t[order[j]], q, inverse) + product_by(s[j], g, ratio, q)
        else:
            for j in range(o.shape[0]):
                o[j] = o[j] - product(u[j], t[j], q, inverse) + product_by(s[j], g, ratio, q)
        for j in range(o.shape[0]):
            r = reduce(o[j], q, inverse)
            r = r - q if r > 0.5 * q else r
            o[j] = r + q if r < -0.5 * q else r


@njit(nogil=True, error_model="numpy", cache=True)
def _product_rows(first, last, a, b, out, which, moduli, inverses):  # type: ignore[no-untyped-def]
    """out = a*b, canonical; rows are primes."""
    for i in range(first, last):
        q, inverse = moduli[which[i]], inverses[which[i]]
        x, y, o = a[i], b[i], out[i]
        for j in range(o.shape[0]):
            o[j] = canonical(product(x[j], y[j], q, inverse), q)


_NOWHERE = np.empty(0, dtype=np.int32)


class KeyMaker:
    """Makes switching keys under one secret."""

    def __init__(self, basis: Basis, ternary: I64, draw_error: Callable[[], I64]) -> None:
        """ternary: the secret's coefficients, shape (N,). draw_error: gives fresh error polynomials, shape (N,)."""
        self._basis, self._draw_error, self._ternary = basis, draw_error, ternary
        self._secrets: dict[str, F64] = {}

    def keys(self, shape: EngineShape, seed: bytes) -> Iterator[tuple[str, SwitchingKey]]:
        """All keys of a program by name. Their a are those of the seed (see ``keys.whole_key``).

        Once: the secrets' values modulo all primes are forgotten then, and with them the sparse secret.
        """
        room = KeyRoom(shape)
        for spec in shape.specs():
            yield spec.name, self.make(spec, seed, room.of(spec))
        self._secrets.clear()

    def weight_keys(
        self, specs: tuple[KeySpec, KeySpec], weight: I64, seed: bytes
    ) -> tuple[SwitchingKey, SwitchingKey]:
        """The keys from a polynomial w of signed integers, shape (N,), and from w*s, to s: an encryption of w.

        As in ``openfhe.weight_keys``: an external product with them is a product with w.
        """
        which = np.array(specs[0].shape.primes, dtype=np.int64)
        w = self._basis.residues(weight, which)
        self._basis.forward(w, which)
        ws = self._product(w, np.ascontiguousarray(self._values("s")[which]), which)
        rows = np.arange(len(which))
        return self._make(specs[0], w, rows, seed), self._make(specs[1], ws, rows, seed)

    def make(self, spec: KeySpec, seed: bytes, out: F64 | None = None) -> SwitchingKey:
        """One key. out: its memory, (2, digits, primes, n)."""
        which = np.array(spec.shape.primes, dtype=np.int64)
        if spec.source != "s^2":
            return self._make(spec, self._values(spec.source), which, seed, out)
        s = np.ascontiguousarray(self._values("s")[which])
        return self._make(spec, self._product(s, s, which), np.arange(len(which)), seed, out)

    def _make(self, spec: KeySpec, source: F64, rows: I64, seed: bytes, out: F64 | None = None) -> SwitchingKey:
        """rows: those of the source for each prime of the key."""
        basis, shape = self._basis, spec.shape
        which = np.array(shape.primes, dtype=np.int64)
        out = np.empty((2, shape.digits, len(which), basis.n)) if out is None else out
        UniformRows(seed, spec.name).fill(basis, shape, out[1])
        target, order = self._target(spec.target)
        auxiliary = prod(basis.primes[p] for p in shape.special)
        gadget = np.zeros((shape.digits, len(which)))
        for d in range(shape.digits):
            for i in range(d * shape.digit, min((d + 1) * shape.digit, len(shape.chain))):
                gadget[d, i] = centred(auxiliary, basis.primes[shape.chain[i]])
        run(
            _key_rows,
            shape.digits * len(which),
            out[1],
            np.stack([self._draw_error() for _ in range(shape.digits)]),
            source,
            rows,
            target,
            order,
            gadget,
            out[0],
            which,
            (basis.head, basis.tail),
            basis.moduli,
            basis.inverses,
        )
        return SwitchingKey(shape, out)

    def _target(self, secret: str) -> tuple[F64, I32]:
        """Of a secret by its name (see ``KeySpec``): values modulo all primes, and their places, if not in order."""
        if secret in ("s", "sparse"):
            return self._values(secret), _NOWHERE
        index = int(secret.removeprefix("s(X^").removesuffix(")"))
        return self._values("s"), automorphism(self._basis, index)

    def _values(self, secret: str) -> F64:
        """Modulo all primes; kept while keys are made. The sparse secret is drawn when it is first asked for."""
        if secret not in self._secrets:
            polynomial = _sparse(self._basis.n) if secret == "sparse" else self._ternary
            self._secrets[secret] = ternary_values(self._basis, polynomial)
        return self._secrets[secret]

    def _product(self, a: F64, b: F64, which: I64) -> F64:
        """Canonical."""
        out = np.empty_like(a)
        run(_product_rows, len(which), a, b, out, which, self._basis.moduli, self._basis.inverses)
        return out


def ternary_values(basis: Basis, polynomial: I64, which: I64 | None = None) -> F64:
    """Modulo some primes of a basis, or all, canonical."""
    which = np.arange(len(basis.primes)) if which is None else which
    values = basis.residues(polynomial, which)
    basis.forward(values, which)
    return values


def _sparse(n: int) -> I64:
    """A uniform ternary polynomial of the sparse secret's weight."""
    random = secrets.SystemRandom()
    out = np.zeros(n, dtype=np.int64)
    out[random.sample(range(n), SPARSE_WEIGHT)] = [random.choice((-1, 1)) for _ in range(SPARSE_WEIGHT)]
    return out
