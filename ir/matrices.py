"""Matrices of linear maps: what passes ask of them, whichever way they are held.

A convolution's matrix is nearly all zeros: it is held in compressed rows, and whatever is done with it takes time and
memory for what is not zero. So nobody but this module looks into the values of a weight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import memory

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = npt.NDArray[Any]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.floating[Any]]
# New values from old ones, and the numbers of their rows and columns; all of shapes that broadcast.
Each = Callable[[Array, Array, Array], Array]

# Matrices with a smaller share of entries that are not zero are held, or multiplied, in compressed rows.
_SHARE = 1 / 8
# Smaller ones are dense whatever they hold: nothing is saved, and people read them.
_SMALL = 1 << 16


class Matrix(ABC):
    """A matrix (out, in) of integers or floats, which nobody changes."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]: ...

    @property
    @abstractmethod
    def count(self) -> int:
        """Entries that are not zero."""

    @property
    @abstractmethod
    def held(self) -> int:
        """Entries that are held."""

    @property
    @abstractmethod
    def largest(self) -> float:
        """The largest absolute value of an entry."""

    @property
    @abstractmethod
    def finite(self) -> bool:
        """Whether all entries are numbers."""

    @property
    @abstractmethod
    def transposed(self) -> Matrix: ...

    @abstractmethod
    def times(self, x: Array) -> Array:
        """W x, for x of shape (in,) or (in, columns)."""

    @abstractmethod
    def of(self, x: Array) -> Array:
        """W x for each of the rows of x, shape (samples, in): (samples, out)."""

    @abstractmethod
    def each(self, function: Each) -> Matrix:
        """The matrix of function(w_ij, i, j), which is 0 where w_ij is."""

    @abstractmethod
    def sums(self) -> Array:
        """Sums of the rows, shape (out,)."""

    @abstractmethod
    def row(self, i: int) -> tuple[I64, Array]:
        """Columns of the entries of a row that are not zero, and these entries."""

    @abstractmethod
    def dense(self) -> Array:
        """All entries, shape (out, in); TooLargeError when they are too many."""

    @abstractmethod
    def csr(self) -> csr_array:
        """In compressed rows."""

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """What ``Sparse`` refers to, by its fields, weights first; of a dense matrix its entries alone."""

    @abstractmethod
    def parts(self, count: int) -> Parts:
        """The columns in ``count`` parts: j, j + count, ... in part j."""

    def floats(self) -> Matrix:
        """The same in double precision, in the form that multiplies fast."""
        if self.count < _SHARE * self.shape[0] * self.shape[1]:
            return Compressed(self.csr().astype(np.float64))
        return Full(self.dense().astype(np.float64))

    def scaled(self, rows: F64, columns: F64) -> Matrix:
        """w_ij * columns_j / rows_i; of one element is for all."""
        return self.each(lambda w, i, j: w.astype(np.float64) * at(columns, j) / at(rows, i))

    def rounded(self) -> Matrix:
        """The nearest integers."""
        return self.each(lambda w, i, j: np.rint(w).astype(np.int64))

    def weighted(self, columns: F64) -> F64:
        """sum_j w_ij * columns_j of each row, shape (out,); one element is for all."""
        return self.each(lambda w, i, j: w * at(columns, j)).sums()

    def energies(self, columns: F64 | float = 1.0) -> F64:
        """sum_j (w_ij * columns_j)^2 of each row, shape (out,)."""
        given = np.atleast_1d(columns)
        return self.each(lambda w, i, j: (w.astype(np.float64) * at(given, j)) ** 2).sums()

    def reached(self, x: F64) -> F64:
        """Sum of the elements of x, shape (in,), that a row reads, whatever the weight: shape (out,)."""
        return self.each(lambda w, i, j: w != 0).times(x)


class Parts(ABC):
    """The columns of a matrix dealt out to parts, one after another."""

    @abstractmethod
    def used(self, part: int) -> bool:
        """Whether a part has an entry that is not zero."""

    @abstractmethod
    def entries(self, part: int) -> tuple[I64, I64, I64]:
        """Of a part's integer entries that are not zero, row by row: rows, places among the part's columns, values."""


