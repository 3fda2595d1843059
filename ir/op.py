"""What every op is: attributes and the rule for its shape. See :mod:`.ops` for all there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .errors import IRError
from .types import Level

Shape = tuple[int, ...]
Array = npt.NDArray[Any]
Constants = Mapping[str, npt.NDArray[np.generic]]

FLOAT = frozenset({Level.SOURCE})
FIXED = frozenset({Level.QUANTIZED, Level.ASSIGNED, Level.LAIDOUT})
ALL = FLOAT | FIXED


@dataclass(frozen=True)
class Const:
    """A reference to a constant of the graph, by name."""

    name: str


@dataclass(frozen=True)
class Sparse:
    """A reference to a sparse matrix (out, in) in compressed rows, whose parts are constants.

    Row i has the values ``data[indptr[i]:indptr[i + 1]]``, none of them at one place, in the columns
    ``indices[...]`` that grow along the row. With a kernel K of shape (taps, channels out, channels in) it is
    sum_t K_t (x) S_t, a sum of Kronecker products: S_t is 1 where the compressed rows, of the positions of one channel,
    hold t + 1. Convolutions and poolings are of this form; channels are numbered before positions.
    """

    columns: int
    data: Const
    indices: Const
    indptr: Const
    kernel: Const | None = None

    @property
    def name(self) -> str:
        """What the matrix is called: as its weights are."""
        return (self.kernel or self.data).name


# The matrix of a linear map. Most zeros of a sparse one are held nowhere, in no pass.
Weight = Const | Sparse


@dataclass(frozen=True)
class Op:
    """Base of all ops."""

    mnemonic: ClassVar[str] = "?"
    levels: ClassVar[frozenset[Level]] = frozenset()

    @property
    def arity(self) -> int | None:
        """Number of operands; None where any number from one on is fine."""
        return 1

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        """Shape of the result for operand shapes ``shapes``; IRError when they don't fit."""
        return shapes[0]

    def constant_names(self) -> tuple[str, ...]:
        return tuple(_named(tuple(getattr(self, f.name) for f in fields(self))))


def _named(value: object) -> Iterator[str]:
    """Names of the constants that an attribute refers to, in order."""
    if isinstance(value, Const):
        yield value.name
    elif isinstance(value, Sparse):
        yield from _named((value.data, value.indices, value.indptr, value.kernel))
    elif isinstance(value, tuple):
        for item in value:
            yield from _named(item)


def weight_shape(weight: Weight, constants: Constants) -> Shape:
    """Shape of a linear map's matrix (out, in), which may be withheld; IRError for a damaged sparse one."""
    if isinstance(weight, Const):
        return constants[weight.name].shape
    parts: list[Array] = [constants[c.name] for c in (weight.data, weight.indices, weight.indptr)]
    data, indices, indptr = parts
    check_compressed(data, indices, indptr, weight.columns)
    # not where the values are withheld: all of them are zero then
    if indices.size > 1 and indices.any():
        ascends = indices[1:] > indices[:-1]
        ascends[indptr[(indptr > 0) & (indptr < indices.size)] - 1] = True
        if not ascends.all():
            raise IRError("the columns of a row of a sparse matrix must grow")
    if weight.kernel is None:
        return (indptr.size - 1, weight.columns)
    kernel = constants[weight.kernel.name]
    check_taps(kernel, data)
    return ((indptr.size - 1) * kernel.shape[1], weight.columns * kernel.shape[2])


def check_taps(kernel: Array, taps: Array) -> None:
    """IRError unless these are a kernel, and numbers of its taps."""
    if kernel.ndim != 3:
        raise IRError(f"a kernel is (taps, channels out, channels in), not {list(kernel.shape)}")
    # withheld ones are zeros
    whole = taps.dtype.kind in "iu" or bool((taps == np.floor(taps)).all())
    if taps.size and taps.any() and not (whole and 1 <= taps.min() <= taps.max() <= len(kernel)):
        raise IRError(f"the places of a kernel are of its taps, which are numbered from 1 to {len(kernel)}")


def check_compressed(data: Array, indices: Array, indptr: Array, columns: int) -> None:
    """IRError unless these are the compressed rows of a sparse matrix with so many columns."""
    if data.ndim != 1 or data.shape != indices.shape:
        raise IRError(f"a sparse matrix of {data.size} entries has {indices.size} places")
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise IRError("the places of a sparse matrix are integers")
    if indptr.ndim != 1 or not indptr.size:
        raise IRError("a sparse matrix needs the beginnings of its rows")
    # withheld ones are zeros
    if indptr[0] != 0 or (indptr[-1] != data.size and indptr.any()) or np.any(indptr[1:] < indptr[:-1]):
        raise IRError("the rows of a sparse matrix must follow one another")
    if indices.size and not 0 <= indices.min() <= indices.max() < columns:
        raise IRError(f"a column of a sparse matrix lies beyond the {columns} elements of the operand")


def linear_shape(shapes: tuple[Shape, ...], weights: tuple[Weight, ...], bias: Const, constants: Constants) -> Shape:
    """Shape of the result of a linear map; IRError when operands and weights don't fit."""
    if not weights:
        raise IRError("a dense layer needs at least one weight")
    outputs = constants[bias.name].shape
    for shape, reference in zip(shapes, weights, strict=True):
        weight = weight_shape(reference, constants)
        if len(weight) != 2 or outputs != weight[:1]:
            raise IRError(f"weight {list(weight)} and bias {list(outputs)} are not (out, in) and (out,)")
        if not shape or shape[-1] != weight[1]:
            raise IRError(f"a weight of shape {list(weight)} cannot be applied to a tensor of shape {list(shape)}")
        if len(shape) != 1:
            raise IRError(f"a dense layer needs a flat tensor of one sample, not shape {list(shape)}")
    return (int(outputs[0]),)
