"""The dataflow graph: nodes with one result each and ordered operands; as a networkx graph, for its algorithms.

Graphs are built in topological order (operands first) and not changed afterwards: a pass reads one graph and builds the
next with :class:`Rewriter`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import memory
from .accuracy import Loss
from .errors import IRError
from .integer_parameters import ProgramParameters
from .kronecker import Kronecker
from .matrices import Compressed, Full, Matrix
from .ops import Const, Input, Op, Output, Pixels, Sparse, Weight
from .types import Level, TensorType

if TYPE_CHECKING:
    import networkx as nx

Array = npt.NDArray[Any]
_O = TypeVar("_O", bound=Op)

# Of a network in a file: passes take some milliseconds for each node, and no network that can be computed has so many.
MOST_NODES = 10_000


@dataclass(frozen=True)
class Candidate:
    """One way to do a node, and what became of it. seconds is the predicted cost, None where none was worked out."""

    name: str
    seconds: float | None
    reason: str


@dataclass(frozen=True)
class Decision:
    """A choice among candidates that a pass made for a node: what was chosen and why the others lost.

    warning: what a user should know about the choice, e.g. that no candidate kept to the error budget. losses: what
    the outputs lose with what was chosen, where that was simulated.
    """

    made_by: str
    chosen: str
    candidates: tuple[Candidate, ...]
    warning: str = ""
    losses: tuple[Loss, ...] = ()


@dataclass(frozen=True)
class Node:
    """An op applied to operands; also names its single result. location: the source nodes it came from."""

    id: int
    op: Op
    operands: tuple[int, ...]
    type: TensorType
    location: str = ""
    decisions: tuple[Decision, ...] = ()

    def __str__(self) -> str:
        return f"%{self.id} ({self.op.mnemonic}{f' @{self.location}' if self.location else ''})"


class Graph:
    """A program at one level. ``batch``: samples in one run; ``parameters``: once they are selected."""

    def __init__(self, level: Level, batch: int, parameters: ProgramParameters | None = None) -> None:
        self.level = level
        self.batch = batch
        self.parameters = parameters
        self._nodes: dict[int, Node] = {}
        self._users: dict[int, list[int]] = {}
        self._constants: dict[str, Array] = {}
        self._withheld: set[str] = set()
        self._matrices: dict[Sparse, Matrix] = {}
        self._constant_bytes = 0

    # -- building --

    def add(
        self,
        op: Op,
        operands: tuple[Node, ...] = (),
        type: TensorType | None = None,
        location: str = "",
        decisions: tuple[Decision, ...] = (),
    ) -> Node:
        """Append a node; the shape is inferred from the operands and must agree with ``type`` if that is given."""
        ids = tuple(o.id for o in operands)
        label = f"{op.mnemonic}{f' @{location}' if location else ''}"
        if not (ids if op.arity is None else len(ids) == op.arity):
            wanted = "any number of" if op.arity is None else op.arity
            raise IRError(f"{label} takes {wanted} operand(s), not {len(ids)}")
        if any(i not in self._nodes for i in ids):
            raise IRError(f"{label} uses a node that is not in this graph")
        missing = [name for name in op.constant_names() if name not in self._constants]
        if missing:
            raise IRError(f"{label} uses unknown constant(s) {', '.join(missing)}")
        try:
            shape = op.result_shape(tuple(self.node(i).type.shape for i in ids), self._constants)
        except IRError as e:
            raise IRError(f"{label}: {e}") from None
        memory.require_tensor(shape, label)
        if type is not None and type.shape != shape:
            raise IRError(f"{label}: declared shape {list(type.shape)}, but the op gives {list(shape)}")
        node = Node(len(self._nodes), op, ids, type or TensorType(shape), location, decisions)
        self._nodes[node.id] = node
        self._users[node.id] = []
        for operand in dict.fromkeys(ids):
            self._users[operand].append(node.id)
        return node

    def add_constant(self, name: str, value: Array) -> str:
        """Register a constant; returns the name it got (a suffix is added when the name is taken)."""
        unique, count = name, 1
        while unique in self._constants:
            unique, count = f"{name}.{count}", count + 1
        self._constant_bytes += value.nbytes
        memory.require(self._constant_bytes, f"constant {name!r} and those before it: data that")
        self._constants[unique] = _frozen(value)
        return unique

    def add_matrix(self, name: str, matrix: Matrix) -> Weight:
        """Register the constants of a matrix, in the form that it has."""
        if isinstance(matrix, Full):
            return Const(self.add_constant(name, matrix.values))
        columns = matrix.taps.shape[1] if isinstance(matrix, Kronecker) else matrix.shape[1]
        parts = matrix.arrays()
        # the weights themselves are called like the matrix
        names = {next(iter(parts)): name}
        found = {
            part: Const(self.add_constant(names.get(part, f"{name}.{part}"), _shared(value)))
            for part, value in parts.items()
        }
        return Sparse(columns, **found)

    def withhold(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Register a constant of known type and shape whose values are not in this graph."""
        if name in self._constants:
            raise IRError(f"constant {name!r} is there already")
        self._constants[name] = np.broadcast_to(np.zeros((), dtype=dtype), shape)
        self._withheld.add(name)

    def take_constant(self, other: Graph, name: str) -> None:
        """Register a constant of another graph, which may be a withheld one."""
        value = other._constants[name]
        if name in other._withheld:
            self.withhold(name, value.dtype.name, value.shape)
        else:
            self.add_constant(name, value)

    # -- reading --

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        """All nodes, operands before users."""
        return iter(tuple(self._nodes.values()))

    def node(self, id: int) -> Node:
        return self._nodes[id]

    def bootstrapped(self, node: Node) -> Node:
        """The value that a function is applied to, all pixels of it: what functions share half of a bootstrap for."""
        (value,) = self.operands(node)
        while isinstance(value.op, Pixels):
            (value,) = self.operands(value)
        return value

    def operands(self, node: Node) -> tuple[Node, ...]:
        return tuple(self.node(i) for i in node.operands)

    def users(self, node: Node) -> tuple[Node, ...]:
        """Nodes that read ``node``, each once, in order."""
        return tuple(self.node(i) for i in self._users[node.id])

    def of(self, kind: type[_O]) -> Iterator[tuple[Node, _O]]:
        """(node, op) of all nodes whose op is of ``kind``."""
        for node in self:
            if isinstance(node.op, kind):
                yield node, node.op

    @property
    def inputs(self) -> tuple[Node, ...]:
        return tuple(n for n, _ in self.of(Input))

    @property
    def outputs(self) -> tuple[Node, ...]:
        return tuple(n for n, _ in self.of(Output))

    @property
    def constants(self) -> Mapping[str, Array]:
        """All constants by name; of withheld ones only type and shape mean something."""
        return MappingProxyType(self._constants)

    @property
    def withheld(self) -> frozenset[str]:
        """Names of the constants whose values are not in this graph."""
        return frozenset(self._withheld)

    def constant(self, name: str) -> Array:
        """A constant's values; IRError when they are withheld, so that nobody computes with zeros instead."""
        if name in self._withheld:
            raise IRError(f"the values of constant {name!r} are not in this graph: they are encrypted weights")
        return self._constants[name]

    def matrix(self, weight: Weight) -> Matrix:
        """The matrix of a linear map; IRError when its values are withheld."""
        if isinstance(weight, Const):
            return Full(self.constant(weight.name))
        if weight not in self._matrices:
            data, indices, indptr = (self.constant(c.name) for c in (weight.data, weight.indices, weight.indptr))
            if weight.kernel is None:
                found: Matrix = Compressed.of_parts(data, indices, indptr, weight.columns)
            else:
                kernel = self.constant(weight.kernel.name)
                found = Kronecker.of_taps(kernel, data, indices, indptr, weight.columns)
            self._matrices[weight] = found
        return self._matrices[weight]

    def live(self) -> frozenset[int]:
        """Ids of the nodes that an output depends on (and of all inputs)."""
        # here, as whoever reads a graph alone needs none of its algorithms
        import networkx as nx

        network, keep = self.network(), {n.id for n in self.inputs}
        for output in self.outputs:
            keep |= nx.ancestors(network, output.id) | {output.id}
        return frozenset(keep)

    def network(self) -> nx.MultiDiGraph[int]:
        """A networkx multigraph of the nodes' ids, for its algorithms.

        Nodes have a ``node``; edges a ``position``, which operand of their reader they are.
        """
        import networkx as nx

        made: nx.MultiDiGraph[int] = nx.MultiDiGraph()
        for node in self:
            made.add_node(node.id, node=node)
            for position, operand in enumerate(node.operands):
                made.add_edge(operand, node.id, position=position)
        return made

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Graph)
            and (self.level, self.batch, self.parameters) == (other.level, other.batch, other.parameters)
            and list(self) == list(other)
            and self._constants.keys() == other._constants.keys()
            and self._withheld == other._withheld
            and all(
                v.dtype == other._constants[k].dtype and np.array_equal(v, other._constants[k])
                for k, v in self._constants.items()
            )
        )

    __hash__ = None  # type: ignore[assignment]  # mutable while being built