@dataclass(frozen=True, eq=False)
class Full(Matrix):
    """With all of its entries, shape (out, in)."""

    values: Array

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return rows, columns

    @property
    def count(self) -> int:
        return int(np.count_nonzero(self.values))

    @property
    def held(self) -> int:
        return int(self.values.size)

    @property
    def largest(self) -> float:
        return float(np.abs(self.values).max())

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.values).all())

    @property
    def transposed(self) -> Full:
        return Full(self.values.T)

    def times(self, x: Array) -> Array:
        return np.asarray(self.values @ x)

    def of(self, x: Array) -> Array:
        return np.asarray(x @ self.values.T)

    def each(self, function: Each) -> Full:
        rows, columns = self.shape
        return Full(function(self.values, np.arange(rows)[:, None], np.arange(columns)[None, :]))

    def sums(self) -> Array:
        return np.asarray(self.values.sum(axis=1))

    def row(self, i: int) -> tuple[I64, Array]:
        used = np.flatnonzero(self.values[i])
        return used, self.values[i][used]

    def dense(self) -> Array:
        return self.values

    def csr(self) -> csr_array:
        from scipy import sparse  # not needed for most networks, and slow to load

        return sparse.csr_array(self.values)

    def arrays(self) -> dict[str, Array]:
        return {"values": self.values}

    def parts(self, count: int) -> Parts:
        return _FullParts(self.values, count)


@dataclass(frozen=True)
class _FullParts(Parts):
    values: Array
    count: int

    def used(self, part: int) -> bool:
        return bool(self.values[:, part :: self.count].any())

    def entries(self, part: int) -> tuple[I64, I64, I64]:
        block = self.values[:, part :: self.count]
        rows, places = np.nonzero(block)
        return rows, places, block[rows, places].astype(np.int64)


@dataclass(frozen=True, eq=False)
class Compressed(Matrix):
    """In compressed rows with growing columns, none of whose entries is zero."""

    rows: csr_array

    @staticmethod
    def of_parts(data: Array, indices: Array, indptr: Array, columns: int) -> Compressed:
        """Of the parts of compressed rows, which are checked already."""
        from scipy import sparse  # not needed for most networks, and slow to load

        # no tensor has 2^31 elements
        places = (part.astype(np.int32, copy=False) for part in (indices, indptr))
        return Compressed.canonical(sparse.csr_array((data, *places), shape=(len(indptr) - 1, columns)))

    @staticmethod
    def canonical(rows: csr_array) -> Compressed:
        """Of any compressed rows, which are not changed."""
        if not rows.has_canonical_format or not rows.data.all():
            rows = rows.copy()
            rows.sum_duplicates()
            rows.eliminate_zeros()
        return Compressed(rows)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.rows.shape
        return rows, columns

    @property
    def count(self) -> int:
        return int(self.rows.nnz)

    @property
    def held(self) -> int:
        return self.count

    @property
    def largest(self) -> float:
        return float(np.abs(self.rows.data).max()) if self.count else 0.0

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.rows.data).all())

    @property
    def transposed(self) -> Compressed:
        return Compressed(self.rows.T.tocsr())

    def times(self, x: Array) -> Array:
        return np.asarray(self.rows @ x)

    def of(self, x: Array) -> Array:
        # as columns: what compressed rows multiply by
        return np.asarray((self.rows @ x.T).T)

    def each(self, function: Each) -> Compressed:
        from scipy import sparse

        rows = self.rows
        data = function(rows.data, self._numbers, rows.indices)
        return Compressed.canonical(sparse.csr_array((data, rows.indices, rows.indptr), shape=rows.shape))

    def sums(self) -> Array:
        return np.asarray(self.rows.sum(axis=1))

    def row(self, i: int) -> tuple[I64, Array]:
        first, last = self.rows.indptr[i : i + 2]
        return self.rows.indices[first:last].astype(np.int64), self.rows.data[first:last]

    def dense(self) -> Array:
        rows, columns = self.shape
        memory.require(rows * columns * memory.MAP_ENTRY_BYTES, f"a linear map from {columns} to {rows} values")
        out: Array = self.rows.toarray()
        return out

    def csr(self) -> csr_array:
        return self.rows

    def arrays(self) -> dict[str, Array]:
        return {"data": self.rows.data, "indices": self.rows.indices, "indptr": self.rows.indptr}

    def parts(self, count: int) -> Parts:
        # entries by part, row by row in each
        order = np.argsort(self.rows.indices % count, kind="stable")
        columns = self.rows.indices[order]
        counts = np.bincount(columns % count, minlength=count)
        return _CompressedParts(
            np.concatenate([[0], np.cumsum(counts)]), self._numbers[order], columns // count, self.rows.data[order]
        )

    @cached_property
    def _numbers(self) -> npt.NDArray[np.int32]:
        return row_numbers(self.rows)


