"""Products and sums of matrices of linear maps, in a form no larger than what they are made of."""

from __future__ import annotations

import numpy as np

from . import memory
from .kronecker import Kronecker
from .matrices import F64, I64, Compressed, Matrix, by_channel

# An entry of a product of compressed rows, while it is made and when it is there.
_ENTRY_BYTES = 2 * 16
# A way from an output position over one in between to an input position: its ends, taps and order.
_WAY_BYTES = 8 * 8


def identity(size: int) -> Compressed:
    return diagonal(np.ones(size))


def diagonal(values: F64) -> Compressed:
    """The matrix with these values on its diagonal."""
    count = len(values)
    return Compressed.of_parts(values, np.arange(count, dtype=np.int32), np.arange(count + 1, dtype=np.int32), count)


def is_identity(m: Matrix) -> bool:
    values = _on_diagonal(m)
    return values is not None and bool((values == 1).all())


def composed(outer: Matrix, inner: Matrix, what: str) -> Matrix:
    """outer @ inner; TooLargeError, beginning with ``what``, when that has too many entries.

    Convolutions one after another are a convolution, and scaling its channels leaves it one.
    """
    if is_identity(outer):
        return inner
    if is_identity(inner):
        return outer
    if isinstance(inner, Kronecker):
        if (rows := _channels(outer, inner.kernel.shape[1])) is not None:
            return Kronecker(inner.kernel * rows[:, None], inner.taps)
        outer = _moves(outer, inner.kernel.shape[1]) or outer
    if isinstance(outer, Kronecker):
        if (columns := _channels(inner, outer.kernel.shape[2])) is not None:
            return Kronecker(outer.kernel * columns, outer.taps)
        inner = _moves(inner, outer.kernel.shape[2]) or inner
    if isinstance(outer, Kronecker) and isinstance(inner, Kronecker) and _meet(outer, inner):
        return _convolved(outer, inner, what)
    a, b = outer.csr(), inner.csr()
    # entries of the product before those at one place are added up
    count = min(int(np.diff(b.indptr)[a.indices].sum()), a.shape[0] * b.shape[1])
    memory.require(count * _ENTRY_BYTES, f"{what}: a linear map from {b.shape[1]} to {a.shape[0]} values")
    return Compressed.canonical(a @ b)


def added(a: Matrix, b: Matrix, sign: float) -> Matrix:
    """a + sign * b; what is added to a convolution and does the same in all channels leaves it one."""
    if isinstance(a, Kronecker):
        b = _moves(b, a.kernel.shape[1]) or b
    elif isinstance(b, Kronecker):
        a = _moves(a, b.kernel.shape[1]) or a
    if isinstance(a, Kronecker) and isinstance(b, Kronecker) and _alike(a, b):
        # pairs of taps as numbers, 0 for none
        count = len(b.kernel) + 1
        pairs = a.taps.astype(np.int64) * count + b.taps.astype(np.int64)
        codes, numbers = np.unique(pairs.data, return_inverse=True)
        first, second = np.divmod(codes, count)
        none = np.zeros((1, *a.kernel.shape[1:]))
        kernel = np.concatenate([none, a.kernel])[first] + sign * np.concatenate([none, b.kernel])[second]
        return Kronecker.of_taps(kernel, numbers + 1, pairs.indices, pairs.indptr, pairs.shape[1])
    return Compressed.canonical(a.csr() + sign * b.csr())


def negative(m: Matrix) -> Matrix:
    return m.scaled(np.array([-1.0]), np.ones(1))


def _on_diagonal(m: Matrix) -> F64 | None:
    """The values of a diagonal matrix; None for any other."""
    rows, columns = m.shape
    if not isinstance(m, Compressed) or rows != columns or m.count != rows:
        return None
    places = np.arange(rows)
    found = m.rows
    return found.data if np.array_equal(found.indices, places) and np.array_equal(found.indptr[:-1], places) else None


