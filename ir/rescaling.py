"""What a client does to integers before it encrypts them again; everywhere the same, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def rescaled(integers: npt.NDArray[Any], ratio: float) -> npt.NDArray[np.int64]:
    """The nearest integers of a multiple, halves to even."""
    return np.asarray(np.rint(np.asarray(integers).astype(np.float64) * ratio)).astype(np.int64)


def table_indices(integers: npt.NDArray[Any], ratio: float, shift: float, bits: int) -> npt.NDArray[np.int64]:
    """The nearest index of a table with 2^bits entries: ratio * integer + shift, or the end of the table."""
    nearest = np.rint(np.asarray(integers).astype(np.float64) * ratio + shift)
    return np.asarray(np.clip(nearest, 0, (1 << bits) - 1)).astype(np.int64)


def word_bits(words: npt.NDArray[Any], bits: int) -> npt.NDArray[np.int64]:
    """Bits of signed integers in two's complement, the lowest first: shape (samples, words * bits) from (samples,
    words)."""
    found = np.asarray(words).astype(np.int64)[:, :, None] >> np.arange(bits, dtype=np.int64) & 1
    return np.asarray(found.reshape(len(found), -1))


def from_word_bits(found: npt.NDArray[Any], bits: int) -> npt.NDArray[np.int64]:
    """The inverse."""
    words = np.asarray(found).astype(np.int64).reshape(len(found), -1, bits)
    places = 1 << np.arange(bits, dtype=np.int64)
    places[-1] = -places[-1]
    return np.asarray(words @ places)


def index_bits(indices: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.int64]:
    """The bits of indices along a new first axis, the lowest first."""
    return np.stack([indices >> k & 1 for k in range(bits)])
