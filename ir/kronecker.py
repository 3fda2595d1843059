"""Matrices with the structure of convolutions: sums of Kronecker products of weights and places."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from . import memory
from .errors import IRError
from .matrices import F64, I64, Array, Compressed, Each, Matrix, Parts, by_channel, row_numbers

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Sums of integers below this are exact in double precision.
_EXACT = 2.0**53
# Elements of a tensor that are multiplied at once: a few copies of them are made.
_BLOCK = 1 << 23
# Taps and outputs may be so many times as many as what taps read for outputs.
_MOST_UNREAD = 2


@dataclass(frozen=True, eq=False)
class Kronecker(Matrix):
    """A sum of Kronecker products, sum_t K_t (x) S_t: what a convolution is, and all that moves over channels alike.

    kernel: all K_t, shape (taps, channels out, channels in). taps: the places of all S_t, compressed rows of shape
    (positions out, positions in) that hold t + 1 where S_t is 1. Rows and columns are numbered by channel first.
    """

    kernel: Array
    taps: csr_array

    @staticmethod
    def of_taps(kernel: Array, data: Array, indices: Array, indptr: Array, positions: int) -> Kronecker:
        """From the parts of the compressed rows of the places of taps; IRError for a tap that there is not."""
        from scipy import sparse

        taps = data.astype(np.int32)
        if taps.size and not 1 <= taps.min() <= taps.max() <= len(kernel):
            raise IRError(f"a convolution's places are of its taps 1 to {len(kernel)}")
        places = (part.astype(np.int32, copy=False) for part in (indices, indptr))
        rows = sparse.csr_array((taps, *places), shape=(len(indptr) - 1, positions))
        if not rows.has_canonical_format:
            rows = rows.copy()
            rows.sort_indices()
            if not rows.has_canonical_format:
                raise IRError("a convolution has one tap at a place")
        return Kronecker(kernel, rows)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.taps.shape
        return rows * self.kernel.shape[1], columns * self.kernel.shape[2]

    @cached_property
    def count(self) -> int:
        return int(self._uses @ np.count_nonzero(self.kernel, axis=(1, 2)))

    @property
    def held(self) -> int:
        return int(self.kernel.size + self.taps.nnz)

    @property
    def largest(self) -> float:
        used = self.kernel[self._uses > 0]
        return float(np.abs(used).max()) if used.size else 0.0

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.kernel).all())

    def times(self, x: Array) -> Array:
        if not x.size:
            return np.zeros((self.shape[0], *x.shape[1:]), dtype=np.result_type(self.kernel, x))
        if self.kernel.dtype.kind == "i" and x.dtype.kind == "i":
            # a tap may read many places for one result, as those of a mean do
            reads = np.array([np.diff(places.indptr).max(initial=0) for places in self._places], dtype=np.float64)
            sums = np.tensordot(reads, np.abs(self.kernel.astype(np.float64)).sum(axis=2), axes=(0, 0))
            reach = sums.max(initial=0.0) * np.abs(x.astype(np.float64)).max(initial=0.0)
            if reach < _EXACT:  # the same integers, by the libraries that multiply fast
                return self._doubles.times(x.astype(np.float64)).astype(np.int64)
        (outputs, inputs), positions = self.kernel.shape[1:], self.taps.shape[1]
        if self._reads is not None:
            return self._read(x.T if x.ndim == 2 else x[None]).T.reshape(-1, *x.shape[1:])
        columns = 1 if x.ndim == 1 else x.shape[1]
        most = max(1, _BLOCK // max(*self.shape, 1))
        if columns > most:
            return np.concatenate([self.times(x[:, at : at + most]) for at in range(0, columns, most)], axis=1)
        # what one position holds side by side: the places of a tap are then a selection of rows
        image = np.ascontiguousarray(x.reshape(inputs, positions, columns).swapaxes(0, 1)).reshape(positions, -1)
        total = np.zeros((outputs, self.taps.shape[0], columns), dtype=np.result_type(self.kernel, x))
        for number, places in enumerate(self._places):
            read = np.asarray(places @ image).reshape(-1, inputs, columns)
            total += np.tensordot(self.kernel[number], read, axes=(1, 1))
        return total.reshape(-1, *x.shape[1:])

    def of(self, x: Array) -> Array:
        return self.times(x.T).T

    def _read(self, x: Array) -> Array:
        """W x for each row of x, where taps read one place at most: what they read side by side, and one product."""
        assert self._reads is not None
        (taps, outputs, inputs), (made, positions) = self.kernel.shape, self.taps.shape
        weights = np.ascontiguousarray(self.kernel.transpose(1, 2, 0)).reshape(outputs, inputs * taps)
        out = np.empty((len(x), outputs, made), dtype=np.result_type(self.kernel, x))
        most = max(1, _BLOCK // max(1, 2 * inputs * taps * made))
        for first in range(0, len(x), most):
            rows = x[first : first + most]
            image = np.zeros((len(rows), inputs, positions + 1), dtype=x.dtype)
            image[:, :, :-1] = rows.reshape(len(rows), inputs, positions)
            read = image.take(self._reads, axis=2, mode="clip").reshape(len(rows), inputs * taps, made)
            out[first : first + most] = weights @ read
        return out.reshape(len(x), -1)

    def each(self, function: Each) -> Matrix:
        return Compressed(self.csr()).each(function)

    def sums(self) -> Array:
        return self.times(np.ones(self.shape[1], dtype=self.kernel.dtype))

    def row(self, i: int) -> tuple[I64, Array]:
        channel, position = divmod(i, self.taps.shape[0])
        first, last = self.taps.indptr[position : position + 2]
        places, taps = self.taps.indices[first:last], self.taps.data[first:last] - 1
        columns = np.arange(self.kernel.shape[2])[:, None] * self.taps.shape[1] + places
        entries = self.kernel[taps, channel].T.reshape(-1)
        return columns.reshape(-1)[entries != 0], entries[entries != 0]

    def dense(self) -> Array:
        return Compressed(self.csr()).dense()

    def csr(self) -> csr_array:
        from scipy import sparse

        _, outputs, inputs = self.kernel.shape
        columns, places = self.taps.shape[1], self.taps
        count = outputs * inputs * places.nnz
        memory.require(count * memory.SPARSE_ENTRY_BYTES, f"a map with {count:,} weights")
        # every output channel reads the same places: position by position, in each the channels one after another
        order = np.argsort(np.tile(row_numbers(places), inputs), kind="stable")
        channel, at = np.divmod(order, places.nnz)
        indices = np.tile(channel * columns + places.indices[at], outputs)
        counts = np.tile(inputs * np.diff(places.indptr), outputs)
        data = self.kernel[places.data[at] - 1, :, channel].T.reshape(-1)
        found = sparse.csr_array((data, indices, np.concatenate([[0], np.cumsum(counts)])), shape=self.shape)
        found.eliminate_zeros()
        return found

    def arrays(self) -> dict[str, Array]:
        places = self.taps
        return {"kernel": self.kernel, "data": places.data, "indices": places.indices, "indptr": places.indptr}

    def parts(self, count: int) -> Parts:
        return Compressed(self.csr()).parts(count)

    def floats(self) -> Matrix:
        return self._doubles

    def scaled(self, rows: F64, columns: F64) -> Matrix:
        by_row = by_channel(rows, self.kernel.shape[1])
        by_column = by_channel(columns, self.kernel.shape[2])
        if by_row is None or by_column is None:
            return super().scaled(rows, columns)
        return Kronecker(self.kernel.astype(np.float64) * by_column / by_row[:, None], self.taps)

    def rounded(self) -> Matrix:
        return Kronecker(np.rint(self.kernel).astype(np.int64), self.taps)

    def weighted(self, columns: F64) -> F64:
        return self.times(np.broadcast_to(columns, self.shape[1:]))

    def energies(self, columns: F64 | float = 1.0) -> F64:
        squares = Kronecker(self.kernel.astype(np.float64) ** 2, self.taps)
        return squares.times(np.broadcast_to(np.square(columns), self.shape[1:]))

    def reached(self, x: F64) -> F64:
        return Kronecker((self.kernel != 0).astype(np.float64), self.taps).times(x)

    @property
    def transposed(self) -> Kronecker:
        return Kronecker(self.kernel.swapaxes(1, 2), self.taps.T.tocsr())

    @cached_property
    def _doubles(self) -> Kronecker:
        """The same in double precision."""
        return Kronecker(self.kernel.astype(np.float64), self.taps)

    @cached_property
    def _uses(self) -> I64:
        """At how many places each tap stands."""
        return np.bincount(self.taps.data - 1, minlength=len(self.kernel))

    @cached_property
    def _reads(self) -> I64 | None:
        """The place that each tap reads for each output, the one behind the last for none, one tap after another.

        None where a tap reads several for one output, or most taps do not read for most of them.
        """
        count, (made, positions) = len(self.kernel), self.taps.shape
        if count * made > _MOST_UNREAD * self.taps.nnz:
            return None
        at = (self.taps.data.astype(np.int64) - 1) * made + row_numbers(self.taps)
        found = np.full(count * made, positions, dtype=np.int64)
        found[at] = self.taps.indices
        return found if len(np.unique(at)) == len(at) else None

    @cached_property
    def _places(self) -> list[csr_array]:
        """S_t of each tap."""
        from scipy import sparse

        order = np.argsort(self.taps.data, kind="stable")
        ends = np.cumsum(self._uses)
        numbers, columns = row_numbers(self.taps)[order], self.taps.indices[order]
        ones = np.ones(len(columns), dtype=self.kernel.dtype)
        return [
            sparse.csr_array((ones[first:last], (numbers[first:last], columns[first:last])), shape=self.taps.shape)
            for first, last in zip(ends - self._uses, ends, strict=True)
        ]
