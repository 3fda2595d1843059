"""Masks: which coefficients a bootstrap keeps. All others come out as (nearly) zero."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from .errors import IRError

I64 = npt.NDArray[np.int64]

# Of the largest ring, and of what a tensor has axes for: masks come out of files, too.
_LARGEST = 1 << 17
_MOST_AXES = 16


@dataclass(frozen=True)
class Mask:
    """An affine box of exponents, ``origin + sum_k i_k * stride_k`` for all 0 <= i_k < count_k, no two of them equal.

    axes: (count, stride) of each k, for example of images, rows, columns and channels. IRError for any other numbers.
    """

    origin: int
    axes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.origin < 0 or min((min(axis) for axis in self.axes), default=1) < 1 or len(self.axes) > _MOST_AXES:
            raise IRError(f"a mask has an origin of at least 0 and at most {_MOST_AXES} axes of positive sizes: {self}")
        if self.last >= _LARGEST or self.size > _LARGEST:
            raise IRError(f"a mask has no more than {_LARGEST} exponents, all of them smaller: {self}")
        if np.bincount(self.exponents()).max() > 1:
            raise IRError(f"a mask has each of its exponents once: {self}")

    def __str__(self) -> str:
        return f"{' x '.join(f'{count} at {stride}' for count, stride in self.axes) or 'one'} from {self.origin}"

    @property
    def size(self) -> int:
        """How many coefficients it keeps."""
        return prod(count for count, _ in self.axes)

    @property
    def last(self) -> int:
        """The largest exponent."""
        return self.origin + sum((count - 1) * stride for count, stride in self.axes)

    def exponents(self) -> I64:
        """All exponents, shape (size,), in the order of the axes, the last one fastest."""
        found: I64 = np.array([self.origin], dtype=np.int64)
        for count, stride in self.axes:
            found = (found[:, None] + np.arange(count, dtype=np.int64) * stride).ravel()
        return found

    def problem(self, ring: int, grid: int) -> str:
        """In words, what is wrong with it for polynomials of so many coefficients, whose values stand at multiples of
        ``grid``; empty if nothing is."""
        if self.last >= ring:
            return f"keeps the exponent {self.last}, the ring has {ring}"
        if any(step % grid for step in (self.origin, *(stride for count, stride in self.axes if count > 1))):
            return f"keeps exponents off the grid of {grid}: {self}"
        return ""

    def kept(self, ring: int, grid: int) -> npt.NDArray[np.bool_]:
        """Whether it keeps each of the values that stand at multiples of ``grid``, shape (ring // grid,).

        IRError for a mask that does not fit these.
        """
        if problem := self.problem(ring, grid):
            raise IRError(f"the mask {problem}")
        out = np.zeros(ring // grid, dtype=bool)
        out[self.exponents() // grid] = True
        return out
