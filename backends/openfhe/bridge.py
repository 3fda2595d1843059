"""Raw coefficients of OpenFHE objects, through their serialised form.

``DCRTPoly`` is opaque in OpenFHE's Python binding. ``Serialize(obj, BINARY)`` however holds each tower as
an 8-byte little-endian length N, the N ``uint64`` residues, and the modulus. Overwriting these arrays and
deserialising gives an object of the same kind with chosen residues. Nothing is assumed silently: the
number of towers, the moduli behind them and the range of all residues are checked.

This module knows no secret; key material is handled in :mod:`.client` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .library import fhe
from .ring import I64, U64, Ring


class BridgeError(RuntimeError):
    """The serialised form is not what this version of the bridge understands (a compiler bug, not user error)."""


def rings_of(context: Any) -> tuple[Ring, ...]:
    """The rings Z_q[X]/(X^N+1), one for each prime of the context's modulus chain, bottom prime first."""
    tree = json.loads(fhe.Serialize(context, fhe.JSON))
    params = next(_find(tree, "elp"))["ptr_wrapper"]["data"]
    rings = []
    for entry in params["p"]:
        fields = entry["ptr_wrapper"]["data"]["value0"]
        rings.append(Ring(int(fields["rd"]), int(fields["cm"]["v"]), int(fields["ru"]["v"])))
    return tuple(rings)


def ring_in(blob: bytes, n: int, q: int) -> Ring:
    """The ring modulo ``q``, from a serialised object whose parameters hold q followed by its root of unity."""
    pattern = q.to_bytes(8, "little")
    at = -1
    while (at := blob.find(pattern, at + 1)) >= 0:
        psi = int.from_bytes(blob[at + 8 : at + 16], "little")
        if 1 < psi < q and pow(psi, n, q) == q - 1:
            return Ring(n, q, psi)
    raise BridgeError(f"no root of unity modulo {q} in the serialised object")


def _find(tree: Any, key: str) -> Iterator[Any]:
    if isinstance(tree, dict):
        for k, v in tree.items():
            if k == key:
                yield v
            yield from _find(v, key)
    elif isinstance(tree, list):
        for v in tree:
            yield from _find(v, key)


@dataclass(frozen=True)
class Mould:
    """A serialised object whose towers can be read and replaced.

    ``towers`` lists (byte offset, modulus) in the order of appearance: for a ciphertext on L limbs first the
    L towers of c0, then those of c1.
    """

    blob: bytes
    n: int
    towers: tuple[tuple[int, int], ...]

    @staticmethod
    def of(obj: Any, n: int, moduli: tuple[int, ...] | None = None) -> Mould:
        """Find the towers of ``obj``: ring dimension ``n``, moduli among ``moduli`` (default: any prime = 1 mod 2n)."""
        blob = fhe.Serialize(obj, fhe.BINARY)
        return Mould(blob, n, tuple(_scan(blob, n, None if moduli is None else frozenset(moduli))))

    @property
    def moduli(self) -> tuple[int, ...]:
        """The modulus of each tower."""
        return tuple(q for _, q in self.towers)

    def residues(self) -> Iterator[U64]:
        """The towers as arrays of shape (n,), EVALUATION format."""
        for offset, _ in self.towers:
            yield np.frombuffer(self.blob, dtype="<u8", count=self.n, offset=offset).astype(np.uint64)

    def with_residues(self, arrays: Sequence[U64]) -> bytes:
        """The serialised object with its towers replaced by ``arrays`` (EVALUATION format, entries below q)."""
        if len(arrays) != len(self.towers):
            raise BridgeError(f"{len(arrays)} towers given, the mould has {len(self.towers)}")
        patched = bytearray(self.blob)
        for array, (offset, q) in zip(arrays, self.towers, strict=True):
            if array.shape != (self.n,) or array.dtype != np.uint64 or int(array.max()) >= q:
                raise BridgeError(f"a tower must be {self.n} uint64 residues below {q}")
            patched[offset : offset + 8 * self.n] = array.tobytes()
        return bytes(patched)


def _scan(blob: bytes, n: int, moduli: frozenset[int] | None) -> Iterator[tuple[int, int]]:
    length = n.to_bytes(8, "little")
    at = 0
    while (at := blob.find(length, at)) >= 0:
        start, end = at + 8, at + 8 + 8 * n
        q = int.from_bytes(blob[end : end + 8], "little")
        wanted = q % (2 * n) == 1 < q < 1 << 61 if moduli is None else q in moduli
        if wanted and int(np.frombuffer(blob, dtype="<u8", count=n, offset=start).max()) < q:
            yield start, q
            at = end
        else:
            at += 1


def residues(obj: Any, n: int, moduli: tuple[int, ...], expected: int) -> list[U64]:
    """The ``expected`` towers of ``obj`` as arrays of shape (n,), EVALUATION format; for a ciphertext c0 then c1."""
    mould = Mould.of(obj, n, moduli)
    if len(mould.towers) != expected:
        raise BridgeError(f"expected {expected} towers in the serialised object, found {len(mould.towers)}")
    return list(mould.residues())


@dataclass(frozen=True)
class CiphertextMould:
    """Makes ciphertexts (c0, c1) on one limb of a context, from coefficient arrays, and reads them back."""

    ring: Ring
    mould: Mould

    @staticmethod
    def of(ciphertext: Any, ring: Ring) -> CiphertextMould:
        """Take ``ciphertext`` (two elements, one limb) as the mould: its metadata is kept."""
        mould = Mould.of(ciphertext, ring.n, (ring.q,))
        if len(mould.towers) != 2:
            raise BridgeError(f"the mould ciphertext must have 2 towers modulo {ring.q}, found {len(mould.towers)}")
        return CiphertextMould(ring, mould)

    def cast(self, c0: U64, c1: U64) -> Any:
        """The ciphertext with the given coefficients (natural order, entries below q)."""
        arrays = [self.ring.to_evaluation(c) for c in (c0, c1)]
        return fhe.DeserializeCiphertextString(self.mould.with_residues(arrays), fhe.BINARY)

    def trivial(self, message: I64) -> Any:
        """The "ciphertext" (m, 0) of a public message of signed integers: a plaintext in a ciphertext's shape."""
        element = self.ring.to_evaluation(self.ring.reduce(message))
        zero = np.zeros(self.ring.n, dtype=np.uint64)
        return fhe.DeserializeCiphertextString(self.mould.with_residues([element, zero]), fhe.BINARY)

    def coefficients(self, ciphertext: Any) -> tuple[U64, U64]:
        """Coefficients of (c0, c1), natural order, entries below q."""
        c0, c1 = residues(ciphertext, self.ring.n, (self.ring.q,), 2)
        return self.ring.to_coefficients(c0), self.ring.to_coefficients(c1)
