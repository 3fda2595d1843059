"""What a client does on the way with integers that a server hands it: it sees them, and encrypts what follows anew."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import IRError
from .rescaling import index_bits, rescaled, table_indices

I64 = npt.NDArray[np.int64]

# Of the index of a table that is looked up by encrypted bits.
MOST_TABLE_BITS = 10
MOST_CIPHERTEXTS = 1 << 16


@dataclass(frozen=True)
class Request:
    """One trip to the client: so many ciphertexts go there, ``results`` come back.

    bits: 0 where every ciphertext comes back as its integers times ratio, rounded. Otherwise what comes back are the
    lowest ``bits`` bits of the index round(ratio * integer + shift) of a table, or of the table's end. Then samples
    stand in a block of so many slots, the first one of every ciphertext; a ciphertext of bits holds one of the given
    ones in each of its blocks, so ``slots // block`` of them together have ``bits`` results, the lowest bit first.
    """

    ciphertexts: int
    ratio: float
    shift: float = 0.0
    bits: int = 0
    block: int = 0

    def check(self, slots: int) -> None:
        """IRError for a request that no compiler made. slots: of a ciphertext."""
        if not 1 <= self.ciphertexts <= MOST_CIPHERTEXTS:
            raise IRError(f"a request is about 1 to {MOST_CIPHERTEXTS} ciphertexts, not {self.ciphertexts}")
        if not self.bits:
            if not 0 < self.ratio <= 1 or self.shift or self.block:
                raise IRError(f"a request multiplies by {self.ratio}, which is no share")
            return
        if not 1 <= self.bits <= MOST_TABLE_BITS or not isfinite(self.ratio) or not isfinite(self.shift):
            raise IRError(f"a request takes {self.bits} bits of {self.ratio} times an integer plus {self.shift}")
        if not 1 <= self.block <= slots or self.block & (self.block - 1):
            raise IRError(f"a request has blocks of {self.block} of {slots} slots")

    def results(self, slots: int) -> int:
        """How many ciphertexts come back."""
        return self.bits * -(-self.ciphertexts * self.block // slots) if self.bits else self.ciphertexts

    def answer(self, values: npt.NDArray[Any]) -> I64:
        """Integers to encrypt, shape (results, slots), from decrypted ones, shape (ciphertexts, slots)."""
        if not self.bits:
            return rescaled(values, self.ratio)
        slots = values.shape[1]
        per = slots // self.block
        groups = -(-len(values) // per)
        indices = np.zeros((groups * per, self.block), dtype=np.int64)
        indices[: len(values)] = table_indices(values[:, : self.block], self.ratio, self.shift, self.bits)
        found = index_bits(indices.reshape(groups, slots), self.bits)
        return np.asarray(found.transpose(1, 0, 2).reshape(groups * self.bits, slots))
