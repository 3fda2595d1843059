"""Training's instructions: CKKS ciphertexts whose messages stand in the coefficients: what training computes with.

A ciphertext holds N real numbers m, as round(m * 2^linear_bits) modulo the product of its limbs' primes, each of about
2^linear_bits: |m| must stay below half of that product divided by 2^linear_bits. A product, and a product with a
constant, costs one limb; a bootstrap reads one limb and gives ``decoded_limbs``. Operands of one instruction are
brought to the fewest limbs among them. ``Registers`` count from zero; every target is written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import IRError
from ..functions import Function
from ..series import Series
from .base import Code as Code
from .base import Instruction, Kind, Load, Register, Store, check_flow

# Of one training run: each is listed in its program.
MOST_STEPS = 1_000_000
# What a forward pass alone stores: the last layer's sums, as phases on one limb.
LOGITS = "logits"
# What a step stores beside its state where the client watches it: N times the sum of squares of the errors, at X^0.
STATISTIC = "statistic"


@dataclass(frozen=True)
class Scaled(Instruction):
    """target = factor * source. Costs a limb."""

    operand: ClassVar[Kind] = Kind.CKKS
    result: ClassVar[Kind] = Kind.CKKS
    method: ClassVar[str] = "scaled"
    target: Register
    source: Register
    factor: float

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.scaled(operands[0], self.factor),)


@dataclass(frozen=True)
class Product(Instruction):
    """target = sum of products of polynomials modulo X^N + 1, relinearised once. Costs a limb."""

    operand: ClassVar[Kind] = Kind.CKKS
    result: ClassVar[Kind] = Kind.CKKS
    method: ClassVar[str] = "product"
    target: Register
    pairs: tuple[tuple[Register, Register], ...]

    @property
    def reads(self) -> tuple[Register, ...]:
        return tuple(register for pair in self.pairs for register in pair)

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.product(list(zip(operands[::2], operands[1::2], strict=True))),)


@dataclass(frozen=True)
class Sum(Instruction):
    """target = sum of sign * register; signs are +1 or -1."""

    operand: ClassVar[Kind] = Kind.CKKS
    result: ClassVar[Kind] = Kind.CKKS
    method: ClassVar[str] = "sum"
    target: Register
    terms: tuple[tuple[Register, int], ...]

    @property
    def reads(self) -> tuple[Register, ...]:
        return tuple(register for register, _ in self.terms)

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.sum([(value, sign) for value, (_, sign) in zip(operands, self.terms, strict=True)]),)


@dataclass(frozen=True)
class Unpack(Instruction):
    """targets[r] = parts * (coefficients of source at stride*(r + parts*m), moved to stride*parts*m).

    Automorphisms only, no limb. parts is a power of two, len(targets) <= parts. source must be zero off multiples of
    ``stride``, but for noise, which stays where it is.
    """

    operand: ClassVar[Kind] = Kind.CKKS
    result: ClassVar[Kind] = Kind.CKKS
    method: ClassVar[str] = "unpack"
    written_fields: ClassVar[tuple[str, ...]] = ("targets",)
    targets: tuple[Register, ...]
    source: Register
    parts: int
    stride: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        pieces: Sequence[Any] = machine.unpack(operands[0], self.parts, self.stride, len(self.targets))
        return pieces


@dataclass(frozen=True)
class Pack(Instruction):
    """target at stride*(r + parts*m) = stride*parts * (coefficient of sources[r] at stride*parts*m); zero elsewhere.

    Automorphisms only, no limb. parts and stride are powers of two, len(sources) <= parts; None stands for zero.
    """

    operand: ClassVar[Kind] = Kind.CKKS
    result: ClassVar[Kind] = Kind.CKKS
    method: ClassVar[str] = "pack"
    target: Register
    sources: tuple[Register | None, ...]
    parts: int
    stride: int

    @property
    def reads(self) -> tuple[Register, ...]:
        return tuple(register for register in self.sources if register is not None)

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        rest = iter(operands)
        values = [None if register is None else next(rest) for register in self.sources]
        return (machine.pack(values, self.parts, self.stride),)


@dataclass(frozen=True)
class Refresh(Instruction):
    """Functional bootstrap: target = series(x) for the numbers x at multiples of N/(2*slots), zero elsewhere.

    source must be on one limb; x counts modulo 1 and must lie in the series' range. functions: what the series
    approximates, applied to x in order; the cleartext backend computes these.
    """

    operand: ClassVar[Kind] = Kind.CKKS
    result: ClassVar[Kind] = Kind.CKKS
    method: ClassVar[str] = "refresh"
    target: Register
    source: Register
    series: Series
    functions: tuple[Function, ...]

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.refresh(operands[0], self),)


@dataclass(frozen=True)
class Reverse(Instruction):
    """target = source with X replaced by its inverse: the coefficient at e moves to -e. One automorphism, no limb."""

    operand: ClassVar[Kind] = Kind.CKKS
    result: ClassVar[Kind] = Kind.CKKS
    method: ClassVar[str] = "reverse"
    target: Register
    source: Register


@dataclass(frozen=True)
class Convolve(Instruction):
    """target = source * weight * sum of X^e over the exponents, modulo X^N + 1. weight is an integer. No limb."""

    operand: ClassVar[Kind] = Kind.CKKS
    result: ClassVar[Kind] = Kind.CKKS
    method: ClassVar[str] = "convolved"
    target: Register
    source: Register
    exponents: tuple[int, ...]
    weight: int = 1

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.convolved(operands[0], self.exponents, self.weight),)


@dataclass(frozen=True)
class Raise(Instruction):
    """target = source with ``value`` added to every coefficient."""

    operand: ClassVar[Kind] = Kind.CKKS
    result: ClassVar[Kind] = Kind.CKKS
    method: ClassVar[str] = "raised"
    target: Register
    source: Register
    value: float

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.raised(operands[0], self.value),)


@dataclass(frozen=True)
class Reduce(Instruction):
    """target = source on fewer limbs: what a bootstrap reads."""

    operand: ClassVar[Kind] = Kind.CKKS
    result: ClassVar[Kind] = Kind.CKKS
    method: ClassVar[str] = "reduced"
    target: Register
    source: Register
    limbs: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.reduced(operands[0], self.limbs),)


@dataclass(frozen=True)
class Bootstrap(Instruction):
    """The first half of a functional bootstrap, for several functions of one input: results stay in slots.

    As ``Refresh``, but the targets are *slot forms*, on which only ``Masked``, ``SlotProduct`` and ``Decode`` work, and
    which have ``slot_levels`` levels for that. All series have the degree of the parameters.
    """

    operand: ClassVar[Kind] = Kind.CKKS
    result: ClassVar[Kind] = Kind.SLOTS
    method: ClassVar[str] = "bootstrap"
    written_fields: ClassVar[tuple[str, ...]] = ("targets",)
    targets: tuple[Register, ...]
    source: Register
    series: tuple[Series, ...]
    functions: tuple[tuple[Function, ...], ...]

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        forms: Sequence[Any] = machine.bootstrap(operands[0], self)
        return forms


@dataclass(frozen=True)
class Masked(Instruction):
    """target = source where start <= e modulo period < stop for all conditions (period, start, stop), zero elsewhere.

    e is the coefficient that a slot form's value will have. Costs a slot level.
    """

    operand: ClassVar[Kind] = Kind.SLOTS
    result: ClassVar[Kind] = Kind.SLOTS
    method: ClassVar[str] = "masked"
    target: Register
    source: Register
    conditions: tuple[tuple[int, int, int], ...]

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.masked(operands[0], self.conditions),)


@dataclass(frozen=True)
class SlotProduct(Instruction):
    """target = a * b, elementwise, of slot forms. Costs a slot level."""

    operand: ClassVar[Kind] = Kind.SLOTS
    result: ClassVar[Kind] = Kind.SLOTS
    method: ClassVar[str] = "slot_product"
    read_fields: ClassVar[tuple[str, ...]] = ("a", "b")
    target: Register
    a: Register
    b: Register

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.slot_product(*operands),)


@dataclass(frozen=True)
class Decode(Instruction):
    """The second half of a bootstrap: from a slot form to a ciphertext on ``decoded_limbs`` limbs."""

    operand: ClassVar[Kind] = Kind.SLOTS
    result: ClassVar[Kind] = Kind.CKKS
    method: ClassVar[str] = "decode"
    target: Register
    source: Register


def check(code: Code, inputs: Mapping[str, int], kept: int, slot_levels: int = 0) -> dict[str, int]:
    """Limbs of everything that is stored, by name, from those of the inputs; IRError when code cannot be executed.

    kept: limbs that bootstraps leave, but one. slot_levels: see ``Parameters``.
    """
    kinds = check_flow(code, Kind.CKKS)
    known = register_levels(code, inputs, kept, slot_levels)
    stored: dict[str, int] = {}
    for at, instruction in enumerate(code):
        if isinstance(instruction, Store):
            what = f"instruction {at} ({instruction.mnemonic})"
            if instruction.name in stored:
                raise IRError(f"{what} stores {instruction.name!r} twice")
            if kinds[instruction.source] is not Kind.CKKS:
                raise IRError(f"{what} reads register {instruction.source}, which holds {kinds[instruction.source]}")
            stored[instruction.name] = known[instruction.source]
    return stored


def register_levels(
    code: Iterable[Instruction], inputs: Mapping[str, int], kept: int, slot_levels: int = 0
) -> dict[Register, int]:
    """Limbs of every register, or slot levels where it holds a slot form; IRError when there are too few.

    Arguments as of :func:`check`. The flow of registers is not checked.
    """
    known: dict[Register, int] = {}
    for at, instruction in enumerate(code):
        what = f"instruction {at} ({instruction.mnemonic})"
        fewest = min((known[r] for r in instruction.reads), default=0)
        for target in instruction.writes:
            if instruction.result is Kind.SLOTS:
                known[target] = _slot_levels(what, instruction, fewest, slot_levels)
            else:
                known[target] = _limbs(what, instruction, fewest, inputs, kept)
    return known


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
