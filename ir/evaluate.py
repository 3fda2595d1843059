"""The living definition of every op: plain numpy, one sample per row, no encryption.

At the source level values are float64. From the quantized level on an encrypted value is an int64 tensor of fixed-point
integers; what the client computes after decryption is float again. A value in slots is computed from them without
rounding: float64, in the same units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import IRError
from .functions import compose
from .graph import Graph, Node
from .ops import (
    Add,
    Affine,
    Apply,
    ArgMax,
    Bootstrap,
    ClientBits,
    ClientRefresh,
    Concat,
    Dense,
    Div,
    Fold,
    Gather,
    Hardmax,
    Input,
    IntegerPolynomial,
    Interleave,
    Linear,
    MatMul,
    Max,
    Min,
    Mul,
    Op,
    Output,
    Pixels,
    Polynomial,
    ReduceMax,
    ReduceSum,
    Reshape,
    Scale,
    Scatter,
    Shorten,
    Softmax,
    Steps,
    Sub,
    SumTo,
    Switch,
    TableLookup,
    Unpack,
    WordTable,
)
from .parameters import Parameters
from .rescaling import index_bits, rescaled, table_indices
from .series import OUTPUT_BITS, Lookup
from .types import Encoding, FixedPoint

Value = npt.NDArray[Any]
F64 = npt.NDArray[np.floating[Any]]
I64 = npt.NDArray[np.int64]


def quantize(x: F64, fixed: FixedPoint) -> I64:
    """Nearest fixed-point integers of real values of shape (samples, *shape); not clipped."""
    flat = x.reshape(x.shape[0], -1)
    integers = np.rint((flat - np.array(fixed.offset)) / np.array(fixed.scale)).astype(np.int64)
    return np.asarray(integers.reshape(x.shape))


def dequantize(x: Value, fixed: FixedPoint) -> F64:
    """Real values of fixed-point integers (or of approximations to them), shape (samples, *shape)."""
    flat = x.reshape(x.shape[0], -1).astype(np.float64)
    return np.asarray(flat * np.array(fixed.scale) + np.array(fixed.offset)).reshape(x.shape)


Override = Callable[[Node, tuple[Value, ...]], Value | None]


def evaluate_all(graph: Graph, inputs: Mapping[str, F64], override: Override | None = None) -> dict[int, Value]:
    """Values of all nodes, by node id. ``inputs``: real arrays of shape (samples, *shape), by input name.

    override: asked for every node but inputs, with its operands' values; where it gives a value, that one is taken.
    """
    values: dict[int, Value] = {}
    for node in graph:
        if isinstance(node.op, Input):
            values[node.id] = _input(node, node.op, inputs)
            continue
        operands = tuple(values[i] for i in node.operands)
        other = override(node, operands) if override is not None else None
        values[node.id] = _evaluate(node.op, node, graph, operands) if other is None else other
    return values


def evaluate(graph: Graph, inputs: Mapping[str, F64]) -> dict[str, Value]:
    """Real outputs by name, each of shape (samples, *shape)."""
    values = evaluate_all(graph, inputs)
    return {op.name: values[node.id] for node, op in graph.of(Output)}


def decrypted(graph: Graph, output: Node) -> tuple[Node, tuple[Op, ...]]:
    """The last encrypted value on the way to ``output``, and what the client does to it, in order."""
    tail: list[Op] = []
    node = graph.operands(output)[0]
    while isinstance(node.op, Softmax | ArgMax | Reshape):
        tail.append(node.op)
        node = graph.operands(node)[0]
    return node, tuple(reversed(tail))


def apply_client_op(op: Op, x: Value) -> Value:
    """What the client does to a decrypted, dequantized tensor of shape (samples, *shape): softmax, argmax, reshape."""
    return _evaluate(op, None, None, (x,))


def real(node: Node, value: Value) -> Value:
    """The real numbers that a node's value stands for."""
    if node.type.fixed is not None and (np.issubdtype(value.dtype, np.integer) or node.type.encoding is Encoding.SLOTS):
        return dequantize(value, node.type.fixed)
    return value


