"""Reverse-mode differentiation on the source IR.

A network's graph describes one sample; a step program describes a whole batch as one tensor with the batch as its
first axis, and has the weights as inputs. :func:`forward` makes the first half of such a program, :func:`backward`
appends the gradients. Both only ever add nodes to one graph; each op has one rule (Baydin et al., "Automatic
differentiation in machine learning: a survey", 2018, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from math import prod

import numpy as np

from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import (
    Add,
    Affine,
    Apply,
    Concat,
    Dense,
    Div,
    Gather,
    Input,
    MatMul,
    Max,
    Min,
    Mul,
    Op,
    ReduceMax,
    ReduceSum,
    Reshape,
    Scale,
    Scatter,
    Softmax,
    Sparse,
    Sub,
    SumTo,
)
from glyphc.ir.ops import Hardmax as HardmaxOp

from .builder import Builder
from .convolutions import patches_of, pooled
from .derivatives import chain_derivatives
from .errors import TrainingError

Gradients = tuple["Node | None", ...]

# Of the sparse matrix that maps a whole batch: 16 bytes for each.
_MOST_ENTRIES = 10**8


# -- forward: one sample -> a batch --


@dataclass(frozen=True)
class Forward:
    """values: the step program's node for each of the network's nodes, by id."""

    values: dict[int, Node]


def forward(network: Graph, last: Node, batch: int, builder: Builder, weights: Mapping[str, Node]) -> Forward:
    """The network up to ``last`` on ``batch`` samples at once. weights: nodes that stand for constants of dense layers
    and of convolutions that are trained."""
    needed = _ancestors(network, last)
    values: dict[int, Node] = {}
    # means of a convolution's pixels are one layer with it
    means = {n.id: source for n in network if n.id in needed and (source := _trained_source(network, n, weights))}
    inside = {source.id for source in means.values()}
    for node in network:
        if node.id in needed and node.id not in inside:
            builder.location = node.location
            if node.id in means:
                convolution = means[node.id]
                context = _Context(network, convolution, batch, builder, weights)
                (operand,) = convolution.operands
                values[node.id] = _convolved(context, values[operand], node)
                continue
            operands = tuple(values[i] for i in node.operands)
            values[node.id] = _batched(node.op, _Context(network, node, batch, builder, weights), operands)
    builder.location = ""
    return Forward(values)


def _trained_source(network: Graph, node: Node, weights: Mapping[str, Node]) -> Node | None:
    """The convolution with weights of its own that a node takes means of."""
    source = pooled(network, node)
    return source if source is not None and _is_trained(source.op, weights) else None


def _is_trained(op: Op, weights: Mapping[str, Node]) -> bool:
    return isinstance(op, Affine) and op.kernel is not None and op.kernel.name in weights


def _ancestors(network: Graph, last: Node) -> frozenset[int]:
    needed = {last.id}
    for node in reversed(list(network)):
        if node.id in needed:
            needed.update(node.operands)
    return frozenset(needed)


@dataclass(frozen=True)
class _Context:
    network: Graph
    node: Node
    batch: int
    builder: Builder
    weights: Mapping[str, Node]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch, *self.node.type.shape)

    def between_layers(self, x: Node, operand: int) -> Node:
        """What a dense layer reads; where that are another one's sums, or those with something added, through the
        identity: so a linear bottleneck has an activation as all layers have."""
        source = self.network.node(operand)
        while isinstance(source.op, Reshape):
            (source,) = self.network.operands(source)
        return self.builder.apply(x, "affine", 1.0, 0.0) if isinstance(source.op, Dense | Add) else x


@singledispatch
def _batched(op: Op, c: _Context, args: tuple[Node, ...]) -> Node:
    raise TrainingError(f"{c.node} cannot be part of a trained network: it has no gradient")


@_batched.register
def _(op: Input, c: _Context, args: tuple[Node, ...]) -> Node:
    return c.builder.input(op.name, c.shape)


@_batched.register
def _(op: Reshape, c: _Context, args: tuple[Node, ...]) -> Node:
    return c.builder.reshape(args[0], c.shape)


@_batched.register
def _(op: Dense, c: _Context, args: tuple[Node, ...]) -> Node:
    b = c.builder
    if any(isinstance(w, Sparse) for w in op.weights):
        raise TrainingError(f"{c.node} has sparse weights, which are not trained; give the network as it was read")
    read = [c.between_layers(x, i) for x, i in zip(args, c.node.operands, strict=True)]
    products = [b.matmul(x, c.weights[w.name], False, True) for x, w in zip(read, op.weights, strict=True)]
    return b.add(b.total(products), c.weights[op.bias.name])


@_batched.register
def _(op: Scale, c: _Context, args: tuple[Node, ...]) -> Node:
    return c.builder.scale(args[0], c.network.constant(op.factor.name), c.network.constant(op.shift.name))


@_batched.register(Add)
@_batched.register(Sub)
@_batched.register(Mul)
@_batched.register(Div)
@_batched.register(Max)
@_batched.register(Min)
def _(op: Op, c: _Context, args: tuple[Node, ...]) -> Node:
    # a sample's axes are aligned at the end: shorter ones get axes behind the batch
    rank = len(c.node.type.shape)
    aligned = tuple(
        c.builder.reshape(a, (c.batch, *(1,) * (rank + 1 - len(a.type.shape)), *a.type.shape[1:])) for a in args
    )
    return c.builder.node(op, *aligned)


@_batched.register
def _(op: Concat, c: _Context, args: tuple[Node, ...]) -> Node:
    places = np.arange(prod(c.shape)).reshape(c.shape)
    ends = np.cumsum([a.type.shape[1] for a in args])
    parts = (
        c.builder.scatter(a, places[:, end - a.type.shape[1] : end], c.shape) for a, end in zip(args, ends, strict=True)
    )
    return c.builder.total(list(parts))


@_batched.register
def _(op: Gather, c: _Context, args: tuple[Node, ...]) -> Node:
    indices = c.network.constant(op.indices.name)
    starts = np.arange(c.batch) * prod(args[0].type.shape[1:])
    return c.builder.gather(args[0], starts.reshape(-1, *(1,) * indices.ndim) + indices)


@_batched.register
def _(op: Affine, c: _Context, args: tuple[Node, ...]) -> Node:
    """A fixed map: the same block for every sample; or a convolution that is trained."""
    if _is_trained(op, c.weights):
        return _convolved(c, args[0], None)
    size = prod(args[0].type.shape[1:])
    bias = c.network.constant(op.bias.name)
    one = c.network.matrix(op.matrix(size, c.network.constants)).csr()
    data, indices, indptr = one.data, one.indices, one.indptr
    if c.batch * data.size > _MOST_ENTRIES:
        raise TrainingError(
            f"{c.node} maps a sample with {data.size} numbers, too many for a batch of {c.batch} samples; train in "
            f"batches of at most {max(_MOST_ENTRIES // data.size, 1)}"
        )
    samples = np.arange(c.batch)[:, None]
    columns = samples * size + indices
    ends = samples * data.size + indptr[1:]
    parts = (np.tile(data, c.batch), columns.ravel(), np.append(0, ends), np.tile(bias, c.batch))
    return c.builder.affine(args[0], parts, c.shape)


def _convolved(c: _Context, x: Node, pool: Node | None) -> Node:
    """A convolution, with the means behind it, as one product: patches of all pixels and samples, and weights."""
    op, b = c.node.op, c.builder
    assert isinstance(op, Affine) and op.kernel is not None
    found, shape = patches_of(c.network, c.node, pool), (pool or c.node).type.shape
    if c.batch * found.matrix.nnz > _MOST_ENTRIES:
        raise TrainingError(
            f"{c.node} reads {found.matrix.nnz} numbers for a sample, too many for a batch of {c.batch} samples; train "
            f"in batches of at most {max(_MOST_ENTRIES // found.matrix.nnz, 1)}"
        )
    every = found.batched(c.batch)
    rows = (found.pixels * c.batch, found.size)
    patches = b.affine(x, (every.data, every.indices, every.indptr, np.zeros(every.shape[0])), rows)
    sums = b.add(b.matmul(patches, c.weights[op.kernel.name], False, True), c.weights[op.bias.name])
    places = np.arange(sums.type.size).reshape(found.pixels, c.batch, -1)
    return b.gather(sums, places.transpose(1, 2, 0).reshape(c.batch, *shape))


@_batched.register(Apply)
@_batched.register(Softmax)
@_batched.register(ReduceSum)
@_batched.register(ReduceMax)
@_batched.register(HardmaxOp)
def _(op: Op, c: _Context, args: tuple[Node, ...]) -> Node:
    return c.builder.node(op, *args)


# -- backward --


def backward(
    builder: Builder, last: Node, seed: Node, wanted: tuple[Node, ...], limit: tuple[Function, ...] = ()
) -> dict[int, Node]:
    """Gradients of sum(seed * last) by the ``wanted`` nodes and all on the way to them, by node id.

    A node is missing where nothing depends on it. limit: functions of what is sent back through a function of one
    value.

    Appends nodes to the builder's graph. TrainingError when a gradient would have to pass an op that has none.
    """
    graph = builder.graph
    active = {n.id for n in wanted}
    before = [graph.node(i) for i in range(last.id + 1)]
    for node in before:
        if active & set(node.operands):
            active.add(node.id)
    gradients: dict[int, Node] = {last.id: seed} if last.id in active else {}
    for node in reversed(before):
        gradient = gradients.get(node.id)
        if gradient is None or isinstance(node.op, Input):
            continue
        operands = graph.operands(node)
        if limit and isinstance(node.op, Apply):
            gradient = builder.node(Apply(limit), gradient)
        pulled = _pull(node.op, _Pull(builder, node, operands, gradient))
        for operand, part in zip(operands, pulled, strict=True):
            if operand.id in active and part is not None:
                known = gradients.get(operand.id)
                gradients[operand.id] = part if known is None else builder.add(known, part)
    return gradients


@dataclass(frozen=True)
class _Pull:
    """A node whose gradient ``g`` is known; rules return the gradients of its operands."""

    b: Builder
    node: Node
    args: tuple[Node, ...]
    g: Node

    def to(self, gradient: Node, operand: int = 0) -> Node:
        """Summed over the axes that the operand was broadcast along."""
        shape = self.args[operand].type.shape
        return gradient if gradient.type.shape == shape else self.b.node(SumTo(shape), gradient)


@singledispatch
def _pull(op: Op, p: _Pull) -> Gradients:
    raise TrainingError(f"no gradient passes {p.node}, which lies between trained weights and the loss")


@_pull.register
def _(op: Reshape, p: _Pull) -> Gradients:
    return (p.b.reshape(p.g, p.args[0].type.shape),)


@_pull.register
def _(op: MatMul, p: _Pull) -> Gradients:
    a, b = p.args
    ta, tb = op.transpose_a, op.transpose_b
    left = p.b.matmul(b, p.g, tb, True) if ta else p.b.matmul(p.g, b, False, not tb)
    right = p.b.matmul(p.g, a, True, ta) if tb else p.b.matmul(a, p.g, not ta, False)
    return left, right


@_pull.register
def _(op: Scale, p: _Pull) -> Gradients:
    return (p.b.scale(p.g, p.b.graph.constant(op.factor.name), np.zeros(())),)


@_pull.register
def _(op: Affine, p: _Pull) -> Gradients:
    shape = p.args[0].type.shape
    back = p.b.graph.matrix(op.matrix(prod(shape), p.b.graph.constants)).csr().T.tocsr()
    return (p.b.affine(p.g, (back.data, back.indices, back.indptr, np.zeros(prod(shape))), shape),)


@_pull.register
def _(op: Add, p: _Pull) -> Gradients:
    return p.to(p.g, 0), p.to(p.g, 1)


@_pull.register
def _(op: Sub, p: _Pull) -> Gradients:
    return p.to(p.g, 0), p.to(p.b.times(p.g, -1.0), 1)


@_pull.register
def _(op: Mul, p: _Pull) -> Gradients:
    a, b = p.args
    return p.to(p.b.mul(p.g, b), 0), p.to(p.b.mul(p.g, a), 1)


@_pull.register
def _(op: Div, p: _Pull) -> Gradients:
    left = p.b.node(Div(), p.g, p.args[1])
    return p.to(left, 0), p.to(p.b.times(p.b.mul(left, p.node), -1.0), 1)


@_pull.register(Max)
@_pull.register(Min)
def _(op: Op, p: _Pull) -> Gradients:
    a, b = p.args
    over = p.b.apply(p.b.node(Sub(), a, b), "greater", 0.0)
    under = p.b.scale(over, np.array(-1.0), np.array(1.0))
    first, second = (over, under) if isinstance(op, Max) else (under, over)
    return p.to(p.b.mul(p.g, first), 0), p.to(p.b.mul(p.g, second), 1)


@_pull.register
def _(op: Gather, p: _Pull) -> Gradients:
    return (p.b.scatter(p.g, p.b.graph.constant(op.indices.name), p.args[0].type.shape),)


@_pull.register
def _(op: Scatter, p: _Pull) -> Gradients:
    return (p.b.gather(p.g, p.b.graph.constant(op.indices.name)),)


@_pull.register(ReduceSum)
@_pull.register(SumTo)
def _(op: Op, p: _Pull) -> Gradients:
    return (p.b.spread(p.g, p.args[0].type.shape, keep_axis=isinstance(op, SumTo)),)


@_pull.register
def _(op: ReduceMax, p: _Pull) -> Gradients:
    shape = p.args[0].type.shape
    return (p.b.mul(p.b.node(HardmaxOp(), p.args[0]), p.b.spread(p.g, shape, keep_axis=False)),)


@_pull.register
def _(op: Softmax, p: _Pull) -> Gradients:
    shape = p.node.type.shape
    if op.log:
        probabilities = p.b.node(Softmax(), p.args[0])
        total = p.b.spread(p.b.node(ReduceSum(), p.g), shape, keep_axis=False)
        return (p.b.node(Sub(), p.g, p.b.mul(probabilities, total)),)
    weighted = p.b.mul(p.g, p.node)
    total = p.b.spread(p.b.node(ReduceSum(), weighted), shape, keep_axis=False)
    return (p.b.node(Sub(), weighted, p.b.mul(p.node, total)),)


@_pull.register
def _(op: Apply, p: _Pull) -> Gradients:
    factors = chain_derivatives(op.functions)
    if factors is None:
        names = ", ".join(map(str, op.functions))
        raise TrainingError(
            f"no gradient passes {p.node} ({names}): a step function is constant wherever it has a derivative"
        )
    gradient = p.g
    for factor in factors:
        gradient = p.b.mul(gradient, p.b.node(Apply(factor), p.args[0]))
    return (gradient,)
