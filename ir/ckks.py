"""Instructions on CKKS ciphertexts whose messages stand in the coefficients: what training computes with.

A ciphertext holds N real numbers m, as round(m * 2^linear_bits) modulo the product of its limbs' primes, each of about
2^linear_bits: |m| must stay below half of that product divided by 2^linear_bits. A product, and a product with a
constant, costs one limb; a bootstrap reads one limb and gives ``decoded_limbs``. Operands of one instruction are
brought to the fewest limbs among them. ``Registers`` count from zero; every target is written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .errors import IRError
from .functions import Function
from .series import Series

Register = int

# Of one training run: each is listed in its program.
MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class Load:
    """Bind the ciphertext that the caller knows as ``name``."""

    target: Register
    name: str


@dataclass(frozen=True)
class Scaled:
    """target = factor * source. Costs a limb."""

    target: Register
    source: Register
    factor: float


@dataclass(frozen=True)
class Product:
    """target = sum of products of polynomials modulo X^N + 1, relinearised once. Costs a limb."""

    target: Register
    pairs: tuple[tuple[Register, Register], ...]


@dataclass(frozen=True)
class Sum:
    """target = sum of sign * register; signs are +1 or -1."""

    target: Register
    terms: tuple[tuple[Register, int], ...]


@dataclass(frozen=True)
class Unpack:
    """targets[r] = parts * (coefficients of source at stride*(r + parts*m), moved to stride*parts*m).

    Automorphisms only, no limb. parts is a power of two, len(targets) <= parts. source must be zero off multiples of
    ``stride``, but for noise, which stays where it is.
    """

    targets: tuple[Register, ...]
    source: Register
    parts: int
    stride: int


@dataclass(frozen=True)
class Pack:
    """target at stride*(r + parts*m) = stride*parts * (coefficient of sources[r] at stride*parts*m); zero elsewhere.

    Automorphisms only, no limb. parts and stride are powers of two, len(sources) <= parts; None stands for zero.
    """

    target: Register
    sources: tuple[Register | None, ...]
    parts: int
    stride: int


@dataclass(frozen=True)
class Refresh:
    """Functional bootstrap: target = series(x) for the numbers x at multiples of N/(2*slots), zero elsewhere.

    source must be on one limb; x counts modulo 1 and must lie in the series' range. functions: what the series
    approximates, applied to x in order; the cleartext backend computes these.
    """

    target: Register
    source: Register
    series: Series
    functions: tuple[Function, ...]


@dataclass(frozen=True)
class Reverse:
    """target = source with X replaced by its inverse: the coefficient at e moves to -e. One automorphism, no limb."""

    target: Register
    source: Register


@dataclass(frozen=True)
class Convolve:
    """target = source * weight * sum of X^e over the exponents, modulo X^N + 1. weight is an integer. No limb."""

    target: Register
    source: Register
    exponents: tuple[int, ...]
    weight: int = 1


@dataclass(frozen=True)
class Raise:
    """target = source with ``value`` added to every coefficient."""

    target: Register
    source: Register
    value: float


@dataclass(frozen=True)
class Reduce:
    """target = source on fewer limbs: what a bootstrap reads."""

    target: Register
    source: Register
    limbs: int


@dataclass(frozen=True)
class Bootstrap:
    """The first half of a functional bootstrap, for several functions of one input: results stay in slots.

    As ``Refresh``, but the targets are *slot forms*, on which only ``Masked``, ``SlotProduct`` and ``Decode`` work, and
    which have ``slot_levels`` levels for that. All series have the degree of the parameters.
    """

    targets: tuple[Register, ...]
    source: Register
    series: tuple[Series, ...]
    functions: tuple[tuple[Function, ...], ...]


@dataclass(frozen=True)
class Masked:
    """target = source where start <= e modulo period < stop for all conditions (period, start, stop), zero elsewhere.

    e is the coefficient that a slot form's value will have. Costs a slot level.
    """

    target: Register
    source: Register
    conditions: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class SlotProduct:
    """target = a * b, elementwise, of slot forms. Costs a slot level."""

    target: Register
    a: Register
    b: Register


@dataclass(frozen=True)
class Decode:
    """The second half of a bootstrap: from a slot form to a ciphertext on ``decoded_limbs`` limbs."""

    target: Register
    source: Register


@dataclass(frozen=True)
class Store:
    """Hand a ciphertext out under ``name``."""

    source: Register
    name: str


@dataclass(frozen=True)
class Free:
    """The registers are not needed any more."""

    registers: tuple[Register, ...]


Instruction = (
    Load
    | Scaled
    | Product
    | Sum
    | Unpack
    | Pack
    | Refresh
    | Reverse
    | Convolve
    | Raise
    | Reduce
    | Bootstrap
    | Masked
    | SlotProduct
    | Decode
    | Store
    | Free
)
# On slot forms, by slot levels they cost.
_SLOT_LEVELS = {Masked: 1, SlotProduct: 1, Decode: 0}
Code = tuple[Instruction, ...]


def reads(instruction: Instruction) -> tuple[Register, ...]:
    """Registers that an instruction reads, in order, possibly with repetitions."""
    match instruction:
        case Load():
            return ()
        case Product(pairs=pairs):
            return tuple(r for pair in pairs for r in pair)
        case Sum(terms=terms):
            return tuple(r for r, _ in terms)
        case Free(registers=registers):
            return registers
        case Pack(sources=sources):
            return tuple(r for r in sources if r is not None)
        case SlotProduct(a=a, b=b):
            return (a, b)
        case Convolve(source=s) | Raise(source=s) | Reduce(source=s):
            return (s,)
        case Reverse(source=s) | Bootstrap(source=s) | Masked(source=s) | Decode(source=s):
            return (s,)
        case Scaled(source=s) | Unpack(source=s) | Refresh(source=s) | Store(source=s):
            return (s,)


def writes(instruction: Instruction) -> tuple[Register, ...]:
    """Registers that an instruction writes."""
    if isinstance(instruction, Store | Free):
        return ()
    return instruction.targets if isinstance(instruction, Unpack | Bootstrap) else (instruction.target,)


def check(code: Code, inputs: Mapping[str, int], kept: int, slot_levels: int = 0) -> dict[str, int]:
    """Limbs of everything that is stored, by name, from those of the inputs; IRError when code cannot be executed.

    kept: limbs that bootstraps leave, but one. slot_levels: see ``Parameters``.
    """
    limbs: dict[Register, int] = {}
    slots: dict[Register, int] = {}
    written: set[Register] = set()
    stored: dict[str, int] = {}
    for at, instruction in enumerate(code):
        what = f"instruction {at} ({type(instruction).__name__.lower()})"
        on_slots = type(instruction) in _SLOT_LEVELS
        known = {**limbs, **slots} if isinstance(instruction, Free) else slots if on_slots else limbs
        missing = [r for r in reads(instruction) if r not in known]
        if missing:
            form = "no slot form" if on_slots else "nothing" if missing[0] not in slots else "a slot form"
            raise IRError(f"{what} reads register {missing[0]}, which holds {form}")
        fewest = min((known[r] for r in reads(instruction)), default=0)
        if isinstance(instruction, Free):
            for register in instruction.registers:
                limbs.pop(register, None)
                slots.pop(register, None)
        elif isinstance(instruction, Store):
            if instruction.name in stored:
                raise IRError(f"{what} stores {instruction.name!r} twice")
            stored[instruction.name] = fewest
        for target in writes(instruction):
            if target in written:
                raise IRError(f"{what} writes register {target} a second time")
            written.add(target)
            if isinstance(instruction, Bootstrap | Masked | SlotProduct):
                slots[target] = _slot_levels(what, instruction, fewest, slot_levels)
            else:
                limbs[target] = _limbs(what, instruction, fewest, inputs, kept)
    return stored


def _slot_levels(what: str, instruction: Instruction, fewest: int, slot_levels: int) -> int:
    if isinstance(instruction, Bootstrap):
        if fewest != 1:
            raise IRError(f"{what} reads one limb, its operand has {fewest}")
        return slot_levels
    if fewest < 1:
        raise IRError(f"{what} needs a slot level, an operand has none left")
    return fewest - 1


def _limbs(what: str, instruction: Instruction, fewest: int, inputs: Mapping[str, int], kept: int) -> int:
    match instruction:
        case Load(name=name):
            if name not in inputs:
                raise IRError(f"{what} loads {name!r}, which is no input")
            return inputs[name]
        case Scaled() | Product():
            if fewest < 2:
                raise IRError(f"{what} needs two limbs, an operand has {fewest}")
            return fewest - 1
        case Reduce(limbs=wanted):
            if not 1 <= wanted <= fewest:
                raise IRError(f"{what} cannot go from {fewest} limbs to {wanted}")
            return wanted
        case Refresh() if fewest != 1:
            raise IRError(f"{what} reads one limb, its operand has {fewest}")
        case Refresh() | Decode():
            return kept + 1
    return fewest


def with_frees(code: Code) -> Code:
    """The same code with registers freed after their last use."""
    last = {register: at for at, instruction in enumerate(code) for register in reads(instruction)}
    out: list[Instruction] = []
    for at, instruction in enumerate(code):
        out.append(instruction)
        dead = tuple(sorted({r for r in reads(instruction) if last[r] == at}))
        if dead:
            out.append(Free(dead))
    return tuple(out)
