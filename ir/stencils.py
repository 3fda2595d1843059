"""Linear maps of images that do the same at every pixel: which matrices are such maps, and the other way round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .image_layout import Image, Raster, Steps, strided
from .kronecker import Kronecker
from .matrices import Array, Matrix, row_numbers

if TYPE_CHECKING:
    from scipy.sparse import csr_array

I64 = npt.NDArray[np.int64]

# Entries of a matrix that are looked at one by one; a convolution that is held as one has none of its own.
_MOST_ENTRIES = 1 << 22
# How much smaller than its operand, or larger, the picture may be that a convolution makes of it, beside its stride.
_MOST_BORDER = 12
_MOST_STRIDE = 16
# Likewise of the picture that a transposed convolution of a stride makes, and the largest of these.
_MOST_EDGE = 3
_MOST_UP = 4
# A kernel has at most so many times as many weights as the matrix has entries, most of them zeros, or is small.
_MOST_ZEROS, _FEW = 4, 1 << 16


@dataclass(frozen=True, eq=False)
class Stencil:
    """out[c', y, x] = sum_t sum_c kernel[t, c', c] in[c, (sy*y + reads[t, 0]) / uy, (sx*x + reads[t, 1]) / ux].

    What lies outside of ``in`` or between its pixels is 0. kernel: shape (taps, channels out, channels in). reads: rows
    and columns, shape (taps, 2). stride: (sy, sx), of convolutions and poolings. up: (uy, ux), the stride of transposed
    convolutions, and by how much images are enlarged; one of both is 1.
    """

    kernel: Array
    reads: I64
    stride: Steps
    source: Image
    target: Image
    up: Steps = (1, 1)

    def parities(self, step: Steps) -> tuple[Steps, ...]:
        """From which first pixels on it reads every ``step``-th one."""
        found = {(int(y) % step[0], int(x) % step[1]) for y, x in self.reads}
        return tuple(sorted(found))

    def moves(self, read: Raster) -> I64:
        """How far behind a result what each tap reads stands on a raster, in units of the layout's stride."""
        down, right = (each // by for each, by in zip(read.dilation, self.up, strict=True))
        return self.reads[:, 0] * read.steps(down, 0) + self.reads[:, 1] * read.steps(0, right)

    def part(self, first: Steps, step: Steps) -> Stencil:
        """What it does with every ``step``-th pixel, from ``first`` on: of stride 1. step: the stride, or whatever
        along an axis where it makes a single pixel."""
        mine = (self.reads % np.array(step) == np.array(first)).all(axis=1)
        source = (self.source[0], *strided(self.source[1:], first, step))
        reads = (self.reads[mine] - np.array(first)) // np.array(step)
        down, right = (max(1, own // by) for own, by in zip(self.stride, step, strict=True))
        return Stencil(self.kernel[mine], reads, (down, right), source, self.target)

    def folded(self, group: int, by: int) -> Stencil:
        """What it does with images of which ``by`` pixels of a row are one, of so many times as many channels: see
        ``Fold``. by: its stride along a row, which becomes 1, or any where it makes a single pixel."""
        _, made, channels = self.kernel.shape
        keys, tap = np.unique(np.stack([self.reads[:, 0], self.reads[:, 1] // by]), axis=1, return_inverse=True)
        kernel = np.zeros((keys.shape[1], made, channels // group, by, group), dtype=self.kernel.dtype)
        for number, place in enumerate(tap.reshape(-1)):
            own = self.kernel[number].reshape(made, channels // group, group)
            kernel[place, :, :, self.reads[number, 1] % by] += own
        source = (channels * by, self.source[1], self.source[2] // by)
        stride = self.stride[0], max(1, self.stride[1] // by)
        return Stencil(kernel.reshape(-1, made, channels * by), keys.T, stride, source, self.target)

    @property
    def overhang(self) -> int:
        """How many pixels beyond either end of a row it reads for its results."""
        read = self.reads[:, 1]
        behind = self.stride[1] * (self.target[2] - 1) + int(read.max()) - (self.source[2] - 1)
        return max(0, behind, -int(read.min()))

    def crossing(self, pixel: int, before: bool) -> npt.NDArray[np.bool_]:
        """Which taps carry a pixel of a row's end to another row, where rows follow one another without a border.

        pixel: how far from that end. before: from the first pixels to the row before, or else from the last ones to the
        next row. Of stride 1 along the row, which has no fewer pixels than results.
        """
        read = self.reads[:, 1]
        return np.asarray(read > pixel if before else read < -pixel)

    @property
    def matrix(self) -> Kronecker:
        """As the matrix of features, numbered by channel first."""
        (_, rows, columns), (_, height, width) = self.target, self.source
        y, x = (
            np.arange(size, dtype=np.int64) * step + self.reads[:, axis, None]
            for axis, (size, step) in enumerate(zip((rows, columns), self.stride, strict=True))
        )
        inside = _read(y, self.up[0], height)[:, :, None] & _read(x, self.up[1], width)[:, None, :]
        y, x = y // self.up[0], x // self.up[1]
        read = y[:, :, None] * width + x[:, None, :]
        tap, row, column = np.nonzero(inside)
        out, places = row * columns + column, read[tap, row, column]
        order = np.lexsort((places, out))
        indptr = np.searchsorted(out[order], np.arange(rows * columns + 1))
        return Kronecker.of_taps(self.kernel, tap[order] + 1, places[order], indptr, height * width)


def stencil(matrix: Matrix, source: Image, target: Image | None = None) -> Stencil | None:
    """The stencil that a matrix of features is, numbered by channel first; None if there is none.

    source: what it reads. target: what it makes; by default whatever fits.
    """
    (rows, columns), (channels, height, width) = matrix.shape, source
    if columns != channels * height * width or (target is not None and rows != target[0] * target[1] * target[2]):
        return None
    if isinstance(matrix, Kronecker) and matrix.kernel.shape[2] == channels:
        # which tap stands where is a map of one channel to another
        made, places, one = matrix.kernel.shape[1], matrix.taps.shape[0], (1, height, width)
        if target is not None and target[0] != made:
            return None
        targets = _targets(places, one) if target is None else [(1, *target[1:])]
        found = _stencil(_entries(matrix.taps), one, (t for t in targets if t[0] == 1))
        if found is None:
            return None
        kernel = matrix.kernel[found.kernel[:, 0, 0] - 1]
        return Stencil(kernel, found.reads, found.stride, source, (made, *found.target[1:]), found.up)
    if matrix.count > _MOST_ENTRIES:
        return None
    return _stencil(_entries(matrix.csr()), source, _targets(rows, source) if target is None else [target])


def disturbed(own: Stencil, read: Raster, made: Raster, samples: int, places: int, edges: int = 0) -> bool:
    """Whether products put anything on a result of the first so many samples but the pixels that it is made of.

    read, made: where images stand, on one raster. places: exponents of a ciphertext, in units of the layouts' stride.
    What every tap, group of channels read and group made puts on the results is looked up on exponents alone. Channels
    of one group cannot meet: those read are in ciphertexts of their own, and those made have the room of all beside.
    edges: what so many columns at either end of a row put on other rows is taken back by products with these columns.
    """
    numbers = np.arange(samples, dtype=np.int64)
    before, after = read.pixels(numbers), made.pixels(numbers) + read.steps(*read.origin) - made.steps(*made.origin)
    reading = np.arange(read.sites, dtype=np.int64) * read.steps(*read.apart)
    making = np.arange(made.sites, dtype=np.int64) * made.steps(*made.apart)
    occupied = np.zeros(places, dtype=bool)
    occupied[(before[..., None] + reading).ravel()] = True
    others = np.unique(making[:, None] - making)
    others = (others[others != 0][:, None] + reading).ravel()
    rows, columns = (
        np.arange(size, dtype=np.int64) * step for size, step in zip(made.image[1:], own.stride, strict=True)
    )
    moves = own.moves(read)
    for number, (down, right) in enumerate(own.reads):
        at = after + moves[number]
        y, x = np.broadcast_arrays((rows + down)[:, None], (columns + right)[None, :])
        inside = _read(y, own.up[0], read.height) & _read(x, own.up[1], read.width)
        if not (at[:, inside] == before[:, y[inside] // own.up[0], x[inside] // own.up[1]]).all():
            return True
        outside = ~inside
        if edges and read.seamless:
            outside &= ((x >= 0) & (x < read.width)) | (x < -edges) | (x >= read.width + edges)
        strange = (at[:, outside, None] + reading).ravel(), (at[..., None] + others).ravel()
        if any(occupied[each % places].any() for each in strange):
            return True
    return False


@dataclass(frozen=True, eq=False)
class _Entries:
    """Of a matrix of so many rows, those that are not zero: row by row."""

    size: int
    rows: I64
    columns: I64
    values: Array


def _entries(rows: csr_array) -> _Entries:
    return _Entries(rows.shape[0], row_numbers(rows).astype(np.int64), rows.indices.astype(np.int64), rows.data)


def _stencil(entries: _Entries, source: Image, targets: Iterable[Image]) -> Stencil | None:
    """The first that there is, of those that make one of these pictures."""
    if not entries.rows.size:
        return None
    for candidate in targets:
        # one channel shows most misfits
        first = slice(0, int(np.searchsorted(entries.rows, candidate[1] * candidate[2])))
        one = _Entries(entries.size, entries.rows[first], entries.columns[first], entries.values[first])
        for stride, up in _steps(source, candidate):
            if one.rows.size and _fitted(one, source, (1, *candidate[1:]), stride, up) is None:
                continue
            if (found := _fitted(entries, source, candidate, stride, up)) is not None:
                return found
    return None


def _fitted(entries: _Entries, source: Image, target: Image, stride: Steps, up: Steps) -> Stencil | None:
    """The stencil of these strides that has just these entries; None if there is none."""
    (channels, height, width), (made, rows, columns) = source, target
    out_channel, place = np.divmod(entries.rows, rows * columns)
    channel, read = np.divmod(entries.columns, height * width)
    down = up[0] * (read // width) - stride[0] * (place // columns)
    right = up[1] * (read % width) - stride[1] * (place % columns)
    lowest, leftmost = int(down.min()), int(right.min())
    span = int(right.max()) - leftmost + 1
    keys, tap = np.unique((down - lowest) * span + right - leftmost, return_inverse=True)
    size = len(keys) * made * channels
    if size > max(_MOST_ZEROS * entries.rows.size, _FEW):
        return None
    kernel = np.zeros(size, dtype=entries.values.dtype)
    codes = (tap * made + out_channel) * channels + channel
    kernel[codes] = entries.values
    reads = np.stack(np.divmod(keys, span), axis=1) + np.array([lowest, leftmost])
    inside = np.array([1])
    for axis, (results, pixels) in enumerate(((rows, height), (columns, width))):
        at = np.arange(results, dtype=np.int64) * stride[axis] + reads[:, axis, None]
        # how many results find something at each of the places that they read, along one axis
        inside = inside * _read(at, up[axis], pixels).sum(axis=1)
    counts = np.bincount(codes, minlength=size).reshape(len(keys), -1)
    wanted = np.where(kernel.reshape(len(keys), -1) != 0, inside[:, None], 0)
    if not (kernel[codes] == entries.values).all() or not (counts == wanted).all():
        return None
    return Stencil(kernel.reshape(len(keys), made, channels), reads, stride, source, target, up)


def _read(at: I64, up: int, size: int) -> npt.NDArray[np.bool_]:
    """Whether there is a pixel at each place along one axis, ``up`` places from one of so many to the next."""
    return np.asarray((at >= 0) & (at < up * size) & (at % up == 0))


def _targets(rows: int, source: Image) -> Iterator[Image]:
    """Pictures that a map of so many rows may make, likely ones first."""
    for tall, wide in _pictures(source[1:]):
        if rows % (tall * wide) == 0:
            yield rows // (tall * wide), tall, wide
    # every map makes pictures of one pixel
    yield rows, 1, 1


@lru_cache(maxsize=256)
def _pictures(source: Steps) -> tuple[Steps, ...]:
    """Sizes that a picture of so many rows and columns may be brought to, likely ones first, without that of a pixel.

    Kept: all linear maps of a network are asked about few sizes.
    """
    steps = range(1, _MOST_STRIDE + 1)
    pairs = [(d, r) for d in steps for r in steps]
    # with padding, or without what is left over: as few channels as there may be
    strided = [_smaller(source, (d, r), border) for d, r in pairs for border in ((0, 0), (d - 1, r - 1))]
    strided.sort(key=lambda each: (-each[0] * each[1], each[0] != each[1]))
    # borders are those of squares
    borders = (*range(1, _MOST_BORDER + 1), *range(-1, -_MOST_BORDER - 1, -1))
    cut = [_smaller(source, (step, step), (border, border)) for step in steps for border in borders]
    ups = ((up, edge) for edge in range(_MOST_EDGE + 1) for up in range(2, _MOST_UP + 1))
    enlarged = [
        tuple(up * size + end if size > 1 else 1 for size in source) for up, edge in ups for end in (-edge, edge)
    ]
    found = dict.fromkeys((tall, wide) for tall, wide in (*strided, *cut, *enlarged) if tall > 0 and wide > 0)
    return tuple(each for each in found if each != (1, 1))


def _smaller(source: Steps, by: Steps, border: Steps) -> Steps:
    """Rows and columns of so much smaller a picture, without a border; one row has none above and below."""
    rows, columns = (
        -(-(size - cut) // step) if size > 1 else 1 for size, step, cut in zip(source, by, border, strict=True)
    )
    return rows, columns


def _steps(source: Image, target: Image) -> Iterator[tuple[Steps, Steps]]:
    """Strides by which an operand may become so much smaller, the largest first, or larger."""
    down, right = (_steps_along(*sizes) for sizes in zip(source[1:], target[1:], strict=True))
    yield from (((s, t), (u, v)) for s, u in down for t, v in right)


def _steps_along(before: int, after: int) -> list[tuple[int, int]]:
    """Of one axis: strides of a convolution, and of a transposed one."""
    strides = range(1 if after == 1 else min(_MOST_STRIDE, -(-before // after)), 0, -1)
    ups = (up for up in range(2, _MOST_UP + 1) if abs(up * before - after) <= _MOST_EDGE)
    return [*((stride, 1) for stride in strides), *((1, up) for up in ups if before > 1)]
