"""Inference's instructions: ciphertexts of N numbers in the coefficients, in BGV and on the torus.

Backends know nothing of networks; the compiler knows nothing of a backend's objects. In BGV registers the coefficients
are integers modulo t; in torus registers they are phases in units of t (the same number, most significant bits first).
Polynomials are given by their non-zero terms (:class:`.program.Polynomials`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..functions import Function
from ..galois import Conjugation
from ..masks import Mask
from ..series import Approximation
from ..types import FixedPoint
from .base import Instruction, Kind, Register


@dataclass(frozen=True)
class DotProduct(Instruction):
    """target = total + sum_j sources[j] * weights[j] + bias, polynomial products modulo X^N + 1 (BGV).

    weights: the name of one polynomial per source, and perhaps a bias. total: an earlier sum to go on with.
    """

    operand: ClassVar[Kind] = Kind.BGV
    result: ClassVar[Kind] = Kind.BGV
    read_fields: ClassVar[tuple[str, ...]] = ("sources", "total")
    target: Register
    sources: tuple[Register, ...]
    weights: str
    total: Register | None
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        sources, total = operands[: len(self.sources)], None if self.total is None else operands[-1]
        return (getattr(machine, self.method)(sources, self.weights, total),)


@dataclass(frozen=True)
class Dot(DotProduct):
    """With plaintext weights: a :class:`Polynomials` constant, whose last row is the bias if it has one more."""

    method: ClassVar[str] = "dot"


@dataclass(frozen=True)
class TransientDot(Dot):
    """A :class:`Dot` with weights of few terms, which engines encode when they are used, and do not keep."""

    method: ClassVar[str] = "transient_dot"


@dataclass(frozen=True)
class ConjugateDot(DotProduct):
    """With plaintext weights and all parts of each source: what a :class:`Split` and a :class:`Dot` give, at once.

    sources: of each polynomial that is taken apart, itself and its :class:`Conjugates`, ``babies`` registers together.
    weights: a :class:`Polynomials` constant with ``parts`` rows for each of them, for the parts in their order, and
    perhaps one more, the bias. The sum goes over conjugates (:mod:`..galois`): in giant steps, each an automorphism of
    a sum of products.
    """

    method: ClassVar[str] = "conjugate_dot"
    parts: int = field(kw_only=True)
    stride: int = field(kw_only=True)
    babies: int = field(kw_only=True)

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        sources, total = operands[: len(self.sources)], None if self.total is None else operands[-1]
        return (machine.conjugate_dot(sources, self, total),)

    def steps(self, ring: int) -> Conjugation:
        """The automorphisms of the sum; IRError where there are none of these numbers."""
        return Conjugation(ring, self.parts, self.stride, self.babies)

    @property
    def count(self) -> int:
        """How many polynomials are taken apart."""
        return len(self.sources) // self.babies


@dataclass(frozen=True)
class EncryptedDot(DotProduct):
    """With weights and bias that are encrypted under the client's key, an :class:`EncryptedMap`: external products."""

    method: ClassVar[str] = "encrypted_dot"


@dataclass(frozen=True)
class Split(Instruction):
    """targets[r] = parts * (coefficients of source at stride*(r + parts*m), moved to stride*parts*m) (BGV).

    Separates residue classes of exponents by automorphisms; ``source`` must be zero off multiples of ``stride``.
    parts is a power of two; len(targets) <= parts: the classes that are needed.
    """

    operand: ClassVar[Kind] = Kind.BGV
    result: ClassVar[Kind] = Kind.BGV
    method: ClassVar[str] = "split"
    written_fields: ClassVar[tuple[str, ...]] = ("targets",)
    targets: tuple[Register, ...]
    source: Register
    parts: int
    stride: int
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        pieces: Sequence[Any] = machine.split(operands[0], self.parts, self.stride, len(self.targets))
        return pieces


@dataclass(frozen=True)
class Conjugates(Instruction):
    """targets[i] = source with X^g for X, for baby steps g (BGV): those of a sum over ``parts`` conjugates.

    The first baby step, the source itself, is left out; ``len(targets) + 1`` is a power of two, at most ``parts``.
    ``source`` must be zero off multiples of ``stride``.
    """

    operand: ClassVar[Kind] = Kind.BGV
    result: ClassVar[Kind] = Kind.BGV
    method: ClassVar[str] = "conjugates"
    written_fields: ClassVar[tuple[str, ...]] = ("targets",)
    targets: tuple[Register, ...]
    source: Register
    parts: int
    stride: int
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        images: Sequence[Any] = machine.conjugates(operands[0], self)
        return images

    def steps(self, ring: int) -> Conjugation:
        """The automorphisms; IRError where there are none of these numbers."""
        return Conjugation(ring, self.parts, self.stride, len(self.targets) + 1)


