"""Instructions on CKKS ciphertexts whose messages stand in the coefficients: what training computes with.

A ciphertext holds N real numbers m, as round(m * 2^scaling_bits) modulo the product of its limbs' primes, each of about
2^scaling_bits: |m| must stay below half of that product divided by 2^scaling_bits. A product, and a product with a
constant, costs one limb; a bootstrap reads one limb and gives ``levels_kept`` + 1. Operands of one instruction are
brought to the fewest limbs among them. ``Registers`` count from zero; every target is written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .errors import IRError
from .functions import Function
from .series import Series

Register = int


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
class Store:
    """Hand a ciphertext out under ``name``."""

    source: Register
    name: str


@dataclass(frozen=True)
class Free:
    """The registers are not needed any more."""

    registers: tuple[Register, ...]


Instruction = Load | Scaled | Product | Sum | Unpack | Pack | Refresh | Store | Free
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
        case Scaled(source=s) | Unpack(source=s) | Refresh(source=s) | Store(source=s):
            return (s,)


def check(code: Code, inputs: Mapping[str, int], kept: int) -> dict[str, int]:
    """Limbs of everything that is stored, by name, from those of the inputs; IRError when code cannot be executed.

    kept: levels that a bootstrap leaves.
    """
    limbs: dict[Register, int] = {}
    written: set[Register] = set()
    stored: dict[str, int] = {}
    for at, instruction in enumerate(code):
        what = f"instruction {at} ({type(instruction).__name__.lower()})"
        missing = [r for r in reads(instruction) if r not in limbs]
        if missing:
            raise IRError(f"{what} reads register {missing[0]}, which holds nothing")
        fewest = min((limbs[r] for r in reads(instruction)), default=0)
        match instruction:
            case Free(registers=registers):
                for register in registers:
                    del limbs[register]
                continue
            case Store(name=name):
                if name in stored:
                    raise IRError(f"{what} stores {name!r} twice")
                stored[name] = fewest
                continue
            case Load(name=name):
                if name not in inputs:
                    raise IRError(f"{what} loads {name!r}, which is no input")
                result = inputs[name]
            case Scaled() | Product():
                if fewest < 2:
                    raise IRError(f"{what} needs two limbs, an operand has {fewest}")
                result = fewest - 1
            case Sum() | Unpack() | Pack():
                result = fewest
            case Refresh():
                if fewest != 1:
                    raise IRError(f"{what} reads one limb, its operand has {fewest}")
                result = kept + 1
        for target in instruction.targets if isinstance(instruction, Unpack) else (instruction.target,):
            if target in written:
                raise IRError(f"{what} writes register {target} a second time")
            limbs[target] = result
            written.add(target)
    return stored


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
