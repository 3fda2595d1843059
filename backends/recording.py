"""A machine that remembers: runs a schedule on another machine and keeps what every node of the graph computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glyphc.ir.instructions import (
    Dot,
    Evaluate,
    FromTorus,
    Instruction,
    Load,
    Powers,
    Register,
    Schedule,
    Split,
    ToTorus,
)

from .base import Machine, execute


def record(
    schedule: Schedule, machine: Machine, inputs: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, list[Any]], dict[int, list[Any]]]:
    """Outputs by name as :func:`.base.execute` gives them, and the ciphertexts of every node by its id, chunk by chunk.

    A node's ciphertexts are those that its instructions make and none of them uses up.
    """
    wanted = _results(schedule)
    recorder = _Recorder(machine)
    nodes: dict[int, list[Any]] = {}

    def observe(instruction: Instruction, seconds: float) -> None:
        made = [inputs[instruction.name][instruction.part]] if isinstance(instruction, Load) else recorder.made
        for register, value in zip(_made(instruction), made, strict=False):
            if register in wanted:
                nodes.setdefault(instruction.node, []).append(value)

    return execute(schedule, recorder, inputs, observe), nodes


class _Recorder:
    """Hands everything on; ``made``: the results of the newest call."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.made: list[Any] = []

    def _keep(self, value: Any) -> Any:
        self.made = [value]
        return value

    def dot(self, sources: Sequence[Any], weights: str, total: Any | None) -> Any:
        return self._keep(self.machine.dot(sources, weights, total))

    def split(self, source: Any, parts: int, stride: int, count: int) -> Sequence[Any]:
        self.made = list(self.machine.split(source, parts, stride, count))
        return self.made

    def to_torus(self, source: Any, slots: int) -> Any:
        return self._keep(self.machine.to_torus(source, slots))

    def from_torus(self, source: Any) -> Any:
        return self._keep(self.machine.from_torus(source))

    def powers(self, source: Any, slots: int, degree: int) -> Any:
        return self._keep(self.machine.powers(source, slots, degree))

    def evaluate(self, powers: Any, instruction: Evaluate) -> Any:
        return self._keep(self.machine.evaluate(powers, instruction))


def _results(schedule: Schedule) -> set[Register]:
    """Registers that no instruction of the node that made them reads."""
    maker = {r: i.node for i in schedule.instructions for r in _made(i)}
    used = {r for i in schedule.instructions for r in _read(i) if maker.get(r) == i.node}
    powers = {i.target for i in schedule.instructions if isinstance(i, Powers)}
    return set(maker) - used - powers


def _made(instruction: Instruction) -> tuple[Register, ...]:
    match instruction:
        case Split(targets=targets):
            return targets
        case Load(target=t) | Dot(target=t) | ToTorus(target=t) | FromTorus(target=t) | Powers(target=t):
            return (t,)
        case Evaluate(target=t):
            return (t,)
        case _:
            return ()


def _read(instruction: Instruction) -> tuple[Register, ...]:
    match instruction:
        case Dot(sources=sources, total=total):
            return sources if total is None else (*sources, total)
        case Split(source=s) | ToTorus(source=s) | FromTorus(source=s) | Powers(source=s):
            return (s,)
        case Evaluate(powers=p):
            return (p,)
        case _:
            return ()
