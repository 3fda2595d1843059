"""Instructions on exact integers in slots, modulo the plaintext modulus: no levels, no rescaling, no rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import IRError
from .base import Free, Instruction, Kind, Load, Register, Store, check_flow


@dataclass(frozen=True)
class IntegerDot(Instruction):
    """target = sum_j weights[j] * sources[j] + bias, by integers that are the same in all slots."""

    operand: ClassVar[Kind] = Kind.INTEGERS
    result: ClassVar[Kind] = Kind.INTEGERS
    method: ClassVar[str] = "integer_dot"
    read_fields: ClassVar[tuple[str, ...]] = ("sources",)
    target: Register
    sources: tuple[Register, ...]
    weights: tuple[int, ...]
    bias: int
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.integer_dot(operands, self),)


@dataclass(frozen=True)
class IntegerProduct(Instruction):
    """target = a * b, relinearised."""

    operand: ClassVar[Kind] = Kind.INTEGERS
    result: ClassVar[Kind] = Kind.INTEGERS
    method: ClassVar[str] = "integer_product"
    read_fields: ClassVar[tuple[str, ...]] = ("a", "b")
    target: Register
    a: Register
    b: Register
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.integer_product(*operands),)


@dataclass(frozen=True)
class IntegerRefresh(Instruction):
    """target = a fresh encryption of what source holds, times ratio and rounded. The client's to do: it sees it."""

    operand: ClassVar[Kind] = Kind.INTEGERS
    result: ClassVar[Kind] = Kind.INTEGERS
    method: ClassVar[str] = "integer_refresh"
    target: Register
    source: Register
    ratio: float
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.integer_refresh(operands[0], self),)


def check_integers(code: Sequence[Instruction], inputs: Mapping[str, int]) -> None:
    """IRError for code that cannot be executed. inputs: how many ciphertexts each input has."""
    check_flow(code, Kind.INTEGERS)
    stored: set[tuple[str, int]] = set()
    for at, instruction in enumerate(code):
        what = f"instruction {at} ({instruction.mnemonic})"
        match instruction:
            case Store(name=name, part=part):
                if (name, part) in stored:
                    raise IRError(f"{what} stores part {part} of {name!r} twice")
                stored.add((name, part))
            case Load(name=name, part=part):
                if not 0 <= part < inputs.get(name, 0):
                    raise IRError(f"{what} loads part {part} of {name!r}, which is not there")
            case IntegerDot(sources=sources, weights=weights):
                if not sources or len(weights) != len(sources):
                    raise IRError(f"{what} has {len(weights)} weights for {len(sources)} registers")
                if not any(weights):
                    raise IRError(f"{what} multiplies by nothing but zeros")
            case IntegerRefresh(ratio=ratio):
                if not 0 < ratio <= 1:
                    raise IRError(f"{what} multiplies by {ratio}, which is no share")
            case IntegerProduct() | Free():
                pass
            case _:
                raise IRError(f"{what} does not work on integers in slots")
