"""Exponent layouts: where the elements of a tensor stand in the coefficients of ring elements.

A ring element is a polynomial modulo X^N + 1. A product of polynomials adds exponents, so a product of a
ciphertext and a plaintext polynomial is a tensor contraction, provided that the exponents are laid out such that
unwanted terms land on positions nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .errors import IRError
from .image_layout import Raster
from .masks import Mask

_Number = TypeVar("_Number", bound=np.generic)
# Of every size and stride: positions are computed in 64-bit integers.
_LARGEST = 1 << 31


def next_power_of_two(value: int) -> int:
    """The smallest power of two that is at least ``value`` (and at least 1)."""
    return 1 << max(0, value - 1).bit_length()


@dataclass(frozen=True)
class Layout:
    """Sample s stands in chunk ``s % chunks`` as its sample ``b = s // chunks``; in a chunk, feature i of sample b in
    part ``i % parts`` at exponent ``b*batch_stride + (i // parts)*stride``. Chunks and parts are ciphertexts: part p
    of chunk c is number ``c*parts + p``.

    ring: positions in a ciphertext: the ring dimension N, or its half where values stand in slots (then "exponents" are
    the numbers of slots, and all strides are 1). batch: samples in all chunks. features: elements of one sample.
    zero_elsewhere: whether all other coefficients are known to be zero; otherwise they hold garbage at multiples
    of ``grid`` (and zero off that grid). image: of images; then parts are groups of channels, the features of a part
    and the samples of a chunk stand where it says, and strides are those of channels and of image slots.
    """

    ring: int
    batch: int
    features: int
    parts: int
    stride: int
    batch_stride: int
    grid: int
    zero_elsewhere: bool
    chunks: int = 1
    image: Raster | None = field(default=None, repr=False)

    @staticmethod
    def of_images(image: Raster, ring: int, batch: int, stride: int, zero_elsewhere: bool, chunks: int) -> Layout:
        """Images whose channels stand ``stride`` apart."""
        slot = image.slot * stride
        return Layout(ring, batch, image.size, image.parts, stride, slot, stride, zero_elsewhere, chunks, image)

    def with_images(self, image: Raster, chunks: int = 0, zero_elsewhere: bool | None = None) -> Layout:
        """The same for other images, or for these where they stand otherwise; what is not given stays as it is."""
        zero = self.zero_elsewhere if zero_elsewhere is None else zero_elsewhere
        return Layout.of_images(image, self.ring, self.batch, self.stride, zero, chunks or self.chunks)

    def __post_init__(self) -> None:
        sizes = (self.ring, self.batch, self.features, self.parts, self.stride, self.batch_stride, self.grid)
        if min(*sizes, self.chunks) < 1:
            raise IRError(f"a layout needs positive sizes and strides: {self}")
        if max(*sizes, self.chunks) > _LARGEST:
            raise IRError(f"a layout has no sizes and strides above {_LARGEST}: {self}")
        if self.image is not None:
            self._check_images(self.image)
            return
        if self.per_part * self.stride > self.batch_stride and self.per_chunk > 1:
            raise IRError(f"the {self.per_part} features of one sample overlap with the next sample: {self}")
        if (self.per_chunk - 1) * self.batch_stride + (self.per_part - 1) * self.stride >= self.ring:
            raise IRError(f"the layout does not fit into {self.ring} coefficients: {self}")
        if self.stride % self.grid or self.batch_stride % self.grid:
            raise IRError(f"useful positions lie off the grid of {self.grid}: {self}")

    def _check_images(self, image: Raster) -> None:
        if max(image.size, image.slot * self.stride) > _LARGEST:
            raise IRError(f"a layout has no sizes and strides above {_LARGEST}: {self}")
        if (self.features, self.parts, self.batch_stride) != (image.size, image.parts, image.slot * self.stride):
            raise IRError(f"a layout has another size than its images: {self}")
        if image.slots(self.per_chunk) * self.batch_stride > self.ring:
            raise IRError(f"the layout does not fit into {self.ring} coefficients: {self}")
        if self.stride % self.grid:
            raise IRError(f"useful positions lie off the grid of {self.grid}: {self}")

    @property
    def per_part(self) -> int:
        """Features of one sample that stand in one ciphertext (the last part may hold fewer)."""
        if self.image is not None:
            return len(self.image.channels_of(0)) * self.image.height * self.image.width
        return -(-self.features // self.parts)

    @property
    def per_chunk(self) -> int:
        """Samples of the first chunk (later ones may hold one less)."""
        return -(-self.batch // self.chunks)

    @property
    def ciphertexts(self) -> int:
        return self.chunks * self.parts

    @property
    def occupancy(self) -> float:
        """Share of all coefficients of all ciphertexts that carry a useful value."""
        return self.batch * self.features / (self.ciphertexts * self.ring)

    def exponent_of(self, feature: int, sample: int = 0) -> int:
        if self.image is not None:
            part, at = self.image.part_of(feature)
            return int(self.positions(part, np.array([sample // self.chunks]))[0, at])
        return sample // self.chunks * self.batch_stride + (feature // self.parts) * self.stride

    def features_of(self, part: int) -> Iterator[int]:
        """The features in part ``part`` of every chunk, in the order of :meth:`positions`."""
        return iter(self._columns(part).tolist())

    def _columns(self, part: int) -> npt.NDArray[np.int64]:
        if self.image is not None:
            return self.image.columns_of(part)
        return np.arange(part, self.features, self.parts, dtype=np.int64)

    def positions(self, part: int, samples: int | npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
        """Exponents of a part's useful values, shape (samples, features in the part).

        samples: the chunk's own samples b, or how many from the first on; by default all of a full chunk.
        """
        if not isinstance(samples, np.ndarray):
            samples = np.arange(self.per_chunk if samples is None else samples, dtype=np.int64)
        if self.image is not None:
            return self.image.places(part, samples) * self.stride
        count = len(range(part, self.features, self.parts))
        b = samples[:, None] * self.batch_stride
        return b + np.arange(count, dtype=np.int64)[None, :] * self.stride

    @property
    def mask(self) -> Mask:
        """What keeps the useful positions of images, and nothing else; IRError for other layouts."""
        if self.image is None:
            raise IRError(f"there are no masks of {self}")
        return self.image.mask(self.per_chunk, self.stride)

    def pack(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Coefficients, shape (ciphertexts, ring), of a tensor of shape (samples <= batch, features)."""
        return np.array([self.pack_one(values, number) for number in range(self.ciphertexts)])

    def pack_one(self, values: npt.NDArray[np.int64], number: int) -> npt.NDArray[np.int64]:
        """Row ``number`` of :meth:`pack`, shape (ring,)."""
        chunk, part = divmod(number, self.parts)
        rows = values[chunk :: self.chunks]
        out = np.zeros(self.ring, dtype=np.int64)
        out[self.positions(part, len(rows))] = rows[:, self._columns(part)]
        return out

    def unpack(self, coefficients: npt.NDArray[_Number], samples: int) -> npt.NDArray[_Number]:
        """The tensor, shape (samples, features), from coefficients of shape (ciphertexts, ring): inverse of pack.

        Parts beyond the number of features hold nothing and may be missing in every chunk.
        """
        return self.unpack_places(coefficients, np.arange(samples), self.chunks)

    def unpack_places(
        self, coefficients: npt.NDArray[_Number], places: npt.NDArray[np.int64], chunks: int
    ) -> npt.NDArray[_Number]:
        """Like :meth:`unpack`, of the samples with these numbers, where only the first ``chunks`` chunks are there."""
        out = np.zeros((len(places), self.features), dtype=coefficients.dtype)
        per_chunk = len(coefficients) // chunks
        for chunk in range(chunks):
            rows = np.flatnonzero(places % self.chunks == chunk)
            for part in range(min(self.parts, self.features)):
                found = coefficients[chunk * per_chunk + part]
                out[rows[:, None], self._columns(part)] = found[self.positions(part, places[rows] // self.chunks)]
        return out
