"""The clear slots with what CKKS adds: noise of the predicted size, drawn from a seeded generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glyphc.ir import slot_noise
from glyphc.ir.instructions import SlotDot, SlotProduct
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.slot_range import wrapped

from .slots_clear import F64, ClearSlots


class SimulatedSlots(ClearSlots):
    """Adds Gaussian noise where OpenFHE does; the noise then travels through the arithmetic by itself."""

    def __init__(self, parameters: SlotParameters, seed: int = 0) -> None:
        super().__init__(parameters)
        self._random = np.random.default_rng(seed)
        self._fresh = slot_noise.fresh(parameters)
        self._rescaling = slot_noise.rescaling(parameters)
        self._key_switch = slot_noise.key_switch(parameters)

    def encrypt(self, message: F64) -> F64:
        return self._noisy(super().encrypt(message), self._fresh)

    def decrypt(self, ciphertext: F64) -> F64:
        """The numbers, shape (slots,): garbage in all of them where one has left the modulus."""
        return wrapped(super().decrypt(ciphertext), self.parameters)

    def slot_dot(self, sources: Sequence[F64], instruction: SlotDot) -> F64:
        return self._noisy(super().slot_dot(sources, instruction), self._rescaling)

    def slot_product(self, pairs: Sequence[tuple[F64, F64]], sources: Sequence[F64], instruction: SlotProduct) -> F64:
        exact = super().slot_product(pairs, sources, instruction)
        return self._noisy(exact, float(np.hypot(self._rescaling, self._key_switch)))

    def _noisy(self, exact: F64, deviation: float) -> F64:
        return np.asarray(exact + self._random.normal(0, deviation, exact.shape))
