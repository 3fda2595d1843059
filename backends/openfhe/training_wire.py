"""Training's ciphertexts as bytes: fresh ones with a seed, those of a state as they are. No secret; for both sides.

A ciphertext is written as the residues of its elements (see ``residues``): first all limbs of c0, then all of c1, which
a fresh one leaves out. Readers cast them into an example of as many limbs, so no OpenFHE object travels with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .bridge import BridgeError, Mould
from .ckks_linear import LinearKeys
from .library import fhe
from .residues import Uniform, pack, unpack_towers, width


@dataclass(frozen=True, eq=False)
class TrainingWire:
    """Casts ciphertexts on ``limbs`` limbs, from the serialised example of each number of limbs."""

    ring: int
    examples: Mapping[int, Mould]

    @staticmethod
    def of(keys: LinearKeys) -> TrainingWire:
        """For all numbers of limbs of the linear context of these keys."""
        p, context = keys.contexts.parameters, keys.contexts.linear
        examples = {p.linear_limbs: keys.zero}
        for limbs in range(1, p.linear_limbs):
            examples[limbs] = context.LevelReduce(keys.zero, None, p.linear_limbs - limbs)
        return TrainingWire.like(p.ring, examples)

    @staticmethod
    def like(ring: int, examples: Mapping[int, Any]) -> TrainingWire:
        """From one ciphertext for each number of limbs."""
        return TrainingWire(ring, {limbs: mould_of(c, ring, limbs) for limbs, c in examples.items()})

    def fresh_size(self, limbs: int) -> int:
        """Bytes of a fresh ciphertext."""
        return self.ring * sum(map(width, self._moduli(limbs)))

    def state_size(self, limbs: int) -> int:
        """Bytes of a ciphertext of the state."""
        return 2 * self.fresh_size(limbs)

    def read_fresh(self, data: bytes, limbs: int, stream: Uniform) -> Any:
        """A fresh ciphertext from its c0 and the stream that c1 comes from; ResidueError for other bytes."""
        moduli = self._moduli(limbs)
        elements = [*unpack_towers(data, self.ring, moduli), *(stream.draw(self.ring, q) for q in moduli)]
        return self._cast(elements, limbs)

    def read(self, data: bytes, limbs: int) -> Any:
        """The inverse of :meth:`write`; ResidueError for other bytes."""
        return self._cast(list(unpack_towers(data, self.ring, self._moduli(limbs) * 2)), limbs)

    def write(self, ciphertext: Any, limbs: int) -> bytes:
        """Both elements of a ciphertext, exactly."""
        mould = mould_of(ciphertext, self.ring, limbs)
        if mould.moduli != self.examples[limbs].moduli:
            raise BridgeError(f"a ciphertext on {limbs} limbs has other moduli than its example")
        return b"".join(pack(c, q) for c, q in zip(mould.residues(), mould.moduli, strict=True))

    def _moduli(self, limbs: int) -> tuple[int, ...]:
        return self.examples[limbs].moduli[:limbs]

    def _cast(self, elements: list[Any], limbs: int) -> Any:
        return fhe.DeserializeCiphertextString(self.examples[limbs].with_residues(elements), fhe.BINARY)


def mould_of(ciphertext: Any, ring: int, limbs: int) -> Mould:
    """A ciphertext of two elements as a mould; BridgeError when it has another number of limbs."""
    mould = Mould.of(ciphertext, ring)
    if len(mould.towers) != 2 * limbs or mould.moduli[:limbs] != mould.moduli[limbs:]:
        raise BridgeError(f"a ciphertext on {limbs} limbs has {len(mould.towers)} towers")
    return mould
