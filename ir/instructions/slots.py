"""Instructions on numbers in slots: a ciphertext holds one number of each sample, and all arithmetic is elementwise.

The family says nothing of the scheme: in CKKS the numbers are real, in BGV and BFV they would be integers modulo t.
Beside its kind, a register has the *levels* it has left (:class:`SlotType`), i.e. how many results that cost one may
still follow. A fresh ciphertext has the context's depth; ``SlotDot`` and ``SlotProduct`` end with a rescaling (a
modulus switch) and cost a level. Operands of one instruction must be on the same level, which ``Drop`` sees to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import IRError
from .base import Free, Instruction, Kind, Load, Register, Store, check_flow

# Far above every weight of a plan, and far below what overflows somewhere.
_MOST = 2.0**40


@dataclass(frozen=True)
class SlotType:
    """What a register holds. levels: rescalings that may still follow."""

    levels: int


@dataclass(frozen=True)
class SlotDot(Instruction):
    """target = sum_j weights[j] * sources[j] + bias, by numbers that are the same in all slots. Costs a level."""

    operand: ClassVar[Kind] = Kind.NUMBERS
    result: ClassVar[Kind] = Kind.NUMBERS
    method: ClassVar[str] = "slot_dot"
    read_fields: ClassVar[tuple[str, ...]] = ("sources",)
    target: Register
    sources: tuple[Register, ...]
    weights: tuple[float, ...]
    bias: float
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.slot_dot(operands, self),)


@dataclass(frozen=True)
class SlotProduct(Instruction):
    """target = sum of a*b over pairs + sum_j weights[j] * sources[j] + bias; relinearised once. Costs a level.

    The linear part rides along: it is added before the rescaling, so it costs neither a level nor one of its own.
    """

    operand: ClassVar[Kind] = Kind.NUMBERS
    result: ClassVar[Kind] = Kind.NUMBERS
    method: ClassVar[str] = "slot_product"
    target: Register
    pairs: tuple[tuple[Register, Register], ...]
    sources: tuple[Register, ...]
    weights: tuple[float, ...]
    bias: float
    node: int

    @property
    def reads(self) -> tuple[Register, ...]:
        return (*(register for pair in self.pairs for register in pair), *self.sources)

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        factors = operands[: 2 * len(self.pairs)]
        pairs = list(zip(factors[::2], factors[1::2], strict=True))
        return (machine.slot_product(pairs, operands[len(factors) :], self),)


@dataclass(frozen=True)
class Drop(Instruction):
    """target = source with only so many levels left. Exact, and nearly free."""

    operand: ClassVar[Kind] = Kind.NUMBERS
    result: ClassVar[Kind] = Kind.NUMBERS
    method: ClassVar[str] = "drop"
    target: Register
    source: Register
    levels: int
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.drop(operands[0], self.levels),)


def check_slots(code: Sequence[Instruction], inputs: Mapping[str, int], depth: int) -> dict[Register, SlotType]:
    """The type of every register that is ever written; IRError for code that cannot be executed.

    inputs: how many ciphertexts each input has. depth: levels of a fresh ciphertext.
    """
    check_flow(code, Kind.NUMBERS)
    types: dict[Register, SlotType] = {}
    stored: set[tuple[str, int]] = set()
    for at, instruction in enumerate(code):
        what = f"instruction {at} ({instruction.mnemonic})"
        match instruction:
            case Free():
                pass
            case Store(name=name, part=part):
                if (name, part) in stored:
                    raise IRError(f"{what} stores part {part} of {name!r} twice")
                stored.add((name, part))
            case Load(target=target, name=name, part=part):
                if not 0 <= part < inputs.get(name, 0):
                    raise IRError(f"{what} loads part {part} of {name!r}, which is not there")
                types[target] = SlotType(depth)
            case SlotDot(target=target) | SlotProduct(target=target) | Drop(target=target):
                types[target] = _result(what, instruction, [types[r] for r in instruction.reads])
            case _:
                raise IRError(f"{what} does not work on numbers in slots")
    return types


def _result(what: str, instruction: SlotDot | SlotProduct | Drop, operands: Sequence[SlotType]) -> SlotType:
    """The type of what an instruction makes."""
    if not operands:
        raise IRError(f"{what} has no operand")
    levels = operands[0].levels
    if isinstance(instruction, Drop):
        if not 0 <= instruction.levels < levels:
            raise IRError(f"{what} cannot go from {levels} levels to {instruction.levels}")
        return SlotType(instruction.levels)
    if any(operand.levels != levels for operand in operands):
        raise IRError(f"{what} has operands on different levels: {sorted({o.levels for o in operands})}")
    if levels < 1:
        raise IRError(f"{what} needs a level, its operands have none left")
    if len(instruction.weights) != len(instruction.sources):
        raise IRError(f"{what} has {len(instruction.weights)} weights for {len(instruction.sources)} registers")
    if isinstance(instruction, SlotProduct) and not instruction.pairs:
        raise IRError(f"{what} multiplies nothing")
    if not all(math.isfinite(v) and abs(v) < _MOST for v in (*instruction.weights, instruction.bias)):
        raise IRError(f"{what} has a number beyond what is computed with")
    return SlotType(levels - 1)
