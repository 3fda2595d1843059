"""Reads ONNX models into the source level of the IR.

ONNX tensors carry the batch as axis 0, the IR's shapes are those of one sample: so every conversion has to
make sure that a node leaves axis 0 alone. Nodes that the IR cannot express are reported together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, TensorProto

from glyphc.errors import ModelError
from glyphc.frontends.onnx_constants import (
    DEFAULT_DOMAINS,
    F64,
    FLOATS,
    FOLDABLE,
    ConstantPool,
    Named,
    Source,
    UnsupportedError,
    liveness,
    load,
    model_input,
)
from glyphc.frontends.onnx_functions import FUNCTIONS, Build
from glyphc.frontends.onnx_windows import covered, windows
from glyphc.ir.errors import IRError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import (
    Add,
    Apply,
    ArgMax,
    Concat,
    Const,
    Dense,
    Div,
    Gather,
    Hardmax,
    Input,
    Max,
    Min,
    Mul,
    Op,
    Output,
    ReduceMax,
    Reshape,
    Scale,
    Softmax,
    Sub,
)
from glyphc.ir.types import Level
from glyphc.ir.verify import verify
from glyphc.registry import registered

# Types in which an index (a result of ArgMax) keeps its value.
_INDEX_KINDS = FLOATS | {TensorProto.INT32, TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64}

_ADVICE = {
    "Conv": "convolutions are not supported yet; write it as a Gemm over the flattened image",
    "Shape": "sizes computed at run time are not supported; export Flatten, or Reshape by a constant shape",
}


def read_onnx(source: Source) -> Graph:
    """Read a model from a path, from the bytes of a file or from an ``onnx.ModelProto`` (left unchanged).

    Returns a verified graph at the source level with batch 1. Its shapes leave out the batch axis: an ONNX
    input (N, 64) becomes an ``Input`` of shape (64,). Locations are the names of the ONNX nodes (``#index``
    for those without), constants keep the names of their initializers. Nodes no output needs are left out.

    Raises ModelError for what cannot be read, for models without exactly one float input of known sample
    shape, and, in one message, for all nodes that are not supported.
    """
    model, label = load(source)
    reader = _Reader(model.graph, label)
    reader.convert_nodes()
    reader.add_outputs()
    verify(reader.graph)
    return reader.graph


class _UnknownOperandError(Exception):
    """A node reads what an unsupported one gives, and its shape is unknown: it cannot be checked further."""


class _Reader:
    """Converts the nodes of one checked model, in order. values: the IR's node for each ONNX value."""

    def __init__(self, onnx_graph: GraphProto, label: str) -> None:
        self.label = label
        self.onnx_graph = onnx_graph
        self.constants = ConstantPool(onnx_graph)
        self.types = {
            v.name: v.type.tensor_type
            for v in (*onnx_graph.value_info, *onnx_graph.input, *onnx_graph.output)
            if v.type.HasField("tensor_type")
        }
        self.graph = Graph(Level.SOURCE, batch=1)
        name, shape, self.batch = model_input(onnx_graph, label)
        self.values = {name: self.graph.add(Input(name, shape))}
        self._stored: dict[str, F64] = {}
        self._needed = liveness(onnx_graph)

    def convert_nodes(self) -> None:
        """Convert everything that an output needs; one ModelError for all nodes that are not supported."""
        problems: list[str] = []
        for index, node in enumerate(self.onnx_graph.node):
            if self._needed.isdisjoint(node.output):
                continue
            call = _Call(self, node, node.name or f"#{index}")
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # store() reports it
                    self._convert(call)
            except (UnsupportedError, IRError) as e:  # IRError: shapes that onnx could not infer don't fit
                problems.append(f"  {call.location!r} ({node.op_type}): {e}")
                self._stand_in(node)
            except _UnknownOperandError:
                self._stand_in(node)
        if problems:
            raise ModelError(
                f"{self.label} has {len(problems)} node(s) that glyphc cannot run on encrypted data:\n"
                + "\n".join(problems)
                + f"\nReplace them in the network and export it again. Supported: {', '.join(sorted(_RULES))}."
            )

    def add_outputs(self) -> None:
        """Add the outputs under their ONNX names; ModelError if there is none, or one is a constant."""
        names = [o.name for o in self.onnx_graph.output]
        if not names:
            raise ModelError(f"{self.label} has no output; declare one in the export")
        for name in names:
            if name not in self.values:
                raise ModelError(f"output {name!r} of {self.label} does not depend on the input; remove it")
            if names.count(name) > 1:
                raise ModelError(f"{self.label} lists output {name!r} more than once; remove the others")
            self.graph.add(Output(name), (self.values[name],))

    def store(self, constant: Named) -> Const:
        """Keep a constant of the IR; a second use of the same tensor refers to the first."""
        if not np.isfinite(constant.value).all():
            raise UnsupportedError(f"constant {constant.name!r} overflows when combined with others")
        known = self._stored.get(constant.name)
        if known is not None and np.array_equal(known, constant.value):
            return Const(constant.name)
        name = self.graph.add_constant(constant.name, constant.value)
        self._stored[name] = constant.value
        return Const(name)

    def _convert(self, call: _Call) -> None:
        node = call.node
        if node.domain not in DEFAULT_DOMAINS:
            self.values[node.output[0]] = _custom(call)
            return
        if node.op_type not in _RULES and node.op_type not in FOLDABLE:
            raise UnsupportedError(_ADVICE.get(node.op_type, "this operation is not supported"))
        if all(name in self.constants for name in node.input if name):
            self.constants.fold(node)
            return
        if node.op_type not in _RULES:
            raise UnsupportedError("supported on constants only, not on encrypted tensors")
        convert, attributes = _RULES[node.op_type]
        strange = {a.name for a in node.attribute}.difference(attributes)
        if strange:  # of an opset newer than this code: better refused than computed wrongly
            raise UnsupportedError(f"attribute(s) {', '.join(sorted(strange))} are not supported")
        results = convert(call)
        results = results if isinstance(results, tuple) else (results,)
        if any(o in self._needed for o in node.output[len(results) :]):
            raise UnsupportedError("only its first output is supported, but another one is used")
        self.values.update({name: result for name, result in zip(node.output, results, strict=False) if name})

    def _stand_in(self, node: NodeProto) -> None:
        """Let the nodes behind an unsupported one be checked too, if onnx knows the shapes of its results.

        The stand-ins never leave this class: the graph is dropped for an error.
        """
        if any(name in self.values for name in node.input):
            for name in filter(None, node.output):
                dims = self.types[name].shape.dim if name in self.types else ()
                shape = tuple(d.dim_value for d in dims)
                if shape and shape[0] == (self.batch or 0) and all(shape[1:]):
                    self.values[name] = self.graph.add(Input(name, shape[1:]))


