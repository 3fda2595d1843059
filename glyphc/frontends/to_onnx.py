"""Writes source-level graphs as ONNX: what training gives back. The inverse of ``from_onnx`` for what that reads."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from glyphc.errors import ModelError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import (
    Add,
    Affine,
    Apply,
    ArgMax,
    Concat,
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
    ReduceSum,
    Reshape,
    Scale,
    Softmax,
    Sub,
)

_OPSET = 17
_IR_VERSION = 8
# Of a sparse map: a file of ONNX has 2 GB at most, and an entry 12 bytes.
_MOST_ENTRIES = 10**8
_TWO_OPERANDS: dict[type[Op], str] = {Add: "Add", Sub: "Sub", Mul: "Mul", Div: "Div", Max: "Max", Min: "Min"}
# ONNX operators without parameters, by function; those with float attributes, with the attributes' names.
_PLAIN = {
    "abs": "Abs",
    "cos": "Cos",
    "erf": "Erf",
    "exp": "Exp",
    "log": "Log",
    "reciprocal": "Reciprocal",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sin": "Sin",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
    "hard_swish": "HardSwish",
}
_WITH_ATTRIBUTES = {
    "celu": ("Celu", ("alpha",)),
    "elu": ("Elu", ("alpha",)),
    "hard_sigmoid": ("HardSigmoid", ("alpha", "beta")),
    "leaky_relu": ("LeakyRelu", ("alpha",)),
    "selu": ("Selu", ("alpha", "gamma")),
    "thresholded_relu": ("ThresholdedRelu", ("alpha",)),
}


def to_onnx(graph: Graph) -> ModelProto:
    """A checked model in float32, batch axis first and free. ModelError for what has no ONNX operator here."""
    writer = _Writer(graph)
    for node in graph:
        _write(node.op, writer, node, [writer.names[i] for i in node.operands])
    value = helper.make_tensor_value_info
    inputs = [value(op.name, TensorProto.FLOAT, ["N", *op.shape]) for _, op in graph.of(Input)]
    outputs = [value(op.name, writer.type_of(n), ["N", *n.type.shape]) for n, op in graph.of(Output)]
    body = helper.make_graph(writer.nodes, "glyphc", inputs, outputs, writer.initializers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    checker.check_model(model)
    return model


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.names: dict[int, str] = {}
        self._taken = {op.name for _, op in graph.of(Input)} | {op.name for _, op in graph.of(Output)}

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        array = value.astype(np.float32 if value.dtype.kind == "f" else np.int64)
        unique = self._unique(name)
        self.initializers.append(numpy_helper.from_array(array, unique))
        return unique

    def emit(self, operator: str, operands: list[str], location: str = "", **attributes: Any) -> str:
        name = self._unique("value")
        label = self._unique(location) if location else ""
        self.nodes.append(helper.make_node(operator, operands, [name], name=label, **attributes))
        return name

    def type_of(self, output: Node) -> int:
        (source,) = self.graph.operands(output)
        return int(TensorProto.INT64 if isinstance(source.op, ArgMax) else TensorProto.FLOAT)

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._taken:
            unique, count = f"{name}.{count}", count + 1
        self._taken.add(unique)
        return unique


@singledispatch
def _write(op: Op, w: _Writer, node: Node, args: list[str]) -> None:
    raise ModelError(f"{node} has no ONNX operator that glyphc can write")


@_write.register
def _(op: Input, w: _Writer, node: Node, args: list[str]) -> None:
    w.names[node.id] = op.name


@_write.register
def _(op: Output, w: _Writer, node: Node, args: list[str]) -> None:
    w.nodes.append(helper.make_node("Identity", args, [op.name]))


@_write.register
def _(op: Reshape, w: _Writer, node: Node, args: list[str]) -> None:
    shape = w.constant("shape", np.array([-1, *op.shape]))
    w.names[node.id] = w.emit("Reshape", [args[0], shape], node.location)


@_write.register
def _(op: Dense, w: _Writer, node: Node, args: list[str]) -> None:
    total = ""
    for x, weight in zip(args, op.weights, strict=True):
        factor = w.constant(weight.name, w.graph.constant(weight.name))
        if not total:
            bias = w.constant(op.bias.name, w.graph.constant(op.bias.name))
            total = w.emit("Gemm", [x, factor, bias], node.location, transB=1)
        else:
            total = w.emit("Add", [total, w.emit("Gemm", [x, factor], transB=1)])
    w.names[node.id] = total


@_write.register
def _(op: Affine, w: _Writer, node: Node, args: list[str]) -> None:
    """A sparse map: what each element reads, times its weights, summed. So it stays sparse, and is no dense layer."""
    data, indices, indptr, bias = (w.graph.constant(name) for name in op.constant_names())
    rows, lengths = bias.size, np.diff(indptr)
    most = max(int(lengths.max()), 1)
    if rows * most > _MOST_ENTRIES:
        raise ModelError(f"{node} is too large to be written as ONNX: {rows} elements that read up to {most} each")
    # short rows are filled with zeros times the first element
    row, place = np.repeat(np.arange(rows), lengths), np.arange(data.size) - np.repeat(indptr[:-1], lengths)
    weights, places = np.zeros((rows, most)), np.zeros((rows, most), dtype=np.int64)
    weights[row, place], places[row, place] = data, indices
    flat = w.emit("Flatten", args, axis=1)
    read = w.emit("Gather", [flat, w.constant(op.indices.name, places)], node.location, axis=1)
    products = w.emit("Mul", [read, w.constant(op.data.name, weights)])
    sums = w.emit("ReduceSum", [products, w.constant("axes", np.array([-1]))], keepdims=0)
    total = w.emit("Add", [sums, w.constant(op.bias.name, bias)])
    w.names[node.id] = w.emit("Reshape", [total, w.constant("shape", np.array([-1, *op.shape]))])


@_write.register
def _(op: ReduceSum, w: _Writer, node: Node, args: list[str]) -> None:
    axes = w.constant("axes", np.array([-1]))
    w.names[node.id] = w.emit("ReduceSum", [args[0], axes], node.location, keepdims=0)


@_write.register
def _(op: Scale, w: _Writer, node: Node, args: list[str]) -> None:
    factor = w.constant(op.factor.name, w.graph.constant(op.factor.name))
    shift = w.constant(op.shift.name, w.graph.constant(op.shift.name))
    w.names[node.id] = w.emit("Add", [w.emit("Mul", [args[0], factor], node.location), shift])


@_write.register(Add)
@_write.register(Sub)
@_write.register(Mul)
@_write.register(Div)
@_write.register(Max)
@_write.register(Min)
def _(op: Op, w: _Writer, node: Node, args: list[str]) -> None:
    rank = len(node.type.shape)
    aligned = []
    for operand, name in zip(w.graph.operands(node), args, strict=True):
        missing = rank - len(operand.type.shape)
        if missing:
            shape = np.array([-1, *(1,) * missing, *operand.type.shape])
            name = w.emit("Reshape", [name, w.constant("shape", shape)])
        aligned.append(name)
    w.names[node.id] = w.emit(_TWO_OPERANDS[type(op)], aligned, node.location)


@_write.register
def _(op: Concat, w: _Writer, node: Node, args: list[str]) -> None:
    w.names[node.id] = w.emit("Concat", args, node.location, axis=1)


@_write.register
def _(op: Gather, w: _Writer, node: Node, args: list[str]) -> None:
    flat = w.emit("Flatten", args, axis=1)
    indices = w.constant(op.indices.name, w.graph.constant(op.indices.name))
    w.names[node.id] = w.emit("Gather", [flat, indices], node.location, axis=1)


@_write.register
def _(op: ReduceMax, w: _Writer, node: Node, args: list[str]) -> None:
    w.names[node.id] = w.emit("ReduceMax", args, node.location, axes=[-1], keepdims=0)


@_write.register
def _(op: Hardmax, w: _Writer, node: Node, args: list[str]) -> None:
    w.names[node.id] = w.emit("Hardmax", args, node.location, axis=-1)


@_write.register
def _(op: Softmax, w: _Writer, node: Node, args: list[str]) -> None:
    w.names[node.id] = w.emit("LogSoftmax" if op.log else "Softmax", args, node.location, axis=-1)


@_write.register
def _(op: ArgMax, w: _Writer, node: Node, args: list[str]) -> None:
    w.names[node.id] = w.emit("ArgMax", args, node.location, axis=-1, keepdims=int(op.keepdims))


@_write.register
def _(op: Apply, w: _Writer, node: Node, args: list[str]) -> None:
    name = args[0]
    for function in op.functions:
        name = _function(w, node, function, name)
    w.names[node.id] = name


def _function(w: _Writer, node: Node, function: Function, x: str) -> str:
    def number(value: float) -> str:
        return w.constant("number", np.array(value))

    p = function.parameters
    match function.name:
        case name if name in _PLAIN:
            return w.emit(_PLAIN[name], [x], node.location)
        case name if name in _WITH_ATTRIBUTES:
            operator, keys = _WITH_ATTRIBUTES[name]
            return w.emit(operator, [x], node.location, **dict(zip(keys, p, strict=True)))
        case "affine":
            return w.emit("Add", [w.emit("Mul", [x, number(p[0])], node.location), number(p[1])])
        case "clip":
            return w.emit("Clip", [x, number(p[0]), number(p[1])], node.location)
        case "maximum":
            return w.emit("Clip", [x, number(p[0])], node.location)
        case "minimum":
            return w.emit("Clip", [x, "", number(p[0])], node.location)
        case "pow":
            return w.emit("Pow", [x, number(p[0])], node.location)
        case "silu":
            return w.emit("Mul", [x, w.emit("Sigmoid", [x])], node.location)
    raise ModelError(f"{node}: {function} has no ONNX operator that glyphc can write")
