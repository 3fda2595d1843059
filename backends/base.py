"""What a backend offers, and the one loop that executes a schedule on any of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from glyphc.ir.instructions import (
    Dot,
    EncryptedDot,
    Evaluate,
    Free,
    FromTorus,
    Instruction,
    Load,
    Powers,
    Register,
    Schedule,
    Split,
    Store,
    ToTorus,
)
from glyphc.ir.slots import Drop, SlotDot, SlotProduct

from .slots_machine import SlotMachine, slot_step


class Machine(Protocol):
    """The server's side of a backend: one method per computing instruction (see ``glyphc.ir.instructions``)."""

    def dot(self, sources: Sequence[Any], weights: str, total: Any | None) -> Any:
        """Sum of products of ciphertexts with the polynomials named ``weights``, the bias, and an earlier sum."""

    def encrypted_dot(self, sources: Sequence[Any], weights: str, total: Any | None) -> Any:
        """The same with encrypted weights and bias."""

    def split(self, source: Any, parts: int, stride: int, count: int) -> Sequence[Any]:
        """The first ``count`` of ``parts`` residue classes."""

    def to_torus(self, source: Any, slots: int) -> Any:
        """Switch to the bootstrapping scheme."""

    def from_torus(self, source: Any) -> Any:
        """Switch back."""

    def powers(self, source: Any, slots: int, degree: int) -> Any:
        """The shared first half of a functional bootstrap."""

    def evaluate(self, powers: Any, instruction: Evaluate) -> Any:
        """One function of it."""


Observer = Callable[[Instruction, float], None]


@dataclass
class State:
    """Where an execution stands: instructions that are done, live ciphertexts, outputs so far by name."""

    done: int = 0
    registers: dict[Register, Any] = field(default_factory=dict)
    outputs: dict[str, list[Any]] = field(default_factory=dict)


def execute(
    schedule: Schedule,
    machine: Machine | SlotMachine,
    inputs: Mapping[str, Sequence[Any]],
    observe: Observer = lambda instruction, seconds: None,
    state: State | None = None,
) -> dict[str, list[Any]]:
    """Run a schedule; returns the output ciphertexts by name, in the order of their parts.

    ``inputs``: the ciphertexts of each input, in the order of their parts. ``observe`` is told every instruction and
    the seconds it took, after it is done. ``state``: an earlier execution to go on with; it is kept up to date.
    """
    state = State() if state is None else state
    registers, outputs = state.registers, state.outputs
    for instruction in schedule.instructions[state.done :]:
        start = time.perf_counter()
        _step(instruction, machine, registers, inputs, outputs)
        state.done += 1
        observe(instruction, time.perf_counter() - start)
    return outputs


def _step(
    instruction: Instruction,
    machine: Machine | SlotMachine,
    registers: dict[Register, Any],
    inputs: Mapping[str, Sequence[Any]],
    outputs: dict[str, list[Any]],
) -> None:
    """One instruction: of what all families share, here; of one family, on a machine for it."""
    match instruction:
        case Load(target=target, name=name, part=part):
            registers[target] = inputs[name][part]
        case Store(source=source, name=name):
            outputs.setdefault(name, []).append(registers[source])
        case Free(registers=dead):
            for register in dead:
                del registers[register]
        case SlotDot() | SlotProduct() | Drop():
            slot_step(instruction, cast(SlotMachine, machine), registers)
        case _:
            _packed_step(instruction, cast(Machine, machine), registers)


def _packed_step(instruction: Instruction, machine: Machine, registers: dict[Register, Any]) -> None:
    """One instruction on coefficients or on the torus."""
    match instruction:
        case Dot(target=target, sources=sources, weights=weights, total=total):
            earlier = None if total is None else registers[total]
            registers[target] = machine.dot([registers[s] for s in sources], weights, earlier)
        case EncryptedDot(target=target, sources=sources, weights=weights, total=total):
            earlier = None if total is None else registers[total]
            registers[target] = machine.encrypted_dot([registers[s] for s in sources], weights, earlier)
        case Split(targets=targets, source=source, parts=parts, stride=stride):
            pieces = machine.split(registers[source], parts, stride, len(targets))
            registers.update(zip(targets, pieces, strict=True))
        case ToTorus(target=target, source=source, slots=slots):
            registers[target] = machine.to_torus(registers[source], slots)
        case FromTorus(target=target, source=source):
            registers[target] = machine.from_torus(registers[source])
        case Powers(target=target, source=source, slots=slots, degree=degree):
            registers[target] = machine.powers(registers[source], slots, degree)
        case Evaluate(target=target, powers=powers):
            registers[target] = machine.evaluate(registers[powers], instruction)
