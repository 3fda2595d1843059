"""Between OpenFHE's BGV ciphertexts and the kernels' sums. Public data only.

OpenFHE keeps m + t*e modulo its Q = 1 (mod t). Times -1/t this is the phase m/t (see ``openfhe.switch``), and phases
move between moduli by rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..openfhe.bridge import CiphertextMould
from ..openfhe.rescaling import Rescaling
from ..openfhe.ring import U64, Ring
from .basis import Basis, root_of_unity
from .linear import Sum
from .shape import EngineShape


class Exchange:
    """For one client's BGV context, given by the mould of its ciphertexts."""

    def __init__(self, shape: EngineShape, basis: Basis, mould: CiphertextMould) -> None:
        self._basis, self._mould = basis, mould
        self._which = np.array(shape.linear, dtype=np.int64)
        self._modulus = shape.parameters.plaintext_modulus
        primes = [basis.primes[p] for p in shape.linear]
        rings = [Ring(basis.n, q, root_of_unity(q, basis.n)) for q in primes]
        self._inward = Rescaling.between([mould.ring], rings)
        self._outward = Rescaling.between(rings, [mould.ring])

    def received(self, ciphertext: Any) -> Sum:
        """A sum from a BGV ciphertext of OpenFHE's."""
        ring = self._mould.ring
        factor = -pow(self._modulus, -1, ring.q)
        elements = [self._inward([ring.scale(c, factor)]) for c in self._mould.coefficients(ciphertext)]
        out = np.array(elements, dtype=np.float64)
        for element in out:
            self._basis.forward(element, self._which)
        return out

    def sent(self, x: Sum) -> Any:
        """The inverse of :meth:`received`, up to rounding."""
        ring = self._mould.ring
        c0, c1 = (ring.scale(self._outward(self._coefficients(e))[0], -self._modulus) for e in x)
        return self._mould.cast(c0, c1)

    def _coefficients(self, element: Sum) -> list[U64]:
        y = np.empty_like(element)
        self._basis.backward(element, self._which, self._basis.scaling(list(self._which)), y)
        q = self._basis.moduli[self._which][:, None]
        return list(np.where(y < 0, y + q, y).astype(np.uint64))
