"""What training's instructions must keep to beside their registers, kinds and limbs (:func:`.ckks.check`)."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import IRError
from ..parameters import Parameters
from ..series import Series
from .base import Code, Free, Instruction
from .ckks import Bootstrap, Convolve, Masked, Pack, Product, Raise, Refresh, Scaled, Sum, Unpack

# Far above every constant of a plan, and far below what overflows somewhere.
_MOST_CONSTANT = 2.0**40
# What is added to a ciphertext becomes an integer of 64 bits, at a scale of at most 2^(linear_bits + 1).
_RAISED_BITS = 62


def check_operands(code: Code, parameters: Parameters, periods: tuple[int, ...]) -> None:
    """IRError for operands that break the instructions' rules, which ``ckks.check`` takes for granted.

    Code from a file has been made by anybody. periods: of packing, whose keys there are.
    """
    for at, instruction in enumerate(code):
        problem = _problem(instruction, parameters, periods)
        if problem is not None:
            raise IRError(f"instruction {at} ({instruction.mnemonic}) {problem}")


def _problem(instruction: Instruction, parameters: Parameters, periods: tuple[int, ...]) -> str | None:
    """What is wrong with an instruction's own fields."""
    degree = parameters.degree
    match instruction:
        case Product(pairs=()) | Sum(terms=()) | Convolve(exponents=()):
            return "has no operand"
        case Sum(terms=terms) if any(sign not in (1, -1) for _, sign in terms):
            return "has a sign that is neither 1 nor -1"
        case Convolve(exponents=exponents) if max(map(abs, exponents)) > 4 * parameters.ring:
            return "has an exponent beyond the ring"
        case Convolve(weight=weight) if abs(weight) >= 1 << 31:
            return "has a weight of more than 31 bits"
        case Scaled(factor=factor) if not abs(factor) < _MOST_CONSTANT:
            return f"has the factor {factor:g}, beyond what is computed with"
        case Raise(value=value) if not abs(value) < min(_MOST_CONSTANT, 2.0 ** (_RAISED_BITS - parameters.linear_bits)):
            return f"adds {value:g}, beyond what is computed with"
        case Masked(conditions=conditions):
            if any(period < 1 or not 0 <= start <= stop for period, start, stop in conditions):
                return "has a condition that is not 0 <= start <= stop modulo a period"
        case Free(registers=registers) if len(set(registers)) < len(registers):
            return "frees a register twice"
        case Unpack(targets=moved, parts=parts, stride=stride) | Pack(sources=moved, parts=parts, stride=stride):
            if parts < 1 or stride < 1 or parts & (parts - 1) or not any(p % (parts * stride) == 0 for p in periods):
                return f"takes {parts} parts at stride {stride}, for which there are no keys"
            if not 1 <= len(moved) <= parts:
                return f"has {len(moved)} of {parts} parts"
            if isinstance(instruction, Pack) and all(source is None for source in instruction.sources):
                return "has no operand"
        case Bootstrap(targets=targets, series=series, functions=functions):
            if not len(targets) == len(series) == len(functions) > 0:
                return "has not one series and one list of functions for each target"
            # the powers that all of them read are made for this degree; OpenFHE ends the process for some lower ones
            if (problem := _series_problem(series, parameters)) is None and {s.degree for s in series} != {degree}:
                return f"has a series of another degree than {degree}"
            return problem
        case Refresh(series=series):
            return _series_problem((series,), parameters)
    return None


def _series_problem(series: tuple[Series, ...], parameters: Parameters) -> str | None:
    # at degree 0, OpenFHE ends the process instead of raising an error
    bad: Iterator[Series] = (s for s in series if not len(s.real) == len(s.imag) > 1 or s.degree > parameters.degree)
    if next(bad, None) is not None:
        return f"has a series of unequal parts, of degree 0, or of a degree above {parameters.degree}"
    return None
