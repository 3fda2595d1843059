"""Canonical form: flat tensors, one dense map of all that a nonlinearity needs, nothing dead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy import sparse

from glyphc.errors import ModelError
from glyphc.ir import memory
from glyphc.ir.errors import IRError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node, prune
from glyphc.ir.matrices import held_entries, matrix
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
    Weight,
)
from glyphc.ir.types import Level

from .base import Context, Pass

F64 = npt.NDArray[np.float64]
Shape = tuple[int, ...]

# An entry of a product of sparse matrices, while it is made and when it is there.
_SPARSE_ENTRY_BYTES = 2 * 16
# Of source names that a value is made of: all values keep theirs, so that many more would take quadratic space.
_MOST_NAMES = 256
# Functions of one value in a row that become one: no network has so many, and each is one more for every later pass.
_MOST_COMPOSED = 256


@dataclass(frozen=True, eq=False)
class _Affine:
    """sum of matrix @ base over ``terms``, plus shift: a flat value that is not emitted yet.

    Bases are nodes of the new graph (inputs and nonlinearities), each at most once; matrices are sparse, (size, base
    size). Everything affine between two nonlinearities gathers here and becomes one dense map.
    """

    terms: tuple[tuple[Node, sparse.csr_array], ...]
    shift: F64
    location: str = ""

    @staticmethod
    def of(base: Node) -> _Affine:
        return _Affine(((base, sparse.eye_array(base.type.size, format="csr")),), np.zeros(base.type.size))

    @property
    def identity(self) -> bool:
        """Whether this is a base itself."""
        if len(self.terms) != 1 or self.shift.any():
            return False
        (base, matrix) = self.terms[0]
        unit = sparse.eye_array(base.type.size, format="csr")
        return bool(matrix.shape == unit.shape and (matrix != unit).nnz == 0)

    def mapped(self, matrix: Any, shift: F64 | float, location: str) -> _Affine:
        """matrix @ self + shift."""
        for base, m in self.terms:
            # entries of the product before those at one place are added up
            count = min(int(np.diff(m.indptr)[matrix.indices].sum()), matrix.shape[0] * m.shape[1])
            what = f"a linear map from {base.type.size} to {matrix.shape[0]} values"
            memory.require(count * _SPARSE_ENTRY_BYTES, f"{location or self.location}: {what}")
        terms = tuple((base, _without_zeros(matrix @ m)) for base, m in self.terms)
        return _Affine(terms, matrix @ self.shift + shift, _join(self.location, location))

    def plus(self, other: _Affine, sign: float, location: str) -> _Affine:
        """self + sign * other."""
        matrices = {base.id: (base, m) for base, m in self.terms}
        for base, m in other.terms:
            known = matrices.get(base.id)
            matrices[base.id] = (base, sign * m if known is None else _without_zeros(known[1] + sign * m))
        shift = self.shift + sign * other.shift
        return _Affine(tuple(matrices.values()), shift, _join(self.location, other.location, location))


def _join(*locations: str) -> str:
    """Source names, each once, in order; of very many, the first ones."""
    parts = list(dict.fromkeys(p for location in locations for p in location.split("+") if p))
    return "+".join(parts if len(parts) <= _MOST_NAMES else [*parts[:_MOST_NAMES], "..."])


def _without_zeros(matrix: Any) -> sparse.csr_array:
    out = sparse.csr_array(matrix)
    out.eliminate_zeros()
    return out


def _selection(indices: npt.NDArray[np.int64], size: int) -> sparse.csr_array:
    """The matrix that picks elements of a flat tensor."""
    flat = indices.reshape(-1)
    return sparse.csr_array((np.ones(len(flat)), (np.arange(len(flat)), flat)), shape=(len(flat), size))


def _broadcast(shape: Shape, target: Shape) -> sparse.csr_array:
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
                return x.mapped(sparse.diags_array(factor, format="csr"), shift, node.location)
            case Dense():
                total = _Affine((), self._constant(op.bias), node.location)
                for weight, operand in zip(op.weights, operands, strict=True):
                    mapped = operand.mapped(self._matrix(weight), 0.0, node.location)
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
                data, indices, indptr = (self.old.constant(c.name) for c in (op.data, op.indices, op.indptr))
                matrix = sparse.csr_array(
                    (data.astype(np.float64), indices, indptr), shape=(node.type.size, len(x.shift))
                )
                return x.mapped(matrix, self._constant(op.bias), node.location)
            case ReduceSum():
                rows, width = node.type.size, shapes[0][-1]
                return x.mapped(sparse.kron(sparse.eye_array(rows), np.ones((1, width)), "csr"), 0.0, node.location)
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
            place = sparse.csr_array(
                (np.ones(size), (np.arange(at, at + size), np.arange(size))), shape=(node.type.size, size)
            )
            total = total.plus(x.mapped(place, 0.0, node.location), 1.0, node.location)
            at += size
        return total

    def _matrix(self, weight: Weight) -> sparse.csr_array:
        return self.old.matrix(weight).csr().astype(np.float64, copy=False)

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
        term: tuple[Node, sparse.csr_array],
        functions: Callable[[tuple[Function, ...]], tuple[Function, ...]],
        x: _Affine,
        node: Node,
    ) -> tuple[Node, sparse.csr_array]:
        base, matrix = term
        assert isinstance(base.op, Apply)
        location = _join(base.location, x.location, node.location)
        new = self.new.add(Apply(functions(base.op.functions)), self.new.operands(base), location=location)
        return new, sparse.csr_array((np.ones(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)

    def _emit(self, x: _Affine, force: bool = False) -> Node:
        if x.identity and not force:
            return x.terms[0][0]
        if x in self.emitted:
            return self.emitted[x]
        terms = [t for t in x.terms if t[1].nnz] or list(x.terms[:1])
        label = x.location or terms[0][0].location or "identity"
        held = [held_entries(m) for _, m in terms]
        self.entries += sum(held)
        memory.require(
            self.entries * memory.MAP_ENTRY_BYTES,
            f"the linear map {label!r} from {' and '.join(str(m.shape[1]) for _, m in terms)} to {len(x.shift)} "
            f"values, with {sum(held):,} entries, beside those before it",
        )
        weights = tuple(self.new.add_matrix(f"{label}.weight", matrix(m)) for _, m in terms)
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
    if np.any(sum(np.diff(m.indptr) for _, m in x.terms) != 1):
        return None
    factors = np.concatenate([m.data for _, m in x.terms])
    if np.any(factors != factors[0]) or not factors[0]:
        return None
    complete = all(len(np.unique(m.indices)) == base.type.size for base, m in x.terms)
    if not complete and not all(map(_defined_everywhere, functions)):
        return None
    return float(factors[0]), float(x.shift[0])


def _defined_everywhere(function: Function) -> bool:
    try:
        function.domain(-sys.float_info.max, sys.float_info.max)
    except IRError:
        return False
    return True
