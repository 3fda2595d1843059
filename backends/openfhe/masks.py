"""Masks on values in slots, in the middle of a bootstrap: products with plaintexts of zeros and ones.

The values stand in bit-reversed order: those of the lower and the upper half of the coefficients behind one another, or
in a bootstrap that fills the ring as real and imaginary parts of each slot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.masks import Mask
from glyphc.ir.parameters import Parameters


class Masks:
    """Encodes masks once and multiplies with them, which takes one level."""

    def __init__(self, context: Any, parameters: Parameters) -> None:
        self._context, self._parameters = context, parameters
        self._encoded: dict[tuple[Mask, int], tuple[Any, ...]] = {}

    def __call__(self, values: Any, mask: Mask, spare: int) -> Any:
        """Zeros where the mask keeps nothing. spare: levels that are given up before: the product is cheaper then."""
        context = self._context
        if spare:
            values = context.LevelReduce(values, None, spare)
        plain, *conjugate = self._plaintexts(mask, values.GetLevel())
        product = context.EvalMult(values, plain)
        if conjugate:
            keys = context.GetEvalAutomorphismKeyMap(values.GetKeyTag())
            mirrored = context.EvalAutomorphism(values, 2 * self._parameters.ring - 1, keys)
            context.EvalAddInPlace(product, context.EvalMult(mirrored, conjugate[0]))
        return context.Rescale(product)

    def _plaintexts(self, mask: Mask, level: int) -> tuple[Any, ...]:
        """Of the values, and of their conjugates where real and imaginary parts are not kept alike.

        x = a + ib with masks u of a and v of b: ua + ivb = (u + v)/2 x + (u - v)/2 conj(x).
        """
        key = mask, level
        if key not in self._encoded:
            slots, ring = self._parameters.slots, self._parameters.ring
            order = bit_reversed(slots)
            low, high = mask.kept(ring, ring // (2 * slots)).reshape(2, slots)[:, order].astype(np.float64)
            if 2 * slots < ring:
                vectors = [np.concatenate([low, high])]
            else:
                vectors = [low] if np.array_equal(low, high) else [(low + high) / 2, (low - high) / 2]
            self._encoded[key] = tuple(
                self._context.MakeCKKSPackedPlaintext(v.tolist(), 1, level, None, len(v)) for v in vectors
            )
        return self._encoded[key]


def bit_reversed(count: int) -> npt.NDArray[np.int64]:
    """The numbers below a power of two, with the order of their bits reversed."""
    out: npt.NDArray[np.int64] = np.zeros(1, dtype=np.int64)
    while len(out) < count:
        out = np.concatenate([2 * out, 2 * out + 1])
    return out
