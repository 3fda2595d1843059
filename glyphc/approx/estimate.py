"""Predicted time and memory of a schedule, from the cost model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from glyphc.ir.instructions import (
    Dot,
    Evaluate,
    Free,
    FromTorus,
    Instruction,
    Load,
    Powers,
    Schedule,
    Split,
    ToTorus,
)
from glyphc.ir.parameters import Parameters

from .cost import CostModel


@dataclass(frozen=True)
class Estimate:
    """Of one pass of a batch: seconds by graph node, number of bootstraps; bytes of keys and at the peak of a run."""

    node_seconds: dict[int, float]
    bootstraps: int
    bootstrap_seconds: float
    key_bytes: float
    memory_bytes: float

    @property
    def seconds(self) -> float:
        """Evaluation time on the server."""
        return sum(self.node_seconds.values())


def estimate(schedule: Schedule, cost: CostModel) -> Estimate:
    """What one pass of the schedule is expected to take."""
    parameters = schedule.parameters
    by_node: dict[int, float] = {}
    bootstrap = 0.0
    for instruction in schedule.instructions:
        seconds = instruction_seconds(instruction, parameters, cost)
        by_node[instruction.node] = by_node.get(instruction.node, 0.0) + seconds
        if isinstance(instruction, Powers | Evaluate):
            bootstrap += seconds
    return Estimate(
        by_node,
        sum(isinstance(i, Powers) for i in schedule.instructions),
        bootstrap,
        cost.key_bytes(parameters),
        cost.memory_bytes(parameters, _most_live(schedule.instructions), sum(map(len, schedule.polynomials.values()))),
    )


def instruction_seconds(instruction: Instruction, parameters: Parameters, cost: CostModel) -> float:
    """Predicted seconds of one instruction."""
    match instruction:
        case Dot(sources=sources):
            return cost.scaled(cost.product, parameters.ring) * (len(sources) + 1)
        case Split(parts=parts, targets=targets):
            # the tree computes one automorphism for each needed inner node
            inner = sum(min(1 << level, len(targets)) for level in range(parts.bit_length() - 1))
            return cost.scaled(cost.automorphism, parameters.ring) * inner
        case ToTorus() | FromTorus():
            return cost.scaled(cost.switch, parameters.ring)
        case Powers():
            return _bootstrap_seconds(parameters, cost) * (1 - cost.series_share)
        case Evaluate():
            return _bootstrap_seconds(parameters, cost) * cost.series_share
        case _:
            return 0.0


def _bootstrap_seconds(parameters: Parameters, cost: CostModel) -> float:
    return cost.bootstrap_seconds(parameters.slots, parameters.degree, parameters.ring)


def _most_live(instructions: Iterable[Instruction]) -> int:
    """Most ciphertexts alive at once."""
    live, most = 0, 0
    for instruction in instructions:
        match instruction:
            case Load() | Dot() | ToTorus() | FromTorus() | Powers() | Evaluate():
                live += 1
            case Split(targets=targets):
                live += len(targets)
            case Free(registers=registers):
                live -= len(registers)
        most = max(most, live)
    return most
