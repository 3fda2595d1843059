"""The ops: one frozen dataclass each, with the rule for the shape of its result beside it.

An op holds attributes only; operands are edges of the graph, types are on the nodes. Constants (weights) are kept
by the graph and named here by :class:`Const`. ``levels`` says at which levels an op may occur: the ops of networks at
the source level only, a few with integer semantics from the quantized level on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from .encodings import Labels, Ranks
from .errors import IRError
from .functions import Function
from .series import Series
from .types import Encoding, Level, Scheme

Shape = tuple[int, ...]
Constants = Mapping[str, npt.NDArray[np.generic]]

_FLOAT = frozenset({Level.SOURCE})
_FIXED = frozenset({Level.QUANTIZED, Level.ASSIGNED, Level.LAIDOUT})
_ALL = _FLOAT | _FIXED


@dataclass(frozen=True)
class Const:
    """A reference to a constant of the graph, by name."""

    name: str


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
        values = (getattr(self, f.name) for f in fields(self))
        flat = (v for value in values for v in (value if isinstance(value, tuple) else (value,)))
        return tuple(v.name for v in flat if isinstance(v, Const))


@dataclass(frozen=True)
class Input(Op):
    """A tensor that the client provides (encrypted, except in the evaluator).

    ranks: what of it is encrypted, if not the tensor as it is: then the result is flat. columns: names of its elements,
    where it is a row of a table that has some.
    """

    mnemonic = "input"
    levels = _ALL
    name: str
    shape: Shape
    ranks: Ranks | None = None
    columns: tuple[str, ...] = ()

    @property
    def arity(self) -> int:
        return 0

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if self.ranks is None:
            return self.shape
        self.ranks.check(prod(self.shape))
        return (len(self.ranks.features),)


@dataclass(frozen=True)
class Output(Op):
    """A result of the network, under the name the model gave it.

    labels: of an index of a class, what the client makes of it at last; in graphs it stays the index.
    """

    mnemonic = "output"
    levels = _ALL
    name: str
    labels: Labels | None = None


@dataclass(frozen=True)
class Reshape(Op):
    """Same elements in row-major order, another shape."""

    mnemonic = "reshape"
    levels = _ALL
    shape: Shape

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if prod(shapes[0]) != prod(self.shape):
            raise IRError(f"cannot reshape {list(shapes[0])} into {list(self.shape)}")
        return self.shape


@dataclass(frozen=True)
class Dense(Op):
    """y = sum_j x_j W_j^T + b over flat operands x_j, with float constants W_j of shape (out, in_j) and b of (out,)."""

    mnemonic = "dense"
    levels = _FLOAT
    weights: tuple[Const, ...]
    bias: Const

    @property
    def arity(self) -> int:
        return len(self.weights)

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        return _linear_shape(shapes, self.weights, self.bias, constants)


@dataclass(frozen=True)
class Scale(Op):
    """y = factor * x + shift, elementwise with float constants of x's shape or broadcastable to it."""

    mnemonic = "scale"
    levels = _FLOAT
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

    levels = _FLOAT

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
    levels = _FLOAT

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
    levels = _FLOAT
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

    x counts in single precision, as in ONNX.
    """

    mnemonic = "steps"
    levels = _FLOAT
    features: Const
    thresholds: Const

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
    ``indices[...]``, and several entries at one place add up. b: float, one for each element of y. Convolutions,
    transposed ones, mean pooling and padding are of this form.
    """

    mnemonic = "affine"
    levels = _FLOAT
    shape: Shape
    data: Const
    indices: Const
    indptr: Const
    bias: Const

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        data, indices, indptr, bias = (constants[c.name] for c in (self.data, self.indices, self.indptr, self.bias))
        rows, columns = prod(self.shape), prod(shapes[0])
        if bias.shape != (rows,) or indptr.shape != (rows + 1,):
            raise IRError(f"a map to {list(self.shape)} needs {rows} rows and shifts, not those of {list(bias.shape)}")
        if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
            raise IRError("the places of a sparse matrix are integers")
        if data.ndim != 1 or data.shape != indices.shape:
            raise IRError(f"a sparse matrix of {data.size} entries has {indices.size} places")
        if indptr[0] != 0 or indptr[-1] != data.size or np.any(np.diff(indptr) < 0):
            raise IRError("the rows of a sparse matrix must follow one another")
        if indices.size and not 0 <= indices.min() <= indices.max() < columns:
            raise IRError(f"a column of a sparse matrix lies beyond the {columns} elements of the operand")
        return self.shape


@dataclass(frozen=True)
class Scatter(Op):
    """The adjoint of :class:`Gather`: y.flat[indices[p]] += x[p], zero elsewhere; y has shape ``shape``."""

    mnemonic = "scatter"
    levels = _FLOAT
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
    levels = _FLOAT
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
    levels = _FLOAT
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

    levels = _FLOAT

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
    levels = _FLOAT

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if not shapes[0]:
            raise IRError("hardmax needs at least one axis")
        return shapes[0]


@dataclass(frozen=True)
class Linear(Op):
    """Integer dense map on fixed-point integers: y = sum_j x_j W_j^T + b with int64 W_j (out, in_j), b (out,).

    norms: empty for weights that the server knows. Else weights and bias are encrypted, for the client knows them
    alone, and these are bounds of the rms norms of the rows of each W_j: public, for the noise model.
    """

    mnemonic = "linear"
    levels = _FIXED
    weights: tuple[Const, ...]
    bias: Const
    norms: tuple[float, ...] = ()

    @property
    def encrypted(self) -> bool:
        """Whether the server must do without the values of weights and bias."""
        return bool(self.norms)

    @property
    def arity(self) -> int:
        return len(self.weights)

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        return _linear_shape(shapes, self.weights, self.bias, constants)


