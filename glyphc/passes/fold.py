"""Canonical form: flat tensors, one linear map of all that a nonlinearity needs, nothing dead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.errors import ModelError
from glyphc.ir import memory
from glyphc.ir.errors import IRError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node, prune
from glyphc.ir.matrices import Compressed, Matrix, held_entries, settled
from glyphc.ir.matrix_algebra import added, composed, diagonal, identity, is_identity, negative
from glyphc.ir.ops import (
    Add,
    Affine,
    Apply,
    ArgMax,
    Concat,
    Const,
    Dense,
    Gather,
    Input,
    Output,
    ReduceSum,
    Reshape,
    Scale,
    Softmax,
    Sub,
)
from glyphc.ir.types import Level

from .base import Context, Pass

F64 = npt.NDArray[np.float64]
Shape = tuple[int, ...]

# Of source names that a value is made of: all values keep theirs, so that many more would take quadratic space.
_MOST_NAMES = 256
# Functions of one value in a row that become one: no network has so many, and each is one more for every later pass.
_MOST_COMPOSED = 256


@dataclass(frozen=True, eq=False)
class _Affine:
    """sum of matrix @ base over ``terms``, plus shift: a flat value that is not emitted yet.

    Bases are nodes of the new graph (inputs and nonlinearities), each at most once; matrices are (size, base size).
    Everything affine between two nonlinearities gathers here and becomes one linear map.
    """

    terms: tuple[tuple[Node, Matrix], ...]
    shift: F64
    location: str = ""

    @staticmethod
    def of(base: Node) -> _Affine:
        return _Affine(((base, identity(base.type.size)),), np.zeros(base.type.size))

    @property
    def identity(self) -> bool:
        """Whether this is a base itself."""
        return len(self.terms) == 1 and not self.shift.any() and is_identity(self.terms[0][1])

    def mapped(self, matrix: Matrix, shift: F64 | float, location: str) -> _Affine:
        """matrix @ self + shift."""
        terms = tuple((base, composed(matrix, m, location or self.location)) for base, m in self.terms)
        return _Affine(terms, matrix.times(self.shift) + shift, _join(self.location, location))

    def plus(self, other: _Affine, sign: float, location: str) -> _Affine:
        """self + sign * other."""
        matrices = {base.id: (base, m) for base, m in self.terms}
        for base, m in other.terms:
            known = matrices.get(base.id)
            own = m if sign == 1 else negative(m)
            matrices[base.id] = (base, own if known is None else added(known[1], m, sign))
        shift = self.shift + sign * other.shift
        return _Affine(tuple(matrices.values()), shift, _join(self.location, other.location, location))


def _join(*locations: str) -> str:
    """Source names, each once, in order; of very many, the first ones."""
    parts = list(dict.fromkeys(p for location in locations for p in location.split("+") if p))
    return "+".join(parts if len(parts) <= _MOST_NAMES else [*parts[:_MOST_NAMES], "..."])


def _selection(indices: npt.NDArray[np.int64], size: int) -> Matrix:
    """The matrix that picks elements of a flat tensor."""
    flat = indices.reshape(-1)
    return Compressed.of_parts(np.ones(len(flat)), flat, np.arange(len(flat) + 1), size)


def _broadcast(shape: Shape, target: Shape) -> Matrix:
    size = int(np.prod(shape, dtype=np.int64))
    return _selection(np.broadcast_to(np.arange(size).reshape(shape), target), size)


@dataclass(frozen=True)
class Fold(Pass):
    """Fold affine chains into dense maps, flatten tensors, compose adjacent nonlinearities, drop dead nodes."""

    name: ClassVar[str] = "fold"
    requires: ClassVar[Level] = Level.SOURCE
    ensures: ClassVar[Level] = Level.SOURCE

    def run(self, graph: Graph, context: Context) -> Graph:
        live = graph.live()
        if all(isinstance(graph.node(i).op, Input | Output | Reshape | Softmax | ArgMax) for i in live):
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
        self.pending: dict[int, _Affine] = {}  # encrypted values, by old node id
        self.client: dict[int, Node] = {}  # values that the client computes, by old node id
        self.entries = 0  # of all dense maps so far
        self.emitted: dict[_Affine, Node] = {}  # one dense map serves all users of a value (compared by identity)

    def visit(self, node: Node) -> None:
        if isinstance(node.op, Softmax | ArgMax | Output):
            self._client(node)
        elif any(i in self.client for i in node.operands):
            if not isinstance(node.op, Reshape):
                raise ModelError(
                    f"{node} follows softmax or argmax, which the client computes after decryption; nothing but "
                    "reshapes, softmax and argmax can follow them"
                )
            self._client(node)
        elif isinstance(node.op, Input):
            new = self.new.add(node.op, location=node.location)
            if len(node.op.shape) != 1:
                new = self.new.add(Reshape((new.type.size,)), (new,), location=node.location)
            self.pending[node.id] = _Affine.of(new)
        else:
            self.pending[node.id] = self._fold(node, tuple(self.pending[i] for i in node.operands))

    def _fold(self, node: Node, operands: tuple[_Affine, ...]) -> _Affine:
        op, x = node.op, operands[0]
        shapes = tuple(o.type.shape for o in self.old.operands(node))
        match op:
            case Reshape():
                return x
            case Scale():
                factor, shift = (self._elementwise(c, shapes[0]) for c in (op.factor, op.shift))
                return x.mapped(diagonal(factor), shift, node.location)
            case Dense():
                total = _Affine((), self._constant(op.bias), node.location)
                for weight, operand in zip(op.weights, operands, strict=True):
                    mapped = operand.mapped(self.old.matrix(weight), 0.0, node.location)
                    total = mapped.plus(total, 1.0, node.location)
                return total
            case Add() | Sub():
                a, b = (
                    o.mapped(_broadcast(shape, node.type.shape), 0.0, "")
                    for o, shape in zip(operands, shapes, strict=True)
                )
                return a.plus(b, 1.0 if isinstance(op, Add) else -1.0, node.location)
            case Gather():
                indices = self.old.constant(op.indices.name).astype(np.int64)
                return x.mapped(_selection(indices, len(x.shift)), 0.0, node.location)
            case Affine():
                matrix = self.old.matrix(op.matrix(len(x.shift), self.old.constants))
                return x.mapped(matrix, self._constant(op.bias), node.location)
            case ReduceSum():
                rows, width = node.type.size, shapes[0][-1]
                ends = np.arange(rows + 1) * width
                matrix = Compressed.of_parts(np.ones(rows * width), np.arange(rows * width), ends, rows * width)
                return x.mapped(matrix, 0.0, node.location)
            case Concat():
                return self._concat(node, operands)
            case Apply():
                return self._apply(op, node, x)
        raise ModelError(f"{node} cannot be folded into dense maps and nonlinearities; run 'expand' before 'fold'")

    def _concat(self, node: Node, operands: tuple[_Affine, ...]) -> _Affine:
        total = _Affine((), np.zeros(node.type.size))
        at = 0
        for x in operands:
            size = len(x.shift)
            ends = np.clip(np.arange(node.type.size + 1) - at, 0, size)
            place = Compressed.of_parts(np.ones(size), np.arange(size), ends, size)
            total = total.plus(x.mapped(place, 0.0, node.location), 1.0, node.location)
            at += size
        return total

    def _constant(self, const: Const) -> F64:
        return self.old.constant(const.name).astype(np.float64)

    def _elementwise(self, const: Const, shape: Shape) -> F64:
        return np.broadcast_to(self._constant(const), shape).reshape(-1)

    def _apply(self, op: Apply, node: Node, x: _Affine) -> _Affine:
        step = _common_step(x, op.functions)
        if step is None:
            base = self._emit(x, force=True)  # a nonlinearity reads the result of a dense map
            return _Affine.of(self.new.add(Apply(op.functions), (base,), location=node.location))
        # f(a*g(x) + b) is one function of x: one bootstrap instead of two
        factor, shift = step
        affine = () if (factor, shift) == (1.0, 0.0) else (Function("affine", (factor, shift)),)
        composed = lambda g: (*g, *affine, *op.functions)  # noqa: E731
        for base, _ in x.terms:
            if isinstance(base.op, Apply) and len((*base.op.functions, *op.functions)) > _MOST_COMPOSED:
                raise ModelError(
                    f"{node} is the last of more than {_MOST_COMPOSED} functions of one value in a row; leave out "
                    "those that change nothing"
                )
        return _Affine(tuple(self._composed(t, composed, x, node) for t in x.terms), np.zeros(len(x.shift)))

    def _composed(
        self,
        term: tuple[Node, Matrix],
        functions: Callable[[tuple[Function, ...]], tuple[Function, ...]],
        x: _Affine,
        node: Node,
    ) -> tuple[Node, Matrix]:
        base, matrix = term
        assert isinstance(base.op, Apply)
        location = _join(base.location, x.location, node.location)
        new = self.new.add(Apply(functions(base.op.functions)), self.new.operands(base), location=location)
        return new, matrix.each(lambda w, i, j: np.ones(w.shape) * (w != 0))

    def _emit(self, x: _Affine, force: bool = False) -> Node:
        if x.identity and not force:
            return x.terms[0][0]
        if x in self.emitted:
            return self.emitted[x]
        terms = [t for t in x.terms if t[1].count] or list(x.terms[:1])
        label = x.location or terms[0][0].location or "identity"
        held = [held_entries(m) for _, m in terms]
        self.entries += sum(held)
        memory.require(
            self.entries * memory.MAP_ENTRY_BYTES,
            f"the linear map {label!r} from {' and '.join(str(m.shape[1]) for _, m in terms)} to {len(x.shift)} "
            f"values, with {sum(held):,} entries, beside those before it",
        )
        weights = tuple(self.new.add_matrix(f"{label}.weight", settled(m)) for _, m in terms)
        bias = self.new.add_constant(f"{label}.bias", x.shift)
        node = self.new.add(Dense(weights, Const(bias)), tuple(b for b, _ in terms), location=label)
        return self.emitted.setdefault(x, node)

    def _client(self, node: Node) -> None:
        """Output and what the client computes: these keep the shapes of the model."""
        if node.operands[0] in self.client:
            operand = self.client[node.operands[0]]
        else:
            x = self.pending[node.operands[0]]
            operand = self._emit(x, force=any(not isinstance(base.op, Apply) for base, _ in x.terms))
            shape = self.old.operands(node)[0].type.shape
            if shape != operand.type.shape:
                operand = self.new.add(Reshape(shape), (operand,), location=node.location)
        self.client[node.id] = self.new.add(node.op, (operand,), location=node.location)


def _common_step(x: _Affine, functions: tuple[Function, ...]) -> tuple[float, float] | None:
    """(a, b) when every element is a * (one element of a nonlinearity's result) + b, with the same a and b.

    The functions are then composed with that nonlinearity, for all of its elements: so unless all of them are
    wanted, the functions must be defined everywhere.
    """
    nonlinear = bool(x.terms) and all(isinstance(base.op, Apply) for base, _ in x.terms)
    if not nonlinear or np.any(x.shift != x.shift[0]):
        return None
    # most maps have far more entries
    if sum(m.count for _, m in x.terms) != len(x.shift):
        return None
    matrices = [(base, m.csr()) for base, m in x.terms]
    if np.any(sum(np.diff(m.indptr) for _, m in matrices) != 1):
        return None
    factors = np.concatenate([m.data for _, m in matrices])
    if np.any(factors != factors[0]) or not factors[0]:
        return None
    complete = all(len(np.unique(m.indices)) == base.type.size for base, m in matrices)
    if not complete and not all(map(_defined_everywhere, functions)):
        return None
    return float(factors[0]), float(x.shift[0])


def _defined_everywhere(function: Function) -> bool:
    try:
        function.domain(-sys.float_info.max, sys.float_info.max)
    except IRError:
        return False
    return True
