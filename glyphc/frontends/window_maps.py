"""The maps of convolutions and mean poolings, over (channels, *spatial) in row-major order."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import sparse

from glyphc.ir import memory
from glyphc.ir.kronecker import Kronecker
from glyphc.ir.matrices import Compressed, Matrix

from .onnx_constants import UnsupportedError
from .onnx_windows import Window, taps

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def require_entries(count: int) -> None:
    """TooLargeError when a sparse map of so many entries takes more memory than is allowed."""
    memory.require(memory.SPARSE_ENTRY_BYTES * count, f"a map with {count:,} weights")


def convolution(weight: F64, channels: int, groups: int, axes: tuple[Window, ...]) -> Matrix:
    """The map from (channels, *sizes) to (outputs, *outputs of the windows)."""
    flat, valid = taps(axes)
    window, tap = np.nonzero(valid)
    outputs, per_group = weight.shape[:2]
    kernels, own = weight.reshape(outputs, per_group, -1), outputs // groups
    if groups > 1 and channels * kernels.shape[2] > len(window) * per_group:
        require_entries(len(window) * per_group * outputs)
        each = (convolution(weight[g * own : (g + 1) * own], per_group, 1, axes).csr() for g in range(groups))
        return Compressed(sparse.csr_array(sparse.block_diag(tuple(each), format="csr")))
    require_entries(kernels.shape[2] * outputs * channels)
    kernel = np.zeros((kernels.shape[2], outputs, channels))
    for g in range(groups):
        rows = slice(g * own, (g + 1) * own)
        kernel[:, rows, g * per_group : (g + 1) * per_group] = kernels[rows].transpose(2, 0, 1)
    return _over_channels(kernel, window, flat[window, tap], tap, (len(flat), math.prod(a.size for a in axes)))


def means(channels: int, axes: tuple[Window, ...], with_padding: bool) -> Matrix:
    """The map to the mean of every window; UnsupportedError if one covers nothing that counts (see ``taps``)."""
    flat, valid = taps(axes)
    _, counted = taps(axes, with_padding=with_padding)
    divisors = counted.sum(axis=1)
    if not divisors.all():
        raise UnsupportedError("some windows cover nothing but padding")
    window, tap = np.nonzero(valid)
    # windows at the borders may cover fewer elements: each number of them is a tap
    sizes, numbers = np.unique(divisors, return_inverse=True)
    positions = (len(flat), math.prod(a.size for a in axes))
    if len(sizes) * channels > len(window):
        require_entries(len(window) * channels)
        one = sparse.csr_array((1 / divisors[window], (window, flat[window, tap])), shape=positions)
        return Compressed.canonical(sparse.csr_array(sparse.kron(sparse.eye_array(channels), one, format="csr")))
    kernel = np.eye(channels) / sizes[:, None, None]
    return _over_channels(kernel, window, flat[window, tap], numbers[window], positions)


def _over_channels(kernel: F64, rows: I64, columns: I64, numbers: I64, positions: tuple[int, int]) -> Matrix:
    """The map that has kernel[number] at places (row, column) of so many positions."""
    order = np.lexsort((columns, rows))
    indptr = np.searchsorted(rows[order], np.arange(positions[0] + 1))
    return Kronecker.of_taps(kernel, numbers[order] + 1, columns[order], indptr, positions[1])