@dataclass(frozen=True)
class ErrorBudget:
    """What a series may err: at most, and rms where values lie; shares of the function's range."""

    max_error: float
    rms_error: float

    def holds(self, series: Series) -> bool:
        """Whether a series keeps to it."""
        return series.max_error <= self.max_error and series.rms_error <= self.rms_error


@dataclass(frozen=True)
class Apply(Op):
    """A composition of univariate functions, first one first, applied elementwise to the real value.

    budget: what its approximation may err, once a pass has worked that out.
    """

    mnemonic = "apply"
    levels = _ALL
    functions: tuple[Function, ...]
    budget: ErrorBudget | None = None


@dataclass(frozen=True)
class Softmax(Op):
    """Softmax over the last axis. From the quantized level on: computed by the client on decrypted values."""

    mnemonic = "softmax"
    levels = _ALL
    log: bool = False

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if not shapes[0]:
            raise IRError("softmax needs at least one axis")
        return shapes[0]


@dataclass(frozen=True)
class ArgMax(Op):
    """Index of the first largest element of the last axis; keepdims keeps that axis as 1.

    From the quantized level on: computed by the client on decrypted values.
    """

    mnemonic = "argmax"
    levels = _ALL
    keepdims: bool

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if not shapes[0]:
            raise IRError("argmax needs at least one axis")
        return (*shapes[0][:-1], 1) if self.keepdims else shapes[0][:-1]


@dataclass(frozen=True)
class Switch(Op):
    """Scheme switch: the same fixed-point value, another scheme and message encoding. No key, no secret."""

    mnemonic = "switch"
    levels = frozenset({Level.ASSIGNED, Level.LAIDOUT})
    source: Scheme
    target: Scheme
    encoding: Encoding


@dataclass(frozen=True)
class Unpack(Op):
    """Split one ciphertext into ``parts`` along its fast index by automorphisms; multiplies the message by parts."""

    mnemonic = "unpack"
    levels = frozenset({Level.LAIDOUT})
    parts: int


@dataclass(frozen=True)
class Bootstrap(Op):
    """Packed functional bootstrap: refreshes a ciphertext and applies the composed functions to every coefficient.

    The message comes out divided by ``divisor``, the factor that the following unpacking multiplies it by. ``series``
    approximates the whole map from input phase to output (in units of 2^-OUTPUT_BITS, see ``series``).
    """

    mnemonic = "bootstrap"
    levels = frozenset({Level.LAIDOUT})
    functions: tuple[Function, ...]
    divisor: int
    slots: int
    series: Series


@dataclass(frozen=True)
class Fit:
    """A polynomial in Chebyshev's basis: y = sum_k coefficients[k] T_k(x), for x in [-1, 1].

    x and y are in units of the magnitudes of the formats they come from and go to. max_error and rms_error: beside the
    function, as shares of its range; the rms is weighted by where calibration saw values.
    """

    coefficients: tuple[float, ...]
    max_error: float
    rms_error: float

    def __post_init__(self) -> None:
        if len(self.coefficients) < 2:
            raise IRError("a polynomial has at least degree 1")

    @property
    def degree(self) -> int:
        return len(self.coefficients) - 1


@dataclass(frozen=True)
class Polynomial(Op):
    """A polynomial in place of a composition of univariate functions, on numbers in slots.

    It *is* what the program computes; ``functions`` say what it stands for.
    """

    mnemonic = "polynomial"
    levels = frozenset({Level.ASSIGNED, Level.LAIDOUT})
    functions: tuple[Function, ...]
    fit: Fit


def _linear_shape(shapes: tuple[Shape, ...], weights: tuple[Const, ...], bias: Const, constants: Constants) -> Shape:
    if not weights:
        raise IRError("a dense layer needs at least one weight")
    outputs = constants[bias.name].shape
    for shape, const in zip(shapes, weights, strict=True):
        weight = constants[const.name]
        if weight.ndim != 2 or outputs != weight.shape[:1]:
            raise IRError(f"weight {list(weight.shape)} and bias {list(outputs)} are not (out, in) and (out,)")
        if not shape or shape[-1] != weight.shape[1]:
            raise IRError(
                f"a weight of shape {list(weight.shape)} cannot be applied to a tensor of shape {list(shape)}"
            )
        if len(shape) != 1:
            raise IRError(f"a dense layer needs a flat tensor of one sample, not shape {list(shape)}")
    return (int(outputs[0]),)


_NETWORK = (Dense, Scale, Add, Sub, Mul, Div, Max, Min, Concat, Gather, Steps, Affine, ReduceSum, ReduceMax, Hardmax)
# Of step programs (training): what the gradients of the ops of networks need beside these.
_TRAINING = (MatMul, SumTo, Scatter)
_EVERYWHERE = (Input, Output, Reshape, Apply, Softmax, ArgMax)
_COMPILED = (Linear, Switch, Unpack, Bootstrap, Polynomial)

OPS: dict[str, type[Op]] = {op.mnemonic: op for op in (*_NETWORK, *_TRAINING, *_EVERYWHERE, *_COMPILED)}

_O = TypeVar("_O", bound=type[Op])


def register_op(op: _O) -> _O:
    """Class decorator: makes an op of another package known to graphs as text; IRError for a name that is taken."""
    if OPS.setdefault(op.mnemonic, op) is not op:
        raise IRError(f"there is an op {op.mnemonic!r} already")
    return op