@dataclass(frozen=True)
class _Call:
    """One ONNX node on its way into the IR: its attributes, and its operands by position."""

    reader: _Reader
    node: NodeProto
    location: str

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

    def text(self, name: str, default: str) -> str:
        return next((a.s.decode() for a in self.node.attribute if a.name == name), default)

    def has(self, index: int) -> bool:
        """Whether an optional operand is given."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def is_constant(self, index: int) -> bool:
        """Whether an operand is a constant; _UnknownOperandError when an unsupported node made it."""
        name = self.node.input[index]
        if name not in self.reader.constants and name not in self.reader.values:
            raise _UnknownOperandError
        return name in self.reader.constants

    def tensor(self, index: int) -> Node:
        """An operand that depends on the network's input."""
        if self.is_constant(index):
            raise UnsupportedError(f"operand {index} is a constant; it must be the encrypted tensor")
        return self.reader.values[self.node.input[index]]

    def constant(self, index: int, role: str) -> Named:
        """A constant operand as float64, of any shape."""
        self._demand_constant(index, role)
        return self.reader.constants.number(self.node.input[index])

    def integers(self, index: int, role: str) -> list[int]:
        """A constant operand of integers (or truth values), flattened."""
        self._demand_constant(index, role)
        return [int(v) for v in self.reader.constants.raw(self.node.input[index]).ravel()]

    def add(self, op: Op, *operands: Node) -> Node:
        return self.reader.graph.add(op, operands, location=self.location)

    def pair(self, op: Op, a: Node, b: Node) -> Node:
        """An op on two tensors of the network. Batch axes must meet, so both need as many axes."""
        if len(a.type.shape) != len(b.type.shape):
            raise UnsupportedError(
                f"combines tensors of {len(a.type.shape) + 1} and {len(b.type.shape) + 1} axes, batch included; "
                "reshape one of them"
            )
        return self.add(op, a, b)

    def gather(self, x: Node, indices: npt.NDArray[np.int64]) -> Node:
        """Elements at constant flat places of one sample."""
        name = self.reader.graph.add_constant(f"{self.location}.indices", indices.astype(np.int64))
        return self.add(Gather(Const(name)), x)

    def dense(self, x: Node, weight: Named, bias: Named | None) -> Node:
        """x W^T + b for x of shape (in,), W (out, in), b (out,)."""
        bias = bias or Named(f"{self.location}.bias", np.zeros(weight.value.shape[0]))
        return self.add(Dense((self.reader.store(weight),), self.reader.store(bias)), x)

    def scale(self, x: Node, factor: Named | float, shift: Named | float) -> Node:
        """factor * x + shift for constants that broadcast to x; a plain number is named after the node."""
        f = factor if isinstance(factor, Named) else Named(f"{self.location}.factor", np.array(factor))
        s = shift if isinstance(shift, Named) else Named(f"{self.location}.shift", np.array(shift))
        return self.add(Scale(self.reader.store(f), self.reader.store(s)), x)

    def _demand_constant(self, index: int, role: str) -> None:
        if not self.is_constant(index):
            raise UnsupportedError(f"{role} is computed by the network; it must be a constant")


