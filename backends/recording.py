"""Runs a schedule and keeps what every node of its graph computed."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from glyphc.ir.instructions import Conjugates, Divide, Instruction, Load, Powers, Register, Schedule, Split

from .base import State, execute


def record(
    schedule: Schedule,
    machine: Any,
    inputs: Mapping[str, Sequence[Any]],
    nodes: Container[int],
    order: Mapping[int, Sequence[int]],
) -> tuple[dict[str, list[Any]], dict[int, list[Any]]]:
    """Outputs by name as :func:`.base.execute` gives them, and the ciphertexts of some nodes by id, chunk by chunk.

    nodes: linear maps, bootstraps and switches. A node's ciphertexts are those that its instructions make and none of
    them uses up. order: which chunk a node makes first, second, ...
    """
    wanted = _results(schedule)
    state = State()
    kept: dict[int, list[Any]] = {}

    def observe(instruction: Instruction, seconds: float) -> None:
        results = [r for r in instruction.writes if r in wanted]
        if instruction.node in nodes and results:  # of inputs there are none
            kept.setdefault(instruction.node, []).extend(state.registers[r] for r in results)

    outputs = execute(schedule.instructions, machine, inputs, observe, state)
    return outputs, {id: _by_chunk(made, order[id]) for id, made in kept.items()}


def _by_chunk(ciphertexts: Sequence[Any], chunks: Sequence[int]) -> list[Any]:
    parts, rest = divmod(len(ciphertexts), len(chunks))
    assert not rest
    numbered = {chunk: ciphertexts[at * parts : (at + 1) * parts] for at, chunk in enumerate(chunks)}
    return [ciphertext for chunk in sorted(numbered) for ciphertext in numbered[chunk]]


def _results(schedule: Schedule) -> set[Register]:
    """Registers that hold a node's result: no instruction of the node that made them reads them."""
    computed = [i for i in schedule.instructions if not isinstance(i, Load | Divide | Split | Conjugates | Powers)]
    maker = {r: i.node for i in computed for r in i.writes}
    used = {r for i in computed for r in i.reads if i.writes and maker.get(r) == i.node}
    return set(maker) - used
