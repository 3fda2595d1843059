"""Instructions on numbers in slots: a ciphertext holds one number of each sample, and all is elementwise.

The family beside today's (``instructions``), with which it shares ``Load``, ``Store`` and ``Free``. It says nothing of
the scheme: in CKKS the numbers are real, in BGV and BFV they would be integers modulo t. A register has a type: the
*levels* it has left, i.e. how many results that cost one may still follow. A fresh ciphertext has the context's depth;
``SlotDot`` and ``SlotProduct`` end with a rescaling (a modulus switch) and cost a level. Operands of one instruction
must be on the same level, which ``Drop`` sees to, and every register is written once.
"""

from __future__ import annotations

from dataclasses import dataclass

Register = int


@dataclass(frozen=True)
class SlotType:
    """What a register holds. levels: rescalings that may still follow."""

    levels: int


@dataclass(frozen=True)
class SlotDot:
    """target = sum_j weights[j] * sources[j] + bias, by numbers that are the same in all slots. Costs a level."""

    target: Register
    sources: tuple[Register, ...]
    weights: tuple[float, ...]
    bias: float
    node: int


@dataclass(frozen=True)
class SlotProduct:
    """target = sum of a*b over pairs + sum_j weights[j] * sources[j] + bias; relinearised once. Costs a level.

    The linear part rides along: it is added before the rescaling, so it costs neither a level nor one of its own.
    """

    target: Register
    pairs: tuple[tuple[Register, Register], ...]
    sources: tuple[Register, ...]
    weights: tuple[float, ...]
    bias: float
    node: int


@dataclass(frozen=True)
class Drop:
    """target = source with only so many levels left. Exact, and nearly free."""

    target: Register
    source: Register
    levels: int
    node: int


SlotInstruction = SlotDot | SlotProduct | Drop


def slot_reads(instruction: SlotInstruction) -> tuple[Register, ...]:
    """Registers that an instruction reads, in order, possibly with repetitions."""
    match instruction:
        case SlotDot(sources=sources):
            return sources
        case SlotProduct(pairs=pairs, sources=sources):
            return (*(r for pair in pairs for r in pair), *sources)
        case Drop(source=source):
            return (source,)
