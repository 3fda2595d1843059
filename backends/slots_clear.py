"""The definition of the slot instructions: exact arithmetic on arrays, one number for each slot. No encryption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import SlotDot, SlotProduct
from glyphc.ir.slot_parameters import SlotParameters

F64 = npt.NDArray[np.floating[Any]]


class ClearSlots:
    """Registers are float64 arrays of shape (slots,)."""

    def __init__(self, parameters: SlotParameters) -> None:
        self.parameters = parameters

    def encrypt(self, message: F64) -> F64:
        """Numbers, shape (slots,), as this backend's ciphertext."""
        return np.asarray(message, dtype=np.float64)

    def decrypt(self, ciphertext: F64) -> F64:
        """The numbers, shape (slots,)."""
        return ciphertext

    def slot_dot(self, sources: Sequence[F64], instruction: SlotDot) -> F64:
        return _weighted(np.full(sources[0].shape, instruction.bias), sources, instruction.weights)

    def slot_product(self, pairs: Sequence[tuple[F64, F64]], sources: Sequence[F64], instruction: SlotProduct) -> F64:
        total = np.full(pairs[0][0].shape, instruction.bias)
        for a, b in pairs:
            total += a * b
        return _weighted(total, sources, instruction.weights)

    def drop(self, source: F64, levels: int) -> F64:
        return source


def _weighted(total: F64, sources: Sequence[F64], weights: Sequence[float]) -> F64:
    for source, weight in zip(sources, weights, strict=True):
        total += weight * source
    return total
