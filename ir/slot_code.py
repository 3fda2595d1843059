"""Slot programs as a whole: their checker, the lifetimes of registers, and their text form.

A slot program is a sequence of ``Load``, ``Store``, ``Free`` and the instructions of ``slots``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .errors import IRError, IRSyntaxError
from .instructions import Free, Instruction, Load, Store
from .slots import Drop, Register, SlotDot, SlotInstruction, SlotProduct, SlotType, slot_reads
from .typed_json import TypedJSON

SLOT_HEAD = "glyphc-slots 1"
SlotCode = tuple[Load | Store | Free | SlotInstruction, ...]
FAMILY: dict[str, type] = {
    "load": Load,
    "dot": SlotDot,
    "product": SlotProduct,
    "drop": Drop,
    "store": Store,
    "free": Free,
}
_JSON = TypedJSON({SlotInstruction: FAMILY})
# Far above every weight of a plan, and far below what overflows somewhere.
_MOST = 2.0**40


def slot_code(instructions: Sequence[Instruction]) -> SlotCode:
    """The same instructions, known to be of this family; IRError for one that is not."""
    for at, instruction in enumerate(instructions):
        if not isinstance(instruction, tuple(FAMILY.values())):
            raise IRError(f"instruction {at} ({type(instruction).__name__}) does not work on slots")
    return tuple(i for i in instructions if isinstance(i, Load | Store | Free | SlotInstruction))


def code_text(code: SlotCode) -> str:
    """A line for each instruction, e.g. ``{"drop":{"target":2,"source":0,"levels":3,"node":4}}``."""
    return "\n".join([SLOT_HEAD, *(_JSON.text(i, SlotInstruction) for i in code)]) + "\n"


def parse_slot_code(text: str) -> SlotCode:
    """The inverse of :func:`code_text`; IRSyntaxError, with the line, for any other text."""
    head, *lines = text.split("\n")
    if head != SLOT_HEAD or lines[-1:] != [""]:
        raise IRSyntaxError(f"line 1: slot programs begin with {SLOT_HEAD!r} and end with a line end")
    code: list[Load | Store | Free | SlotInstruction] = []
    for number, line in enumerate(lines[:-1], start=2):
        try:
            code.append(_JSON.read(line, SlotInstruction))
        except IRSyntaxError as e:
            raise IRSyntaxError(f"line {number}: {e}") from None
    return tuple(code)


def check(code: SlotCode, inputs: Mapping[str, int], depth: int) -> dict[Register, SlotType]:
    """The type of every register that is ever written; IRError for code that cannot be executed.

    inputs: how many ciphertexts each input has. depth: levels of a fresh ciphertext.
    """
    types: dict[Register, SlotType] = {}
    live: set[Register] = set()
    stored: set[tuple[str, int]] = set()
    for at, instruction in enumerate(code):
        what = f"instruction {at} ({type(instruction).__name__.lower()})"
        read = _reads(instruction)
        for register in read:
            if register not in live:
                raise IRError(f"{what} reads register {register}, which holds nothing")
        match instruction:
            case Free(registers=registers):
                if len(set(registers)) < len(registers):
                    raise IRError(f"{what} frees a register twice")
                live.difference_update(registers)
                continue
            case Store(name=name, part=part):
                if (name, part) in stored:
                    raise IRError(f"{what} stores part {part} of {name!r} twice")
                stored.add((name, part))
                continue
            case Load(name=name, part=part):
                if not 0 <= part < inputs.get(name, 0):
                    raise IRError(f"{what} loads part {part} of {name!r}, which is not there")
        if instruction.target in types:
            raise IRError(f"{what} writes register {instruction.target} a second time")
        types[instruction.target] = _result(what, instruction, [types[r] for r in read], depth)
        live.add(instruction.target)
    return types


def _reads(instruction: Load | Store | Free | SlotInstruction) -> tuple[Register, ...]:
    match instruction:
        case Load():
            return ()
        case Store(source=source):
            return (source,)
        case Free(registers=registers):
            return registers
        case _:
            return slot_reads(instruction)


def _result(what: str, instruction: Load | SlotInstruction, operands: Sequence[SlotType], depth: int) -> SlotType:
    """The type of what an instruction makes."""
    if isinstance(instruction, Load):
        return SlotType(depth)
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


def with_frees(code: Sequence[Load | Store | SlotInstruction]) -> SlotCode:
    """The same code with registers freed after their last use."""
    last = {register: at for at, instruction in enumerate(code) for register in _reads(instruction)}
    out: list[Load | Store | Free | SlotInstruction] = []
    for at, instruction in enumerate(code):
        out.append(instruction)
        dead = {r for r in _reads(instruction) if last[r] == at}
        if not isinstance(instruction, Store) and instruction.target not in last:
            dead.add(instruction.target)
        if dead:
            out.append(Free(tuple(sorted(dead)), instruction.node))
    return tuple(out)
