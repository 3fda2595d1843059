"""The sparse maps of convolutions and mean poolings, over (channels, *spatial) in row-major order."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import sparse

from glyphc.ir import memory

from .onnx_constants import UnsupportedError
from .onnx_windows import Window, taps

F64 = npt.NDArray[np.float64]

# An entry of a sparse map: its weight, row and column, as it is made, stacked and stored.
SPARSE_ENTRY_BYTES = 3 * 24


def require_entries(count: int) -> None:
    """TooLargeError when a sparse map of so many entries takes more memory than is allowed."""
    memory.require(SPARSE_ENTRY_BYTES * count, f"a map with {count:,} weights")


def convolution(weight: F64, channels: int, groups: int, axes: tuple[Window, ...]) -> sparse.csr_array:
    """The map from (channels, *sizes) to (outputs, *outputs of the windows), one output channel after the other."""
    flat, valid = taps(axes)
    spatial = math.prod(a.size for a in axes)
    outputs, per_group = weight.shape[:2]
    kernels = weight.reshape(outputs, -1)
    window, tap = np.nonzero(valid)
    require_entries(len(window) * per_group * outputs)
    # all outputs of a group have their entries in the same places: row by row, in each the channels one after another
    order = np.argsort(np.tile(window, per_group), kind="stable")
    channel, at = np.divmod(order, len(window))
    # scipy's own type of indices, so that it does not copy them
    kind = np.int32 if channels * spatial < 2**31 and len(order) * outputs < 2**31 else np.int64
    columns = (channel * spatial + flat[window, tap][at]).astype(kind)
    counts = per_group * np.bincount(window, minlength=len(flat))
    first = (np.arange(outputs) // (outputs // groups) * per_group * spatial).astype(kind)
    # written into flat arrays, which graphs keep without a copy
    indices, entries = np.empty(outputs * len(order), kind), np.empty(outputs * len(order))
    np.add(first[:, None], columns, out=indices.reshape(outputs, -1))
    kernels.take(channel * flat.shape[1] + tap[at], axis=1, out=entries.reshape(outputs, -1), mode="clip")
    indptr = np.concatenate([[0], np.cumsum(np.tile(counts, outputs))]).astype(kind)
    return sparse.csr_array((entries, indices, indptr), shape=(outputs * len(flat), channels * spatial))


def means(channels: int, axes: tuple[Window, ...], with_padding: bool) -> sparse.csr_array:
    """The map to the mean of every window; UnsupportedError if one covers nothing that counts (see ``taps``)."""
    flat, valid = taps(axes)
    _, counted = taps(axes, with_padding=with_padding)
    divisors = counted.sum(axis=1)
    if not divisors.all():
        raise UnsupportedError("some windows cover nothing but padding")
    window, tap = np.nonzero(valid)
    require_entries(len(window) * channels)
    spatial = math.prod(a.size for a in axes)
    one = sparse.csr_array((1 / divisors[window], (window, flat[window, tap])), shape=(len(flat), spatial))
    return sparse.csr_array(sparse.kron(sparse.eye_array(channels), one, format="csr"))
