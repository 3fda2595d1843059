"""Bootstraps of different nodes share one ciphertext.

Two values that are bootstrapped independently of each other (parallel branches, several small tensors) become one:
their linear maps are stacked into one with all rows, and every nonlinearity reads the whole of it. What a function
makes of rows that are not its own is bounded, and met by zero weights afterwards. So the half of a bootstrap that all
functions of a value share is paid once; each function is still paid for.

Rows of different origin have different scales. The merged value is given in units of its limits, [-1, 1], and each
function begins with the scaling of its own rows: the integers stay those of the separate maps, and so do the results.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.analysis.noise import public_norm
from glyphc.errors import ParameterError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.matrices import Full, Matrix, stacked, widened
from glyphc.ir.ops import Apply, Const, Linear, Switch
from glyphc.ir.types import Calibration, FixedPoint, Guard, Level, TensorType

from .base import Context, Pass
from .image_search import better, image_plan
from .layout_search import Room, Search, check_room
from .readers import is_bootstrapped

I64 = npt.NDArray[np.int64]
_BINS = 64


@dataclass(frozen=True)
class Merge(Pass):
    """Let bootstraps share a ciphertext wherever the layout planner finds the whole program cheaper for it.

    ring, max_chunks: as of ``assign-layout``.
    """

    name: ClassVar[str] = "merge"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.ASSIGNED
    slots: ClassVar[bool | None] = False
    ring: int = 65536
    max_chunks: int = 16

    def __post_init__(self) -> None:
        check_room(self.name, self.ring, self.max_chunks)

    def run(self, graph: Graph, context: Context) -> Graph:
        kept_apart: set[frozenset[str]] = set()
        apart = None
        while (pair := next((p for p in _pairs(graph) if _names(p) not in kept_apart), None)) is not None:
            apart = self._seconds(graph, context) if apart is None else apart
            together = self._together(graph, pair, context)
            if together is None or together >= apart:
                kept_apart.add(_names(pair))
                continue
            graph, apart = _merged(graph, pair, self._decision(pair, together, apart, graph.batch)), together
        return graph

    def _seconds(self, graph: Graph, context: Context) -> float:
        """Predicted seconds per sample, in the layouts that would be chosen."""
        room = Room(self.ring, self.max_chunks, context.room)
        images = image_plan(graph, room, context.prices, context.models)
        try:
            search = Search.over(graph, room, context.prices, context.models)
        except ParameterError:
            if isinstance(images, str):
                raise
            return images.seconds(context.prices) / images.batch
        if not isinstance(images, str) and better(images, search, context.prices):
            return images.seconds(context.prices) / images.batch
        return search.seconds_per_sample(context.prices)

    def _together(self, graph: Graph, pair: tuple[Node, Node], context: Context) -> float | None:
        """The same with the pair merged; None when that is not possible."""
        try:
            return self._seconds(_merged(graph, pair), context)
        except (CycleError, ParameterError):  # one needs the other's result, or both are too wide for one ciphertext
            return None

    def _decision(self, pair: tuple[Node, Node], together: float, apart: float, batch: int) -> Decision:
        names = " and ".join(n.location or str(n) for n in pair)
        return Decision(
            self.name,
            "one ciphertext",
            (
                Candidate("one ciphertext", together * batch, f"{names} share the first half of their bootstraps"),
                Candidate("apart", apart * batch, "each pays for bootstraps of its own"),
            ),
        )


# -- which --


def _pairs(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Maps worth merging: neighbours in size among those of one stage.

    Stages are counted from the inputs (as early as the operands allow) and from the outputs (as late as the users do):
    a short branch may go along with the beginning or the end of a long one.
    """
    candidates = [n for n, _ in graph.of(Linear) if _mergeable(n, graph)]
    for stages in (_stages_from_inputs(graph), _stages_to_outputs(graph)):
        ordered = sorted(candidates, key=lambda n: (stages[n.id], n.type.size, n.id))
        yield from (p for p in pairwise(ordered) if stages[p[0].id] == stages[p[1].id])


def _names(pair: tuple[Node, Node]) -> frozenset[str]:
    """What a pair of maps is known by while ids change."""
    return frozenset(n.op.bias.name for n in pair if isinstance(n.op, Linear))


def _mergeable(node: Node, graph: Graph) -> bool:
    """Whether nothing but nonlinearities reads a map's result, and nothing but maps what these give."""
    if not is_bootstrapped(node, graph) or not all(isinstance(u.op, Switch) for u in graph.users(node)):
        return False
    results = [apply for switch in graph.users(node) for apply in graph.users(switch)]
    readers = [r for apply in results for r in _readers(apply, graph)]
    return all(isinstance(a.op, Apply) for a in results) and all(isinstance(r.op, Linear) for r in readers)