def _input(node: Node, op: Input, inputs: Mapping[str, F64]) -> Value:
    if op.name not in inputs:
        raise IRError(f"no value for input {op.name!r}")
    x = np.asarray(inputs[op.name], dtype=np.float64)
    if x.shape[1:] != op.shape:
        raise IRError(f"input {op.name!r} has shape {list(x.shape[1:])} per sample, expected {list(op.shape)}")
    if op.ranks is not None:
        x = op.ranks.of(x)
    return quantize(x, node.type.fixed) if node.type.fixed is not None else x


@singledispatch
def _evaluate(op: Op, node: Node | None, graph: Graph | None, args: tuple[Value, ...]) -> Value:
    raise IRError(f"the evaluator has no definition for {node}")


# What an op means, as a decorator: ``definition(MyOp)(function)``; the function gets (op, node, graph, args).
definition = _evaluate.register


@_evaluate.register
def _(op: Output, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    return real(graph.operands(node)[0], args[0])


@_evaluate.register
def _(op: Reshape, node: Node | None, graph: Graph | None, args: tuple[Value, ...]) -> Value:
    return args[0].reshape((args[0].shape[0], *op.shape))


@_evaluate.register(Dense)
@_evaluate.register(Linear)
def _(op: Dense | Linear, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    products = (graph.matrix(w).of(x) for x, w in zip(args, op.weights, strict=True))
    return np.asarray(sum(products) + graph.constant(op.bias.name))


_TWO_OPERANDS: dict[type[Op], Callable[[F64, F64], F64]] = {
    Add: np.add,
    Sub: np.subtract,
    Mul: np.multiply,
    Div: np.divide,
    Max: np.maximum,
    Min: np.minimum,
}


@_evaluate.register(Add)
@_evaluate.register(Sub)
@_evaluate.register(Mul)
@_evaluate.register(Div)
@_evaluate.register(Max)
@_evaluate.register(Min)
def _(op: Op, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    # broadcasting aligns the last axes of the samples, so shorter ones get axes behind the batch
    rank = len(node.type.shape)
    a, b = (x.reshape(len(x), *(1,) * (rank + 1 - x.ndim), *x.shape[1:]) for x in args)
    with np.errstate(all="ignore"):  # callers check that values are finite and name the node
        return np.asarray(_TWO_OPERANDS[type(op)](a, b))


@_evaluate.register
def _(op: Concat, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    return np.concatenate(args, axis=1)


@_evaluate.register
def _(op: Gather, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    return np.asarray(args[0].reshape(len(args[0]), -1)[:, graph.constant(op.indices.name)])


@_evaluate.register
def _(op: Steps, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    with np.errstate(over="ignore"):
        x = args[0].reshape(len(args[0]), -1)
        x = x if op.double else x.astype(np.float32).astype(np.float64)
    chosen = x[:, graph.constant(op.features.name)]
    return np.asarray(chosen > graph.constant(op.thresholds.name)).astype(np.float64)


@_evaluate.register
def _(op: Affine, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    x = args[0].reshape(len(args[0]), -1)
    matrix = graph.matrix(op.matrix(x.shape[1], graph.constants))
    return np.asarray(matrix.of(x) + graph.constant(op.bias.name)).reshape(len(x), *op.shape)


@_evaluate.register
def _(op: Scatter, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    out = np.zeros((len(args[0]), node.type.size))
    rows = np.arange(len(args[0]))[:, None]
    np.add.at(out, (rows, graph.constant(op.indices.name).reshape(1, -1)), args[0].reshape(len(args[0]), -1))
    return out.reshape(len(args[0]), *op.shape)


@_evaluate.register
def _(op: MatMul, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    a = np.swapaxes(args[0], 1, 2) if op.transpose_a else args[0]
    b = np.swapaxes(args[1], 1, 2) if op.transpose_b else args[1]
    return np.asarray(a @ b)


@_evaluate.register
def _(op: SumTo, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    x = args[0]
    lead = x.ndim - 1 - len(op.shape)
    shape = (len(x), *(1,) * lead, *op.shape)
    axes = tuple(i for i in range(1, x.ndim) if shape[i] == 1 and x.shape[i] != 1)
    return np.asarray(x.sum(axis=axes, keepdims=True).reshape(len(x), *op.shape))


@_evaluate.register
def _(op: ReduceSum, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    return np.asarray(args[0].sum(axis=-1))


@_evaluate.register
def _(op: ReduceMax, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    return np.asarray(args[0].max(axis=-1))


@_evaluate.register
def _(op: Hardmax, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    out = np.zeros(args[0].shape)
    np.put_along_axis(out, np.argmax(args[0], axis=-1, keepdims=True), 1.0, axis=-1)
    return out


@_evaluate.register
def _(op: Scale, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    x = args[0].astype(np.float64)
    return np.asarray(x * graph.constant(op.factor.name) + graph.constant(op.shift.name))


@_evaluate.register(Apply)
@_evaluate.register(Bootstrap)
def _(op: Apply | Bootstrap, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    if isinstance(op, Bootstrap) and isinstance(op.series, Lookup):
        return _looked_up(op, op.series, graph, args[0])
    x = np.asarray(real(graph.operands(node)[0], args[0]), dtype=np.float64)
    y = compose(op.functions, x)
    return quantize(y, node.type.fixed) if node.type.fixed is not None else y


def _looked_up(op: Bootstrap, table: Lookup, graph: Graph, x: Value) -> Value:
    """The entry of the nearest index, as an integer."""
    assert isinstance(graph.parameters, Parameters)
    modulus = graph.parameters.plaintext_modulus
    entries = table.nearest(x / modulus) * (modulus * op.divisor / 2.0**OUTPUT_BITS)
    return np.asarray(np.rint(entries).astype(np.int64))


@_evaluate.register
def _(op: Polynomial, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    source = graph.operands(node)[0].type.fixed
    assert source is not None and node.type.fixed is not None
    y = np.polynomial.chebyshev.chebval(args[0] / source.magnitude, np.array(op.fit.coefficients))
    return np.asarray(y * node.type.fixed.magnitude)


@_evaluate.register
def _(op: IntegerPolynomial, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    # modulo 2^64, which is as good as exact as long as results are below 2^63
    x = args[0].astype(np.int64)
    total = np.zeros_like(x)
    for coefficient in reversed(op.coefficients):
        total = total * x + np.int64(coefficient)
    return total


@_evaluate.register
def _(op: ClientRefresh, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    return rescaled(args[0], op.ratio)


@_evaluate.register
def _(op: ClientBits, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    return np.moveaxis(index_bits(table_indices(args[0], op.ratio, op.shift, op.bits), op.bits), 0, 1)


@_evaluate.register
def _(op: TableLookup, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    places = 1 << np.arange(args[0].shape[1], dtype=np.int64)
    return np.asarray(np.array(op.table, dtype=np.int64)[np.tensordot(args[0], places, axes=(1, 0)).astype(np.int64)])


@_evaluate.register
def _(op: Pixels, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    (down, right), (rows, columns) = op.first, op.step
    images = args[0].reshape(len(args[0]), *op.image)
    return images[:, :, down::rows, right::columns].reshape(len(images), -1)


@_evaluate.register
def _(op: Fold, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    return args[0][:, op.order]


@_evaluate.register
def _(op: Shorten, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    half = (1 << op.shift) >> 1
    limit = 1 << op.bits - 1
    return np.asarray(np.clip(args[0].astype(np.int64) + half >> op.shift, -limit, limit - 1))


@_evaluate.register
def _(op: WordTable, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    return np.asarray(np.array(op.table, dtype=np.int64)[args[0].astype(np.int64) + len(op.table) // 2])


@_evaluate.register(Switch)
@_evaluate.register(Unpack)
@_evaluate.register(Interleave)
def _(op: Switch | Unpack | Interleave, node: Node, graph: Graph, args: tuple[Value, ...]) -> Value:
    return args[0]  # representation only: the tensor is the same


@_evaluate.register
def _(op: Softmax, node: Node | None, graph: Graph | None, args: tuple[Value, ...]) -> Value:
    x = _client_value(node, graph, args[0])
    shifted = x - x.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.asarray(shifted - log_sum if op.log else np.exp(shifted - log_sum))


@_evaluate.register
def _(op: ArgMax, node: Node | None, graph: Graph | None, args: tuple[Value, ...]) -> Value:
    index = np.argmax(_client_value(node, graph, args[0]), axis=-1)
    # float like all values that the client makes: an integer tensor would read as fixed point
    return np.asarray(np.expand_dims(index, -1) if op.keepdims else index).astype(np.float64)


def _client_value(node: Node | None, graph: Graph | None, x: Value) -> F64:
    return np.asarray(x if graph is None or node is None else real(graph.operands(node)[0], x), dtype=np.float64)
