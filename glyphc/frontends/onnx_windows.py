"""Sliding windows of ONNX's convolutions and poolings: which elements of the input each window covers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glyphc.ir import memory

from .onnx_constants import UnsupportedError

I64 = npt.NDArray[np.int64]

# A place in a window: its position and whether it counts, each made axis by axis.
_TAP_BYTES = 6 * 8


@dataclass(frozen=True)
class Window:
    """Geometry along one spatial axis: input size, kernel size, stride, dilation, padding at both ends, output size."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    outputs: int

    def positions(self) -> I64:
        """Input position of every (window, place in it), shape (outputs, kernel); outside [0, size) is padding."""
        starts = np.arange(self.outputs, dtype=np.int64) * self.stride - self.before
        return starts[:, None] + np.arange(self.kernel, dtype=np.int64)[None, :] * self.dilation


def windows(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    auto_pad: str,
    ceil_mode: bool,
) -> tuple[Window, ...]:
    """The windows along all spatial axes, from a node's attributes (empty sequences mean ONNX's defaults).

    Raises UnsupportedError where lengths don't fit, or no window fits into the padded input.
    """
    rank = len(sizes)
    kernel, strides, dilations = list(kernel), list(strides) or [1] * rank, list(dilations) or [1] * rank
    pads = list(pads) or [0] * (2 * rank)
    if not len(kernel) == len(strides) == len(dilations) == len(pads) // 2 == rank:
        raise UnsupportedError(f"kernel_shape, strides, dilations and pads don't fit {rank} spatial axes")
    _check_sizes(kernel, strides, dilations, pads)
    found = []
    for axis, size in enumerate(sizes):
        ends = pads[axis], pads[rank + axis]
        found.append(_window(size, kernel[axis], strides[axis], dilations[axis], ends, auto_pad, ceil_mode))
    return tuple(found)


# Of sizes, strides and paddings: products of a few of them must be 64-bit integers.
_LARGEST = 1 << 20


def _check_sizes(
    kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], others: Sequence[int]
) -> None:
    """UnsupportedError for windows that no file means: without elements, or that stand still, or reach too far."""
    if min((*kernel, *strides, *dilations), default=1) < 1:
        raise UnsupportedError("kernel_shape, strides and dilations must be positive")
    if max(map(abs, (*kernel, *strides, *dilations, *others)), default=0) > _LARGEST:
        raise UnsupportedError(f"a size, stride, dilation or padding of its windows is beyond {_LARGEST}")


def _window(
    size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], auto_pad: str, ceil_mode: bool
) -> Window:
    reach = (kernel - 1) * dilation + 1
    before, after = pads
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        # negative where strides are longer than windows: then elements at both ends are left out, as in ONNX Runtime
        total = (-(-size // stride) - 1) * stride + reach - size
        before = int((total if auto_pad == "SAME_UPPER" else total + 1) / 2)
        after = total - before
    elif auto_pad not in ("NOTSET", "VALID"):
        raise UnsupportedError(f"auto_pad={auto_pad!r} is not known")
    elif auto_pad == "VALID":
        before = after = 0
    room = size + before + after - reach
    if room < 0:
        raise UnsupportedError(f"a window of {reach} does not fit into an axis of {size} padded by {before}+{after}")
    outputs = -(-room // stride) + 1 if ceil_mode else room // stride + 1
    # with ceil_mode, a window that would begin in the padding behind the input does not count
    if ceil_mode and (outputs - 1) * stride >= size + before:
        outputs -= 1
    return Window(size, kernel, stride, dilation, before, after, outputs)


def transposed_windows(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    auto_pad: str,
    output_padding: Sequence[int],
    output_shape: Sequence[int],
) -> tuple[Window, ...]:
    """The windows of the convolution whose transpose is wanted: from its result (``size``) to its input (``outputs``).

    Attributes as in ONNX's ConvTranspose, empty sequences mean defaults. Raises UnsupportedError where they don't fit.
    """
    rank = len(sizes)
    strides, dilations = list(strides) or [1] * rank, list(dilations) or [1] * rank
    pads, more, wanted = list(pads) or [0] * (2 * rank), list(output_padding) or [0] * rank, list(output_shape)[-rank:]
    if not len(kernel) == len(strides) == len(dilations) == len(pads) // 2 == len(more) == rank:
        raise UnsupportedError(f"kernel_shape, strides, dilations, pads and output_padding don't fit {rank} axes")
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise UnsupportedError(f"auto_pad={auto_pad!r} is not known")
    _check_sizes(kernel, strides, dilations, [*pads, *more, *wanted])
    found = []
    for i, inputs in enumerate(sizes):
        full = strides[i] * (inputs - 1) + more[i] + (kernel[i] - 1) * dilations[i] + 1
        before, after = (0, 0) if auto_pad == "VALID" else (pads[i], pads[rank + i])
        same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
        if wanted or same:
            total = full - (wanted[i] if wanted else inputs * strides[i])
            # a negative total (strides longer than windows) makes the result longer than the map reaches
            # towards a larger shape that is asked for, zeros are appended, as ONNX Runtime does
            cut = max(total, 0) if wanted else total
            before = cut // 2 if auto_pad == "SAME_UPPER" else cut - cut // 2
            after = total - before
        size = full - before - after
        if size < 1:
            raise UnsupportedError(f"padding {before}+{after} leaves nothing of an axis of {full}")
        found.append(Window(size, kernel[i], strides[i], dilations[i], before, after, inputs))
    return tuple(found)


def taps(axes: tuple[Window, ...], with_padding: bool = False) -> tuple[I64, npt.NDArray[np.bool_]]:
    """Flat input position of every (window, place in it), and whether that is within the input (or its padding)."""
    count = math.prod(axis.outputs * axis.kernel for axis in axes)
    memory.require(_TAP_BYTES * count, f"a list of the {count:,} places in its windows")
    flat: I64 = np.zeros((1, 1), dtype=np.int64)  # (windows, elements) of the axes so far
    outside: I64 = np.zeros((1, 1), dtype=np.int64)
    for axis in axes:
        at = axis.positions()
        lowest, highest = (-axis.before, axis.size + axis.after) if with_padding else (0, axis.size)
        flat = _outer(flat * axis.size, at)
        outside = _outer(outside, ((at < lowest) | (at >= highest)).astype(np.int64))
    return flat, outside == 0


def covered(shape: tuple[int, ...], axes: tuple[Window, ...]) -> I64:
    """Flat index of every element that a window covers, shape (channels, *outputs, kernel elements).

    shape: of one sample, (channels, *spatial). Padding is replaced by an element of the same window, which changes no
    maximum; UnsupportedError for windows of nothing but padding.
    """
    flat, valid = taps(axes)
    memory.require(_TAP_BYTES * flat.size * shape[0], f"a list of the places in its windows over {shape[0]} channels")
    if not valid.any(axis=1).all():
        raise UnsupportedError("some windows cover nothing but padding")
    first = flat[np.arange(len(flat)), valid.argmax(axis=1)]
    flat = np.where(valid, flat, first[:, None])
    channels, spatial = shape[0], int(np.prod(shape[1:], dtype=np.int64))
    index = np.arange(channels, dtype=np.int64)[:, None, None] * spatial + flat[None]
    return np.asarray(index.reshape(channels, *(a.outputs for a in axes), flat.shape[1]))


def _outer(a: I64, b: I64) -> I64:
    """a[w, e] + b[v, f] at [(w, v), (e, f)]."""
    total = a[:, None, :, None] + b[None, :, None, :]
    return np.asarray(total.reshape(a.shape[0] * b.shape[0], a.shape[1] * b.shape[1]))
