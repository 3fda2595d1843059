"""Values in slots, between the series of a bootstrap and SlotsToCoeffs: products of one another and with masks.

A form has a real number in each slot: two ciphertexts for the two halves of the coefficients where all slots are used,
one otherwise. On so many limbs all forms have one scale, so that products and sums need no care.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt

from .evaluator import Ciphertext, Evaluator
from .masks import Kept, Masks
from .shape import LEVEL_BITS

SlotForm = tuple[Ciphertext, ...]


class SlotForms:
    """Computes on forms with an evaluator's keys."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._masks = Masks(evaluator)
        self.scale = lru_cache(maxsize=None)(self._scale)

    def _scale(self, limbs: int) -> float:
        """Of values on so many limbs: a product of two of them, divided by its last prime, has that for a limb less."""
        shape = self._evaluator.shape
        found = 2.0**LEVEL_BITS
        for prime in self._evaluator.basis.primes[shape.slot_limbs : limbs]:
            found = sqrt(found * prime)
        return found

    def lowered(self, form: SlotForm, limbs: int) -> SlotForm:
        """The same values on fewer limbs, with the scale that belongs to them."""
        if form[0].limbs == limbs:
            return form
        scale = self.scale(limbs)
        return tuple(self._evaluator.combine([], [(x, 1)], 0, limbs + 1, scale) for x in form)

    def product(self, a: SlotForm, b: SlotForm) -> SlotForm:
        """Elementwise, on one limb less than the fewer of theirs."""
        limbs = min(a[0].limbs, b[0].limbs)
        pairs = zip(self.lowered(a, limbs), self.lowered(b, limbs), strict=True)
        scale = self.scale(limbs - 1)
        return tuple(self._evaluator.combine([pair], [], 0, limbs, scale) for pair in pairs)

    def masked(self, form: SlotForm, kept: Kept) -> SlotForm:
        """Zero but for the coefficients that are kept (see ``Masks.prepare``), on one limb less."""
        return tuple(self._masks(form, kept, self.scale(form[0].limbs - 1)))

    def masked_first(self, form: SlotForm, kept: Kept) -> tuple[SlotForm, SlotForm]:
        """The mask itself, of the scale of a prime, and its product with values of any scale: both on one limb less."""
        prime = self._prime(form[0].limbs)
        ones = self._masks.ones(kept, form[0].limbs, prime)
        return tuple(ones), tuple(self._masks.times(form, kept, form[0].scale, prime))

    def prepare(self, kept: Kept, limbs: int) -> None:
        """Encode a mask for forms on so many limbs ahead."""
        plain = self.scale(limbs - 1) * self._prime(limbs) / self.scale(limbs)
        self._masks.prepare(kept, limbs, plain)

    def prepare_first(self, kept: Kept, limbs: int) -> None:
        """Encode a mask for :meth:`masked_first` of so many limbs ahead."""
        self._masks.prepare(kept, limbs, self._prime(limbs))

    def _prime(self, limbs: int) -> float:
        """The last one of so many limbs."""
        return float(self._evaluator.basis.primes[limbs - 1])
