"""The definition of the instructions on bits. No encryption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import Gate, GateKind

Bools = npt.NDArray[np.bool_]


class ClearBits:
    """Registers are bits, arrays of any shape: shape (1,) as messages have them, or as many samples as you like."""

    def encrypt(self, message: npt.NDArray[Any]) -> Bools:
        """A bit, shape (1,), as this backend's ciphertext."""
        return np.asarray(message).astype(np.bool_)

    def decrypt(self, ciphertext: Bools) -> npt.NDArray[np.int64]:
        """The bit, shape (1,)."""
        return ciphertext.astype(np.int64)

    def gate(self, sources: Sequence[Bools], instruction: Gate) -> Bools:
        a, b, *more = (s ^ negated for s, negated in zip(sources, instruction.negated, strict=True))
        match instruction.kind:
            case GateKind.AND:
                return a & b
            case GateKind.XOR:
                return np.asarray(a ^ b)
            case GateKind.MAJORITY:
                return (a & b) | (more[0] & (a | b))

    def opposite(self, source: Bools) -> Bools:
        return ~source

    def constant_bit(self, value: bool) -> Bools:
        return np.array([value])
