"""What every instruction is: it reads and writes numbered registers, and calls one method of a machine.

A family of instructions is a module with subclasses of :class:`Instruction`. Everything that treats instructions alike
(the loop that executes them, lifetimes, estimates of memory, the check of a program's flow) asks the base class, so a
new instruction is a class, and a method of the machines that can execute it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar, TypeVar

from ..errors import IRError

Register = int
_I = TypeVar("_I", bound="Instruction")
# Of instructions that come from no node of a graph.
NO_NODE = -1


class Kind(Enum):
    """What a register holds."""

    BGV = "bgv"  # a BGV ciphertext, integers modulo t in its coefficients
    TORUS = "torus"  # phases, which a bootstrap reads
    POWERS = "powers"  # the first half of a bootstrap: e^{2 pi i k x} of every phase
    CKKS = "ckks"  # real numbers in coefficients, on so many limbs
    NUMBERS = "numbers"  # one number of each sample in a slot, with levels
    INTEGERS = "integers"  # an exact integer of each sample in a slot
    BIT = "bit"  # one bit of one sample
    SLOTS = "slots"  # values in the middle of a bootstrap, in slots, with levels for products

    def __str__(self) -> str:
        return _NOUNS[self]


_NOUNS = {
    Kind.BGV: "a BGV ciphertext",
    Kind.TORUS: "phases on the torus",
    Kind.POWERS: "a bootstrap's first half",
    Kind.CKKS: "a CKKS ciphertext",
    Kind.NUMBERS: "numbers in slots",
    Kind.INTEGERS: "integers in slots",
    Kind.BIT: "an encrypted bit",
    Kind.SLOTS: "a slot form",
}


class Instruction:
    """A frozen dataclass. operand, result: the kinds of all registers that it reads, and of those that it writes.

    method: the machine's method that executes it. read_fields, written_fields: names of the fields with what it reads
    and writes, each a register, several, or none. node: of the graph, which it was made from.
    """

    operand: ClassVar[Kind | None] = None
    result: ClassVar[Kind | None] = None
    method: ClassVar[str] = ""
    read_fields: ClassVar[tuple[str, ...]] = ("source",)
    written_fields: ClassVar[tuple[str, ...]] = ("target",)
    node: int = NO_NODE

    @property
    def reads(self) -> tuple[Register, ...]:
        """Registers that it reads, in order, possibly with repetitions."""
        return self._registers(self.read_fields)

    @property
    def writes(self) -> tuple[Register, ...]:
        """Registers that it fills, each for the first time."""
        return self._registers(self.written_fields)

    @property
    def mnemonic(self) -> str:
        """Its name in messages and in text."""
        return type(self).__name__.lower()

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        """The values of ``writes`` from those of ``reads``, by the machine's method: of one operand to one result."""
        (operand,) = operands
        return (getattr(machine, self.method)(operand),)

    def reading(self: _I, now: Callable[[Register], Register]) -> _I:
        """The same instruction, which reads ``now(register)`` instead of each register."""
        values = {name: getattr(self, name) for name in self.read_fields}
        moved = {
            name: tuple(map(now, value)) if isinstance(value, tuple) else now(value)
            for name, value in values.items()
            if value is not None
        }
        return replace(self, **moved)  # type: ignore[type-var]

    def _registers(self, names: tuple[str, ...]) -> tuple[Register, ...]:
        found: list[Register] = []
        for value in (getattr(self, name) for name in names):
            found += value if isinstance(value, tuple) else () if value is None else (value,)
        return tuple(found)


@dataclass(frozen=True)
class Load(Instruction):
    """Bind the ciphertext number ``part`` of input ``name`` (of all chunks and parts), of whatever kind it is."""

    read_fields: ClassVar[tuple[str, ...]] = ()
    target: Register
    name: str
    part: int = 0
    node: int = NO_NODE


@dataclass(frozen=True)
class Store(Instruction):
    """Hand a ciphertext out as number ``part`` of output ``name`` (of all chunks and parts)."""

    written_fields: ClassVar[tuple[str, ...]] = ()
    source: Register
    name: str
    part: int = 0
    node: int = NO_NODE


@dataclass(frozen=True)
class Free(Instruction):
    """The registers are not needed any more."""

    read_fields: ClassVar[tuple[str, ...]] = ("registers",)
    written_fields: ClassVar[tuple[str, ...]] = ()
    registers: tuple[Register, ...]
    node: int = NO_NODE


Code = tuple[Instruction, ...]


def with_frees(code: Iterable[Instruction]) -> list[Instruction]:
    """The same code with a :class:`Free` behind the last use of every register."""
    code = tuple(code)
    last = {register: at for at, i in enumerate(code) for register in (*i.reads, *i.writes)}
    out: list[Instruction] = []
    for at, instruction in enumerate(code):
        out.append(instruction)
        dead = tuple(r for r in sorted({*instruction.reads, *instruction.writes}) if last[r] == at)
        if dead:
            out.append(Free(dead, instruction.node))
    return out


def check_flow(code: Iterable[Instruction], inputs: Kind) -> dict[Register, Kind]:
    """The kind of every register; IRError where code reads what is not there, or is of another kind, or writes twice.

    inputs: of what ``Load`` binds.
    """
    kinds: dict[Register, Kind] = {}
    live: set[Register] = set()
    for at, instruction in enumerate(code):
        what = f"instruction {at} ({instruction.mnemonic})"
        for register in instruction.reads:
            if register not in live:
                raise IRError(f"{what} reads register {register}, which holds nothing")
            if instruction.operand not in (None, kinds[register]):
                found, wanted = kinds[register], instruction.operand
                raise IRError(f"{what} reads register {register}, which holds {found}, not {wanted}")
        if isinstance(instruction, Free):
            if len(set(instruction.registers)) < len(instruction.registers):
                raise IRError(f"{what} frees a register twice")
            live -= set(instruction.registers)
        for register in instruction.writes:
            if register < 0:
                raise IRError(f"{what} writes register {register}; they are numbered from 0")
            if register in kinds:
                raise IRError(f"{what} writes register {register} a second time")
            kinds[register] = instruction.result or inputs
            live.add(register)
    return kinds
