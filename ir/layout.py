"""Exponent layouts: where the elements of a tensor stand in the coefficients of ring elements.

A ring element is a polynomial modulo X^N + 1. A product of polynomials adds exponents, so a product of a
ciphertext and a plaintext polynomial is a tensor contraction, provided that the exponents are laid out such that
unwanted terms land on positions nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import IRError


def next_power_of_two(value: int) -> int:
    """The smallest power of two that is at least ``value`` (and at least 1)."""
    return 1 << max(0, value - 1).bit_length()


@dataclass(frozen=True)
class Layout:
    """Feature i of sample b stands in ciphertext ``i % parts`` at exponent ``b*batch_stride + (i // parts)*stride``.

    ring: the ring dimension N. batch: samples per ciphertext. features: elements of one sample.
    zero_elsewhere: whether all other coefficients are known to be zero; otherwise they hold garbage at multiples
    of ``grid`` (and zero off that grid).
    """

    ring: int
    batch: int
    features: int
    parts: int
    stride: int
    batch_stride: int
    grid: int
    zero_elsewhere: bool

    def __post_init__(self) -> None:
        if min(self.ring, self.batch, self.features, self.parts, self.stride, self.batch_stride, self.grid) < 1:
            raise IRError(f"a layout needs positive sizes and strides: {self}")
        if self.per_part * self.stride > self.batch_stride and self.batch > 1:
            raise IRError(f"the {self.per_part} features of one sample overlap with the next sample: {self}")
        if (self.batch - 1) * self.batch_stride + (self.per_part - 1) * self.stride >= self.ring:
            raise IRError(f"the layout does not fit into {self.ring} coefficients: {self}")
        if self.stride % self.grid or self.batch_stride % self.grid:
            raise IRError(f"useful positions lie off the grid of {self.grid}: {self}")

    @property
    def per_part(self) -> int:
        """Features of one sample that stand in one ciphertext (the last part may hold fewer)."""
        return -(-self.features // self.parts)

    @property
    def occupancy(self) -> float:
        """Share of all coefficients of all parts that carry a useful value."""
        return self.batch * self.features / (self.parts * self.ring)

    def part_of(self, feature: int) -> int:
        return feature % self.parts

    def exponent_of(self, feature: int, sample: int = 0) -> int:
        return sample * self.batch_stride + (feature // self.parts) * self.stride

    def features_of(self, part: int) -> Iterator[int]:
        """The features in ciphertext ``part``, in the order of their exponents."""
        return iter(range(part, self.features, self.parts))

    def positions(self, part: int) -> npt.NDArray[np.int64]:
        """Exponents of the useful values of a part, shape (batch, number of features in the part)."""
        count = len(range(part, self.features, self.parts))
        b = np.arange(self.batch, dtype=np.int64)[:, None] * self.batch_stride
        return b + np.arange(count, dtype=np.int64)[None, :] * self.stride

    def pack(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Coefficients, shape (parts, ring), of a tensor of shape (samples <= batch, features)."""
        out = np.zeros((self.parts, self.ring), dtype=np.int64)
        for part in range(self.parts):
            out[part, self.positions(part)[: values.shape[0]]] = values[:, part :: self.parts]
        return out

    def unpack(self, coefficients: npt.NDArray[np.int64], samples: int) -> npt.NDArray[np.int64]:
        """The tensor, shape (samples, features), from coefficients of shape (parts, ring): inverse of :meth:`pack`.

        Parts beyond the number of features hold nothing and may be missing.
        """
        out = np.zeros((samples, self.features), dtype=coefficients.dtype)
        for part in range(min(self.parts, self.features)):
            out[:, part :: self.parts] = coefficients[part, self.positions(part)[:samples]]
        return out
