"""The client's side: keys of the kernels' shapes. Holds the secret; never imported by the server's modules.

Errors and the secret come from OpenFHE: an encryption of zero is t*e - a*s, so whoever has the secret reads a fresh
error off it. The uniform halves are expanded from a public seed. The sparse secret of the modulus raise is drawn here,
from the operating system's randomness, and forgotten.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from numba import njit

from .arithmetic import product, product_by, reduce
from .basis import F64, Basis, automorphism, centred
from .keys import KeyRoom
from .keyswitch import SwitchingKey
from .shape import SPARSE_WEIGHT, EngineShape, KeySpec
from .threads import run
from .uniform import UniformRows

I64 = npt.NDArray[np.int64]


@njit(nogil=True, error_model="numpy", cache=True)
def _key_rows(first, last, a, error, source, target, gadget, out, which, moduli, inverses):  # type: ignore[no-untyped-def]
    """out = error - a*target + gadget*source, centred; rows are primes."""
    for i in range(first, last):
        q, inverse = moduli[which[i]], inverses[which[i]]
        g = gadget[i]
        ratio = g * inverse
        u, e, s, t, o = a[i], error[i], source[i], target[i], out[i]
        for j in range(o.shape[0]):
            r = e[j] - product(u[j], t[j], q, inverse) + product_by(s[j], g, ratio, q)
            r = reduce(r, q, inverse)
            r = r - q if r > 0.5 * q else r
            o[j] = r + q if r < -0.5 * q else r


class KeyMaker:
    """Makes switching keys under one secret."""

    def __init__(self, shape: EngineShape, basis: Basis, ternary: I64, draw_error: Callable[[], I64]) -> None:
        """ternary: the secret's coefficients, shape (N,). draw_error: gives fresh error polynomials, shape (N,)."""
        self._shape, self._basis, self._draw_error = shape, basis, draw_error
        self._secrets = {"s": ternary_values(basis, ternary)}
        if shape.parameters.slots:
            self._secrets["sparse"] = ternary_values(basis, _sparse(shape.n))

    def keys(self, seed: bytes) -> Iterator[tuple[str, SwitchingKey]]:
        """All keys of a program by name. Their a are those of the seed (see ``keys.whole_key``)."""
        room = KeyRoom(self._shape)
        for spec in self._shape.specs():
            yield spec.name, self.make(spec, seed, room.of(spec))

    def weight_keys(
        self, specs: tuple[KeySpec, KeySpec], weight: I64, seed: bytes
    ) -> tuple[SwitchingKey, SwitchingKey]:
        """The keys from a polynomial w of signed integers, shape (N,), and from w*s, to s: an encryption of w.

        As in ``openfhe.weight_keys``: an external product with them is a product with w.
        """
        which = np.array(self._shape.linear_shape.primes, dtype=np.int64)
        w = self._basis.residues(weight, which)
        self._basis.forward(w, which)
        ws = self._product(w, self._values("s", which), which)
        return self._make(specs[0], w, seed), self._make(specs[1], ws, seed)

    def make(self, spec: KeySpec, seed: bytes, out: F64 | None = None) -> SwitchingKey:
        """One key. out: its memory, (2, digits, primes, n)."""
        return self._make(spec, self._values(spec.source, np.array(spec.shape.primes, dtype=np.int64)), seed, out)

    def _make(self, spec: KeySpec, source: F64, seed: bytes, out: F64 | None = None) -> SwitchingKey:
        basis, shape = self._basis, spec.shape
        which = np.array(shape.primes, dtype=np.int64)
        target = self._values(spec.target, which)
        out = np.empty((2, shape.digits, len(which), basis.n)) if out is None else out
        UniformRows(seed, spec.name).fill(basis, shape, out[1])
        auxiliary = 1
        for p in shape.special:
            auxiliary *= basis.primes[p]
        for d in range(shape.digits):
            error = basis.residues(self._draw_error(), which)
            basis.forward(error, which)
            own = shape.chain[d * shape.digit : (d + 1) * shape.digit]
            gadget = [centred(auxiliary, basis.primes[p]) if p in own else 0 for p in shape.primes]
            numbers = np.array(gadget, dtype=np.float64)
            moduli = basis.moduli, basis.inverses
            run(_key_rows, len(which), out[1, d], error, source, target, numbers, out[0, d], which, *moduli)
        return SwitchingKey(shape, out)

    def _values(self, secret: str, which: I64) -> F64:
        """Of a secret by its name (see ``KeySpec``), modulo some primes."""
        if secret == "s^2":
            s = self._values("s", which)
            return self._product(s, s, which)
        if secret in self._secrets:
            return np.ascontiguousarray(self._secrets[secret][which])
        index = int(secret.removeprefix("s(X^").removesuffix(")"))
        return self._secrets["s"][which][:, automorphism(self._basis, index)]

    def _product(self, a: F64, b: F64, which: I64) -> F64:
        """Centred."""
        out, none = np.empty_like(a), np.zeros_like(a)
        moduli = self._basis.moduli, self._basis.inverses
        # 0 - (-a)*b
        run(_key_rows, len(which), -a, none, none, b, np.zeros(len(which)), out, which, *moduli)
        return out


def ternary_values(basis: Basis, polynomial: I64) -> F64:
    """Modulo all primes of a basis."""
    which = np.arange(len(basis.primes))
    values = basis.residues(polynomial, which)
    basis.forward(values, which)
    return values


def _sparse(n: int) -> I64:
    """A uniform ternary polynomial of the sparse secret's weight."""
    random = secrets.SystemRandom()
    out = np.zeros(n, dtype=np.int64)
    out[random.sample(range(n), SPARSE_WEIGHT)] = [random.choice((-1, 1)) for _ in range(SPARSE_WEIGHT)]
    return out