def _shared(value: Array) -> Array:
    """An array of a matrix, which nobody changes, such that graphs may share it."""
    if value.base is None:
        value.setflags(write=False)
    return value


def _frozen(value: Array) -> Array:
    """The same numbers, which nobody can change: in native byte order, as the text form stores them."""
    dtype = value.dtype.newbyteorder("=")
    if value.base is None and not value.flags.writeable and value.flags.c_contiguous and value.dtype == dtype:
        return value  # graphs share what they agree on
    frozen = np.array(value, dtype=dtype, order="C", copy=True)
    frozen.setflags(write=False)
    return frozen


class Rewriter:
    """Builds the next graph from an old one, node by node, and keeps track of who replaced whom."""

    def __init__(self, old: Graph, level: Level | None = None, batch: int | None = None) -> None:
        self.old = old
        self.new = Graph(level or old.level, batch or old.batch, old.parameters)
        self._map: dict[int, Node] = {}

    def operands(self, node: Node) -> tuple[Node, ...]:
        """The new nodes that stand for the operands of an old node."""
        return tuple(self._map[i] for i in node.operands)

    def made(self, node: Node) -> Node:
        """The new node that stands for an old one."""
        return self._map[node.id]

    def replace(self, node: Node, new: Node) -> Node:
        """From now on ``new`` stands for the old ``node``."""
        self._map[node.id] = new
        return new

    def keep(self, node: Node, type: TensorType | None = None, decisions: tuple[Decision, ...] = ()) -> Node:
        """Copy an old node with its constants; optionally with another type or further decisions."""
        self.copy_constants(node)
        new = self.new.add(node.op, self.operands(node), type or node.type, node.location, node.decisions + decisions)
        return self.replace(node, new)

    def copy_constants(self, node: Node) -> None:
        for name in node.op.constant_names():
            if name not in self.new._constants:
                self.new.take_constant(self.old, name)


def prune(graph: Graph) -> Graph:
    """The same graph without nodes and constants that no output needs."""
    live = graph.live()
    rewriter = Rewriter(graph)
    for node in graph:
        if node.id in live:
            rewriter.keep(node)
    return rewriter.new


def with_constants(graph: Graph, withheld: Collection[str] = (), values: Mapping[str, Array] | None = None) -> Graph:
    """The same graph with some constants withheld, and the values of others, which were, put back.

    IRError for values of another type or shape than the constant's.
    """
    values = values or {}
    new = Graph(graph.level, graph.batch, graph.parameters)
    for name, known in graph._constants.items():
        if name in withheld:
            new.withhold(name, known.dtype.name, known.shape)
        elif name in values:
            if (values[name].dtype, values[name].shape) != (known.dtype, known.shape):
                raise IRError(f"constant {name!r} is {known.dtype} {list(known.shape)}")
            new.add_constant(name, values[name])
        else:
            new.take_constant(graph, name)
    for node in graph:
        new.add(node.op, tuple(new.node(i) for i in node.operands), node.type, node.location, node.decisions)
    return new