def _readers(node: Node, graph: Graph) -> Iterator[Node]:
    for user in graph.users(node):
        if isinstance(user.op, Switch):
            yield from _readers(user, graph)
        else:
            yield user


def _stages_from_inputs(graph: Graph) -> dict[int, int]:
    """Nonlinearities on the longest way from an input, by node id."""
    stages: dict[int, int] = {}
    for node in graph:
        stages[node.id] = max((stages[i] for i in node.operands), default=0) + isinstance(node.op, Apply)
    return stages


def _stages_to_outputs(graph: Graph) -> dict[int, int]:
    """Nonlinearities on the longest way to an output, by node id."""
    stages: dict[int, int] = {}
    for node in reversed(list(graph)):
        ways = [stages[u.id] + isinstance(u.op, Apply) for u in graph.users(node)]
        stages[node.id] = max(ways, default=0)
    return stages


# -- how --


@dataclass(frozen=True)
class _Rows:
    """The rows of a merged value that come from one map: its type, and the first row."""

    type: TensorType
    first: int
    unit: int  # the merged value's limit, in integers

    def scaling(self) -> Function:
        """From the merged value's [-1, 1] to the rows' own real values."""
        fixed = _format(self.type)
        return Function("affine", (fixed.scale[0] * self.unit, fixed.offset[0]))

    def widened(self, narrow: Matrix, size: int) -> Matrix:
        """A map of these rows as one of all ``size`` rows."""
        return widened(narrow, self.first, size)


def _merged(graph: Graph, pair: tuple[Node, Node], *decisions: Decision) -> Graph:
    """The graph with two maps stacked into one; CycleError when one depends on the other."""
    first, second = pair
    unit = max(_format(n.type).magnitude for n in pair)
    rows = {first.id: _Rows(first.type, 0, unit), second.id: _Rows(second.type, first.type.size, unit)}
    origin = {node.id: _origin(node, graph, rows) for node in graph}
    rewriter = Rewriter(graph)
    for id in _order(graph, {second.id: first.id}):
        node = graph.node(id)
        source = origin[id]
        if source is None:
            _keep(node, rewriter, [origin[i] for i in node.operands])
        elif id == first.id:
            merged = _stacked(pair, rewriter, unit, decisions)
            rewriter.replace(first, merged)
            rewriter.replace(second, merged)
        else:
            _widen(node, source, rewriter)
    return rewriter.new


def _order(graph: Graph, contracted: dict[int, int]) -> Iterator[int]:
    """Node ids, operands first, otherwise as they were; contracted ones count as the node they became a part of."""
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for node in graph:
        sorter.add(contracted.get(node.id, node.id), *(contracted.get(i, i) for i in node.operands))
    sorter.prepare()
    ready = list(sorter.get_ready())
    while ready:
        heapq.heapify(ready)
        id = heapq.heappop(ready)
        yield id
        sorter.done(id)
        ready += sorter.get_ready()


def _origin(node: Node, graph: Graph, rows: dict[int, _Rows]) -> _Rows | None:
    """The rows that a node's value stands for: of a merged map, and of the switches and nonlinearities behind it."""
    while node.id not in rows and isinstance(node.op, Switch | Apply):
        (node,) = graph.operands(node)
    return rows.get(node.id)


def _stacked(pair: tuple[Node, Node], rewriter: Rewriter, unit: int, decisions: tuple[Decision, ...]) -> Node:
    """One map with the rows of both."""
    size = sum(n.type.size for n in pair)
    rows: dict[int, list[tuple[int, Matrix]]] = {}
    operands: dict[int, Node] = {}
    biases = []
    first = 0
    for node in pair:
        assert isinstance(node.op, Linear)
        for operand, weight in zip(rewriter.operands(node), node.op.weights, strict=True):
            operands[operand.id] = operand
            rows.setdefault(operand.id, []).append((first, rewriter.old.matrix(weight)))
        biases.append(rewriter.old.constant(node.op.bias.name))
        first += node.type.size
    # one encrypted part hides the whole
    hidden = any(isinstance(n.op, Linear) and n.op.encrypted for n in pair)
    weights = [stacked(parts, size) for parts in rows.values()]
    if hidden:
        weights = [Full(w.dense()) for w in weights]
    location = "|".join(n.location for n in pair)
    new = rewriter.new
    references = tuple(new.add_matrix(_unused(rewriter, f"{location}.weight"), w) for w in weights)
    bias = Const(new.add_constant(_unused(rewriter, f"{location}.bias"), np.concatenate(biases)))
    type = replace(
        pair[0].type,
        shape=(size,),
        calibration=_calibration(pair, unit),
        fixed=FixedPoint((1 / unit,), (0.0,), -unit, unit),
    )
    # nodes of one shape were decided on alike
    made = tuple(dict.fromkeys(d for n in pair for d in n.decisions)) + decisions
    norms = tuple(map(public_norm, weights)) if hidden else ()
    return new.add(Linear(references, bias, norms), tuple(operands.values()), type, location, made)


