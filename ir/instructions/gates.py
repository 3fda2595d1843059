"""Instructions on encrypted bits: a gate of two or three of them is one bootstrap, negation is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from ..errors import IRError
from .base import Free, Instruction, Kind, Load, Register, Store, check_flow


class GateKind(Enum):
    """What a gate computes."""

    AND = "and"
    XOR = "xor"
    MAJORITY = "majority"

    @property
    def inputs(self) -> int:
        """How many bits it reads."""
        return 3 if self is GateKind.MAJORITY else 2


@dataclass(frozen=True)
class Gate(Instruction):
    """target = the gate of the bits in sources, each of them negated where ``negated`` says so."""

    operand: ClassVar[Kind] = Kind.BIT
    result: ClassVar[Kind] = Kind.BIT
    method: ClassVar[str] = "gate"
    read_fields: ClassVar[tuple[str, ...]] = ("sources",)
    target: Register
    kind: GateKind
    sources: tuple[Register, ...]
    negated: tuple[bool, ...]
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.gate(operands, self),)


@dataclass(frozen=True)
class Opposite(Instruction):
    """target = not source."""

    operand: ClassVar[Kind] = Kind.BIT
    result: ClassVar[Kind] = Kind.BIT
    method: ClassVar[str] = "opposite"
    target: Register
    source: Register
    node: int


@dataclass(frozen=True)
class ConstantBit(Instruction):
    """target = a bit that everybody knows, as a ciphertext without noise."""

    result: ClassVar[Kind] = Kind.BIT
    method: ClassVar[str] = "constant_bit"
    read_fields: ClassVar[tuple[str, ...]] = ()
    target: Register
    value: bool
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.constant_bit(self.value),)


def check_gates(code: Sequence[Instruction], inputs: Mapping[str, int]) -> None:
    """IRError for code that cannot be executed. inputs: how many bits each input has, encrypted weights included."""
    check_flow(code, Kind.BIT)
    for at, instruction in enumerate(code):
        what = f"instruction {at} ({instruction.mnemonic})"
        match instruction:
            case Load(name=name, part=part):
                if not 0 <= part < inputs.get(name, 0):
                    raise IRError(f"{what} loads bit {part} of {name!r}, which is not there")
            case Gate(kind=kind, sources=sources, negated=negated):
                if not len(sources) == len(negated) == kind.inputs:
                    raise IRError(f"{what} reads {len(sources)} bits with {len(negated)} signs, not {kind.inputs}")
                if len(set(sources)) < len(sources):
                    raise IRError(f"{what} reads a bit twice, which no bootstrap does")
            case Opposite() | ConstantBit() | Store() | Free():
                pass
            case _:
                raise IRError(f"{what} does not work on encrypted bits")
