"""Ciphertexts and keys of programs on integers as bytes, a context after the other. No secret here.

Sizes are those of ``IntegerParameters``, known without a context: every residue takes 8 bytes, as the primes have 60
bits and OpenFHE's may have one more.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, log2, prod, sqrt
from typing import Any

import numpy as np

from glyphc.ir.integer_parameters import IntegerParameters

from .bridge import BridgeError, Mould
from .integer_contexts import IntegerContexts
from .library import fhe
from .randomness import require_own
from .residues import ResidueError, Uniform, pack, unpack
from .ring import U64, Ring

Ciphertexts = tuple[Any, ...]
_WIDE = 1 << 64
# Bits of large integers that are drawn at a time.
_WORD = 32


def public_part(at: int) -> str:
    """Name of the part with the public key of one plaintext prime's context."""
    return f"integers/public-{at}"


def multiplication_part(at: int) -> str:
    """Name of the part with the key for products."""
    return f"integers/multiplication-{at}"


def automorphism_part(at: int, index: int) -> str:
    """Name of the part with the key of one automorphism."""
    return f"integers/automorphism-{at}-{index}"


def part_names(parameters: IntegerParameters) -> tuple[str, ...]:
    """All parts of a client's evaluation keys, in the order in which they are written and read."""
    names = []
    for at in range(len(parameters.moduli)):
        names.append(public_part(at))
        if parameters.products:
            names.append(multiplication_part(at))
        names += [automorphism_part(at, index) for index in parameters.key_automorphisms]
    return tuple(names)


@dataclass(frozen=True, eq=False)
class IntegerMoulds:
    """Makes ciphertexts of all contexts from residues, and reads them back. ciphertexts: fresh ones, of anything."""

    contexts: IntegerContexts
    ciphertexts: Ciphertexts

    @cached_property
    def _moulds(self) -> tuple[Mould, ...]:
        found = []
        for rings, ciphertext in zip(self.contexts.rings, self.ciphertexts, strict=True):
            moduli = tuple(ring.q for ring in rings)
            mould = Mould.of(ciphertext, self.contexts.parameters.ring, moduli)
            if mould.moduli != moduli * 2:
                raise BridgeError("a ciphertext has other towers than two for each of its primes")
            found.append(mould)
        return tuple(found)

    def cast(self, at: int, elements: Sequence[U64]) -> Any:
        """A ciphertext of one context with these towers: of the first element, then of the second."""
        return fhe.DeserializeCiphertextString(self._moulds[at].with_residues(elements), fhe.BINARY)

    def towers(self, at: int, ciphertext: Any) -> list[U64]:
        """The inverse of :meth:`cast`."""
        moduli = tuple(ring.q for ring in self.contexts.rings[at])
        found = Mould.of(ciphertext, self.contexts.parameters.ring, moduli)
        if found.moduli != moduli * 2:
            raise BridgeError("a ciphertext has other towers than two for each of its primes")
        return list(found.residues())

    def write(self, ciphertexts: Ciphertexts) -> bytes:
        """Both elements of the ciphertexts of all contexts, exactly."""
        return b"".join(pack_towers(self.towers(at, each)) for at, each in enumerate(ciphertexts))

    def read(self, data: bytes) -> Ciphertexts:
        """The inverse of :meth:`write`; ResidueError when the bytes are none of ciphertexts."""
        return tuple(self.cast(at, towers) for at, towers in enumerate(self._split(data, 2)))

    def read_fresh(self, data: bytes, stream: Uniform) -> Ciphertexts:
        """Fresh ciphertexts from their first elements and the next residues of the stream."""
        firsts = self._split(data, 1)
        return tuple(
            self.cast(at, [*first, *uniform_towers(self.contexts.rings[at], stream)]) for at, first in enumerate(firsts)
        )

    def _split(self, data: bytes, elements: int) -> list[list[U64]]:
        p = self.contexts.parameters
        each = elements * p.element_bytes
        if len(data) != each * len(p.moduli):
            raise ResidueError(f"{len(data)} bytes where ciphertexts take {each * len(p.moduli)}")
        return [
            unpack_towers(data[at * each : (at + 1) * each], rings * elements)
            for at, rings in enumerate(self.contexts.rings)
        ]


def uniform_towers(rings: Sequence[Ring], stream: Uniform) -> list[U64]:
    """The second element of a fresh ciphertext."""
    return [stream.draw(ring.n, ring.q) for ring in rings]


def pack_towers(towers: Sequence[U64]) -> bytes:
    return b"".join(pack(tower, _WIDE) for tower in towers)


def unpack_towers(data: bytes, rings: Sequence[Ring]) -> list[U64]:
    """The inverse; ResidueError for another length, or a residue that is not below its prime."""
    n = rings[0].n
    if len(data) != 8 * n * len(rings):
        raise ResidueError(f"{len(data)} bytes where {len(rings)} elements take {8 * n * len(rings)}")
    towers = []
    for at, ring in enumerate(rings):
        tower = unpack(data[8 * n * at : 8 * n * (at + 1)], n, _WIDE)
        if int(tower.max()) >= ring.q:
            raise ResidueError("a residue is not below its modulus")
        towers.append(tower)
    return towers


def flooded(moulds: IntegerMoulds, publics: Sequence[Any], ciphertexts: Ciphertexts, share: float) -> Ciphertexts:
    """Re-randomised ciphertexts, with noise of at least this deviation, as a share of what a unit of messages takes.

    publics: the client's public keys. What a decryption's noise tells of the computation drowns in it.
    """
    require_own()
    found = []
    for at, (context, t) in enumerate(zip(moulds.contexts.contexts, moulds.contexts.parameters.moduli, strict=True)):
        zero = context.Encrypt(publics[at], context.MakePackedPlaintext([0]))
        towers = moulds.towers(at, context.EvalAdd(ciphertexts[at], zero))
        rings = moulds.contexts.rings[at]
        deviation = share * (prod(ring.q for ring in rings) / t)
        for number, noise in enumerate(_noise(rings, max(1, ceil(log2(deviation * sqrt(12)))))):
            towers[number] = rings[number].add(towers[number], rings[number].to_evaluation(noise))
        found.append(moulds.cast(at, towers))
    return tuple(found)


def _noise(rings: Sequence[Ring], bits: int) -> list[U64]:
    """Coefficients that are uniform in [-2^(bits - 1), 2^(bits - 1)), modulo each prime."""
    n = rings[0].n
    stream = Uniform(os.urandom(32), "flood")
    words = [stream.draw(n, 1 << min(_WORD, bits - first)) for first in range(0, bits, _WORD)]
    found = []
    for ring in rings:
        total: U64 = np.full(n, -(1 << (bits - 1)) % ring.q, dtype=np.uint64)
        for number, word in enumerate(words):
            total = ring.add(total, ring.scale(word % np.uint64(ring.q), (1 << _WORD * number) % ring.q))
        found.append(total)
    return found