@dataclass(frozen=True)
class Divide(Instruction):
    """factor * target = source, exactly (BGV). factor: a power of two.

    Modulo the ciphertext's modulus, which is odd, everything can be divided. The message of the target is a fraction,
    which a :class:`Split` into as many parts makes whole again, or a sum of all of them: without loss, whatever the
    message and its noise. At stride 1 only: noise that stands off the stride is divided, too, but no automorphism
    multiplies it again.
    """

    operand: ClassVar[Kind] = Kind.BGV
    result: ClassVar[Kind] = Kind.BGV
    method: ClassVar[str] = "divided"
    target: Register
    source: Register
    factor: int
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.divided(operands[0], self.factor),)


@dataclass(frozen=True)
class ToTorus(Instruction):
    """BGV -> torus: message m modulo t becomes phase m/t. A modulus switch to the bootstrap's modulus."""

    operand: ClassVar[Kind] = Kind.BGV
    result: ClassVar[Kind] = Kind.TORUS
    method: ClassVar[str] = "to_torus"
    target: Register
    source: Register
    slots: int
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.to_torus(operands[0], self.slots),)


@dataclass(frozen=True)
class FromTorus(Instruction):
    """Torus -> BGV: the phase times t, read as a (noisy) message modulo t."""

    operand: ClassVar[Kind] = Kind.TORUS
    result: ClassVar[Kind] = Kind.BGV
    method: ClassVar[str] = "from_torus"
    target: Register
    source: Register
    node: int


@dataclass(frozen=True)
class Powers(Instruction):
    """First half of a functional bootstrap: refresh and e^{2 pi i k x} of every phase x, shared by all functions.

    Reads the coefficients at multiples of N/(2*slots); the others are dropped.
    """

    operand: ClassVar[Kind] = Kind.TORUS
    result: ClassVar[Kind] = Kind.POWERS
    method: ClassVar[str] = "powers"
    target: Register
    source: Register
    slots: int
    degree: int
    node: int

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.powers(operands[0], self.slots, self.degree),)


@dataclass(frozen=True)
class Evaluate(Instruction):
    """Second half: target = f(x) / 2^OUTPUT_BITS, a phase, for every phase x read by ``powers``.

    exact: what the series approximates, as a map of fixed-point integers: from input format through the functions to
    output format, divided by ``divisor``; the cleartext backend computes this instead of the series. In place of a
    series there may be a table that stands for the functions; then it is what is computed, at the nearest index. The
    products that look it up take ``slot_levels`` of the parameters, where values stand in slots. mask: the coefficients
    that are kept; all others are zero but for the noise of what comes behind. It is multiplied with there, too, which
    takes one more of these levels.
    """

    operand: ClassVar[Kind] = Kind.POWERS
    result: ClassVar[Kind] = Kind.TORUS
    method: ClassVar[str] = "evaluate"
    read_fields: ClassVar[tuple[str, ...]] = ("powers",)
    target: Register
    powers: Register
    series: Approximation
    functions: tuple[Function, ...]
    input_format: FixedPoint
    output_format: FixedPoint
    divisor: int
    node: int
    mask: Mask | None = None

    def call(self, machine: Any, operands: Sequence[Any]) -> Sequence[Any]:
        return (machine.evaluate(operands[0], self),)


def weighted(code: Iterable[Instruction]) -> dict[str, Dot | ConjugateDot]:
    """By the name of plaintext weights that are encoded ahead, the last instruction that multiplies with them: all
    others do it alike."""
    return {i.weights: i for i in code if isinstance(i, Dot | ConjugateDot) and not isinstance(i, TransientDot)}


def masks_of(code: Iterable[Instruction]) -> tuple[Mask, ...]:
    """All different masks of bootstraps, in the order of their first use."""
    return tuple(dict.fromkeys(i.mask for i in code if isinstance(i, Evaluate) and i.mask is not None))
