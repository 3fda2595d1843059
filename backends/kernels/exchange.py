"""Between OpenFHE's BGV ciphertexts and the kernels' sums. Public data only.

OpenFHE keeps m + t*e modulo its Q = 1 (mod t). Times -1/t this is the phase m/t (see ``openfhe.switch``), and phases
move between moduli by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..openfhe.bridge import CiphertextMould, residues
from ..openfhe.rescaling import Rescaling
from ..openfhe.residues import Uniform, unpack
from ..openfhe.ring import U64, Ring
from .basis import Basis, root_of_unity
from .linear import Sum
from .shape import EngineShape
from .threads import each


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
        return self._sum(residues(ciphertext, ring.n, (ring.q,), 2))

    def read(self, data: bytes, stream: Uniform) -> Sum:
        """A sum from a fresh ciphertext in a file (see ``openfhe.wire.read_fresh``); ResidueError."""
        ring = self._mould.ring
        return self._sum([unpack(data, ring.n, ring.q), stream.draw(ring.n, ring.q)])

    def _sum(self, elements: Sequence[U64]) -> Sum:
        """Of both elements of a ciphertext, in OpenFHE's evaluation order."""
        ring = self._mould.ring
        factor = -pow(self._modulus, -1, ring.q)
        moved = each(lambda c: self._inward([ring.scale(ring.to_coefficients(c), factor)]), elements)
        out = np.array(list(moved), dtype=np.float64)
        self._basis.forward(out.reshape(-1, self._basis.n), np.tile(self._which, 2))
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
