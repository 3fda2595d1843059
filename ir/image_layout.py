"""Image layouts: where the pixels and channels of images stand in ciphertexts.

All tensors of a network stand on one raster: channel c of the pixel at raster row y and column x of image slot t has
the exponent ((t*rows + y)*pitch + x)*group + c, in units of the layout's stride. A product with X^(c' - c - (dy*pitch +
dx)*group) moves what stands (dy, dx) away, so a convolution is one product for each of its input channels. ``rows`` and
``pitch`` leave a border of zeros behind every row and image that serves what stands before the next one, too. Where a
row takes the whole pitch there is no border beside it: products carry pixels from one row to its neighbours then, and
the products of its first and last columns alone, which are unpacked too, take that back (``seamless``).

What comes of a stride stays where it is, farther apart (``dilation``). The room between can hold more images, each
moved by the offsets of its ``levels``, or more channels of the same one, where there are no others: ``sites`` groups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .errors import IRError
from .masks import Mask

I64 = npt.NDArray[np.int64]
# Rows and columns.
Steps = tuple[int, int]
# Channels, rows, columns.
Image = tuple[int, int, int]

# Images come out of files, too: a slot is shared by no more images than a ring has coefficients.
_MOST_LEVELS = 16


@dataclass(frozen=True)
class Raster:
    """Images of channels x height x width. Feature (c, y, x) of sample b of a chunk stands in part c // beside, where
    there is one site.

    group: channels that there is room for side by side; beside: channels that stand side by side in one part, ``group``
    or, once they are unpacked, 1. rows, pitch: from one image slot to the next, in rows, and from one row to the next,
    in columns of the raster. dilation: from one pixel to the next. origin: of the first pixel in its slot. levels: the
    images of a slot; where bit j of b is set, ``levels[j]`` is added, and the bits above these number the slots. sites:
    groups of channels in one ciphertext, each ``apart`` rows and columns behind the one before; what is unpacked are
    the channels of a group, so a part has one of every group then.
    """

    channels: int
    height: int
    width: int
    group: int
    beside: int
    rows: int
    pitch: int
    dilation: Steps = (1, 1)
    origin: Steps = (0, 0)
    levels: tuple[Steps, ...] = ()
    sites: int = 1
    apart: Steps = (0, 0)

    def __post_init__(self) -> None:
        sizes = (self.channels, self.height, self.width, self.group, self.rows, self.pitch, *self.dilation, self.sites)
        if min(sizes) < 1 or self.beside not in (1, self.group) or self.group & (self.group - 1):
            raise IRError(f"an image layout has positive sizes, and a power of two of channels side by side: {self}")
        if len(self.levels) > _MOST_LEVELS or min(min(s) for s in (self.origin, self.apart, *self.levels)) < 0:
            raise IRError(
                f"the images of a slot stand at no offsets below 0, nor at more than 2^{_MOST_LEVELS}: {self}"
            )
        if any(last >= room for last, room in zip(self.last, (self.rows, self.pitch), strict=True)):
            raise IRError(f"the pixels of one row or image overlap with the next: {self}")
        if self.sites > 1 and not any(self.apart):
            raise IRError(f"groups of channels stand at one place: {self}")

    @property
    def image(self) -> Image:
        return self.channels, self.height, self.width

    @property
    def size(self) -> int:
        return self.channels * self.height * self.width

    @property
    def together(self) -> int:
        """Channels that one ciphertext has before it is unpacked."""
        return self.group * self.sites

    @property
    def parts(self) -> int:
        """Ciphertexts that the channels take."""
        if self.beside == self.group:
            return -(-self.channels // self.together)
        full, rest = divmod(self.channels, self.together)
        return full * self.group + min(self.group, rest)

    @property
    def last(self) -> Steps:
        """Row and column of the last pixel of the last image of a slot."""
        y, x = (
            self.origin[axis]
            + (size - 1) * self.dilation[axis]
            + sum(level[axis] for level in self.levels)
            + (self.sites - 1) * self.apart[axis]
            for axis, size in enumerate((self.height, self.width))
        )
        return y, x

    @property
    def seamless(self) -> bool:
        """Whether the next row, or image, begins right behind the last pixel of a row."""
        return self.width * self.dilation[1] == self.pitch

    def folded(self, by: int) -> Raster:
        """The same places, where every ``by``-th pixel of a row is one: the pixels between are channels behind those of
        their group. IRError where rows or groups cannot be divided so."""
        apart = [level[1] for level in self.levels]
        if by < 1 or self.width % by or self.pitch % by or self.channels % self.group or self.beside != self.group:
            raise IRError(f"no channels can be made of every {by} pixels of a row: {self}")
        if self.dilation[1] > 1 or self.origin[1] or any(apart) or self.sites > 1:
            raise IRError(f"pixels of a row that are channels stand side by side: {self}")
        return replace(
            self,
            channels=self.channels * by,
            width=self.width // by,
            group=self.group * by,
            beside=self.group * by,
            pitch=self.pitch // by,
        )

    @property
    def slot(self) -> int:
        """Exponents from one image slot to the next, in units of the stride."""
        return self.rows * self.pitch * self.group

    def steps(self, rows: int, columns: int) -> int:
        """Exponents, in units of the stride, from a place of the raster to one so many rows and columns behind it."""
        return (rows * self.pitch + columns) * self.group

    def slots(self, samples: int) -> int:
        """Image slots that the first so many samples of a chunk take."""
        return -(-samples // (1 << len(self.levels)))

    def pixels(self, samples: I64) -> I64:
        """Exponents of the first channel of all pixels of a chunk's samples b: shape (samples, height, width)."""
        at = (samples >> len(self.levels)) * self.slot + self.steps(*self.origin)
        for bit, level in enumerate(self.levels):
            at = at + (samples >> bit & 1) * self.steps(*level)
        rows = np.arange(self.height, dtype=np.int64) * self.steps(self.dilation[0], 0)
        columns = np.arange(self.width, dtype=np.int64) * self.steps(0, self.dilation[1])
        return np.asarray(at[:, None, None] + rows[:, None] + columns)

    def channels_of(self, part: int) -> range:
        """The channels in a part."""
        if self.beside == self.group:
            return range(part * self.together, min((part + 1) * self.together, self.channels))
        before, residue = divmod(part, self.group)
        first = before * self.together
        return range(first + residue, min(first + self.together, self.channels), self.group)

    def columns_of(self, part: int) -> I64:
        """The features in a part, which are numbered by channel first."""
        pixels = np.arange(self.height * self.width, dtype=np.int64)
        return (np.array(self.channels_of(part), dtype=np.int64)[:, None] * len(pixels) + pixels).ravel()

    def part_of(self, feature: int) -> tuple[int, int]:
        """Where a feature stands: its part, and its number among the features in there."""
        channel, pixel = divmod(feature, self.height * self.width)
        before, within = divmod(channel, self.together)
        if self.beside == self.group:
            return before, within * self.height * self.width + pixel
        site, residue = divmod(within, self.group)
        return before * self.group + residue, site * self.height * self.width + pixel

    def channel_offsets(self, part: int) -> I64:
        """Exponents of a part's channels from the first place of their pixel on, in units of the stride."""
        channels = np.array(self.channels_of(part), dtype=np.int64)
        beside = channels % self.group if self.beside == self.group else 0
        return np.asarray(channels % self.together // self.group * self.steps(*self.apart) + beside)

    def places(self, part: int, samples: I64) -> I64:
        """Exponents of a part's features, in units of the stride: shape (samples, features in the part)."""
        offsets = self.channel_offsets(part)
        found = self.pixels(samples)[:, None] + offsets[:, None, None]
        return found.reshape(len(samples), len(offsets) * self.height * self.width)

    def mask(self, samples: int, stride: int) -> Mask:
        """What keeps the first so many samples of a chunk, in every part, and nothing else."""
        (dy, dx), slots = self.dilation, self.slots(samples)
        axes = [(slots, self.slot), *((2, self.steps(*level)) for level in self.levels)]
        axes += [(self.height, self.steps(dy, 0)), (self.width, self.steps(0, dx))]
        axes += [(self.sites, self.steps(*self.apart)), (min(self.beside, self.channels), 1)]
        return Mask(self.steps(*self.origin) * stride, tuple((n, step * stride) for n, step in axes if n > 1))

    def window(self, first: Steps, step: Steps) -> Raster:
        """Of every ``step``-th pixel, from ``first`` on, where they stand."""
        y, x = (o + f * d for o, f, d in zip(self.origin, first, self.dilation, strict=True))
        height, width = strided((self.height, self.width), first, step)
        dilation = (self.dilation[0] * step[0], self.dilation[1] * step[1])
        return replace(self, height=height, width=width, dilation=dilation, origin=(y, x))


def strided(size: Steps, first: Steps, step: Steps) -> Steps:
    """Rows and columns of a picture's every ``step``-th pixel, from ``first`` on."""
    height, width = (-(-(n - f) // s) for n, f, s in zip(size, first, step, strict=True))
    return height, width
