"""What converters of ONNX operators work with: a node's attributes and operands, and the graph that it goes into."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, TypeProto, numpy_helper
from scipy import sparse

from glyphc.ir.encodings import Labels
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.matrices import Compressed, Matrix
from glyphc.ir.network_ops import NO_BIAS
from glyphc.ir.ops import Add, Affine, Apply, Concat, Const, Dense, Gather, Op, Reshape, Scale, Steps

from .onnx_constants import F64, CombinedSamplesError, ConstantPool, Named, UnsupportedError

I64 = npt.NDArray[np.int64]
Shape = tuple[int, ...]

# What leaves labels of classes as they are: others compute with the numbers that they are.
KEEP_LABELS = frozenset({"Cast", "Flatten", "Identity", "LabelEncoder", "Reshape", "Squeeze", "Unsqueeze"})


class UnknownOperandError(Exception):
    """A node reads what an unsupported one gives, and its shape is unknown: it cannot be checked further."""


# What may read values that are masked by minus infinity.
KEEP_MASKS = frozenset({"Cast", "Identity", "LogSoftmax", "Softmax"})


@dataclass(frozen=True)
class Where:
    """Where an ONNX tensor has its samples: an axis of outer * samples * inner entries counts them in the middle."""

    axis: int = 0
    outer: int = 1
    inner: int = 1


# As networks begin: axis 0 counts the samples.
FIRST = Where()


@dataclass
class Conversion:
    """A graph in the making. values: the IR's node for each ONNX value that depends on the input.

    batch_axis: whether the ONNX tensors have an axis that counts the samples; otherwise whole tensors belong to one
    sample. where: of the values whose samples are not axis 0, where they are; their nodes have all axes, as they are
    for one sample. None: the file describes a single sample, and the value has no axis for it. labels: of values that
    are indices of classes in the graph, what they are in ONNX. masks: of values with elements that are minus infinity,
    which are something else in the graph: where they are not. log_sums: of log sum exp(x), by node: the node x, shapes
    aside. sequences: names of the values in each sequence of tensors. outputs: names of the model's outputs.
    """

    graph: Graph
    constants: ConstantPool
    types: Mapping[str, TypeProto.Tensor]
    opset: int
    batch_axis: bool
    values: dict[str, Node] = field(default_factory=dict)
    stored: dict[str, F64] = field(default_factory=dict)
    where: dict[str, Where | None] = field(default_factory=dict)
    labels: dict[str, Labels] = field(default_factory=dict)
    masks: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    log_sums: dict[int, int] = field(default_factory=dict)
    sequences: dict[str, tuple[str, ...]] = field(default_factory=dict)
    outputs: frozenset[str] = frozenset()

    @property
    def single(self) -> bool:
        """Whether the file describes a single sample: then no axis needs to be told from the others."""
        return not self.batch_axis or self.constants.batches == (1,)

    def store(self, constant: Named) -> Const:
        """Keep a constant of the IR; a second use of the same tensor refers to the first."""
        if not np.isfinite(constant.value).all():
            raise UnsupportedError(f"constant {constant.name!r} overflows when combined with others")
        known = self.stored.get(constant.name)
        if known is not None and np.array_equal(known, constant.value):
            return Const(constant.name)
        name = self.graph.add_constant(constant.name, constant.value)
        self.stored[name] = constant.value
        return Const(name)


@dataclass(frozen=True)
class Call:
    """One ONNX node on its way into the IR: its attributes, and its operands by position.

    whole: convert tensors with all of their axes, as they are for one sample.
    """

    conversion: Conversion
    node: NodeProto
    location: str
    whole: bool = False

    # -- attributes --

    def integer(self, name: str, default: int) -> int:
        return next((int(a.i) for a in self.node.attribute if a.name == name), default)

    def real(self, name: str, default: float) -> float:
        value = next((float(a.f) for a in self.node.attribute if a.name == name), default)
        if not math.isfinite(value):
            raise UnsupportedError(f"attribute {name} is {value}")
        return value

    def sizes(self, name: str) -> tuple[int, ...]:
        """An attribute of integers; empty when it is missing."""
        return next((tuple(map(int, a.ints)) for a in self.node.attribute if a.name == name), ())

    def reals(self, name: str) -> tuple[float, ...]:
        """An attribute of floats; empty when it is missing."""
        return next((tuple(map(float, a.floats)) for a in self.node.attribute if a.name == name), ())

    def text(self, name: str, default: str) -> str:
        return next((a.s.decode() for a in self.node.attribute if a.name == name), default)

    def texts(self, name: str) -> tuple[str, ...]:
        """An attribute of texts; empty when it is missing."""
        return next((tuple(s.decode() for s in a.strings) for a in self.node.attribute if a.name == name), ())

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """An attribute that is a tensor; None when it is missing."""
        found = next((a.t for a in self.node.attribute if a.name == name and a.HasField("t")), None)
        return None if found is None else numpy_helper.to_array(found)

    # -- operands --

    def has(self, index: int) -> bool:
        """Whether an optional operand is given."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def is_constant(self, index: int) -> bool:
        """Whether an operand is a constant; UnknownOperandError when an unsupported node made it."""
        name = self.node.input[index]
        if name not in self.conversion.constants and name not in self.conversion.values:
            raise UnknownOperandError
        return name in self.conversion.constants

    def tensor(self, index: int) -> Node:
        """An operand that depends on the network's input."""
        if self.is_constant(index):
            raise UnsupportedError(f"operand {index} is a constant; it must be the encrypted tensor")
        name = self.node.input[index]
        x = self.conversion.values[name]
        if name in self.conversion.masks and self.node.op_type not in KEEP_MASKS:
            raise UnsupportedError("computes with minus infinity; only a softmax can")
        if name in self.conversion.labels and self.node.op_type not in KEEP_LABELS:
            x = self._numbers(x, self.conversion.labels[name])
        if self.whole and self.conversion.batch_axis and name not in self.conversion.where:
            return self.reshape(x, (1, *x.type.shape))
        return x

    def _numbers(self, index: Node, labels: Labels) -> Node:
        """Labels to compute with, of their indices."""
        if labels.texts:
            raise UnsupportedError("computes with labels that are texts, which the client alone looks up")
        if labels.integers == tuple(range(len(labels))):
            return index
        return self.apply(index, "table", 0.0, float(len(labels) - 1), *map(float, labels.integers))

    def features(self) -> Node:
        """Samples of one axis, as operators of ai.onnx.ml take them."""
        x = self.tensor(0)
        if not x.type.shape:  # a column of its own
            return self.reshape(x, (1,))
        if len(x.type.shape) != 1:
            raise UnsupportedError(f"takes samples of one axis, not of shape {list(x.type.shape)}")
        return x

    def where(self, index: int) -> Where:
        """Where an operand that depends on the network's input has its samples."""
        return self.conversion.where.get(self.node.input[index], FIRST) or FIRST

    def constant(self, index: int, role: str) -> Named:
        """A constant operand as float64, of any shape."""
        self._demand_constant(index, role)
        return self.conversion.constants.number(self.node.input[index])

    def integers(self, index: int, role: str) -> list[int]:
        """A constant operand of integers (or truth values), flattened."""
        self._demand_constant(index, role)
        return [int(v) for v in self.conversion.constants.raw(self.node.input[index]).ravel()]

    def kind(self, index: int) -> int | None:
        """The element type of an operand (``TensorProto.FLOAT``, ...), if it is known."""
        name = self.node.input[index]
        known = self.conversion.types.get(name)
        if known is not None and known.elem_type:
            return known.elem_type
        return self.conversion.constants.kind(name) if name in self.conversion.constants else None

    def _demand_constant(self, index: int, role: str) -> None:
        if not self.is_constant(index):
            raise UnsupportedError(f"{role} is computed by the network; it must be a constant")

    # -- axes --

    @property
    def lead(self) -> int:
        """Number of axes of an ONNX tensor in front of those of a sample: 1 with a batch axis."""
        return int(self.conversion.batch_axis and not self.whole)

    def rank(self, x: Node) -> int:
        """Number of axes of the ONNX tensor, the batch included."""
        return len(x.type.shape) + self.lead

    def axis(self, x: Node, axis: int) -> int:
        """An axis of the ONNX tensor as an axis of one sample; UnsupportedError for the batch."""
        rank = self.rank(x)
        if not -rank <= axis < rank:
            raise UnsupportedError(f"axis={axis} does not exist in a tensor of {rank} axes, batch included")
        at = axis % rank - self.lead
        if at < 0:
            raise CombinedSamplesError.along(axis)
        return at

    def items(self, x: Node) -> tuple[int, Shape]:
        """For operators that work on each entry of axis 0 alone: number of entries in one sample, shape of an entry."""
        if self.lead:
            return 1, x.type.shape
        if not x.type.shape:
            raise UnsupportedError("needs a tensor of at least one axis")
        return x.type.shape[0], x.type.shape[1:]

    # -- building --

    def add(self, op: Op, *operands: Node) -> Node:
        return self.conversion.graph.add(op, operands, location=self.location)

    def apply(self, x: Node, name: str, *parameters: float) -> Node:
        """A univariate function of every element."""
        return self.add(Apply((Function(name, parameters),)), x)

    def pair(self, op: Op, a: Node, b: Node) -> Node:
        """An op on two tensors of the network. Batch axes must meet, so both need as many axes."""
        if self.lead and len(a.type.shape) != len(b.type.shape):
            raise CombinedSamplesError(
                f"combines tensors of {self.rank(a)} and {self.rank(b)} axes, batch included; reshape one of them"
            )
        return self.add(op, a, b)

    def reshape(self, x: Node, shape: Sequence[int]) -> Node:
        return x if x.type.shape == tuple(shape) else self.add(Reshape(tuple(shape)), x)

    def gather(self, x: Node, indices: npt.NDArray[Any]) -> Node:
        """Elements at constant flat places of one sample."""
        if indices.size == x.type.size and np.array_equal(indices.reshape(-1), np.arange(x.type.size)):
            return self.reshape(x, indices.shape)
        return self.add(Gather(self._private("indices", indices.astype(np.int64))), x)

    def stack(self, parts: Sequence[Node]) -> Node:
        """All elements of several tensors, one tensor behind the other."""
        flat = [self.reshape(p, (p.type.size,)) for p in parts]
        return flat[0] if len(flat) == 1 else self.add(Concat(), *flat)

    def last(self, x: Node, axes: Sequence[int]) -> Node:
        """Some axes of a sample moved to the end and joined to one."""
        rest = [a for a in range(len(x.type.shape)) if a not in axes]
        order = places(x).transpose(*rest, *axes)
        return self.gather(x, order.reshape(*order.shape[: len(rest)], -1))

    def dense(self, x: Node, weight: Named, bias: Named | None) -> Node:
        """x W^T + b for x of shape (in,), W (out, in), b (out,)."""
        bias = bias or Named(f"{self.location}.{NO_BIAS}", np.zeros(weight.value.shape[0]))
        return self.add(Dense((self.conversion.store(weight),), self.conversion.store(bias)), x)

    def affine(self, x: Node, matrix: Any, bias: F64 | float, shape: Shape, called: str = "bias") -> Node:
        """matrix @ x + bias over all elements of one sample, for a matrix (elements of ``shape``, of x): sparse, or in
        whatever form. called: what the name of the bias ends in."""
        if not isinstance(matrix, Matrix):
            matrix = Compressed.canonical(sparse.csr_array(matrix, dtype=np.float64))
        shift = np.broadcast_to(np.asarray(bias, dtype=np.float64), matrix.shape[:1])
        if not matrix.finite or not np.isfinite(shift).all():
            raise UnsupportedError("its weights are not finite")
        names = {part: self._private(f"weight.{part}", value) for part, value in matrix.arrays().items()}
        return self.add(Affine(shape, bias=self._private(called, shift), **names), x)

    def scale(self, x: Node, factor: Named | float, shift: Named | float) -> Node:
        """factor * x + shift for constants that broadcast to x; a plain number is named after the node."""
        f = factor if isinstance(factor, Named) else Named(f"{self.location}.factor", np.array(factor))
        s = shift if isinstance(shift, Named) else Named(f"{self.location}.shift", np.array(shift))
        return self.add(Scale(self.conversion.store(f), self.conversion.store(s)), x)

    def steps(self, x: Node, features: npt.NDArray[Any], thresholds: F64, lookup: bool = False) -> Node:
        """Whether elements at flat places are greater than thresholds: 0 or 1, flat. lookup: they are ids."""
        double = self.kind(0) == TensorProto.DOUBLE
        if not np.isfinite(thresholds).all():
            raise UnsupportedError("compares with a number that is not finite")
        names = self._private("features", features.astype(np.int64)), self._private("thresholds", thresholds)
        return self.add(Steps(*names, lookup, double), x)

    def sum(self, a: Node, b: Node) -> Node:
        """a + b, of one shape."""
        return self.add(Add(), a, b)

    def per_sample(self, x: Node, constant: Named) -> Named:
        """A constant that broadcasts to an ONNX tensor, as it does to one sample."""
        return constant.per_sample(x.type.shape) if self.lead else constant

    def named(self, role: str, value: npt.ArrayLike) -> Named:
        """A constant of this node's own."""
        return Named(f"{self.location}.{role}", np.asarray(value, dtype=np.float64))

    def _private(self, role: str, value: npt.NDArray[Any]) -> Const:
        if value.base is None:
            value.setflags(write=False)  # then the graph takes it as it is, without a copy
        return Const(self.conversion.graph.add_constant(f"{self.location}.{role}", value))


def places(x: Node) -> I64:
    """The flat place of every element of a sample."""
    return np.arange(x.type.size, dtype=np.int64).reshape(x.type.shape)


def blocks(count: int, block: npt.ArrayLike) -> sparse.csr_array:
    """The matrix that has a block for each of so many rows, and zeros beside."""
    return sparse.csr_array(sparse.kron(sparse.eye_array(count), sparse.csr_array(np.atleast_2d(block)), "csr"))


@dataclass(frozen=True)
class Placed:
    """A result whose samples are not axis 0, with all axes of one sample; see :class:`Conversion`."""

    node: Node
    where: Where | None


Result = Node | Placed
# A converter may also keep constants for the node's results, and return nothing for those.
Convert = Callable[[Call], Result | tuple[Result, ...]]


@dataclass(frozen=True)
class Rule:
    """A converter, and the attributes that it takes into account: with others it would be wrong."""

    convert: Convert
    attributes: tuple[str, ...] = ()
