"""The ops of networks as they are read, and of training's step programs: on floating-point values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

import numpy as np

from .errors import IRError
from .op import FLOAT, Array, Const, Constants, Op, Shape, Sparse, Weight, check_compressed, check_taps, linear_shape

# The last part of the name of a bias that a model does not have.
NO_BIAS = "no_bias"


@dataclass(frozen=True)
class Dense(Op):
    """y = sum_j x_j W_j^T + b over flat operands x_j, with float matrices W_j of shape (out, in_j) and b of (out,)."""

    mnemonic = "dense"
    levels = FLOAT
    weights: tuple[Weight, ...]
    bias: Const

    @property
    def arity(self) -> int:
        return len(self.weights)

    @property
    def has_bias(self) -> bool:
        """Whether the model has one; if not, front ends fill in zeros under a name of their own."""
        return re.search(rf"\.{NO_BIAS}(\.\d+)?$", self.bias.name) is None

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        return linear_shape(shapes, self.weights, self.bias, constants)


@dataclass(frozen=True)
class Scale(Op):
    """y = factor * x + shift, elementwise with float constants of x's shape or broadcastable to it."""

    mnemonic = "scale"
    levels = FLOAT
    factor: Const
    shift: Const

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        for c in (self.factor, self.shift):
            shape = constants[c.name].shape
            # numpy aligns the last axes; the tensor itself must not grow
            fits = len(shape) <= len(shapes[0]) and all(
                c_dim in (1, x_dim) for c_dim, x_dim in zip(reversed(shape), reversed(shapes[0]), strict=False)
            )
            if not fits:
                raise IRError(f"constant {c.name!r} of shape {list(shape)} does not broadcast to {list(shapes[0])}")
        return shapes[0]


class _Elementwise(Op):
    """Two operands of one shape, or of shapes that broadcast as in numpy (axes of one sample)."""

    levels = FLOAT

    @property
    def arity(self) -> int:
        return 2

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        try:
            return tuple(int(n) for n in np.broadcast_shapes(*shapes))
        except ValueError:
            raise IRError(f"shapes {list(shapes[0])} and {list(shapes[1])} do not broadcast") from None


@dataclass(frozen=True)
class Add(_Elementwise):
    """y = a + b."""

    mnemonic = "add"


@dataclass(frozen=True)
class Sub(_Elementwise):
    """y = a - b."""

    mnemonic = "sub"


@dataclass(frozen=True)
class Mul(_Elementwise):
    """y = a * b, both of the network's own values."""

    mnemonic = "mul"


@dataclass(frozen=True)
class Div(_Elementwise):
    """y = a / b."""

    mnemonic = "div"


@dataclass(frozen=True)
class Max(_Elementwise):
    """y = max(a, b)."""

    mnemonic = "max"


@dataclass(frozen=True)
class Min(_Elementwise):
    """y = min(a, b)."""

    mnemonic = "min"


@dataclass(frozen=True)
class Concat(Op):
    """Flat operands, one behind the other."""

    mnemonic = "concat"
    levels = FLOAT

    @property
    def arity(self) -> None:
        return None

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if any(len(shape) != 1 for shape in shapes):
            raise IRError("concat takes flat tensors")
        return (sum(shape[0] for shape in shapes),)


@dataclass(frozen=True)
class Gather(Op):
    """Elements at constant places: y[p] = x.flat[indices[p]], in the shape of ``indices`` (int64).

    Slicing, transposing, repeating, and the windows of a pooling are all of this form.
    """

    mnemonic = "gather"
    levels = FLOAT
    indices: Const

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        indices = constants[self.indices.name]
        if indices.dtype.kind not in "iu" or indices.size == 0:
            raise IRError(f"gather needs integer indices, {self.indices.name!r} is {indices.dtype} of {indices.size}")
        if indices.min() < 0 or indices.max() >= prod(shapes[0]):
            raise IRError(f"indices {self.indices.name!r} reach beyond the {prod(shapes[0])} elements of the operand")
        return tuple(int(n) for n in indices.shape)


@dataclass(frozen=True)
class Steps(Op):
    """Comparisons: y[k] = 1 where x.flat[features[k]] > thresholds[k], else 0; flat. float64 and int64 constants.

    x counts in single precision, as in ONNX, unless ``double``. lookup: x holds ids, and the thresholds lie between the
    rows of a table.
    """

    mnemonic = "steps"
    levels = FLOAT
    features: Const
    thresholds: Const
    lookup: bool = False
    double: bool = False

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        features, thresholds = constants[self.features.name], constants[self.thresholds.name]
        if features.dtype.kind not in "iu" or features.ndim != 1 or features.shape != thresholds.shape:
            raise IRError("steps need flat integer features, and a threshold for each")
        if not features.size or features.min() < 0 or features.max() >= prod(shapes[0]):
            raise IRError(f"features {self.features.name!r} reach beyond the {prod(shapes[0])} elements of the operand")
        return (int(features.size),)


