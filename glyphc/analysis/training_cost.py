"""What a training step costs, from its instructions and the limbs of their operands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log2

from glyphc.ir.instructions import Instruction, Load
from glyphc.ir.instructions.ckks import (
    Bootstrap,
    Code,
    Convolve,
    Decode,
    Masked,
    Pack,
    Product,
    Raise,
    Reduce,
    Refresh,
    Reverse,
    Scaled,
    SlotProduct,
    Sum,
    Unpack,
    register_levels,
)
from glyphc.ir.parameters import Parameters

from .cost import CostModel, split_automorphisms
from .training_figures import TORUS_FIGURES, row_seconds

# That the seconds of a series were measured for.
_DEGREE = 13


@dataclass(frozen=True)
class Bootstraps:
    """How large and deep those of a step are. levels: more than in a program that has no products in slots."""

    slots: int
    degree: int = _DEGREE
    levels: int = 0

    @staticmethod
    def of(p: Parameters) -> Bootstraps:
        return Bootstraps(p.slots, p.degree, p.slot_levels)


def step_seconds(
    code: Code,
    held: Mapping[str, int],
    data: Mapping[str, int],
    decoded: int,
    bootstraps: Bootstraps,
    ring: int,
    cost: CostModel,
) -> float:
    """Predicted seconds of instructions.

    held, data: limbs of what is in memory, and of what is read from a batch's file; decoded: of what bootstraps leave.
    """
    levels = register_levels(code, {**held, **data}, decoded - 1, bootstraps.levels)
    counts: Counter[tuple[str, int]] = Counter()
    for instruction in code:
        if isinstance(instruction, Load) and instruction.name in held:
            continue
        limbs = min((levels[r] for r in instruction.reads or instruction.writes), default=0)
        for name, count in primitives(instruction):
            counts[name, limbs] += count
    return sum(n * primitive_seconds(name, limbs, bootstraps, ring, cost) for (name, limbs), n in counts.items())


def primitive_seconds(name: str, limbs: int, bootstraps: Bootstraps, ring: int, cost: CostModel) -> float:
    """Of one primitive on so many limbs: a figure of training's, or "powers", "function" or "decode" of a bootstrap."""
    figures, slots, degree = cost.training, bootstraps.slots, bootstraps.degree
    if name in ("powers", "function", "decode"):
        deeper = 1 + cost.level * bootstraps.levels
        if name == "powers":
            return deeper * cost.powers_seconds(slots, degree, ring)
        usual, series = cost.evaluate_seconds(slots, _DEGREE, ring), cost.scaled(figures.series, ring)
        if name == "decode":
            return deeper * max(usual - series, 0.0)
        return deeper * (series + cost.evaluate_seconds(slots, degree, ring) - usual)
    seconds = getattr(figures, name) if name in TORUS_FIGURES else row_seconds(figures.rows, name, limbs)
    return cost.scaled(float(seconds), ring)


def primitives(instruction: Instruction) -> Iterator[tuple[str, int]]:
    """(primitive, how often) of an instruction."""
    match instruction:
        case Load():
            yield "load", 1
        case Product(pairs=pairs):
            yield "product", len(pairs)
            yield "relinearise", 1
        case Scaled() | Reduce():
            yield "rescale", 1
        case Sum(terms=terms):
            yield "addition", len(terms) - 1
        case Reverse():
            yield "key_switch", 1
        case Convolve() | Raise():
            yield "public", 1
        case Unpack(targets=targets, parts=parts):
            yield "branch", split_automorphisms(parts, len(targets))
        case Pack(sources=sources, parts=parts, stride=stride):
            yield "branch", _merges([s is not None for s in sources] + [False] * (parts - len(sources)))
            yield "key_switch", int(log2(stride))
        case Refresh():
            yield from (("to_torus", 1), ("powers", 1), ("function", 1), ("decode", 1), ("from_torus", 1))
        case Bootstrap(targets=targets):
            yield from (("to_torus", 1), ("powers", 1), ("function", len(targets)))
        case Decode():
            yield from (("decode", 1), ("from_torus", 1))
        case Masked():
            yield "mask", 1
        case SlotProduct():
            yield "slot_product", 1


def _merges(there: list[bool]) -> int:
    """Automorphisms that merge sources, of which some are zero."""
    if not any(there) or len(there) == 1:
        return 0
    return _merges(there[::2]) + _merges(there[1::2]) + 1
