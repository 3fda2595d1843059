"""What a training step costs, from its instructions and the limbs of their operands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2

from glyphc.ir.instructions import Instruction, Load, Register
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


@dataclass(frozen=True)
class Figure:
    """What an engine does as one: a figure of training's, or "powers", "function" or "decode" of a bootstrap. limbs: of
    what it works on in the linear context; 0 in the bootstrapping context, where all is of one size."""

    name: str
    limbs: int = 0


def step_figures(
    code: Code, held: Mapping[str, int], data: Mapping[str, int], decoded: int, bootstraps: Bootstraps
) -> Counter[Figure]:
    """What instructions do, and how often; arguments as of :func:`step_seconds`."""
    levels = register_levels(code, {**held, **data}, decoded - 1, bootstraps.levels)
    counts: Counter[Figure] = Counter()
    for instruction in code:
        if not isinstance(instruction, Load) or instruction.name not in held:
            for figure, count in figures_of(instruction, levels):
                counts[figure] += count
    return counts


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
    counts = step_figures(code, held, data, decoded, bootstraps)
    return sum(n * primitive_seconds(figure.name, figure.limbs, bootstraps, ring, cost) for figure, n in counts.items())


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


def figures_of(instruction: Instruction, levels: Mapping[Register, int]) -> Iterator[tuple[Figure, int]]:
    """What an instruction does, and how often. levels: limbs of all registers, slot levels of slot forms."""
    read = [levels[r] for r in instruction.reads]
    limbs = min(read or [levels[r] for r in instruction.writes], default=0)
    match instruction:
        case Load():
            yield Figure("load", limbs), 1
        case Product(pairs=pairs):
            yield from _lowered(read, limbs)
            yield Figure("product", limbs), len(pairs)
            yield Figure("relinearise", limbs), 1
        case Scaled():
            yield Figure("rescale", limbs), 1
        case Reduce(limbs=wanted):
            yield from _lowered(read, wanted)
        case Sum(terms=terms):
            yield from _lowered(read, limbs)
            yield Figure("addition", limbs), len(terms) - 1
        case Reverse():
            yield Figure("key_switch", limbs), 1
        case Convolve() | Raise():
            yield Figure("public", limbs), 1
        case Unpack(targets=targets, parts=parts):
            yield Figure("branch", limbs), split_automorphisms(parts, len(targets))
        case Pack(sources=sources, parts=parts, stride=stride):
            yield Figure("branch", limbs), _merges([s is not None for s in sources] + [False] * (parts - len(sources)))
            yield Figure("key_switch", limbs), int(log2(stride))
        case Refresh():
            yield from ((Figure(name), 1) for name in ("to_torus", "powers", "function", "decode", "from_torus"))
        case Bootstrap(targets=targets):
            yield from ((Figure("to_torus"), 1), (Figure("powers"), 1), (Figure("function"), len(targets)))
        case Decode():
            # a level that is left is dropped, which is a rescaling as a mask ends in
            yield from ((Figure("mask"), int(limbs > 0)), (Figure("decode"), 1), (Figure("from_torus"), 1))
        case Masked():
            yield Figure("mask"), 1
        case SlotProduct():
            yield from ((Figure("mask"), sum(each > limbs for each in read)), (Figure("slot_product"), 1))


def _lowered(operands: Sequence[int], limbs: int) -> Iterator[tuple[Figure, int]]:
    """Operands are brought to the limbs of the smallest: from those with more, one limb more is divided out."""
    yield Figure("rescale", limbs + 1), sum(each > limbs for each in operands)


def _merges(there: list[bool]) -> int:
    """Automorphisms that merge sources, of which some are zero."""
    if not any(there) or len(there) == 1:
        return 0
    return _merges(there[::2]) + _merges(there[1::2]) + 1