@dataclass(frozen=True)
class _CompressedParts(Parts):
    starts: I64
    rows: Array
    places: Array
    values: Array

    def used(self, part: int) -> bool:
        return bool(self.starts[part] < self.starts[part + 1])

    def entries(self, part: int) -> tuple[I64, I64, I64]:
        found = slice(self.starts[part], self.starts[part + 1])
        return (
            self.rows[found].astype(np.int64),
            self.places[found].astype(np.int64),
            self.values[found].astype(np.int64),
        )


def settled(found: Matrix) -> Matrix:
    """The same matrix in the form that its zeros suggest."""
    return found if isinstance(found, Full) or _is_sparse(found) else Full(found.dense())


def held_entries(found: Matrix) -> int:
    """Entries that a matrix is held with once it is settled, zeros among them where it is dense."""
    rows, columns = found.shape
    return found.held if _is_sparse(found) else rows * columns


def _is_sparse(found: Matrix) -> bool:
    rows, columns = found.shape
    return rows * columns >= _SMALL and found.count < _SHARE * rows * columns


def stacked(parts: Sequence[tuple[int, Matrix]], rows: int) -> Matrix:
    """A matrix of so many rows from some that begin at these rows; where they overlap, they add up."""
    (columns,) = {m.shape[1] for _, m in parts}
    if all(isinstance(m, Full) for _, m in parts):
        out = np.zeros((rows, columns), dtype=np.int64)
        for first, m in parts:
            out[first : first + m.shape[0]] += m.dense()
        return Full(out)
    return settled(Compressed.canonical(sum(_placed(m.csr(), (first, 0), (rows, columns)) for first, m in parts)))


def widened(narrow: Matrix, first: int, columns: int) -> Matrix:
    """A matrix of so many columns whose columns from ``first`` on are the given ones, with zeros besides."""
    rows = narrow.shape[0]
    if isinstance(narrow, Full):
        out = np.zeros((rows, columns), dtype=np.int64)
        out[:, first : first + narrow.shape[1]] = narrow.values
        return Full(out)
    return settled(Compressed.canonical(_placed(narrow.csr(), (0, first), (rows, columns))))


def _placed(block: csr_array, at: tuple[int, int], shape: tuple[int, int]) -> csr_array:
    """A matrix of zeros but for a block."""
    from scipy import sparse

    before, after = at[0], shape[0] - at[0] - block.shape[0]
    indptr = np.concatenate([np.zeros(before, block.indptr.dtype), block.indptr, np.full(after, block.indptr[-1])])
    return sparse.csr_array((block.data, block.indices + at[1], indptr), shape=shape)


def by_channel(values: F64, channels: int) -> F64 | None:
    """One value for each of so many channels, shape (channels,), where all positions of a channel have the same."""
    if values.size == 1:
        return np.repeat(values, channels)
    if values.size % channels:
        return None
    found = values.reshape(channels, -1)
    return found[:, 0] if (found == found[:, :1]).all() else None


def row_numbers(rows: csr_array) -> npt.NDArray[np.int32]:
    """The row of each entry of compressed rows."""
    return np.repeat(np.arange(rows.shape[0], dtype=np.int32), np.diff(rows.indptr))


def at(values: F64, places: Array) -> F64:
    """The values with these numbers, in the shape of ``places``; a single one is for all."""
    return values if values.size == 1 else np.asarray(values[places])
