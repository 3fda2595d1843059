"""Ciphertexts of slot programs as bytes: fresh ones with a seed, live ones and outputs as they are. No secret here.

Sizes are those of ``SlotParameters``, known without a context.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .bridge import BridgeError, Mould
from .library import fhe
from .randomness import require_own
from .residues import ResidueError, Uniform, pack, unpack
from .ring import U64
from .slot_contexts import SlotContext

PUBLIC, MULTIPLICATION = "slots/public", "slots/multiplication"
PARTS = (PUBLIC, MULTIPLICATION)


@dataclass(frozen=True, eq=False)
class SlotMoulds:
    """Makes ciphertexts of a context from residues, and reads them back. ciphertext: any fresh one."""

    context: SlotContext
    ciphertext: Any

    @cached_property
    def _moulds(self) -> dict[int, Mould]:
        return {}

    def mould(self, limbs: int) -> Mould:
        """A ciphertext on so many limbs, between instructions."""
        if limbs not in self._moulds:
            fresh = self.context.parameters.limbs
            if not 1 <= limbs <= fresh:
                raise ResidueError(f"a ciphertext has 1 to {fresh} limbs, not {limbs}")
            dropped = self.ciphertext
            if limbs < fresh:
                dropped = self.context.context.LevelReduce(self.ciphertext, None, fresh - limbs)
            found = Mould.of(dropped, self.context.parameters.ring, self.context.moduli)
            if found.moduli != self.context.moduli[:limbs] * 2:
                raise BridgeError(f"a ciphertext on {limbs} limbs has other towers than two for each of its primes")
            self._moulds[limbs] = found
        return self._moulds[limbs]

    def cast(self, elements: Sequence[U64]) -> Any:
        """A ciphertext with these towers: of the first element, then of the second."""
        blob = self.mould(len(elements) // 2).with_residues(elements)
        return fhe.DeserializeCiphertextString(blob, fhe.BINARY)

    def towers(self, ciphertext: Any) -> list[U64]:
        """The inverse of :meth:`cast`."""
        found = Mould.of(ciphertext, self.context.parameters.ring, self.context.moduli)
        limbs = len(found.towers) // 2
        if found.moduli != self.context.moduli[:limbs] * 2:
            raise BridgeError("a ciphertext has other towers than two for each of its primes")
        return list(found.residues())

    def write(self, ciphertext: Any) -> bytes:
        """A ciphertext, both elements, exactly."""
        towers = self.towers(ciphertext)
        return pack_towers(self.context, towers[: len(towers) // 2]) + pack_towers(
            self.context, towers[len(towers) // 2 :]
        )

    def read(self, data: bytes, limbs: int) -> Any:
        """The inverse of :meth:`write`; ResidueError when the bytes are none of a ciphertext on so many limbs."""
        self.mould(limbs)
        half = len(data) // 2
        first, second = (unpack_towers(self.context, part, limbs) for part in (data[:half], data[half:]))
        return self.cast([*first, *second])

    def read_fresh(self, data: bytes, stream: Uniform) -> Any:
        """A fresh ciphertext from its first element and the next residues of the stream."""
        first = unpack_towers(self.context, data, self.context.parameters.limbs)
        return self.cast([*first, *uniform_towers(self.context, stream)])


def uniform_towers(context: SlotContext, stream: Uniform) -> list[U64]:
    """The second element of a fresh ciphertext."""
    return [stream.draw(ring.n, ring.q) for ring in context.rings]


def pack_towers(context: SlotContext, towers: Sequence[U64]) -> bytes:
    """Towers of an element modulo the first primes."""
    sizes = context.parameters.residue_bytes
    return b"".join(pack(tower, 1 << 8 * width) for tower, width in zip(towers, sizes, strict=False))


def unpack_towers(context: SlotContext, data: bytes, limbs: int) -> list[U64]:
    """The inverse; ResidueError for another length, or a residue that is not below its prime."""
    n, sizes = context.parameters.ring, context.parameters.residue_bytes[:limbs]
    if len(data) != n * sum(sizes):
        raise ResidueError(f"{len(data)} bytes where {limbs} elements take {n * sum(sizes)}")
    towers, at = [], 0
    for ring, width in zip(context.rings, sizes, strict=False):
        tower = unpack(data[at : at + n * width], n, 1 << 8 * width)
        if int(tower.max()) >= ring.q:
            raise ResidueError("a residue is not below its modulus")
        towers.append(tower)
        at += n * width
    return towers


def write_output(moulds: SlotMoulds, public: Any, ciphertext: Any, flood: float) -> bytes:
    """An output, on one limb. flood: 0, or the deviation in slots of noise to add; then it is re-randomised, too.

    public: the client's public key.
    """
    context = moulds.context
    if flood:
        require_own()
        p = context.parameters
        zero = context.context.MakeCKKSPackedPlaintext([0.0], 1, p.depth, None, p.slots)
        ciphertext = context.context.EvalAdd(ciphertext, context.context.Encrypt(public, zero))
        towers = moulds.towers(ciphertext)
        # in a slot, the real part of a sum of N of these (see ``glyphc.ir.slot_noise``)
        deviation = flood * 2.0**p.scaling_bits / np.sqrt(p.ring / 2)
        bound = max(1, round(deviation * np.sqrt(3)))
        noise = Uniform(os.urandom(32), "flood").draw(p.ring, 2 * bound + 1).astype(np.int64) - bound
        ring = context.rings[0]
        towers[0] = ring.add(towers[0], ring.to_evaluation(ring.reduce(noise)))
        ciphertext = moulds.cast(towers)
    return moulds.write(ciphertext)
