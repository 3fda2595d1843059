"""Tables by the bits of their index, as sums of products of bits (Nandakumar, Ratha, Pankanti, Halevi, "Towards Deep
Neural Network Training on Encrypted Data", 2019, section 4).

An inner product of the table with products of the bits and their complements is a sum of products of bits alone, with a
factor for each set of bits: the alternating sum of the table's entries over its subsets (the Moebius transform). Sets
are split between low and high bits, so that few products of ciphertexts are needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def moebius(table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Factors of the products of bits: entry i is that of the bits that are set in i. table: of 2^d numbers."""
    found = table.copy()
    for bit in (1 << k for k in range(len(found).bit_length() - 1)):
        with_bit = np.arange(len(found)) & bit > 0
        found[with_bit] -= found[~with_bit]
    return found


def parted(bits: int) -> tuple[int, int]:
    """How many of so many bits count as low, and how many as high."""
    return (bits + 1) // 2, bits // 2


def halves(chosen: int) -> tuple[int, int]:
    """Two sets of bits whose products make that of a set of at least two: as few products one after another as can be.

    A set of bits is the number in which they are set.
    """
    members = [k for k in range(chosen.bit_length()) if chosen >> k & 1]
    first = sum(1 << k for k in members[: (len(members) + 1) // 2])
    return first, chosen ^ first


def lookup_levels(bits: int) -> int:
    """Levels of a look-up: products of low bits, their weighted sums, and products of these with those of high bits."""
    low, high = parted(bits)
    return (low - 1).bit_length() + 1 + (high > 0)


def gray(index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Gray codes of indices: those of neighbours differ in one bit (Gray, US patent 2632058, 1953)."""
    return np.asarray(index ^ (index >> 1))
