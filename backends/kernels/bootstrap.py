"""The packed functional bootstrap on the kernels (Alexandru, Kim, Polyakov 2024).

Modulus raise under a sparse secret (Bossuat et al. 2022), CoeffsToSlots, e^(2 pi i x) by a Chebyshev series and
squarings, a trigonometric series or several of them for a table, perhaps masks and products, SlotsToCoeffs. With N/2
slots, two ciphertexts hold the two halves of the coefficients in between; with fewer, one does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
from scipy.special import jv

from glyphc.ir.masks import Mask
from glyphc.ir.series import OUTPUT_BITS, Approximation, Lookup, Series

from .evaluator import Ciphertext, Evaluator
from .linear_transform import LevelTransform
from .lookups import looked_up
from .masks import Kept
from .polynomials import Powers
from .shape import EXPONENTIAL_DEGREE, LEVEL_BITS, SQUARINGS, WRAPS
from .slot_forms import SlotForm, SlotForms


@dataclass(frozen=True, eq=False)
class PhasePowers:
    """Powers of e^(2 pi i x) for the phases x: of each half of the coefficients, or of both in one."""

    halves: tuple[Powers, ...]


class Bootstrapper:
    """Runs bootstraps with the keys of one client. forms: what values are multiplied by where they stand in slots."""

    def __init__(self, evaluator: Evaluator, output: float = 2.0**OUTPUT_BITS) -> None:
        """output: a value v leaves as the phase v / output, of the modulus of ``shape.result_limbs``."""
        shape = evaluator.shape
        self._evaluator = evaluator
        self.forms = SlotForms(evaluator)
        q0 = evaluator.basis.primes[0]
        slots = shape.parameters.slots
        self._sums = shape.summed
        # a raised coefficient q0*(x + wraps) stands for (x + wraps)/WRAPS
        self._raised = float(q0) * WRAPS * self._sums
        middle = 2.0**LEVEL_BITS / 2  # the real part is a sum of two
        change = (middle / self._raised) ** (1 / shape.encoding_levels)
        ones = np.ones(slots, dtype=np.complex128)
        split = None if shape.packed_fully else np.concatenate([ones, -1j * ones])
        join = None if shape.packed_fully else np.concatenate([ones, 1j * ones])
        plans = shape.encoding
        self._encoding = [
            LevelTransform(evaluator, plan, change, split if plan is plans[-1] else None) for plan in plans
        ]
        result = prod(evaluator.basis.primes[: shape.result_limbs]) / output
        change = (result / self.forms.scale(shape.slot_limbs)) ** (1 / shape.decoding_levels)
        plans = shape.decoding
        self._decoding = [
            LevelTransform(evaluator, plan, change, join if plan is plans[0] else None, lead=True) for plan in plans
        ]
        angle = 2 * np.pi * WRAPS / 2**SQUARINGS
        order = np.arange(EXPONENTIAL_DEGREE + 1)
        # Jacobi-Anger: e^(i angle y) = J_0 + 2 sum_k i^k J_k(angle) T_k(y)
        self._exponential = np.where(order, 2, 1) * 1j**order * jv(order, angle)

    def prepare(self, masks: Iterable[Mask]) -> None:
        """Encode the masks of a program, by which results are multiplied."""
        shape = self._evaluator.shape
        for mask in masks:
            if shape.masks_fold:
                self.forms.prepare_first(self._kept(mask), shape.exponential_limbs)
            else:
                self.forms.prepare(self._kept(mask), shape.slot_limbs + 1)

    def _kept(self, mask: Mask) -> Kept:
        shape = self._evaluator.shape
        return mask.kept(shape.n, shape.n // (2 * shape.parameters.slots))

    def raised(self, x: Ciphertext) -> Ciphertext:
        """A ciphertext modulo q0, modulo the whole chain: its coefficients gain multiples of q0."""
        evaluator, basis = self._evaluator, self._evaluator.basis
        sparse = evaluator.switch(x, "sparse").elements[:, 0]
        limbs = evaluator.shape.limbs
        lowest = np.zeros(2, dtype=np.int64)
        basis.backward(sparse, lowest, basis.scaling([0, 0]), sparse)
        q0 = basis.moduli[0]
        sparse -= q0 * np.rint(sparse / q0)
        which = np.arange(limbs)
        elements = np.stack([basis.residues(c, which) for c in sparse])
        basis.forward(elements.reshape(2 * limbs, -1), np.tile(which, 2))
        return evaluator.switch(Ciphertext(elements, self._raised / self._sums), "dense")

    def to_slots(self, x: Ciphertext) -> tuple[Ciphertext, ...]:
        """Real numbers (phase + wraps)/WRAPS, in the real parts of slots."""
        evaluator, shape = self._evaluator, self._evaluator.shape
        top = shape.key_shape(shape.limbs)
        for group in shape.trace:
            x = evaluator.rotated_sum(x, [shape.rotation(steps) for steps in group], top)
        x = Ciphertext(x.elements, self._raised)
        for level in self._encoding:
            x = level(x)
        conjugate = evaluator.automorphism(x, 2 * shape.n - 1, shape.key_shape(x.limbs))
        halves = [evaluator.add(x, conjugate)]
        if shape.packed_fully:
            halves.append(self._times(evaluator.add(x, conjugate, -1), -1j))
        return tuple(Ciphertext(h.elements, 2 * h.scale) for h in halves)

    def powers(self, x: Ciphertext, degree: int) -> PhasePowers:
        """Of a ciphertext modulo q0: what all functions of its phases share."""
        return PhasePowers(tuple(self._phase_powers(half, degree) for half in self.to_slots(self.raised(x))))

    def _phase_powers(self, y: Ciphertext, degree: int) -> Powers:
        evaluator, shape = self._evaluator, self._evaluator.shape
        z = Powers(evaluator, y, EXPONENTIAL_DEGREE, chebyshev=True).evaluate(
            self._exponential, shape.exponential_limbs + SQUARINGS, 2.0**LEVEL_BITS
        )
        for _ in range(SQUARINGS):
            scale = z.scale * z.scale / evaluator.basis.primes[z.limbs - 1]
            z = evaluator.combine([(z, z)], [], 0, z.limbs, scale)
        return Powers(evaluator, z, degree, chebyshev=False)

    def evaluate(self, powers: PhasePowers, series: Approximation, mask: Mask | None = None) -> Ciphertext:
        """The series of every phase, or the table's values, as phases modulo the lowest primes; zero where the mask
        keeps nothing."""
        limbs = self._evaluator.shape.slot_limbs
        real = isinstance(series, Lookup)
        if mask is not None and self._evaluator.shape.masks_fold:
            assert isinstance(series, Series)
            return self._to_coefficients(self._joined(self._masked_series(powers, series, self._kept(mask)), real))
        limbs += mask is not None
        if isinstance(series, Lookup):
            parts = self._looked_up(powers, series, limbs)
        else:
            parts = self._series(powers, series, limbs)
        if mask is not None:
            parts = self.forms.masked(parts, self._kept(mask))
        return self._to_coefficients(self._joined(parts, real))

    def _joined(self, parts: SlotForm, real: bool) -> Ciphertext:
        """What SlotsToCoeffs reads. real: whether slots hold values, or else what values are twice the real part of."""
        evaluator = self._evaluator
        first, *second = parts
        if real:
            return evaluator.add(first, second[0], 1j) if second else first
        # 2 Re a + i * 2 Re b = (a + i b) + conj(a - i b)
        x, other = first, first
        if second:
            x, other = evaluator.add(first, second[0], 1j), evaluator.add(first, second[0], -1j)
        return evaluator.add(x, self._conjugate(other))

    def slot_form(self, powers: PhasePowers, series: Series) -> SlotForm:
        """The series of every phase, in slots, on ``shape.form_limbs``; :meth:`decoded` comes after all products."""
        parts = self._series(powers, series, self._evaluator.shape.form_limbs)
        return tuple(self._evaluator.add(x, self._conjugate(x)) for x in parts)

    def decoded(self, form: SlotForm) -> Ciphertext:
        """SlotsToCoeffs: phases modulo the lowest primes."""
        return self._to_coefficients(self._joined(self.forms.lowered(form, self._evaluator.shape.slot_limbs), True))

    def _series(self, powers: PhasePowers, series: Series, limbs: int) -> SlotForm:
        """Of which the values are twice the real parts."""
        c = np.array(series.real) + 1j * np.array(series.imag)
        return tuple(half.evaluate(c, limbs, self.forms.scale(limbs)) for half in powers.halves)

    def _masked_series(self, powers: PhasePowers, series: Series, kept: Kept) -> SlotForm:
        """The same times a mask, on as many limbs as SlotsToCoeffs reads."""
        c = np.array(series.real) + 1j * np.array(series.imag)
        limbs = self._evaluator.shape.slot_limbs
        masks, firsts = self.forms.masked_first(tuple(half.known[1] for half in powers.halves), kept)
        return tuple(
            half.masked(c, mask, first, limbs, self.forms.scale(limbs))
            for half, mask, first in zip(powers.halves, masks, firsts, strict=True)
        )

    def _looked_up(self, powers: PhasePowers, lookup: Lookup, limbs: int) -> SlotForm:
        """The values of a table."""
        scale = self.forms.scale(limbs)
        return tuple(looked_up(self._evaluator, half, lookup, limbs, scale) for half in powers.halves)

    def _conjugate(self, x: Ciphertext) -> Ciphertext:
        shape = self._evaluator.shape
        return self._evaluator.automorphism(x, 2 * shape.n - 1, shape.key_shape(shape.form_limbs))

    def _to_coefficients(self, x: Ciphertext) -> Ciphertext:
        """SlotsToCoeffs of complex numbers: a + i*b of the two halves, or values that are real, those of both behind
        one another."""
        evaluator, shape = self._evaluator, self._evaluator.shape
        for level in self._decoding:
            x = level(x)
        if not shape.packed_fully:
            index = shape.rotation(shape.parameters.slots)
            x = evaluator.add(x, evaluator.automorphism(x, index, shape.key_shape(shape.result_limbs)))
        return x

    def _times(self, x: Ciphertext, factor: complex) -> Ciphertext:
        zero = Ciphertext(np.zeros_like(x.elements), x.scale)
        return self._evaluator.add(zero, x, factor)
