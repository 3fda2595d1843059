"""The ops: one frozen dataclass each, with the rule for the shape of its result beside it.

An op holds attributes only; operands are edges of the graph, types are on the nodes. Constants (weights) are kept
by the graph and named here by :class:`Const`. ``levels`` says at which levels an op may occur: the ops of networks at
the source level only, a few with integer semantics from the quantized level on.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeVar

from .client_requests import MOST_TABLE_BITS
from .encodings import Ids, Labels, Ranks
from .errors import IRError
from .functions import Function
from .image_ops import Fold, Interleave, Pixels
from .masks import Mask
from .network_ops import (
    Add,
    Affine,
    Concat,
    Dense,
    Div,
    Gather,
    Hardmax,
    MatMul,
    Max,
    Min,
    Mul,
    ReduceMax,
    ReduceSum,
    Scale,
    Scatter,
    Steps,
    Sub,
    SumTo,
)
from .op import ALL, FIXED, Const, Constants, Op, Shape, Sparse, Weight, linear_shape
from .series import Approximation
from .types import Encoding, Level, Scheme
from .word_parameters import MOST_WORD_BITS

__all__ = [
    "CLIENT_OPS",
    "OPS",
    "Add",
    "Affine",
    "Apply",
    "ArgMax",
    "Bootstrap",
    "Concat",
    "Const",
    "Constants",
    "Dense",
    "Div",
    "ErrorBudget",
    "Fit",
    "Fold",
    "Gather",
    "Hardmax",
    "Input",
    "Interleave",
    "Linear",
    "MatMul",
    "Max",
    "Min",
    "Mul",
    "Op",
    "Output",
    "Pixels",
    "Polynomial",
    "ReduceMax",
    "ReduceSum",
    "Reshape",
    "Scale",
    "Scatter",
    "Shape",
    "Shorten",
    "Softmax",
    "Sparse",
    "Steps",
    "Sub",
    "SumTo",
    "Switch",
    "Unpack",
    "Weight",
    "WordTable",
    "register_op",
]


@dataclass(frozen=True)
class Input(Op):
    """A tensor that the client provides (encrypted, except in the evaluator).

    ranks: what of it is encrypted, if not the tensor as it is: then the result is flat. columns: names of its elements,
    where it is a row of a table that has some. ids: which of its elements are looked up, and in how large a table.
    """

    mnemonic = "input"
    levels = ALL
    name: str
    shape: Shape
    ranks: Ranks | None = None
    columns: tuple[str, ...] = ()
    ids: Ids | None = None

    @property
    def arity(self) -> int:
        return 0

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if self.ids is not None:
            self.ids.check(prod(self.shape))
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
    levels = ALL
    name: str
    labels: Labels | None = None


@dataclass(frozen=True)
class Reshape(Op):
    """Same elements in row-major order, another shape."""

    mnemonic = "reshape"
    levels = ALL
    shape: Shape

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if prod(shapes[0]) != prod(self.shape):
            raise IRError(f"cannot reshape {list(shapes[0])} into {list(self.shape)}")
        return self.shape


@dataclass(frozen=True)
class ErrorBudget:
    """What a series may err: at most, and rms where values lie; shares of the function's range."""

    max_error: float
    rms_error: float

    def holds(self, series: Approximation) -> bool:
        """Whether a series keeps to it."""
        return series.max_error <= self.max_error and series.rms_error <= self.rms_error


@dataclass(frozen=True)
class Apply(Op):
    """A composition of univariate functions, first one first, applied elementwise to the real value.

    budget: what its approximation may err, once a pass has worked that out. mask: of a laid-out value, the coefficients
    of every chunk that are kept: all others become zero. table_bits: of the index of the table that stands for it,
    where bootstraps are to look one up.
    """

    mnemonic = "apply"
    levels = ALL
    functions: tuple[Function, ...]
    budget: ErrorBudget | None = None
    mask: Mask | None = None
    table_bits: int = 0


@dataclass(frozen=True)
class Softmax(Op):
    """Softmax over the last axis. From the quantized level on: computed by the client on decrypted values."""

    mnemonic = "softmax"
    levels = ALL
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
    levels = ALL
    keepdims: bool

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if not shapes[0]:
            raise IRError("argmax needs at least one axis")
        return (*shapes[0][:-1], 1) if self.keepdims else shapes[0][:-1]


@dataclass(frozen=True)
class Linear(Op):
    """Integer linear map on fixed-point integers: y = sum_j x_j W_j^T + b with int64 W_j (out, in_j), b (out,).

    norms: empty for weights that the server knows. Else weights and bias are encrypted, for the client knows them
    alone, and these are bounds of the rms norms of the rows of each W_j: public, for the noise model. Such W_j are not
    sparse: where their zeros are is a secret, too.
    """

    mnemonic = "linear"
    levels = FIXED
    weights: tuple[Weight, ...]
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
        return linear_shape(shapes, self.weights, self.bias, constants)


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
    """Split each ciphertext into ``parts`` along its fast index by automorphisms; multiplies the message by ``gain``.

    The automorphisms multiply it by parts; ``divided``: what of that is undone before, exactly, modulo the ciphertexts'
    modulus. babies: how many baby steps the readers' sums take, which go over conjugates in place of the parts then
    (see ``galois``); 0: they read the parts. edges: of images whose rows follow one another without a border, so many
    columns of pixels at either end of a row, each in a ciphertext of its own, too: what maps carry from one row to the
    next is taken back with them.
    """

    mnemonic = "unpack"
    levels = frozenset({Level.LAIDOUT})
    parts: int
    divided: int = 1
    babies: int = 0
    edges: int = 0

    @property
    def gain(self) -> int:
        """What the message is multiplied by."""
        return self.parts // self.divided


