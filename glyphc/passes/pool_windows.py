"""Maxima over windows of images, one axis after another, and along an axis by pairs of pixels.

A window of 2 p places is two of p, and every round takes the larger of those that begin p places apart. They begin at
an arithmetic progression, so what a round makes is an image like what it reads, of every so many pixels; pairs within
each window by itself would make none. Windows that overlap share what they have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

# How many times as many values, in as many rounds, as by comparing the places of each window by itself: sizes that
# strides do not divide leave some pixels that no window reads.
_MORE = 1.25


@dataclass(frozen=True)
class Round:
    """Maxima of so many places from each of these pixels on: of windows of ``left`` there, and of ``right`` so far
    ``behind``."""

    size: int
    left: int
    right: int
    behind: int
    pixels: range


@dataclass(frozen=True)
class Windows:
    """Along one axis of so many pixels: ``kernel`` places, ``dilation`` apart, from each of ``starts`` on."""

    pixels: int
    kernel: int
    dilation: int
    starts: range

    @property
    def rounds(self) -> tuple[Round, ...]:
        """From windows of one place on, each a comparison of what was made before."""
        if self.kernel == 1:
            return ()
        left = 1 << (self.kernel - 1).bit_length() - 1
        rest = self.kernel - left
        # what is left over is a window that there is, or overlaps with the first one
        right = rest if rest.bit_count() == 1 else left
        found = [Round(self.kernel, left, right, (self.kernel - right) * self.dilation, self.starts)]
        wanted: dict[int, list[range]] = {}
        while True:
            last = found[-1]
            for size, moved in ((last.left, 0), (last.right, last.behind)):
                wanted.setdefault(size, []).append(_moved(last.pixels, moved))
            size = last.left
            if size == 1:
                return tuple(reversed(found))
            half = size // 2
            found.append(Round(size, half, half, half * self.dilation, _union(wanted[size])))


def windows_of(indices: I64, shape: Sequence[int]) -> tuple[Windows, ...] | None:
    """What windows a gathering of elements has along each axis of a tensor; None if these are none.

    indices: into the flat tensor of this shape, shape (*outputs, places in a window), with an output axis for each of
    the first axes of the tensor, and one window along the others.
    """
    places, axes = indices.shape[-1], len(shape)
    outputs = (*indices.shape[:-1], *(1,) * (axes - indices.ndim + 1))
    if len(outputs) != axes or not indices.size:
        return None
    found: list[Windows] = []
    for axis, at in enumerate(np.unravel_index(indices.reshape(*outputs, places), shape)):
        # by output, at the first place, and by place, in the first window
        starts = np.moveaxis(at[..., 0], axis, 0).reshape(outputs[axis], -1)[:, 0]
        offsets = at.reshape(-1, places)[0] - starts[0]
        across = starts.reshape(-1, *(1,) * (axes - axis))
        kernel, first = _progression(np.unique(offsets)), _progression(starts)
        if kernel is None or first is None or kernel.start or not (at == across + offsets).all():
            return None
        found.append(Windows(shape[axis], len(kernel), kernel.step, first))
    # all of the window's places, each once
    flat = np.unique(indices.reshape(-1, places)[0])
    return tuple(found) if len(flat) == places == prod(w.kernel for w in found) else None


def worthwhile(axes: Sequence[Windows]) -> bool:
    """Whether this way bootstraps hardly more than comparing the places of each window, in rounds and values."""
    sizes = [w.pixels for w in axes]
    rounds = values = 0
    for axis, own in enumerate(axes):
        rounds += len(own.rounds)
        sizes[axis] = 1
        values += prod(sizes) * sum(len(r.pixels) for r in own.rounds)
        sizes[axis] = len(own.starts)
    places = prod(w.kernel for w in axes)
    others, whole = (places - 1) * prod(sizes), (places - 1).bit_length()
    return rounds * values <= whole * others or (rounds <= whole and values <= _MORE * others)


def _progression(values: I64) -> range | None:
    """The range with just these values, in this order; None if there is none."""
    step = int(values[1] - values[0]) if len(values) > 1 else 1
    found = range(int(values[0]), int(values[0]) + len(values) * step, step) if step > 0 else None
    return found if found is not None and np.array_equal(values, found) else None


def _moved(pixels: range, by: int) -> range:
    return range(pixels.start + by, pixels.stop + by, pixels.step)


def _union(of: Sequence[range]) -> range:
    """The smallest range that has all of these."""
    first, last = min(r[0] for r in of), max(r[-1] for r in of)
    step = gcd(*(r.step for r in of if len(r) > 1), *(r[0] - first for r in of)) or 1
    return range(first, last + 1, step)
