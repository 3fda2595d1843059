"""Writes source-level graphs as ONNX: what training gives back. The inverse of ``from_onnx`` for what that reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import singledispatch
from math import pi, sqrt
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
    ReduceSum,
    Reshape,
    Scale,
    Softmax,
    Sub,
)

_OPSET = 17
# How ``from_onnx`` calls operators without a name.
_NUMBERED = re.compile(r"#\d+")
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
    """Names are stable and say where they come from. A layer's result and the operator that gives it are called like
    the layer; the operators before it like ``conv1/gather``; constants keep their names. names: of values, by node."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.names: dict[int, str] = {}
        self._written: dict[str, npt.NDArray[Any]] = {}
        # of operators and of values: they do not get into each other's way
        self._labels: set[str] = set()
        self._taken = {op.name for _, op in graph.of(Input)} | {op.name for _, op in graph.of(Output)}
        self._constants = {name: self._unique(name or "constant", self._taken) for name in graph.constants}
        self._layers: dict[int, str] = {}
        # values that need no other name than that of the output
        self._results: dict[int, str] = {}
        for node, op in graph.of(Output):
            (source,) = graph.operands(node)
            if not isinstance(source.op, Input):
                self._results.setdefault(source.id, op.name)

    def constant(self, const: Const, value: npt.NDArray[Any] | None = None) -> str:
        """A constant of the graph, or other numbers under its name; once, however often it is read."""
        name = self._constants[const.name]
        return self._initializer(name, self.graph.constant(const.name) if value is None else value)

    def numbers(self, node: Node, role: str, value: npt.NDArray[Any]) -> str:
        """Numbers that an operator needs, and the graph has no name for."""
        return self._initializer(self._unique(f"{self._layer(node)}/{role}", self._taken), value)

    def _initializer(self, name: str, value: npt.NDArray[Any]) -> str:
        array = value.astype(np.float32 if value.dtype.kind == "f" else np.int64)
        if name in self._written and not np.array_equal(self._written[name], array):
            name = self._unique(name, self._taken)
        if name not in self._written:
            self._written[name] = array
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def step(self, operator: str, operands: list[str], node: Node, **attributes: Any) -> str:
        """An operator on the way to the node's result."""
        name = f"{self._layer(node)}/{operator.lower()}"
        label, value = self._unique(name, self._labels), self._unique(name, self._taken)
        self.nodes.append(helper.make_node(operator, operands, [value], name=label, **attributes))
        return value

    def result(self, operator: str, operands: list[str], node: Node, **attributes: Any) -> str:
        """The operator that gives the node's result."""
        label = self._layer(node)
        value = self._results[node.id] if node.id in self._results else self._unique(label, self._taken)
        self.nodes.append(helper.make_node(operator, operands, [value], name=label, **attributes))
        self.names[node.id] = value
        return value

    def output(self, source: str, name: str) -> None:
        if source != name:
            label = self._unique(f"{name}/identity", self._labels)
            self.nodes.append(helper.make_node("Identity", [source], [name], name=label))

    def _layer(self, node: Node) -> str:
        """What a node is called: the place it comes from, and what it does where another node has that name."""
        if node.id not in self._layers:
            kind = node.op.functions[-1].name if isinstance(node.op, Apply) else node.op.mnemonic
            place = "" if _NUMBERED.fullmatch(node.location) else node.location
            name = f"{place}/{kind}" if place in self._labels else place
            self._layers[node.id] = self._unique(name or kind, self._labels)
        return self._layers[node.id]

    def type_of(self, output: Node) -> int:
        (source,) = self.graph.operands(output)
        return int(TensorProto.INT64 if isinstance(source.op, ArgMax) else TensorProto.FLOAT)

    @staticmethod
    def _unique(name: str, taken: set[str]) -> str:
        unique, count = name, 2
        while unique in taken:
            unique, count = f"{name}_{count}", count + 1
        taken.add(unique)
        return unique


@singledispatch
def _write(op: Op, w: _Writer, node: Node, args: list[str]) -> None:
    raise ModelError(f"{node} has no ONNX operator that glyphc can write")


@_write.register
def _(op: Input, w: _Writer, node: Node, args: list[str]) -> None:
    w.names[node.id] = op.name


@_write.register
def _(op: Output, w: _Writer, node: Node, args: list[str]) -> None:
    w.output(args[0], op.name)


@_write.register
def _(op: Reshape, w: _Writer, node: Node, args: list[str]) -> None:
    w.result("Reshape", [args[0], w.numbers(node, "shape", np.array([-1, *op.shape]))], node)


@_write.register
def _(op: Dense, w: _Writer, node: Node, args: list[str]) -> None:
    total = ""
    for number, (x, weight) in enumerate(zip(args, op.weights, strict=True), 1):
        last = number == len(args)
        lacking = not op.has_bias and not w.graph.constant(op.bias.name).any()
        operands = [x, w.constant(Const(weight.name), w.graph.matrix(weight).dense())] + (
            [] if total or lacking else [w.constant(op.bias)]
        )
        gemm = (w.result if last and not total else w.step)("Gemm", operands, node, transB=1)
        total = (w.result if last else w.step)("Add", [total, gemm], node) if total else gemm


