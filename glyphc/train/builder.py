"""Appends nodes to a source-level graph, in the words that step programs need."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Add, Affine, Apply, Const, Gather, Input, MatMul, Mul, Op, Output, Reshape, Scale, Scatter
from glyphc.ir.types import Level

Array = npt.NDArray[Any]


class Builder:
    """A new graph of one "sample", the batch. Nodes are only appended; location: of those that are appended next."""

    def __init__(self) -> None:
        self.graph = Graph(Level.SOURCE, 1)
        self.location = ""

    def node(self, op: Op, *operands: Node) -> Node:
        return self.graph.add(op, operands, None, self.location)

    def input(self, name: str, shape: tuple[int, ...]) -> Node:
        return self.node(Input(name, shape))

    def output(self, name: str, value: Node) -> Node:
        return self.node(Output(name), value)

    def add(self, a: Node, b: Node) -> Node:
        return self.node(Add(), a, b)

    def mul(self, a: Node, b: Node) -> Node:
        return self.node(Mul(), a, b)

    def total(self, values: list[Node]) -> Node:
        """The sum of one value or more, of one shape."""
        result = values[0]
        for value in values[1:]:
            result = self.add(result, value)
        return result

    def matmul(self, a: Node, b: Node, transpose_a: bool = False, transpose_b: bool = False) -> Node:
        return self.node(MatMul(transpose_a, transpose_b), a, b)

    def reshape(self, x: Node, shape: tuple[int, ...]) -> Node:
        return x if x.type.shape == shape else self.node(Reshape(shape), x)

    def scale(self, x: Node, factor: Array, shift: Array) -> Node:
        """factor * x + shift with constants."""
        f, s = (Const(self.graph.add_constant(name, value)) for name, value in (("factor", factor), ("shift", shift)))
        return self.node(Scale(f, s), x)

    def affine(self, x: Node, parts: tuple[Array, Array, Array, Array], shape: tuple[int, ...]) -> Node:
        """A fixed map to ``shape``. parts: data, column indices and row ends of its sparse matrix, and the shift."""
        data, indices, indptr, bias = parts
        values = (data, indices.astype(np.int64), indptr.astype(np.int64), bias)
        names = ("data", "indices", "indptr", "bias")
        return self.node(
            Affine(shape, *(Const(self.graph.add_constant(n, v)) for n, v in zip(names, values, strict=True))), x
        )

    def times(self, x: Node, factor: float) -> Node:
        return self.scale(x, np.array(float(factor)), np.zeros(()))

    def apply(self, x: Node, name: str, *parameters: float) -> Node:
        return self.node(Apply((Function(name, parameters),)), x)

    def gather(self, x: Node, indices: Array) -> Node:
        return self.node(Gather(Const(self.graph.add_constant("indices", indices.astype(np.int64)))), x)

    def scatter(self, x: Node, indices: Array, shape: tuple[int, ...]) -> Node:
        return self.node(Scatter(Const(self.graph.add_constant("indices", indices.astype(np.int64))), shape), x)

    def spread(self, x: Node, shape: tuple[int, ...], keep_axis: bool) -> Node:
        """Repeat x over the axes that a sum removed: of size 1 (keep_axis), or the last axis itself."""
        source = x.type.shape if keep_axis else (*x.type.shape, 1)
        places = np.arange(prod(source)).reshape(source)
        return self.gather(x, np.broadcast_to(places, shape))
