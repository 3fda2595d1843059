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
class Places:
    """Which slots of a register hold something: of the first ``blocks`` blocks of ``block`` slots, the first
    ``samples``. summed: only the first slot of a block does, a sum over its samples."""

    block: int
    samples: int
    blocks: int
    summed: bool = False

    def check(self, slots: int) -> None:
        """IRError for places beyond the slots of a ciphertext."""
        if not 1 <= self.block <= slots or self.block & (self.block - 1):
            raise IRError(f"a request has blocks of {self.block} of {slots} slots")
        if not 1 <= self.samples <= self.block or not 1 <= self.blocks <= slots // self.block:
            raise IRError(f"a request keeps {self.samples} slots of {self.blocks} blocks of {self.block}")

    def read(self, values: I64) -> I64:
        """What stands there, of integers of shape (slots,): shape (blocks, samples), or (blocks, 1) of sums."""
        return values.reshape(-1, self.block)[: self.blocks, : 1 if self.summed else self.samples]

    def written(self, values: I64, slots: int) -> I64:
        """The inverse, shape (slots,): sums stand at all samples, zeros everywhere else."""
        found = np.zeros((slots // self.block, self.block), dtype=np.int64)
        found[: self.blocks, : self.samples] = values
        return found.reshape(slots)


@dataclass(frozen=True)
class Request:
    """One trip to the client: so many ciphertexts go there, ``results`` come back.

    bits: 0 where every ciphertext comes back as its integers times ratio, rounded; of some slots alone, where
    ``places`` are given, for each ciphertext. Otherwise what comes back are the
    lowest ``bits`` bits of the index round(ratio * integer + shift) of a table, or of the table's end. Then samples
    stand in a block of so many slots, the first one of every ciphertext; a ciphertext of bits holds one of the given
    ones in each of its blocks, so ``slots // block`` of them together have ``bits`` results, the lowest bit first.
    """

    ciphertexts: int
    ratio: float
    shift: float = 0.0
    bits: int = 0
    block: int = 0
    places: tuple[Places, ...] = ()

    def check(self, slots: int) -> None:
        """IRError for a request that no compiler made. slots: of a ciphertext."""
        if not 1 <= self.ciphertexts <= MOST_CIPHERTEXTS:
            raise IRError(f"a request is about 1 to {MOST_CIPHERTEXTS} ciphertexts, not {self.ciphertexts}")
        if not self.bits:
            if not 0 < self.ratio <= 1 or self.shift or self.block:
                raise IRError(f"a request multiplies by {self.ratio}, which is no share")
            if len(self.places) not in (0, self.ciphertexts):
                raise IRError(f"a request has places in {len(self.places)} of {self.ciphertexts} ciphertexts")
            for places in self.places:
                places.check(slots)
            return
        if self.places:
            raise IRError("a request takes bits of all slots, not of some")
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
            found = rescaled(values, self.ratio)
            if not self.places:
                return found
            pairs = zip(self.places, found, strict=True)
            return np.array([places.written(places.read(row), len(row)) for places, row in pairs])
        slots = values.shape[1]
        per = slots // self.block
        groups = -(-len(values) // per)
        indices = np.zeros((groups * per, self.block), dtype=np.int64)
        indices[: len(values)] = table_indices(values[:, : self.block], self.ratio, self.shift, self.bits)
        found = index_bits(indices.reshape(groups, slots), self.bits)
        return np.asarray(found.transpose(1, 0, 2).reshape(groups * self.bits, slots))
