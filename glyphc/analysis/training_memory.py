"""What a training step holds in memory beside keys, transforms and what a bootstrap works on, from its instructions."""

from __future__ import annotations

from collections.abc import Mapping

from glyphc.ir.instructions import Free, Load, Register, Store
from glyphc.ir.instructions.base import Kind
from glyphc.ir.instructions.ckks import Code, Masked, register_levels
from glyphc.ir.parameters import Parameters


def live_bytes(code: Code, held: Mapping[str, int], data: Mapping[str, int], p: Parameters) -> float:
    """The most that registers take at once, with what is stored by then, beside what is held before the first
    instruction. held, data: limbs of what is in memory, and of what is read when it is loaded."""
    levels = register_levels(code, {**held, **data}, p.decoded_limbs - 1, p.slot_levels)
    sizes: dict[Register, float] = {}
    stored: set[Register] = set()
    live = most = 0.0
    for instruction in code:
        match instruction:
            case Load(target=target, name=name) if name in held:
                sizes[target] = 0.0
            case Store(source=source):
                stored.add(source)
            case Free(registers=dead):
                live -= sum(sizes[register] for register in dead if register not in stored)
        for register in instruction.writes:
            if register not in sizes:
                slots = instruction.result is Kind.SLOTS
                sizes[register] = 2 * _bytes(p, levels[register] + (_slot_limbs(p) if slots else 0))
                live += sizes[register]
        most = max(most, live)
    return most


def mask_bytes(code: Code, held: Mapping[str, int], data: Mapping[str, int], p: Parameters) -> float:
    """Of all masks of the code, which an engine keeps when it has encoded them; arguments as of :func:`live_bytes`."""
    levels = register_levels(code, {**held, **data}, p.decoded_limbs - 1, p.slot_levels)
    masks = {(i.conditions, levels[i.source]) for i in code if isinstance(i, Masked)}
    return sum(_bytes(p, _slot_limbs(p) + level) for _, level in masks)


def _bytes(p: Parameters, limbs: int) -> float:
    """Of a polynomial."""
    return 8.0 * p.ring * limbs


def _slot_limbs(p: Parameters) -> int:
    """Of a slot form that has no levels left: those of the second transform lie below it, and those that are kept."""
    return p.level_budget[1] + p.levels_kept + 1
