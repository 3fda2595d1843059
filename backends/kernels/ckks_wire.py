"""Training's ciphertexts in files, and the kernels' own: the same residues in another order. No secret.

In files (:mod:`..openfhe.training_wire`) elements are in OpenFHE's evaluation order, by its roots of unity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numba import njit

from ..openfhe.ckks_contexts import LinearContexts
from ..openfhe.residues import Uniform, width
from ..openfhe.ring import U64, Ring
from .basis import F64, I32, Basis
from .evaluator import Ciphertext
from .keyfiles import pack_rows, unpack_rows
from .threads import each, run


@njit(nogil=True, error_model="numpy", cache=True)
def _gather(x, order, out):  # type: ignore[no-untyped-def]
    """out[i] = x[order[i]]."""
    for i in range(out.shape[0]):
        out[i] = x[order[i]]


@dataclass(frozen=True, eq=False)
class KernelsWire:
    """As ``TrainingWire``, for the kernels. inward, outward: for each prime where values of the one order stand in the
    other."""

    ring: int
    moduli: tuple[int, ...]
    scales: tuple[float, ...]
    inward: tuple[I32, ...]
    outward: tuple[I32, ...]

    @staticmethod
    def of(contexts: LinearContexts, basis: Basis) -> KernelsWire:
        """basis: whose lowest primes are the context's."""
        rings = contexts.linear_rings
        inward = tuple(order_in(ring, basis, at) for at, ring in enumerate(rings))
        outward = tuple(np.argsort(order).astype(np.int32) for order in inward)
        return KernelsWire(basis.n, tuple(r.q for r in rings), contexts.scales, inward, outward)

    def fresh_size(self, limbs: int) -> int:
        """Bytes of a fresh ciphertext."""
        return self.ring * sum(map(width, self.moduli[:limbs]))

    def state_size(self, limbs: int) -> int:
        """Bytes of a ciphertext of the state."""
        return 2 * self.fresh_size(limbs)

    def read_fresh(self, data: bytes, limbs: int, stream: Uniform) -> Ciphertext:
        """A fresh ciphertext from its c0 and the stream that c1 comes from; ResidueError for other bytes."""
        moduli = self.moduli[:limbs]

        def rows(element: int) -> Sequence[F64 | U64]:
            if element == 0:
                return list(unpack_rows(data, self.ring, moduli))
            return [stream.draw(self.ring, q) for q in moduli]

        return self._cast(list(chain.from_iterable(each(rows, range(2)))))

    def read(self, data: bytes, limbs: int) -> Ciphertext:
        """The inverse of :meth:`write`; ResidueError for other bytes."""
        return self._cast(list(unpack_rows(data, self.ring, self.moduli[:limbs] * 2)))

    def write(self, ciphertext: Ciphertext, limbs: int) -> bytes:
        """Both elements of a ciphertext, exactly."""
        if ciphertext.limbs != limbs:
            raise ValueError(f"a ciphertext on {limbs} limbs has {ciphertext.limbs}")
        rows = [element[i][self.outward[i]] for element in ciphertext.elements for i in range(limbs)]
        return pack_rows(np.stack(rows), self.moduli[:limbs] * 2)

    def _cast(self, towers: Sequence[F64 | U64]) -> Ciphertext:
        limbs = len(towers) // 2
        out = np.empty((2, limbs, self.ring))

        def gather(first: int, last: int) -> None:
            for at in range(first, last):
                _gather(towers[at].astype(np.float64), self.inward[at % limbs], out[at // limbs, at % limbs])

        run(gather, len(towers))
        return Ciphertext(out, self.scales[limbs - 1])


def order_in(ring: Ring, basis: Basis, at: int) -> I32:
    """Where the kernels' values modulo a prime stand in OpenFHE's order: X has another value at each place."""
    x = np.zeros(ring.n, dtype=np.uint64)
    x[1] = 1
    theirs = ring.to_evaluation(x)
    ours = np.zeros((1, ring.n))
    ours[0, 1] = 1
    basis.forward(ours, np.array([at]))
    found = np.argsort(theirs)
    return np.asarray(found[np.searchsorted(theirs[found], ours[0].astype(np.uint64))], dtype=np.int32)