@dataclass(frozen=True)
class Bootstrap(Op):
    """Packed functional bootstrap: refreshes a ciphertext and applies the composed functions to every coefficient.

    The message comes out divided by ``divisor``, the factor that the following unpacking multiplies it by. ``series``
    approximates the whole map from input phase to output (in units of 2^-OUTPUT_BITS, see ``series``), or is a table.
    mask: the coefficients that are kept; all others become zero, but for noise.
    """

    mnemonic = "bootstrap"
    levels = frozenset({Level.LAIDOUT})
    functions: tuple[Function, ...]
    divisor: int
    slots: int
    series: Approximation
    mask: Mask | None = None


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


@dataclass(frozen=True)
class IntegerPolynomial(Op):
    """A polynomial with integer coefficients of integers in slots, exactly; coefficient k is that of x^k.

    ``functions`` say what it computes in real numbers, but for the rounding of its coefficients.
    """

    mnemonic = "integer-polynomial"
    levels = frozenset({Level.ASSIGNED, Level.LAIDOUT})
    functions: tuple[Function, ...]
    coefficients: tuple[int, ...]


@dataclass(frozen=True)
class ClientRefresh(Op):
    """Integers that the client decrypts, multiplies by ``ratio``, rounds and encrypts again: the client sees them."""

    mnemonic = "client-refresh"
    levels = frozenset({Level.ASSIGNED, Level.LAIDOUT})
    ratio: float


@dataclass(frozen=True)
class ClientBits(Op):
    """Integers that the client decrypts, to encrypt the bits of a table's index for each: the client sees them.

    The index of v is round(ratio * v + shift), no less than 0 and below 2^bits. Along a new first axis the result has
    the bits of the index, the lowest first.
    """

    mnemonic = "client-bits"
    levels = frozenset({Level.ASSIGNED, Level.LAIDOUT})
    ratio: float
    shift: float
    bits: int

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if not 1 <= self.bits <= MOST_TABLE_BITS:
            raise IRError(f"a table's index has 1 to {MOST_TABLE_BITS} bits, not {self.bits}")
        return (self.bits, *shapes[0])


@dataclass(frozen=True)
class TableLookup(Op):
    """The integer of a table whose index has the bits along the operand's first axis, the lowest first.

    ``functions`` say what the table stands for.
    """

    mnemonic = "table-lookup"
    levels = frozenset({Level.ASSIGNED, Level.LAIDOUT})
    functions: tuple[Function, ...]
    table: tuple[int, ...]

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        bits = shapes[0][0] if shapes[0] else 0
        if not 1 <= bits <= MOST_TABLE_BITS or len(self.table) != 1 << bits:
            raise IRError(f"a table of {len(self.table)} integers cannot be looked up by {bits} bits")
        return shapes[0][1:]


@dataclass(frozen=True)
class Shorten(Op):
    """Integers in bits, divided by 2^shift, rounded to the nearest (halves up), brought to the nearest of ``bits``
    signed bits."""

    mnemonic = "shorten"
    levels = frozenset({Level.ASSIGNED, Level.LAIDOUT})
    shift: int
    bits: int

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if not 0 <= self.shift <= 62 or not 2 <= self.bits <= 62:
            raise IRError(f"integers are shifted by 0 to 62 bits and have 2 to 62, not {self.shift} and {self.bits}")
        return shapes[0]


@dataclass(frozen=True)
class WordTable(Op):
    """The integer of a table at a signed index in bits; the first entry is that of the lowest index.

    ``functions`` say what the table stands for.
    """

    mnemonic = "word-table"
    levels = frozenset({Level.ASSIGNED, Level.LAIDOUT})
    functions: tuple[Function, ...]
    table: tuple[int, ...]

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if len(self.table) not in (1 << k for k in range(2, MOST_WORD_BITS + 1)):
            raise IRError(f"a table of {len(self.table)} integers has no index in bits")
        return shapes[0]


# What the client does on the way, and sees.
CLIENT_OPS = (ClientRefresh, ClientBits)

_NETWORK = (Dense, Scale, Add, Sub, Mul, Div, Max, Min, Concat, Gather, Steps, Affine, ReduceSum, ReduceMax, Hardmax)
# Of step programs (training): what the gradients of the ops of networks need beside these.
_TRAINING = (MatMul, SumTo, Scatter)
_EVERYWHERE = (Input, Output, Reshape, Apply, Softmax, ArgMax)
_IMAGES = (Pixels, Interleave, Fold)
_IN_SLOTS = (Polynomial, IntegerPolynomial, ClientRefresh, ClientBits, TableLookup)
_COMPILED = (Linear, Switch, Unpack, Bootstrap, *_IN_SLOTS, Shorten, WordTable)

OPS: dict[str, type[Op]] = {op.mnemonic: op for op in (*_NETWORK, *_TRAINING, *_EVERYWHERE, *_COMPILED, *_IMAGES)}

_O = TypeVar("_O", bound=type[Op])


def register_op(op: _O) -> _O:
    """Class decorator: makes an op of another package known to graphs as text; IRError for a name that is taken."""
    if OPS.setdefault(op.mnemonic, op) is not op:
        raise IRError(f"there is an op {op.mnemonic!r} already")
    return op
