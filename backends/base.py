"""The one loop that executes instructions on any machine.

A machine is the server's side of a backend: an object with the methods that its instructions call (see
``Instruction.method``). What is live in a register is known to the machine alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from glyphc.ir.instructions import Free, Instruction, Load, Register, Store

Observer = Callable[[Instruction, float], None]


@runtime_checkable
class WorksAhead(Protocol):
    """A machine whose registers may hold what is not computed yet."""

    def settle(self) -> None:
        """Wait until it is."""


@dataclass
class State:
    """Where an execution stands: instructions that are done, live ciphertexts, outputs so far by name."""

    done: int = 0
    registers: dict[Register, Any] = field(default_factory=dict)
    outputs: dict[str, list[Any]] = field(default_factory=dict)


def execute(
    code: Sequence[Instruction],
    machine: Any,
    inputs: Mapping[str, Sequence[Any]],
    observe: Observer = lambda instruction, seconds: None,
    state: State | None = None,
) -> dict[str, list[Any]]:
    """Run code; returns the output ciphertexts by name, in the order of their parts.

    ``inputs``: the ciphertexts of each input, in the order of their parts. ``observe`` is told every instruction and
    the seconds it took, after it is done. ``state``: an earlier execution to go on with; it is kept up to date.
    """
    state = State() if state is None else state
    registers = state.registers
    for instruction in code[state.done :]:
        start = time.perf_counter()
        match instruction:
            case Load(target=target, name=name, part=part):
                registers[target] = inputs[name][part]
            case Store(source=source, name=name):
                state.outputs.setdefault(name, []).append(registers[source])
            case Free(registers=dead):
                for register in dead:
                    del registers[register]
            case _:
                _compute(instruction, machine, registers)
        state.done += 1
        observe(instruction, time.perf_counter() - start)
    if isinstance(machine, WorksAhead):
        machine.settle()
    return state.outputs


def _compute(instruction: Instruction, machine: Any, registers: dict[Register, Any]) -> None:
    """A function of its own, so that nothing but registers holds results: they are gone when these are freed."""
    values = instruction.call(machine, [registers[r] for r in instruction.reads])
    registers.update(zip(instruction.writes, values, strict=True))


def execute_named(
    code: Sequence[Instruction],
    machine: Any,
    inputs: Mapping[str, Any],
    observe: Observer = lambda instruction, seconds: None,
) -> dict[str, Any]:
    """Run code whose inputs and outputs are one ciphertext for each name."""
    outputs = execute(code, machine, _Single(inputs), observe)
    return {name: value for name, (value,) in outputs.items()}


class _Single(Mapping[str, Sequence[Any]]):
    """Each ciphertext as the only part of its name, looked up when it is asked for."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self._inputs = inputs

    def __getitem__(self, name: str) -> Sequence[Any]:
        return (self._inputs[name],)

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)


def unsupported(code: Iterable[Instruction], machine: type) -> set[str]:
    """The mnemonics of the instructions in code that a class of machines has no method for."""
    loop = (Load, Store, Free)
    return {i.mnemonic for i in code if not isinstance(i, loop) and not hasattr(machine, i.method)}
