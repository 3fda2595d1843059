"""A machine that remembers: runs a schedule on another machine and keeps what every node of the graph computed."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from glyphc.ir.instructions import (
    Dot,
    EncryptedDot,
    Evaluate,
    FromTorus,
    Instruction,
    Powers,
    Register,
    Schedule,
    Split,
    ToTorus,
)

from .base import Machine, execute


def record(
    schedule: Schedule,
    machine: Machine,
    inputs: Mapping[str, Sequence[Any]],
    nodes: Container[int],
    order: Mapping[int, Sequence[int]],
) -> tuple[dict[str, list[Any]], dict[int, list[Any]]]:
    """Outputs by name as :func:`.base.execute` gives them, and the ciphertexts of some nodes by id, chunk by chunk.

    nodes: linear maps, bootstraps and switches, whose chunks are one ciphertext each. A node's ciphertexts are those
    that its instructions make and none of them uses up. order: which chunk a node makes first, second, ...
    """
    wanted = _results(schedule)
    recorder = _Recorder(machine)
    kept: dict[int, list[Any]] = {}

    def observe(instruction: Instruction, seconds: float) -> None:
        if instruction.node in nodes and any(r in wanted for r in _made(instruction)):
            kept.setdefault(instruction.node, []).append(recorder.made)

    outputs = execute(schedule, recorder, inputs, observe)
    return outputs, {id: _by_chunk(made, order[id]) for id, made in kept.items()}


def _by_chunk(ciphertexts: Sequence[Any], chunks: Sequence[int]) -> list[Any]:
    numbered = dict(zip(chunks, ciphertexts, strict=True))
    return [numbered[chunk] for chunk in sorted(numbered)]


class _Recorder:
    """Hands everything on; ``made``: the result of the newest call that gives one ciphertext."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.made: Any = None

    def _keep(self, value: Any) -> Any:
        self.made = value
        return value

    def dot(self, sources: Sequence[Any], weights: str, total: Any | None) -> Any:
        return self._keep(self.machine.dot(sources, weights, total))

    def encrypted_dot(self, sources: Sequence[Any], weights: str, total: Any | None) -> Any:
        return self._keep(self.machine.encrypted_dot(sources, weights, total))

    def split(self, source: Any, parts: int, stride: int, count: int) -> Sequence[Any]:
        return self.machine.split(source, parts, stride, count)

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
        case Dot(target=t) | EncryptedDot(target=t) | ToTorus(target=t) | FromTorus(target=t):
            return (t,)
        case Powers(target=t) | Evaluate(target=t):
            return (t,)
        case _:
            return ()


def _read(instruction: Instruction) -> tuple[Register, ...]:
    match instruction:
        case Dot(sources=sources, total=total) | EncryptedDot(sources=sources, total=total):
            return sources if total is None else (*sources, total)
        case Split(source=s) | ToTorus(source=s) | FromTorus(source=s) | Powers(source=s):
            return (s,)
        case Evaluate(powers=p):
            return (p,)
        case _:
            return ()
