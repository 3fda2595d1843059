"""What a training step costs, from its instructions: seconds of each, at what its operands' limbs are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log2

from glyphc.ir.instructions import Instruction
from glyphc.ir.instructions.ckks import (
    Bootstrap,
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
)
from glyphc.ir.parameters import Parameters

from .cost import CostModel, split_automorphisms


@dataclass(frozen=True)
class StepWork:
    """Bootstraps of a step: how large and how deep. levels: more than a program without training's has."""

    slots: int
    degree: int
    levels: int = 0

    @staticmethod
    def of(p: Parameters) -> StepWork:
        return StepWork(p.slots, p.degree, p.levels_kept + p.slot_levels)


def step_seconds(code: Iterable[Instruction], ring: int, cost: CostModel, bootstraps: StepWork | None = None) -> float:
    """Predicted seconds of a step's instructions. bootstraps: None where the code has none."""
    return sum(count * primitive_seconds(name, ring, cost, bootstraps) for i in code for name, count in primitives(i))


def primitive_seconds(name: str, ring: int, cost: CostModel, bootstraps: StepWork | None) -> float:
    """Of one primitive: a field of ``TrainingFigures``, or "powers", "series" or "decode", the parts of a bootstrap."""
    figures = cost.training
    if name not in ("powers", "series", "decode"):
        return cost.scaled(float(getattr(figures, name)), ring)
    assert bootstraps is not None
    deeper = 1 + cost.level * bootstraps.levels
    if name == "powers":
        return deeper * cost.powers_seconds(bootstraps.slots, bootstraps.degree, ring)
    share = figures.decode_share if name == "decode" else 1 - figures.decode_share
    return deeper * share * cost.evaluate_seconds(bootstraps.slots, bootstraps.degree, ring)


def primitives(instruction: Instruction) -> Iterator[tuple[str, int]]:
    """(primitive, how often) of an instruction."""
    match instruction:
        case Product(pairs=pairs):
            yield "product", len(pairs)
            yield "key_switch", 1
            yield "rescale", 1
        case Scaled() | Reduce():
            yield "rescale", 1
        case Sum(terms=terms):
            yield "addition", len(terms) - 1
        case Reverse():
            yield "key_switch", 1
        case Convolve() | Raise():
            yield "public", 1
        case Unpack(targets=targets, parts=parts):
            automorphisms = split_automorphisms(parts, len(targets))
            yield "key_switch", automorphisms
            yield "shift", automorphisms
        case Pack(sources=sources, parts=parts, stride=stride):
            merges = _merges([s is not None for s in sources] + [False] * (parts - len(sources)))
            yield "key_switch", merges + int(log2(stride))
            yield "shift", merges
        case Refresh():
            yield "powers", 1
            yield "series", 1
            yield "decode", 1
        case Bootstrap(targets=targets):
            yield "powers", 1
            yield "series", len(targets)
        case Decode():
            yield "decode", 1
        case Masked():
            yield "mask", 1
        case SlotProduct():
            yield "slot_product", 1


def _merges(there: list[bool]) -> int:
    """Automorphisms that merge sources, of which some are zero."""
    if len(there) == 1:
        return 0
    even, odd = there[::2], there[1::2]
    return _merges(even) + _merges(odd) + (any(even) or any(odd))
