"""The definition of every instruction: exact polynomials in numpy, no encryption.

A "ciphertext" is a float64 array of N coefficients in message units (integers modulo t, or exact dyadic fractions of
them after a bootstrap with a divisor).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.evaluate import dequantize, quantize
from glyphc.ir.functions import compose
from glyphc.ir.galois import image
from glyphc.ir.instructions import ConjugateDot, Conjugates, Evaluate, Polynomials, Schedule
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import OUTPUT_BITS, Lookup
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.word_parameters import WordParameters

from .engine import Engine, Session, Stages, encrypted_bits
from .integers_clear import ClearIntegers
from .slots_clear import ClearSlots
from .spectra import C128, NegacyclicFFT, Spectra
from .words_clear import ClearBits

F64 = npt.NDArray[np.floating[Any]]


class CleartextMachine:
    """Executes instructions on plain coefficients."""

    def __init__(self, schedule: Schedule) -> None:
        assert isinstance(schedule.parameters, Parameters)
        self._ring = schedule.parameters.ring
        self._grid = self._ring // (2 * schedule.parameters.slots) if schedule.parameters.slots else 1
        self._modulus = float(schedule.parameters.plaintext_modulus)
        self._polynomials: dict[str, Polynomials] = schedule.polynomials | schedule.secret
        self._fft = NegacyclicFFT(self._ring)
        self._spectra = Spectra(self._fft, self._ring)

    def encrypt(self, coefficients: npt.NDArray[np.int64]) -> F64:
        """Message integers, shape (N,), as this backend's ciphertext."""
        return self._centred(coefficients.astype(np.float64))

    def decrypt(self, ciphertext: F64) -> npt.NDArray[np.int64]:
        """The message, shape (N,), centred modulo t."""
        return np.rint(ciphertext).astype(np.int64)

    def dot(self, sources: Sequence[F64], weights: str, total: F64 | None = None) -> F64:
        return self._sum([self._spectra.of(source) for source in sources], weights, total)

    def transient_dot(self, sources: Sequence[F64], weights: str, total: F64 | None = None) -> F64:
        return self.dot(sources, weights, total)

    def _sum(self, sources: Sequence[C128], weights: str, total: F64 | None) -> F64:
        polynomials = self._polynomials[weights]
        products = np.zeros(self._ring // 2, dtype=np.complex128)
        for row, source in enumerate(sources):
            products += source * self._fft.forward(polynomials.dense(row, self._ring).astype(np.float64))
        result = self._fft.inverse(products)
        if len(polynomials) > len(sources):
            result = result + polynomials.dense(len(sources), self._ring)
        return self._centred(result if total is None else result + total)

    def encrypted_dot(self, sources: Sequence[F64], weights: str, total: F64 | None = None) -> F64:
        return self.dot(sources, weights, total)

    def split(self, source: F64, parts: int, stride: int, count: int) -> list[F64]:
        return self._parts(source, parts, stride, count)

    def _parts(self, source: F64, parts: int, stride: int, count: int) -> list[F64]:
        pieces = []
        for r in range(count):
            piece = np.zeros(self._ring)
            piece[:: stride * parts] = parts * source[stride * r :: stride * parts]
            pieces.append(self._centred(piece))
        return pieces

    def conjugates(self, source: F64, instruction: Conjugates) -> list[F64]:
        return [image(source, g) for g in instruction.steps(self._ring).baby_elements]

    def conjugate_dot(self, sources: Sequence[F64], instruction: ConjugateDot, total: F64 | None = None) -> F64:
        parts, stride = instruction.parts, instruction.stride
        split: list[C128] = []
        for source in sources[:: instruction.babies]:
            split += self._spectra.of_parts(source, (parts, stride), partial(self._parts, source, parts, stride, parts))
        return self._sum(split, instruction.weights, total)

    def divided(self, source: F64, factor: int) -> F64:
        return source / factor

    def to_torus(self, source: F64, slots: int) -> F64:
        return source

    def from_torus(self, source: F64) -> F64:
        return source

    def powers(self, source: F64, slots: int, degree: int) -> F64:
        grid = self._ring // (2 * slots)
        kept = np.zeros(self._ring)
        kept[::grid] = source[::grid]
        return kept

    def evaluate(self, powers: F64, instruction: Evaluate) -> F64:
        # exact: functions on fixed-point integers, or their table; off the bootstrap's grid there is nothing
        integers = np.rint(powers[:: self._grid])
        if isinstance(instruction.series, Lookup):
            unit = self._modulus * instruction.divisor / 2.0**OUTPUT_BITS
            y = np.rint(instruction.series.nearest(integers / self._modulus) * unit)
        else:
            x = dequantize(integers[:, None], instruction.input_format)
            y = quantize(compose(instruction.functions, x), instruction.output_format)[:, 0]
        out = np.zeros(self._ring)
        out[:: self._grid] = y / instruction.divisor
        if instruction.mask is not None:
            out[:: self._grid] *= instruction.mask.kept(self._ring, self._grid)
        return self._centred(out)

    def _centred(self, x: F64) -> F64:
        """Representatives modulo t in [-t/2, t/2]."""
        return np.asarray(x - self._modulus * np.rint(x / self._modulus))


class ClearEngine(Engine):
    """The definition of the instructions."""

    name = "clear"
    summary = "no encryption: the instructions' definition, on exact polynomials"
    encrypts = False

    @property
    def machine(self) -> type[CleartextMachine]:
        return CleartextMachine

    @property
    def slot_machine(self) -> type[ClearSlots]:
        return ClearSlots

    @property
    def integer_machine(self) -> type[ClearIntegers]:
        return ClearIntegers

    @property
    def bit_machine(self) -> type[ClearBits]:
        return ClearBits

    @contextmanager
    def session(self, schedule: Schedule, stages: Stages) -> Iterator[Session]:
        machine: CleartextMachine | ClearSlots | ClearIntegers
        if isinstance(schedule.parameters, WordParameters):
            bits = self.bit_machine()
            yield Session(bits, bits.encrypt, bits.decrypt, encrypted_bits(schedule, bits.encrypt))
            return
        if isinstance(schedule.parameters, SlotParameters):
            machine = self.slot_machine(schedule.parameters)
        elif isinstance(schedule.parameters, IntegerParameters):
            machine = self.integer_machine(schedule.parameters)
        else:
            machine = self.machine(schedule)
        yield Session(machine, machine.encrypt, machine.decrypt)


ENGINE = ClearEngine()