def _unused(rewriter: Rewriter, name: str) -> str:
    """A name for a new constant that none of the old graph may still be copied to."""
    unique, count = name, 0
    while unique in rewriter.old.constants or unique in rewriter.new.constants:
        count += 1
        unique = f"{name}.{count}"
    return unique


def _calibration(pair: tuple[Node, Node], unit: int) -> Calibration | None:
    """Range, histogram and guard of both, in the merged value's units."""
    centres, counts, ends, guards = [], [], [], []
    for node in pair:
        seen, fixed = node.type.calibration, _format(node.type)
        if seen is None:
            return None
        edges = (np.linspace(seen.lo, seen.hi, len(seen.histogram) + 1) - fixed.offset[0]) / (fixed.scale[0] * unit)
        ends += [edges[0], edges[-1]]
        centres.append((edges[1:] + edges[:-1]) / 2)
        counts.append(seen.histogram)
        if seen.guard is not None:
            planned = [(e - fixed.offset[0]) / (fixed.scale[0] * unit) for e in (seen.guard.lo, seen.guard.hi)]
            guards.append(replace(seen.guard, lo=planned[0], hi=planned[1]))
    lo, hi = float(min(ends)), float(max(ends))
    histogram, _ = np.histogram(np.concatenate(centres), _BINS, (lo, hi), weights=np.concatenate(counts))
    guard = None
    if guards:
        guard = Guard(
            min(g.lo for g in guards),
            max(g.hi for g in guards),
            max(g.price for g in guards),
            max(g.left for g in guards),
            max(g.held_out for g in guards),
        )
    return Calibration(lo, hi, tuple(int(c) for c in histogram), guard=guard)


def _widen(node: Node, rows: _Rows, rewriter: Rewriter) -> None:
    """A switch or nonlinearity behind a merged map, for all of its rows."""
    (operand,) = rewriter.operands(node)
    type = replace(node.type, shape=operand.type.shape)
    op = node.op
    if isinstance(op, Switch) and _is_linear(node, rewriter.old):
        type = replace(operand.type, scheme=node.type.scheme, encoding=node.type.encoding)
        same = [u for u in rewriter.new.users(operand) if u.op == op]
        if same:  # both maps had one
            rewriter.replace(node, same[0])
            return
        node = replace(node, location=operand.location)
    elif isinstance(op, Apply):
        op = replace(op, functions=_composed(rows.scaling(), op.functions))
    rewriter.replace(node, rewriter.new.add(op, (operand,), type, node.location, node.decisions))


def _is_linear(node: Node, graph: Graph) -> bool:
    return isinstance(graph.operands(node)[0].op, Linear)


def _composed(scaling: Function, functions: tuple[Function, ...]) -> tuple[Function, ...]:
    """Functions after a scaling; two scalings are one."""
    if functions[0].name != "affine":
        return (scaling, *functions)
    (a, b), (c, d) = scaling.parameters, functions[0].parameters
    return (Function("affine", (a * c, b * c + d)), *functions[1:])


def _keep(node: Node, rewriter: Rewriter, origins: list[_Rows | None]) -> None:
    """A node as it was; a map that reads merged rows gets zero weights for the others."""
    if not isinstance(node.op, Linear) or not any(origins):
        rewriter.keep(node)
        return
    rewriter.copy_constants(node)
    operands = rewriter.operands(node)
    weights = list(node.op.weights)
    for at, (rows, operand) in enumerate(zip(origins, operands, strict=True)):
        if rows is not None:
            wide = rows.widened(rewriter.old.matrix(weights[at]), operand.type.size)
            weights[at] = rewriter.new.add_matrix(_unused(rewriter, weights[at].name), wide)
    op = replace(node.op, weights=tuple(weights))
    rewriter.replace(node, rewriter.new.add(op, operands, node.type, node.location, node.decisions))


def _format(type: TensorType) -> FixedPoint:
    assert type.fixed is not None
    return type.fixed