# -- one converter for each op type --


def _identity(call: _Call) -> Node:
    return call.tensor(0)


def _apply(build: Build) -> Callable[[_Call], Node]:
    return lambda call: call.add(Apply((build(call),)), call.tensor(0))


def _custom(call: _Call) -> Node:
    """A node of a domain that is not ONNX's own: an activation that the user has registered."""
    node = call.node
    function = registered(node.op_type)
    if function is None:
        raise UnsupportedError(
            f"ops of domain {node.domain!r} are not supported; if it is a function of one number, make it known with "
            f"glyphc.register_activation({node.op_type!r}, ...); if the model itself defines it, expand it with "
            "onnx.inliner.inline_local_functions"
        )
    if len(node.input) != 1 or len(node.output) != 1 or node.attribute:
        raise UnsupportedError("is a registered activation: these have one operand, one result and no attributes")
    return call.add(Apply((function,)), call.tensor(0))


def _neg(call: _Call) -> Node:
    return call.scale(call.tensor(0), -1.0, 0.0)


def _gemm(call: _Call) -> Node:
    """alpha * A B' + beta * C for A (batch, in), B (in, out) or transposed, C broadcast to (batch, out)."""
    if call.integer("transA", 0):
        raise UnsupportedError("transA=1 transposes the encrypted tensor, batch axis included")
    weight, bias = call.constant(1, "operand B"), None
    matrix = weight.value if call.integer("transB", 0) else weight.value.T
    if call.has(2):
        given = call.constant(2, "operand C").per_sample(matrix.shape[:1])
        bias = Named(given.name, call.real("beta", 1.0) * np.broadcast_to(given.value, matrix.shape[:1]))
    return call.dense(call.tensor(0), Named(weight.name, call.real("alpha", 1.0) * matrix), bias)


def _matmul(call: _Call) -> Node:
    """x W for x (batch, in), W (in, out) or (in,)."""
    if call.is_constant(0):
        raise UnsupportedError("its left operand is the constant; only a constant on the right is supported")
    if not call.is_constant(1):
        raise UnsupportedError("multiplies two encrypted tensors; the right operand must be a constant")
    x, weight = call.tensor(0), call.constant(1, "right operand")
    if len(x.type.shape) != 1 or weight.value.ndim not in (1, 2):
        raise UnsupportedError(
            f"multiplies samples of shape {list(x.type.shape)} by {weight}; the samples must be flat and the "
            "constant a matrix"
        )
    matrix = weight.value.reshape(weight.value.shape[0], -1).T
    y = call.dense(x, Named(weight.name, matrix), None)
    return y if weight.value.ndim == 2 else call.add(Reshape(()), y)