def _channels(m: Matrix, channels: int) -> F64 | None:
    """What a diagonal matrix multiplies each of so many channels by, all of its positions alike; else None."""
    values = _on_diagonal(m)
    return None if values is None else by_channel(values, channels)


def _moves(m: Matrix, channels: int) -> Kronecker | None:
    """A matrix that does the same within each of so many channels, as such; None for any other."""
    if not isinstance(m, Compressed) or m.count % channels or m.shape[0] % channels or m.shape[1] % channels:
        return None
    rows, columns, count = m.shape[0] // channels, m.shape[1] // channels, m.count // channels
    places = m.rows.indices.reshape(channels, count) - columns * np.arange(channels)[:, None]
    starts = m.rows.indptr[:-1].reshape(channels, rows) - count * np.arange(channels)[:, None]
    values = m.rows.data.reshape(channels, count)
    if not all((each == each[:1]).all() for each in (places, starts, values)) or not _fit(places[0], columns):
        return None
    factors, numbers = np.unique(values[0], return_inverse=True)
    if len(factors) * channels > count:  # its entries are fewer than those of a kernel
        return None
    kernel = np.eye(channels) * factors[:, None, None]
    return Kronecker.of_taps(kernel, numbers + 1, places[0], np.append(starts[0], count), columns)


def _fit(places: I64, columns: int) -> bool:
    return not places.size or bool(places.min() >= 0 and places.max() < columns)


def _meet(outer: Kronecker, inner: Kronecker) -> bool:
    """Whether the values in between are channels at positions, as many for both."""
    return (outer.kernel.shape[2], outer.taps.shape[1]) == (inner.kernel.shape[1], inner.taps.shape[0])


def _alike(a: Kronecker, b: Kronecker) -> bool:
    return a.kernel.shape[1:] == b.kernel.shape[1:] and a.taps.shape == b.taps.shape


def _convolved(outer: Kronecker, inner: Kronecker, what: str) -> Matrix:
    """The product, whose taps are what ways from an output to an input position have in common: the taps on them."""
    a, b = outer.taps, inner.taps
    lengths = np.diff(b.indptr)[a.indices]
    count = int(lengths.sum())
    memory.require(count * _WAY_BYTES, f"{what}: {count:,} ways through two convolutions")
    # every entry of a with every entry of the row of b that it leads to
    through = np.repeat(np.arange(a.nnz), lengths)
    at = np.arange(count) - np.repeat(np.cumsum(lengths) - lengths, lengths) + b.indptr[a.indices][through]
    ends = np.repeat(np.arange(a.shape[0]), np.diff(a.indptr))[through] * b.shape[1] + b.indices[at]
    pairs = (a.data[through] - 1) * len(inner.kernel) + b.data[at] - 1
    order = np.lexsort((pairs, ends))
    ends, pairs = ends[order], pairs[order]
    firsts = np.flatnonzero(np.diff(ends, prepend=-1))
    # random numbers tell sets of pairs apart by their sums modulo 2^64
    marks = np.random.default_rng(0).integers(0, 1 << 64, len(outer.kernel) * len(inner.kernel), dtype=np.uint64)
    sums = np.add.reduceat(marks[pairs], firsts) if count else marks[:0]
    _, samples, numbers = np.unique(sums, return_index=True, return_inverse=True)
    kernel = np.zeros((len(samples), outer.kernel.shape[1], inner.kernel.shape[2]))
    lasts = np.append(firsts[1:], count)
    for tap, sample in enumerate(samples):
        for pair in pairs[firsts[sample] : lasts[sample]]:
            first, second = divmod(int(pair), len(inner.kernel))
            kernel[tap] += outer.kernel[first] @ inner.kernel[second]
    rows, columns = np.divmod(ends[firsts], b.shape[1])
    indptr = np.searchsorted(rows, np.arange(a.shape[0] + 1))
    return Kronecker.of_taps(kernel, numbers + 1, columns, indptr, b.shape[1])
