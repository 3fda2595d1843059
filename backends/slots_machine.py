"""What a backend offers for numbers in slots, and one step of a slot program on any of them."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, Protocol

from glyphc.ir.slots import Drop, Register, SlotDot, SlotInstruction, SlotProduct


class SlotMachine(Protocol):
    """One method per computing instruction (see ``glyphc.ir.slots``); ciphertexts are of the backend's own kind."""

    def slot_dot(self, sources: Sequence[Any], instruction: SlotDot) -> Any:
        """A weighted sum of ciphertexts, and the bias."""

    def slot_product(self, pairs: Sequence[tuple[Any, Any]], sources: Sequence[Any], instruction: SlotProduct) -> Any:
        """A sum of products of ciphertexts, a weighted sum, and the bias."""

    def drop(self, source: Any, levels: int) -> Any:
        """The same ciphertext with fewer levels left."""


def slot_step(instruction: SlotInstruction, machine: SlotMachine, registers: MutableMapping[Register, Any]) -> None:
    """Execute one instruction on registers."""
    match instruction:
        case SlotDot(target=target, sources=sources):
            registers[target] = machine.slot_dot([registers[s] for s in sources], instruction)
        case SlotProduct(target=target, pairs=pairs, sources=sources):
            factors = [(registers[a], registers[b]) for a, b in pairs]
            registers[target] = machine.slot_product(factors, [registers[s] for s in sources], instruction)
        case Drop(target=target, source=source, levels=levels):
            registers[target] = machine.drop(registers[source], levels)