@dataclass(frozen=True)
class Affine(Op):
    """y = M x + b over all elements of one sample in row-major order, as a tensor of ``shape``.

    M (size of y, size of x) is sparse, in compressed rows: row i has ``data[indptr[i]:indptr[i + 1]]`` in the columns
    ``indices[...]``, and several entries at one place add up. b: float, one for each element of y. With a kernel, which
    convolutions, transposed ones and poolings have, these are the places of its taps in one channel, see ``Sparse``.
    """

    mnemonic = "affine"
    levels = FLOAT
    shape: Shape
    data: Const
    indices: Const
    indptr: Const
    bias: Const
    kernel: Const | None = None

    def matrix(self, size: int, constants: Constants) -> Sparse:
        """The matrix, for an operand of so many elements."""
        columns = size if self.kernel is None else size // constants[self.kernel.name].shape[2]
        return Sparse(columns, self.data, self.indices, self.indptr, self.kernel)

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        parts: list[Array] = [constants[c.name] for c in (self.data, self.indices, self.indptr, self.bias)]
        data, indices, indptr, bias = parts
        rows, columns = prod(self.shape), prod(shapes[0])
        if self.kernel is not None:
            check_taps(constants[self.kernel.name], data)
            _, outputs, inputs = constants[self.kernel.name].shape
            if not outputs or not inputs or rows % outputs or columns % inputs:
                raise IRError(f"a kernel from {inputs} to {outputs} channels does not map {columns} elements to {rows}")
            rows, columns = rows // outputs, columns // inputs
        if bias.shape != (prod(self.shape),) or indptr.shape != (rows + 1,):
            raise IRError(f"a map to {list(self.shape)} needs {rows} rows and shifts, not those of {list(bias.shape)}")
        check_compressed(data, indices, indptr, columns)
        return self.shape


@dataclass(frozen=True)
class Scatter(Op):
    """The adjoint of :class:`Gather`: y.flat[indices[p]] += x[p], zero elsewhere; y has shape ``shape``."""

    mnemonic = "scatter"
    levels = FLOAT
    indices: Const
    shape: Shape

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        indices = constants[self.indices.name]
        if indices.dtype.kind not in "iu" or indices.shape != shapes[0]:
            raise IRError(f"scatter needs one integer index for each element, {self.indices.name!r} has other ones")
        if indices.size and (indices.min() < 0 or indices.max() >= prod(self.shape)):
            raise IRError(f"indices {self.indices.name!r} reach beyond the {prod(self.shape)} elements of the result")
        return self.shape


@dataclass(frozen=True)
class MatMul(Op):
    """Matrix product of two of the program's own values, each transposed first if its flag says so."""

    mnemonic = "matmul"
    levels = FLOAT
    transpose_a: bool = False
    transpose_b: bool = False

    @property
    def arity(self) -> int:
        return 2

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if any(len(shape) != 2 for shape in shapes):
            raise IRError(f"matmul takes two matrices, not shapes {list(shapes[0])} and {list(shapes[1])}")
        a = shapes[0][::-1] if self.transpose_a else shapes[0]
        b = shapes[1][::-1] if self.transpose_b else shapes[1]
        if a[1] != b[0]:
            raise IRError(f"matrices {list(a)} and {list(b)} cannot be multiplied")
        return (a[0], b[1])


@dataclass(frozen=True)
class SumTo(Op):
    """Sum over the axes along which ``shape`` was broadcast to the operand's shape: the adjoint of broadcasting."""

    mnemonic = "sum_to"
    levels = FLOAT
    shape: Shape

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        try:
            whole = np.broadcast_shapes(shapes[0], self.shape)
        except ValueError:
            whole = ()
        if tuple(whole) != shapes[0]:
            raise IRError(f"shape {list(self.shape)} does not broadcast to {list(shapes[0])}")
        return self.shape


class _Reduction(Op):
    """Over the last axis."""

    levels = FLOAT

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if not shapes[0]:
            raise IRError(f"{self.mnemonic} needs at least one axis")
        return shapes[0][:-1]


@dataclass(frozen=True)
class ReduceSum(_Reduction):
    """Sum over the last axis."""

    mnemonic = "reduce_sum"


@dataclass(frozen=True)
class ReduceMax(_Reduction):
    """Maximum over the last axis."""

    mnemonic = "reduce_max"


@dataclass(frozen=True)
class Hardmax(Op):
    """1 at the first largest element of the last axis, 0 elsewhere."""

    mnemonic = "hardmax"
    levels = FLOAT

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if not shapes[0]:
            raise IRError("hardmax needs at least one axis")
        return shapes[0]