def _both_encrypted(call: _Call) -> bool:
    return not call.is_constant(0) and not call.is_constant(1)


def _with_constant(call: _Call, verb: str) -> tuple[Node, Named, bool]:
    """The tensor of an elementwise op, its constant per sample, and whether the constant comes first."""
    if _both_encrypted(call):
        raise UnsupportedError(f"{verb} two encrypted tensors; one operand must be a constant")
    constant_first = call.is_constant(0)
    x = call.tensor(1 if constant_first else 0)
    c = call.constant(0 if constant_first else 1, "operand")
    return x, c.per_sample(x.type.shape), constant_first


def _add(call: _Call) -> Node:
    if _both_encrypted(call):
        return call.pair(Add(), call.tensor(0), call.tensor(1))
    x, c, _ = _with_constant(call, "adds")
    return call.scale(x, 1.0, c)


def _sub(call: _Call) -> Node:
    if _both_encrypted(call):
        return call.pair(Sub(), call.tensor(0), call.tensor(1))
    x, c, constant_first = _with_constant(call, "subtracts")
    return call.scale(x, -1.0, c) if constant_first else call.scale(x, 1.0, Named(c.name, -c.value))


def _mul(call: _Call) -> Node:
    if _both_encrypted(call):
        return call.pair(Mul(), call.tensor(0), call.tensor(1))
    x, c, _ = _with_constant(call, "multiplies")
    return call.scale(x, c, 0.0)


def _div(call: _Call) -> Node:
    if _both_encrypted(call):
        return call.pair(Div(), call.tensor(0), call.tensor(1))
    x, c, constant_first = _with_constant(call, "divides")
    if constant_first:
        return call.scale(call.add(Apply((Function("reciprocal"),)), x), c, 0.0)
    if not c.value.all():
        raise UnsupportedError(f"divides by constant {c.name!r}, which holds a zero")
    return call.scale(x, Named(c.name, 1.0 / c.value), 0.0)


def _extremum(op: Max | Min) -> Callable[[_Call], Node]:
    """Of any number of tensors and constants: max(x, c) = c + relu(x - c), min(x, c) = c - relu(c - x)."""
    sign = 1.0 if isinstance(op, Max) else -1.0

    def convert(call: _Call) -> Node:
        places = range(len(call.node.input))
        tensors = [call.tensor(i) for i in places if not call.is_constant(i)]
        x = tensors[0]
        for other in tensors[1:]:
            x = call.pair(op, x, other)
        for i in places:
            if call.is_constant(i):
                c = call.constant(i, "operand").per_sample(x.type.shape)
                above = call.scale(x, sign, Named(c.name, -sign * c.value))
                x = call.scale(call.add(Apply((Function("relu"),)), above), sign, c)
        return x

    return convert


def _prelu(call: _Call) -> Node:
    """One slope: a univariate function. A slope per channel: s x + (1 - s) relu(x)."""
    x = call.tensor(0)
    slope = call.constant(1, "slope").per_sample(x.type.shape)
    if slope.value.size and np.all(slope.value == slope.value.flat[0]):
        return call.add(Apply((Function("leaky_relu", (float(slope.value.flat[0]),)),)), x)
    positive = call.scale(call.add(Apply((Function("relu"),)), x), Named(f"{slope.name}.rest", 1.0 - slope.value), 0.0)
    return call.add(Add(), call.scale(x, slope, 0.0), positive)


def _concat(call: _Call) -> Node:
    parts = [call.tensor(i) for i in range(len(call.node.input))]
    rank = len(parts[0].type.shape) + 1
    axis = call.integer("axis", 1) % rank
    if axis == 0:
        raise UnsupportedError("joins samples of different tensors (axis 0, the batch); only other axes are supported")
    flat = [call.add(Reshape((p.type.size,)), p) if len(p.type.shape) != 1 else p for p in parts]
    starts = np.cumsum([0] + [p.type.size for p in parts])
    places = [start + np.arange(p.type.size).reshape(p.type.shape) for start, p in zip(starts, parts, strict=False)]
    return call.gather(call.add(Concat(), *flat), np.concatenate(places, axis=axis - 1))


