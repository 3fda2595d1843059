"""Whether a schedule can be executed to its end: what a server asks of a file before it does anything with it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..errors import IRError
from ..integer_parameters import IntegerParameters
from ..masks import Mask
from ..parameters import Parameters
from ..series import Lookup, series_of, series_problem
from ..slot_parameters import SlotParameters
from ..word_parameters import WordParameters
from .base import Instruction, Kind, Load, Register, Store, check_flow
from .coefficients import (
    ConjugateDot,
    Conjugates,
    Divide,
    Dot,
    EncryptedDot,
    Evaluate,
    FromTorus,
    Powers,
    Split,
    ToTorus,
)
from .gates import check_gates
from .integers import check_integers, requests_of
from .program import EncryptedMap, Polynomials, Schedule
from .slots import check_slots

# Far above every coefficient of a series, and far below what overflows somewhere.
_MOST_COEFFICIENT = 2.0**40


def check_schedule(schedule: Schedule) -> None:
    """IRError, with the instruction, for a schedule that cannot be executed.

    Registers, their kinds and operands, what is loaded and stored, weights, strides, degrees and slots: all that the
    instructions' definitions ask for, so that no machine has to.
    """
    parameters = schedule.parameters
    if isinstance(parameters, SlotParameters):
        inputs = {p.name: p.layout.ciphertexts for p in schedule.client.inputs}
        check_slots(schedule.instructions, inputs, parameters.depth)
    elif isinstance(parameters, IntegerParameters):
        inputs = {p.name: p.layout.ciphertexts for p in schedule.client.inputs}
        check_integers(schedule.instructions, inputs, parameters)
        if requests_of(schedule.instructions) != schedule.client.requests:
            raise IRError("what its instructions ask of the client is not what the client was told")
    elif isinstance(parameters, WordParameters):
        inputs = {p.name: p.layout.ciphertexts for p in schedule.client.inputs}
        check_gates(schedule.instructions, inputs | {m.name: m.products for m in schedule.client.encrypted})
    else:
        for name, polynomials in schedule.polynomials.items():
            check_polynomials(name, polynomials, parameters)
        _Coefficients(schedule, parameters).check()
    _check_stores(schedule)


def check_polynomials(name: str, polynomials: Polynomials, parameters: Parameters) -> None:
    """IRError unless these are rows of terms below X^N, with weights that are numbers modulo t."""
    offsets, exponents, values = polynomials.offsets, polynomials.exponents, polynomials.values
    if not len(offsets) or offsets[0] or np.any(np.diff(offsets) < 0):
        raise IRError(f"the weights {name!r} are not one row behind the other")
    if not len(exponents) == len(values) == offsets[-1]:
        raise IRError(f"the weights {name!r} have not as many exponents as values")
    if len(values) and (exponents.min() < 0 or exponents.max() >= parameters.ring):
        raise IRError(f"the weights {name!r} have exponents beyond the ring")
    if len(values) and max(-int(values.min()), int(values.max())) > parameters.plaintext_modulus:
        raise IRError(f"the weights {name!r} do not fit the plaintext modulus")


def _check_stores(schedule: Schedule) -> None:
    """IRError unless every ciphertext of every output is stored once, in order."""
    stored: dict[str, list[int]] = {port.name: [] for port in schedule.client.outputs}
    for at, instruction in enumerate(schedule.instructions):
        if isinstance(instruction, Store):
            what = f"instruction {at} (store)"
            if instruction.name not in stored:
                raise IRError(f"{what} stores {instruction.name!r}, which is no output")
            parts = stored[instruction.name]
            if instruction.part != len(parts):
                raise IRError(
                    f"{what} stores part {instruction.part} of {instruction.name!r} where {len(parts)} is next"
                )
            parts.append(instruction.part)
    for port in schedule.client.outputs:
        wanted = port.layout.chunks * port.stored_parts
        if len(stored[port.name]) != wanted:
            raise IRError(f"{len(stored[port.name])} ciphertexts of output {port.name!r} are stored, not {wanted}")


class _Coefficients:
    """Goes through instructions on coefficients.

    degrees: of the powers in each register. images: which instruction filled these registers with conjugates. uses: of
    plaintext weights, how many sources and conjugates they meet.
    """

    def __init__(self, schedule: Schedule, parameters: Parameters) -> None:
        self.schedule, self.parameters = schedule, parameters
        self.inputs: Mapping[str, int] = {p.name: p.layout.ciphertexts for p in schedule.client.inputs}
        self.encrypted: dict[str, EncryptedMap] = {m.name: m for m in schedule.client.encrypted}
        self.degrees: dict[Register, int] = {}
        self.images: dict[tuple[Register, ...], Conjugates] = {}
        self.uses: dict[str, tuple[int, ...]] = {}

    def check(self) -> None:
        kinds = check_flow(self.schedule.instructions, Kind.BGV)
        for at, instruction in enumerate(self.schedule.instructions):
            problem = self._problem(instruction)
            if isinstance(instruction, Store) and kinds[instruction.source] is not Kind.BGV:
                problem = f"stores {kinds[instruction.source]}"
            if problem is not None:
                raise IRError(f"instruction {at} ({instruction.mnemonic}) {problem}")
        used = {i.weights for i in self.schedule.instructions if isinstance(i, EncryptedDot)}
        if used != set(self.encrypted) or len(self.encrypted) != len(self.schedule.client.encrypted):
            raise IRError("the encrypted weights are not those that its instructions use")

    def _problem(self, instruction: Instruction) -> str | None:
        match instruction:
            case Load(name=name, part=part) if not 0 <= part < self.inputs.get(name, 0):
                return f"loads part {part} of {name!r}, which is not there"
            case Dot(sources=sources, weights=weights):
                if self.uses.setdefault(weights, (len(sources),)) != (len(sources),):
                    return f"uses the weights {weights!r} in another way than before"
                rows = len(self.schedule.polynomials[weights]) if weights in self.schedule.polynomials else 0
                if not sources or rows not in (len(sources), len(sources) + 1):
                    return f"multiplies {len(sources)} ciphertexts with {rows} polynomials of {weights!r}"
            case EncryptedDot(sources=sources, weights=weights):
                products = self.encrypted[weights].products if weights in self.encrypted else 0
                if not sources or products != len(sources):
                    return f"multiplies {len(sources)} ciphertexts with {products} encrypted polynomials of {weights!r}"
            case Split():
                return self._split_problem(instruction)
            case Conjugates() | ConjugateDot():
                return self._conjugate_problem(instruction)
            case Divide(factor=factor) if factor < 2 or factor & (factor - 1) or factor > self.parameters.ring:
                return f"divides by {factor}, which is no power of two from 2 to {self.parameters.ring}"
            case ToTorus(slots=slots) | Powers(slots=slots) if slots != self.parameters.slots or not slots:
                return f"is for {slots} slots, the program for {self.parameters.slots}"
            case FromTorus() if not self.parameters.slots:
                return "needs a bootstrapping context"
            case Powers(target=target, degree=degree):
                if not 1 <= degree <= self.parameters.degree:
                    return f"has the degree {degree}, the program {self.parameters.degree}"
                self.degrees[target] = degree
            case Evaluate():
                return self._series_problem(instruction)
        return None

    def _split_problem(self, instruction: Split) -> str | None:
        parts, stride, count = instruction.parts, instruction.stride, len(instruction.targets)
        if parts < 1 or parts & (parts - 1) or not 1 <= count <= parts or parts > self.parameters.ring:
            return f"makes {count} of {parts} parts"
        needed = {stride << level for level in range(parts.bit_length() - 1)}
        if stride < 1 or not needed <= set(self.parameters.unpack_strides):
            return f"takes {parts} parts at stride {stride}, for which there are no keys"
        return None

    def _conjugate_problem(self, instruction: Conjugates | ConjugateDot) -> str | None:
        try:
            steps = instruction.steps(self.parameters.ring)
        except IRError as e:
            return f"has {e}"
        dot = isinstance(instruction, ConjugateDot)
        if not set(steps.giant_elements if dot else steps.baby_elements) <= set(self.parameters.conjugates):
            return f"takes conjugates of {steps.parts} parts at stride {steps.stride}, for which there are no keys"
        if isinstance(instruction, Conjugates):
            self.images[instruction.targets] = instruction
            return None
        sources, babies, weights = instruction.sources, steps.babies, instruction.weights
        if not sources or len(sources) % babies:
            return f"reads {len(sources)} ciphertexts where each source has {babies}"
        for at in range(0, len(sources), babies):
            made = self.images.get(sources[at + 1 : at + babies])
            if made is None or made.source != sources[at] or (made.parts, made.stride) != (steps.parts, steps.stride):
                return f"reads registers that are no conjugates of register {sources[at]} as it needs"
        rows = len(self.schedule.polynomials[weights]) if weights in self.schedule.polynomials else 0
        wanted = instruction.count * steps.parts
        if rows not in (wanted, wanted + 1):
            return f"multiplies {wanted} parts with {rows} polynomials of {weights!r}"
        use = len(sources), steps.parts, steps.stride, babies
        if self.uses.setdefault(weights, use) != use:
            return f"uses the weights {weights!r} in another way than before"
        return None

    def _series_problem(self, instruction: Evaluate) -> str | None:
        series, wanted = instruction.series, self.degrees[instruction.powers]
        # OpenFHE ends the process for some series of a lower degree than the powers were made for
        if problem := series_problem(series):
            return f"has {problem}, on powers up to {wanted}"
        if series.degree != wanted:
            return f"has a series of {series.degree + 1} coefficients on powers up to {wanted}"
        numbers = [c for each in series_of(series) for c in (*each.real, *each.imag)]
        numbers += series.table if isinstance(series, Lookup) else ()
        if not all(math.isfinite(c) and abs(c) < _MOST_COEFFICIENT for c in numbers):
            return "has a series or a table with numbers beyond what is computed with"
        if isinstance(series, Lookup) and not series.half_range > 0:
            return f"has a table over a range of {series.half_range}"
        if instruction.divisor < 1:
            return f"divides by {instruction.divisor}"
        left = self.parameters.slot_levels
        if isinstance(series, Lookup):
            # masks are multiplied into series alone
            left -= series.levels + self.parameters.folded_levels
            if len(series.bits) > self.parameters.table_bits or left < 0:
                return f"looks up a table of {len(series.table)} entries, for which there are no levels"
        return self._mask_problem(instruction.mask, left) if instruction.mask is not None else None

    def _mask_problem(self, mask: Mask, levels: int) -> str | None:
        parameters = self.parameters
        if not levels:
            return "has a mask, for which there is no level"
        return mask.problem(parameters.ring, parameters.ring // (2 * parameters.slots)) or None
