"""Canonical form: flat tensors, at most one dense map between two nonlinearities, nothing dead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.errors import ModelError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node, prune
from glyphc.ir.ops import Apply, ArgMax, Const, Dense, Input, Output, Reshape, Scale, Softmax
from glyphc.ir.types import Level

from .base import Context, Pass

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Pending:
    """An affine map of ``base`` (a flat node of the new graph) that is not emitted yet.

    matrix: None for elementwise maps, else (out, in), applied to base; then factor * x + shift elementwise. Weights are
    gathered here so that Gemm, batch normalisation and scalings become one dense map.
    """

    base: Node
    matrix: F64 | None
    factor: F64
    shift: F64
    location: str

    @property
    def identity(self) -> bool:
        return self.matrix is None and bool(np.all(self.factor == 1) and np.all(self.shift == 0))

    @property
    def uniform(self) -> bool:
        """The same affine function for every element: it can ride on a univariate function."""
        return self.matrix is None and bool(
            np.all(self.factor == self.factor[0]) and np.all(self.shift == self.shift[0])
        )

    def scaled(self, factor: F64, shift: F64, location: str) -> _Pending:
        return _Pending(
            self.base, self.matrix, self.factor * factor, self.shift * factor + shift, _join(self.location, location)
        )

    def mapped(self, weight: F64, bias: F64, location: str) -> _Pending:
        inner = self.factor[:, None] * self.matrix if self.matrix is not None else np.diag(self.factor)
        product = weight @ inner if self.matrix is not None else weight * self.factor
        return _Pending(
            self.base, product, np.ones(len(weight)), weight @ self.shift + bias, _join(self.location, location)
        )


def _join(*locations: str) -> str:
    """Source names, each once, in order."""
    parts = [p for location in locations for p in location.split("+") if p]
    return "+".join(dict.fromkeys(parts))


@dataclass(frozen=True)
class Fold(Pass):
    """Fold affine chains into dense maps, flatten tensors, compose adjacent nonlinearities, drop dead nodes."""

    name: ClassVar[str] = "fold"
    requires: ClassVar[Level] = Level.SOURCE
    ensures: ClassVar[Level] = Level.SOURCE

    def run(self, graph: Graph, context: Context) -> Graph:
        live = graph.live()
        if not any(isinstance(graph.node(i).op, Dense | Scale | Apply) for i in live):
            raise ModelError("the network computes nothing between its inputs and outputs: there is nothing to encrypt")
        folder = _Folder(graph)
        for node in graph:
            if node.id in live:
                folder.visit(node)
        return prune(folder.new)


class _Folder:
    def __init__(self, graph: Graph) -> None:
        self.old = graph
        self.new = Graph(graph.level, graph.batch)
        self.pending: dict[int, _Pending] = {}  # encrypted values, by old node id
        self.client: dict[int, Node] = {}  # values that the client computes, by old node id
        self.emitted: dict[_Pending, Node] = {}  # one dense map serves all users of a value (compared by identity)

    def visit(self, node: Node) -> None:
        op = node.op
        if isinstance(op, Input):
            new = self.new.add(op, location=node.location)
            if len(op.shape) != 1:
                new = self.new.add(Reshape((new.type.size,)), (new,), location=node.location)
            size = new.type.size
            self.pending[node.id] = _Pending(new, None, np.ones(size), np.zeros(size), "")
        elif isinstance(op, Softmax | ArgMax | Output):
            self._client(node)
        elif node.operands and node.operands[0] in self.client:
            if not isinstance(op, Reshape):
                raise ModelError(
                    f"{node} follows softmax or argmax, which the client computes after decryption; nothing but "
                    "reshapes, softmax and argmax can follow them"
                )
            self._client(node)
        else:
            operand = self.pending[node.operands[0]]
            shape = self.old.operands(node)[0].type.shape
            if isinstance(op, Reshape):
                self.pending[node.id] = operand
            elif isinstance(op, Scale):
                factor, shift = (self._elementwise(c, shape) for c in (op.factor, op.shift))
                self.pending[node.id] = operand.scaled(factor, shift, node.location)
            elif isinstance(op, Dense):
                weight, bias = (self.old.constant(c.name).astype(np.float64) for c in (op.weight, op.bias))
                self.pending[node.id] = operand.mapped(weight, bias, node.location)
            elif isinstance(op, Apply):
                self.pending[node.id] = self._apply(op, node, operand)
            else:
                raise ModelError(f"{node} cannot be folded into dense maps and nonlinearities")

    def _elementwise(self, const: Const, shape: tuple[int, ...]) -> F64:
        return np.broadcast_to(self.old.constant(const.name).astype(np.float64), shape).reshape(-1)

    def _apply(self, op: Apply, node: Node, operand: _Pending) -> _Pending:
        base, functions, location = operand.base, op.functions, node.location
        if isinstance(base.op, Apply) and operand.uniform:
            # f(a*g(x) + b) is one function of x: one bootstrap instead of two
            if not operand.identity:
                functions = (Function("affine", (float(operand.factor[0]), float(operand.shift[0]))), *functions)
            functions, location = base.op.functions + functions, _join(base.location, operand.location, location)
            (base,) = self.new.operands(base)
        else:
            # a nonlinearity reads the result of a dense map, if need be of the identity
            base = self._emit(operand, force=True)
        new = self.new.add(Apply(functions), (base,), location=location)
        return _Pending(new, None, np.ones(new.type.size), np.zeros(new.type.size), "")

    def _emit(self, pending: _Pending, force: bool = False) -> Node:
        if pending.identity and not force:
            return pending.base
        if pending in self.emitted:
            return self.emitted[pending]
        matrix = np.eye(pending.base.type.size) if pending.matrix is None else pending.matrix
        label = pending.location or pending.base.location or "identity"
        weight = self.new.add_constant(f"{label}.weight", pending.factor[:, None] * matrix)
        bias = self.new.add_constant(f"{label}.bias", pending.shift)
        node = self.new.add(Dense(Const(weight), Const(bias)), (pending.base,), location=label)
        return self.emitted.setdefault(pending, node)

    def _client(self, node: Node) -> None:
        """Output and what the client computes: these keep the shapes of the model."""
        if node.operands[0] in self.client:
            operand = self.client[node.operands[0]]
        else:
            pending = self.pending[node.operands[0]]
            operand = self._emit(pending, force=isinstance(pending.base.op, Input | Reshape))
            shape = self.old.operands(node)[0].type.shape
            if shape != operand.type.shape:
                operand = self.new.add(Reshape(shape), (operand,), location=node.location)
        self.client[node.id] = self.new.add(node.op, (operand,), location=node.location)