def _comparison(greater: bool) -> Callable[[_Call], Node]:
    """x > c or x < c as 1 or 0, for a constant c; the cast to float that must follow in ONNX does nothing."""

    def convert(call: _Call) -> Node:
        x, c, constant_first = _with_constant(call, "compares")
        difference = call.scale(x, 1.0, Named(c.name, -c.value))
        name = "greater" if greater != constant_first else "less"
        return call.add(Apply((Function(name, (0.0,)),)), difference)

    return convert


def _batch_normalization(call: _Call) -> Node:
    """scale * (x - mean) / sqrt(variance + epsilon) + B for x (batch, C) and constants (C,)."""
    # In opset 13 further outputs, even unused ones, mean training.
    if call.integer("training_mode", 0) or any(call.node.output[1:]):
        raise UnsupportedError("uses the batch's own statistics (training mode); export it for inference")
    x = call.tensor(0)
    if len(x.type.shape) != 1:
        raise UnsupportedError(f"samples have shape {list(x.type.shape)}; only flat ones are supported")
    roles = ("scale", "B", "mean", "variance")
    given = (call.constant(i, role).per_sample(x.type.shape) for i, role in enumerate(roles, start=1))
    scale, shift, mean, variance = given
    spread = variance.value + call.real("epsilon", 1e-5)
    if not (spread > 0).all():
        raise UnsupportedError(f"constant {variance.name!r} holds a variance that is not positive")
    factor = scale.value / np.sqrt(spread)
    offset = shift.value - mean.value * factor
    return call.scale(x, Named(scale.name, factor), Named(shift.name, offset))


def _dropout(call: _Call) -> Node:
    if call.has(2) and any(call.integers(2, "training_mode")):
        raise UnsupportedError("drops values at random (training mode); export it for inference")
    return call.tensor(0)


def _cast(call: _Call) -> Node:
    """Casts between floats, and of an index (no other integers arise) to types that hold it, do nothing."""
    known = call.reader.types.get(call.node.input[0])
    source = TensorProto.FLOAT if known is None else known.elem_type
    target = call.integer("to", TensorProto.UNDEFINED)
    kinds = FLOATS if source in FLOATS or source == TensorProto.BOOL else _INDEX_KINDS
    if source == TensorProto.BOOL:  # a comparison, which is 0 or 1 here anyway
        source = TensorProto.FLOAT
    if source not in kinds or target not in kinds:
        names = [TensorProto.DataType.Name(k) for k in (source, target)]
        raise UnsupportedError(f"casts {names[0]} to {names[1]}; only casts between floats are supported")
    return call.tensor(0)


def _flatten(call: _Call) -> Node:
    """(batch, a.., b..) -> (batch * a.., b..), where axis counts the axes in front of b."""
    x = call.tensor(0)
    axis = call.integer("axis", 1)
    split = axis + len(x.type.shape) + 1 if axis < 0 else axis
    if split < 1 or math.prod(x.type.shape[: split - 1]) != 1:
        raise UnsupportedError(f"axis={axis} joins the batch axis with others; use axis=1")
    return call.add(Reshape((x.type.size,)), x)


def _reshape(call: _Call) -> Node:
    """Target shapes that keep the batch in front, written as 0, -1, or the number that the file fixes."""
    target = call.integers(1, "its target shape")
    x = call.tensor(0)
    literal = call.integer("allowzero", 0) != 0
    batch = {-1, call.reader.batch} if literal else {0, -1, call.reader.batch}
    copied = () if literal else x.type.shape  # a 0 copies the axis at the same place
    sizes = [copied[i] if n == 0 and i < len(copied) else n for i, n in enumerate(target[1:])]
    known = math.prod(n for n in sizes if n != -1)
    if -1 in sizes and known:
        sizes[sizes.index(-1)] = x.type.size // known
    keeps_batch = bool(target) and target[0] in batch and target.count(-1) <= 1
    if not keeps_batch or min(sizes, default=1) < 1 or math.prod(sizes) != x.type.size:
        raise UnsupportedError(
            f"reshapes samples of shape {list(x.type.shape)} by {target}, which does not leave the batch "
            "axis alone; begin the target shape with 0"
        )
    return call.add(Reshape(tuple(sizes)), x)