@_write.register
def _(op: Affine, w: _Writer, node: Node, args: list[str]) -> None:
    """A sparse map: what each element reads, times its weights, summed. So it stays sparse, and is no dense layer."""
    (operand,) = w.graph.operands(node)
    found = w.graph.matrix(op.matrix(operand.type.size, w.graph.constants)).csr()
    data, indices, indptr = found.data, found.indices, found.indptr
    rows, lengths = node.type.size, np.diff(indptr)
    most = max(int(lengths.max()), 1)
    if rows * most > _MOST_ENTRIES:
        raise ModelError(f"{node} is too large to be written as ONNX: {rows} elements that read up to {most} each")
    # short rows are filled with zeros times the first element
    row, place = np.repeat(np.arange(rows), lengths), np.arange(data.size) - np.repeat(indptr[:-1], lengths)
    weights, places = np.zeros((rows, most)), np.zeros((rows, most), dtype=np.int64)
    weights[row, place], places[row, place] = data, indices
    flat = w.step("Flatten", args, node, axis=1)
    read = w.step("Gather", [flat, w.constant(op.indices, places)], node, axis=1)
    products = w.step("Mul", [read, w.constant(op.kernel or op.data, weights)], node)
    sums = w.step("ReduceSum", [products, w.numbers(node, "axes", np.array([-1]))], node, keepdims=0)
    total = w.step("Add", [sums, w.constant(op.bias)], node)
    w.result("Reshape", [total, w.numbers(node, "shape", np.array([-1, *op.shape]))], node)


@_write.register
def _(op: ReduceSum, w: _Writer, node: Node, args: list[str]) -> None:
    w.result("ReduceSum", [args[0], w.numbers(node, "axes", np.array([-1]))], node, keepdims=0)


@_write.register
def _(op: Scale, w: _Writer, node: Node, args: list[str]) -> None:
    x = args[0]
    if (w.graph.constant(op.shift.name) == 0).all():
        w.result("Mul", [x, w.constant(op.factor)], node)
        return
    if not (w.graph.constant(op.factor.name) == 1).all():
        x = w.step("Mul", [x, w.constant(op.factor)], node)
    w.result("Add", [x, w.constant(op.shift)], node)


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
            name = w.step("Reshape", [name, w.numbers(node, "shape", shape)], node)
        aligned.append(name)
    w.result(_TWO_OPERANDS[type(op)], aligned, node)


@_write.register
def _(op: Concat, w: _Writer, node: Node, args: list[str]) -> None:
    w.result("Concat", args, node, axis=1)


@_write.register
def _(op: Gather, w: _Writer, node: Node, args: list[str]) -> None:
    w.result("Gather", [w.step("Flatten", args, node, axis=1), w.constant(op.indices)], node, axis=1)


@_write.register
def _(op: ReduceMax, w: _Writer, node: Node, args: list[str]) -> None:
    w.result("ReduceMax", args, node, axes=[-1], keepdims=0)


@_write.register
def _(op: Hardmax, w: _Writer, node: Node, args: list[str]) -> None:
    w.result("Hardmax", args, node, axis=-1)


@_write.register
def _(op: Softmax, w: _Writer, node: Node, args: list[str]) -> None:
    w.result("LogSoftmax" if op.log else "Softmax", args, node, axis=-1)


@_write.register
def _(op: ArgMax, w: _Writer, node: Node, args: list[str]) -> None:
    w.result("ArgMax", args, node, axis=-1, keepdims=int(op.keepdims))


@_write.register
def _(op: Apply, w: _Writer, node: Node, args: list[str]) -> None:
    name = args[0]
    for number, function in enumerate(op.functions, 1):
        name = _function(w, node, function, name, w.result if number == len(op.functions) else w.step)


def _function(w: _Writer, node: Node, function: Function, x: str, emit: Callable[..., str]) -> str:
    """The operators of one function; ``emit`` writes the last of them."""

    def number(value: float) -> str:
        return w.numbers(node, "number", np.array(value))

    p = function.parameters
    match function.name:
        case name if name in _PLAIN:
            return emit(_PLAIN[name], [x], node)
        case name if name in _WITH_ATTRIBUTES:
            operator, keys = _WITH_ATTRIBUTES[name]
            return emit(operator, [x], node, **dict(zip(keys, p, strict=True)))
        case "affine":
            return emit("Add", [w.step("Mul", [x, number(p[0])], node), number(p[1])], node)
        case "clip":
            return emit("Clip", [x, number(p[0]), number(p[1])], node)
        case "maximum":
            return emit("Clip", [x, number(p[0])], node)
        case "minimum":
            return emit("Clip", [x, "", number(p[0])], node)
        case "pow":
            return emit("Pow", [x, number(p[0])], node)
        case "silu":
            return emit("Mul", [x, w.step("Sigmoid", [x], node)], node)
        case "swish":
            return emit("Mul", [x, w.step("Sigmoid", [w.step("Mul", [x, number(p[0])], node)], node)], node)
        case "mish":
            return emit("Mul", [x, w.step("Tanh", [w.step("Softplus", [x], node)], node)], node)
        case "gelu" | "gelu_tanh":  # an operator of their own they have from opset 20 on
            gate = _gelu_gate(w, node, x, number, function.name == "gelu_tanh")
            return emit("Mul", [x, w.step("Add", [w.step("Mul", [gate, number(0.5)], node), number(0.5)], node)], node)
        case "quadratic":
            slope = w.step("Add", [w.step("Mul", [x, number(p[0])], node), number(p[1])], node)
            return emit("Add", [w.step("Mul", [slope, x], node), number(p[2])], node)
    raise ModelError(f"{node}: {function} has no ONNX operator that glyphc can write")


def _gelu_gate(w: _Writer, node: Node, x: str, number: Callable[[float], str], by_tanh: bool) -> str:
    """erf(x / sqrt 2), or tanh(sqrt(2 / pi) (x + 0.044715 x^3)): twice the share of x that passes, minus 1."""
    if not by_tanh:
        return w.step("Erf", [w.step("Mul", [x, number(sqrt(0.5))], node)], node)
    cube = w.step("Mul", [w.step("Pow", [x, number(3.0)], node), number(0.044715)], node)
    return w.step("Tanh", [w.step("Mul", [w.step("Add", [x, cube], node), number(sqrt(2 / pi))], node)], node)
