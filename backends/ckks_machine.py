"""What a backend offers to training, and the one loop that executes its code on any of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from glyphc.ir.ckks import (
    Bootstrap,
    Code,
    Convolve,
    Decode,
    Free,
    Instruction,
    Load,
    Masked,
    Pack,
    Product,
    Raise,
    Reduce,
    Refresh,
    Register,
    Reverse,
    Scaled,
    SlotProduct,
    Store,
    Sum,
    Unpack,
)


class CKKSMachine(Protocol):
    """The server's side of a backend: one method per computing instruction (see ``glyphc.ir.ckks``)."""

    def scaled(self, source: Any, factor: float) -> Any:
        """Product with a constant."""

    def product(self, pairs: Sequence[tuple[Any, Any]]) -> Any:
        """Sum of products of ciphertexts."""

    def sum(self, terms: Sequence[tuple[Any, int]]) -> Any:
        """Sum with signs."""

    def unpack(self, source: Any, parts: int, stride: int, count: int) -> Sequence[Any]:
        """The first ``count`` of ``parts`` residue classes."""

    def pack(self, sources: Sequence[Any | None], parts: int, stride: int) -> Any:
        """Residue classes in one ciphertext."""

    def refresh(self, source: Any, instruction: Refresh) -> Any:
        """A functional bootstrap."""

    def reverse(self, source: Any) -> Any:
        """X replaced by its inverse."""

    def convolved(self, source: Any, exponents: Sequence[int], weight: int) -> Any:
        """Product with a public sum of monomials."""

    def raised(self, source: Any, value: float) -> Any:
        """A public number added to every coefficient."""

    def reduced(self, source: Any, limbs: int) -> Any:
        """On fewer limbs."""

    def bootstrap(self, source: Any, instruction: Bootstrap) -> Sequence[Any]:
        """The first half of a functional bootstrap, for several functions."""

    def masked(self, source: Any, conditions: Sequence[tuple[int, int, int]]) -> Any:
        """A slot form with zeros elsewhere."""

    def slot_product(self, a: Any, b: Any) -> Any:
        """Elementwise product of slot forms."""

    def decode(self, source: Any) -> Any:
        """The second half of a functional bootstrap."""


Observer = Callable[[Instruction, float], None]


def execute(
    code: Code,
    machine: CKKSMachine,
    inputs: Mapping[str, Any],
    observe: Observer = lambda instruction, seconds: None,
) -> dict[str, Any]:
    """Run code; returns what it stores, by name. ``observe`` is told every instruction and its seconds when done."""
    registers: dict[Register, Any] = {}
    outputs: dict[str, Any] = {}
    for instruction in code:
        start = time.perf_counter()
        match instruction:
            case Load(target=target, name=name):
                registers[target] = inputs[name]
            case Scaled(target=target, source=source, factor=factor):
                registers[target] = machine.scaled(registers[source], factor)
            case Product(target=target, pairs=pairs):
                registers[target] = machine.product([(registers[a], registers[b]) for a, b in pairs])
            case Sum(target=target, terms=terms):
                registers[target] = machine.sum([(registers[r], sign) for r, sign in terms])
            case Unpack(targets=targets, source=source, parts=parts, stride=stride):
                pieces = machine.unpack(registers[source], parts, stride, len(targets))
                registers.update(zip(targets, pieces, strict=True))
            case Pack(target=target, sources=sources, parts=parts, stride=stride):
                values = [None if r is None else registers[r] for r in sources]
                registers[target] = machine.pack(values, parts, stride)
            case Refresh(target=target, source=source):
                registers[target] = machine.refresh(registers[source], instruction)
            case Reverse(target=target, source=source):
                registers[target] = machine.reverse(registers[source])
            case Convolve(target=target, source=source, exponents=exponents, weight=weight):
                registers[target] = machine.convolved(registers[source], exponents, weight)
            case Raise(target=target, source=source, value=value):
                registers[target] = machine.raised(registers[source], value)
            case Reduce(target=target, source=source, limbs=limbs):
                registers[target] = machine.reduced(registers[source], limbs)
            case Bootstrap(targets=targets, source=source):
                registers.update(zip(targets, machine.bootstrap(registers[source], instruction), strict=True))
            case Masked(target=target, source=source, conditions=conditions):
                registers[target] = machine.masked(registers[source], conditions)
            case SlotProduct(target=target, a=a, b=b):
                registers[target] = machine.slot_product(registers[a], registers[b])
            case Decode(target=target, source=source):
                registers[target] = machine.decode(registers[source])
            case Store(source=source, name=name):
                outputs[name] = registers[source]
            case Free(registers=dead):
                for register in dead:
                    del registers[register]
        observe(instruction, time.perf_counter() - start)
    return outputs