def _over_last_axis(call: _Call, default: int) -> Node:
    """The operand, after a check that the op works along its last axis and that this is not the batch."""
    x = call.tensor(0)
    rank = len(x.type.shape) + 1
    axis = call.integer("axis", default)
    if axis not in (-1, rank - 1) or rank == 1:
        raise UnsupportedError(f"axis={axis} is not the last one of a sample; only that is supported")
    return x


def _hardmax(call: _Call) -> Node:
    return call.add(Hardmax(), _over_last_axis(call, default=-1))


def _top_k(call: _Call) -> tuple[Node, Node]:
    """The largest element and its index."""
    if call.integers(1, "k") != [1]:
        raise UnsupportedError("k is not 1; only the largest element can be found")
    if not call.integer("largest", 1):
        raise UnsupportedError("largest=0 is not supported; negate the tensor instead")
    x = _over_last_axis(call, default=-1)
    largest = call.add(ReduceMax(), x)
    return call.add(Reshape((*largest.type.shape, 1)), largest), call.add(ArgMax(keepdims=True), x)


def _max_pool(call: _Call) -> Node:
    """The largest element of every window; x is (channels, *spatial)."""
    if call.integer("storage_order", 0):
        raise UnsupportedError("storage_order=1 is not supported")
    x = call.tensor(0)
    kernel, strides, dilations, pads = (call.sizes(name) for name in ("kernel_shape", "strides", "dilations", "pads"))
    auto_pad, ceil_mode = call.text("auto_pad", "NOTSET"), call.integer("ceil_mode", 0) != 0
    axes = windows(x.type.shape[1:], kernel, strides, dilations, pads, auto_pad, ceil_mode)
    return call.add(ReduceMax(), call.gather(x, covered(x.type.shape, axes)))


def _global_max_pool(call: _Call) -> Node:
    x = call.tensor(0)
    channels, *spatial = x.type.shape
    largest = call.add(ReduceMax(), call.add(Reshape((channels, math.prod(spatial))), x))
    return call.add(Reshape((channels, *[1] * len(spatial))), largest)


def _softmax(call: _Call) -> Node:
    return call.add(Softmax(log=call.node.op_type == "LogSoftmax"), _over_last_axis(call, default=-1))


def _argmax(call: _Call) -> Node:
    if call.integer("select_last_index", 0):
        raise UnsupportedError("select_last_index=1 is not supported; the first of equal elements is taken")
    return call.add(ArgMax(keepdims=call.integer("keepdims", 1) != 0), _over_last_axis(call, default=0))


# Converters, and the attributes that they take into account.
_RULES: dict[str, tuple[Callable[[_Call], Node | tuple[Node, ...]], tuple[str, ...]]] = {
    "Add": (_add, ()),
    "ArgMax": (_argmax, ("axis", "keepdims", "select_last_index")),
    "BatchNormalization": (_batch_normalization, ("epsilon", "momentum", "training_mode")),
    "Concat": (_concat, ("axis",)),
    "Cast": (_cast, ("to", "saturate", "round_mode")),  # the latter two concern float8 only
    "Div": (_div, ()),
    "Dropout": (_dropout, ("seed",)),
    "Flatten": (_flatten, ("axis",)),
    "Greater": (_comparison(greater=True), ()),
    "Gemm": (_gemm, ("alpha", "beta", "transA", "transB")),
    "GlobalMaxPool": (_global_max_pool, ()),
    "Hardmax": (_hardmax, ("axis",)),
    "Identity": (_identity, ()),
    "Less": (_comparison(greater=False), ()),
    "LogSoftmax": (_softmax, ("axis",)),
    "MatMul": (_matmul, ()),
    "Max": (_extremum(Max()), ()),
    "MaxPool": (
        _max_pool,
        ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"),
    ),
    "Min": (_extremum(Min()), ()),
    "Mul": (_mul, ()),
    "Neg": (_neg, ()),
    "PRelu": (_prelu, ()),
    "Reshape": (_reshape, ("allowzero",)),
    "Softmax": (_softmax, ("axis",)),
    "Sub": (_sub, ()),
    "TopK": (_top_k, ("axis", "largest", "sorted")),
    **{name: (_apply(build), attributes) for name, (build, attributes) in FUNCTIONS.items()},
}

# What ONNX's own domain has: no activation of the user's should be called that.
OPERATORS = frozenset(_RULES)
