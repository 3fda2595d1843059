"""Numbers in slots on the kernels: leveled CKKS. No secret, no way to decrypt.

Ciphertexts have the moduli of OpenFHE's context; scales are as there (:mod:`..openfhe.slot_contexts`): 2^scaling_bits
times the drift that follows from the primes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from glyphc.ir.instructions import Register, Schedule, SlotDot, SlotProduct

from ..openfhe.slot_contexts import SlotContext, drifts, levels_of
from ..openfhe.slot_wire import SlotMoulds
from .basis import I32, Basis
from .ckks_wire import order_in
from .evaluator import Arithmetic, Ciphertext
from .keyswitch import KeyShape, SwitchingKey
from .slot_shape import SlotShape, key_limbs, product_key


@dataclass(frozen=True, eq=False)
class KernelsSlotKeys:
    """What a server needs of one client. mould: any fresh ciphertext; public: the client's public key, where outputs
    may have to be re-randomised."""

    context: SlotContext
    shape: SlotShape
    basis: Basis
    switching: dict[str, SwitchingKey]
    mould: Any
    public: Any = None

    @staticmethod
    def basis_of(context: SlotContext) -> tuple[SlotShape, Basis]:
        """BackendError where keys would not be secure."""
        shape = SlotShape(context.parameters, context.moduli)
        shape.check()
        return shape, Basis.of(context.parameters.ring, shape.primes)


class SlotArithmetic(Arithmetic):
    """With the keys of a program in slots, which has no automorphisms."""

    def __init__(self, keys: KernelsSlotKeys) -> None:
        super().__init__(keys.basis, keys.switching)
        self._limbs = key_limbs(keys.context.parameters)

    def automorphism_name(self, index: int, shape: KeyShape) -> str:
        raise ValueError(f"numbers in slots know no automorphism X -> X^{index}")

    def product_name(self, limbs: int) -> str:
        return product_key(min(k for k in self._limbs if k >= limbs))


class SlotWire:
    """Between OpenFHE's ciphertexts and the kernels': the same residues in another order."""

    def __init__(self, keys: KernelsSlotKeys) -> None:
        self.moulds = SlotMoulds(keys.context, keys.mould)
        self._scale = 2.0**keys.context.parameters.scaling_bits
        self._inward: list[I32] = [order_in(ring, keys.basis, at) for at, ring in enumerate(keys.context.rings)]

    @cached_property
    def _outward(self) -> list[I32]:
        return [np.argsort(order).astype(np.int32) for order in self._inward]

    def received(self, ciphertext: Any, drift: float = 1.0) -> Ciphertext:
        """drift: of the register that it is for."""
        towers = self.moulds.towers(ciphertext)
        limbs = len(towers) // 2
        rows = [tower[self._inward[at % limbs]] for at, tower in enumerate(towers)]
        return Ciphertext(np.array(rows, dtype=np.float64).reshape(2, limbs, -1), self._scale * drift)

    def sent(self, ciphertext: Ciphertext) -> Any:
        """The inverse of :meth:`received`."""
        limbs = ciphertext.limbs
        rows = [element[at][self._outward[at]] for element in ciphertext.elements for at in range(limbs)]
        return self.moulds.cast([row.astype(np.uint64) for row in rows])


class SlotKernels:
    """Executes a slot program."""

    def __init__(self, schedule: Schedule, keys: KernelsSlotKeys) -> None:
        parameters = keys.context.parameters
        code = schedule.instructions
        parts = {port.name: port.layout.ciphertexts for port in schedule.client.inputs}
        self._levels = levels_of(code, parts, parameters.depth)
        self._drifts = drifts(code, keys.context, self._levels)
        self._scale = 2.0**parameters.scaling_bits
        self._arithmetic = SlotArithmetic(keys)
        self.wire = SlotWire(keys)

    def write(self, ciphertext: Ciphertext) -> bytes:
        """A live ciphertext as bytes, to go on with it in another process."""
        return self.wire.moulds.write(self.wire.sent(ciphertext))

    def read(self, data: bytes, register: Register) -> Ciphertext:
        """The inverse of :meth:`write`; ResidueError when the bytes are none that this register can hold."""
        return self.wire.received(self.wire.moulds.read(data, self._levels[register] + 1), self._drifts[register])

    def slot_dot(self, sources: Sequence[Ciphertext], instruction: SlotDot) -> Ciphertext:
        return self._sum([], sources, instruction)

    def slot_product(
        self,
        pairs: Sequence[tuple[Ciphertext, Ciphertext]],
        sources: Sequence[Ciphertext],
        instruction: SlotProduct,
    ) -> Ciphertext:
        return self._sum(pairs, sources, instruction)

    def drop(self, source: Ciphertext, levels: int) -> Ciphertext:
        return Ciphertext(np.ascontiguousarray(source.elements[:, : levels + 1]), source.scale)

    def _sum(
        self,
        pairs: Sequence[tuple[Ciphertext, Ciphertext]],
        sources: Sequence[Ciphertext],
        instruction: SlotDot | SlotProduct,
    ) -> Ciphertext:
        limbs = self._levels[instruction.target] + 2
        scale = self._scale * self._drifts[instruction.target]
        linear = list(zip(sources, instruction.weights, strict=True))
        return self._arithmetic.combine(pairs, linear, instruction.bias, limbs, scale)
