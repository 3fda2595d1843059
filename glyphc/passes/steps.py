"""Comparisons with constants: of inputs, by ranks that the client encrypts; of hidden values, by a steep function.

A comparison by a series is fractional where the value is near the threshold. Of the rank of an input among all of its
thresholds there is no such place: ranks are integers, and the comparison lies half way between two of them. So the
client, who knows the input, encrypts ranks, and a whole ensemble of trees takes two functions in a row: one for all of
its comparisons, one for all of its leaves. A feature with many thresholds is encrypted as several ranks, each among a
few of them in a row (a "ramp"): then half a rank is a larger part of the range, and lower degrees tell it. A rank among
a single threshold is the comparison itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.errors import CalibrationError, GlyphcError
from glyphc.ir.encodings import Ids, Ranks
from glyphc.ir.functions import Function
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.ops import Apply, Concat, Const, Gather, Input, Reshape, Scale, Steps
from glyphc.ir.types import Level
from glyphc.rounding import up

from .base import Context, Pass, check_option
from .expand import Expansion, expands

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

# Of hidden values: half the width of a step, as a share of the largest distance from a threshold.
HALF_STEP = 1 / 32


@dataclass(frozen=True)
class RankInputs(Pass):
    """Encrypt inputs that are compared with constants as ranks among these.

    ramp: among how many thresholds in a row; 1: the client encrypts comparisons; 0: inputs are encrypted as they are.
    comparisons: up to so many different ones in all, the client encrypts them themselves, which saves a bootstrap.
    """

    name: ClassVar[str] = "rank-inputs"
    requires: ClassVar[Level] = Level.SOURCE
    ensures: ClassVar[Level] = Level.SOURCE
    ramp: int = 10
    comparisons: int = 1024

    def __post_init__(self) -> None:
        check_option(self.name, "ramp", self.ramp, 0, 1000)
        check_option(self.name, "comparisons", self.comparisons, 0, 1_000_000)

    def applies(self, graph: Graph) -> bool:
        return graph.level is not Level.SOURCE or any(True for _ in graph.of(Steps))

    def run(self, graph: Graph, context: Context) -> Graph:
        graph = with_ids(graph)
        for _, op in graph.of(Input):
            problem = op.ids.problem(context.samples[op.name]) if op.ids and op.name in context.samples else None
            if problem is not None:
                raise CalibrationError(f"calibration samples of input {op.name!r}: {problem}")
        return with_ranks(graph, self.ramp, self.comparisons) if self.ramp else graph


@dataclass(frozen=True, eq=False)
class _Traced:
    """A value of which every element is factor * (an element of an input) + shift; flat. source: inputs' node ids."""

    source: I64
    element: I64
    factor: F64
    shift: F64

    def at(self, places: I64) -> _Traced:
        return _Traced(self.source[places], self.element[places], self.factor[places], self.shift[places])

    @staticmethod
    def joined(parts: list[_Traced]) -> _Traced:
        return _Traced(
            np.concatenate([p.source for p in parts]),
            np.concatenate([p.element for p in parts]),
            np.concatenate([p.factor for p in parts]),
            np.concatenate([p.shift for p in parts]),
        )


def _trace(graph: Graph) -> dict[int, _Traced]:
    """All values that are inputs but for scales, shapes and places, by node id."""
    known: dict[int, _Traced] = {}
    for node in graph:
        op = node.op
        if isinstance(op, Input) and op.ranks is None:
            size = node.type.size
            known[node.id] = _Traced(np.full(size, node.id), np.arange(size), np.ones(size), np.zeros(size))
            continue
        if not node.operands or any(i not in known for i in node.operands):
            continue
        operands = [known[i] for i in node.operands]
        x = operands[0]
        if isinstance(op, Reshape):
            known[node.id] = x
        elif isinstance(op, Concat):
            known[node.id] = _Traced.joined(operands)
        elif isinstance(op, Gather):
            known[node.id] = x.at(graph.constant(op.indices.name).reshape(-1).astype(np.int64))
        elif isinstance(op, Scale):
            factor, shift = (
                np.broadcast_to(graph.constant(c.name).astype(np.float64), node.type.shape).reshape(-1)
                for c in (op.factor, op.shift)
            )
            known[node.id] = _Traced(x.source, x.element, x.factor * factor, x.shift * factor + shift)
    return known


@dataclass(frozen=True, eq=False)
class _Comparisons:
    """Comparisons of a node, of inputs: sign * [x[element] > threshold] + shift. sign 0: constants."""

    traced: _Traced
    thresholds: F64
    signs: F64
    shifts: F64
    double: bool


def _comparisons(graph: Graph, op: Steps, operand: _Traced) -> _Comparisons:
    """What a node compares of its inputs. A negative factor turns > into <, and that into 1 - [x > another]."""
    x = operand.at(graph.constant(op.features.name).astype(np.int64))
    wanted = graph.constant(op.thresholds.name).astype(np.float64)
    constant = x.factor == 0
    turned = x.factor < 0
    thresholds = np.where(
        constant, 0.0, _last_before(x.factor, x.shift, wanted, np.float64 if op.double else np.float32)
    )
    signs = np.where(constant, 0.0, np.where(turned, -1.0, 1.0))
    shifts = np.where(constant, (x.shift > wanted).astype(np.float64), np.where(turned, 1.0, 0.0))
    return _Comparisons(x, thresholds, signs, shifts, op.double)


def _last_before(factor: F64, shift: F64, wanted: F64, kind: type[np.floating[Any]]) -> F64:
    """The largest x, in single or double precision, before factor * x + shift, rounded to it too, crosses ``wanted``.

    Not (wanted - shift) / factor: behind a scale, several x come to lie on the threshold itself by rounding. Found by
    bisection of all numbers of that precision, which are in the order of their bits.
    """
    largest = np.finfo(kind).max
    top = int(np.array(largest).view(np.int32 if kind is np.float32 else np.int64))
    low: I64 = np.full(len(wanted), -top - 1)
    high: I64 = np.full(len(wanted), top)
    while np.any(low < high):
        middle = (
            (low >> 1) + (high >> 1) + ((low | high) & 1)
        )  # their mean, rounded up, which their sum is too large for
        with np.errstate(over="ignore"):
            above = (factor * _numbered(middle, kind) + shift).astype(kind) > wanted
        before = above == (factor < 0)
        low, high = np.where(before, middle, low), np.where(before, high, middle - 1)
    # where all of them are beyond: a number below all of this precision, or in double precision the first
    lowest = -2.0 * float(largest) if kind is np.float32 else -float(largest)
    return np.where(low < -top, lowest, _numbered(np.maximum(low, -top), kind))


def _numbered(order: I64, kind: type[np.floating[Any]]) -> F64:
    """Numbers of a precision by their place in order, 0 at place 0."""
    bits = np.int32 if kind is np.float32 else np.int64
    places = np.where(order < 0, np.iinfo(bits).min - order, order).astype(bits)
    return np.asarray(places.view(kind), dtype=np.float64)


def with_ids(graph: Graph) -> Graph:
    """The graph with inputs that know which of their elements are looked up, themselves or with an integer added."""
    bounds: dict[int, dict[int, tuple[int, int]]] = {}
    traced = _trace(graph) if any(op.lookup for _, op in graph.of(Steps)) else {}
    for node, op in graph.of(Steps):
        if not op.lookup or node.operands[0] not in traced:
            continue
        x = traced[node.operands[0]].at(graph.constant(op.features.name).astype(np.int64))
        thresholds = graph.constant(op.thresholds.name).astype(np.float64)
        # a row lies on either side of each threshold
        ends = [np.rint((thresholds + side - x.shift) * x.factor).astype(np.int64) for side in (-0.5, 0.5)]
        low, high = np.minimum(*ends), np.maximum(*ends)
        keys = np.stack([x.source, x.element], axis=1)
        for source, element in np.unique(keys[np.abs(x.factor) == 1], axis=0):
            mine = (keys == (source, element)).all(axis=1)
            known = bounds.setdefault(int(source), {})
            before = known.get(int(element), (int(low[mine].min()), int(high[mine].max())))
            known[int(element)] = max(before[0], int(low[mine].min())), min(before[1], int(high[mine].max()))
    rewriter = Rewriter(graph)
    for node in graph:
        found = bounds.get(node.id)
        if found is None or not isinstance(node.op, Input):
            rewriter.keep(node)
            continue
        elements = sorted(found)
        lowest, highest = zip(*(found[e] for e in elements), strict=True)
        if any(a > b for a, b in zip(lowest, highest, strict=True)):
            raise GlyphcError(f"input {node.op.name!r} has ids that are looked up in tables that have no row in common")
        new = replace(node.op, ids=Ids(tuple(elements), lowest, highest))
        rewriter.replace(node, rewriter.new.add(new, location=node.location))
    return rewriter.new if bounds else graph


def with_ranks(graph: Graph, ramp: int, comparisons: int) -> Graph:
    """The graph with inputs as ranks where they are compared, among at most ``ramp`` thresholds each.

    Of at most so many ``comparisons``, among one each.
    """
    traced = _trace(graph)
    found = {
        node.id: _comparisons(graph, op, traced[node.operands[0]])
        for node, op in graph.of(Steps)
        if node.operands[0] in traced
    }
    if not found:
        return graph
    needed = _needed(graph, frozenset(found))
    count = sum(len(t) for node in graph.inputs for t in _knots(node, found).values())
    builder = _Builder(Rewriter(graph), 1 if count <= comparisons else ramp)
    for node in graph:
        if isinstance(node.op, Input):
            builder.input(node, node.op, found, node.id in needed)
    bits = builder.bits()
    for node in graph:
        if node.id in found:
            builder.steps(node, found[node.id], bits)
        elif node.id in needed and not isinstance(node.op, Input):
            builder.rewriter.keep(node)
    return builder.rewriter.new


def _needed(graph: Graph, replaced: frozenset[int]) -> frozenset[int]:
    """Nodes that outputs need when some no longer read their operands."""
    needed = {n.id for n in graph.outputs}
    for node in reversed(list(graph)):
        if node.id in needed and node.id not in replaced:
            needed.update(node.operands)
    return frozenset(needed)


@dataclass(eq=False)
class _Builder:
    """Builds the graph with ranks. places: of a comparison (input, element, threshold), where its bit is."""

    rewriter: Rewriter
    ramp: int

    def __post_init__(self) -> None:
        self.places: dict[tuple[int, int, float], int] = {}
        self.direct: list[Node] = []
        self.compared: list[Node] = []
        self._ranks: list[tuple[tuple[int, int, float], bool]] = []

    def input(self, node: Node, op: Input, found: Mapping[int, _Comparisons], raw: bool) -> None:
        """An input with its ranks, and the elements themselves where something else reads them."""
        new = self.rewriter.new
        knots = _knots(node, found)
        if not knots:
            self.rewriter.keep(node)
            return
        features: list[int] = list(range(node.type.size)) if raw else []
        counts = [0] * len(features)
        values: list[float] = []
        blocks: list[tuple[int, F64]] = []
        for element, thresholds in knots.items():
            for block in np.array_split(thresholds, -(-len(thresholds) // self.ramp)):
                features.append(element)
                counts.append(len(block))
                values += map(float, block)
                blocks.append((element, block))
        double = any(c.double for c in found.values() if len(_of_input(node, c)[0]))
        ranks = Ranks(tuple(features), tuple(counts), tuple(values), double)
        encoded = new.add(replace(op, ranks=ranks), location=node.location)
        first = len(features) - len(blocks)
        if raw:
            self.rewriter.replace(node, self._gather(encoded, np.arange(first).reshape(node.type.shape)))
        places, middles, keys = [], [], []
        single, single_keys = [], []
        for number, (element, block) in enumerate(blocks, first):
            for j, threshold in enumerate(block):
                key = (node.id, element, float(threshold))
                if len(block) == 1:
                    single.append(number)
                    single_keys.append(key)
                else:
                    places.append(number)
                    middles.append(-(j + 0.5))
                    keys.append(key)
        if single:
            self.direct.append(self._gather(encoded, np.array(single)))
            self._ranks += [(k, True) for k in single_keys]
        if places:
            x = self._gather(encoded, np.array(places))
            constants = [self._constant(name, v) for name, v in (("one", 1.0), ("middles", np.array(middles)))]
            self.compared.append(new.add(Scale(*constants), (x,), location=node.location))
            self._ranks += [(k, False) for k in keys]

    def bits(self) -> Node:
        """All comparisons, one behind the other."""
        new = self.rewriter.new
        parts = list(self.direct)
        if self.compared:
            x = self.compared[0] if len(self.compared) == 1 else new.add(Concat(), tuple(self.compared))
            parts.append(new.add(Apply((Function("smooth_step", (-0.5, 0.5)),)), (x,), location="comparisons"))
        keys = [k for k, direct in self._ranks if direct] + [k for k, direct in self._ranks if not direct]
        self.places = {key: n for n, key in enumerate(keys)}
        return parts[0] if len(parts) == 1 else new.add(Concat(), tuple(parts))

    def steps(self, node: Node, c: _Comparisons, bits: Node) -> None:
        """The comparisons of one node, of all the bits."""
        keys = zip(c.traced.source, c.traced.element, c.thresholds, c.signs, strict=True)
        places = [self.places[int(s), int(e), float(t)] if sign else 0 for s, e, t, sign in keys]
        x = self._gather(bits, np.array(places))
        if np.any(c.signs != 1) or np.any(c.shifts):
            constants = [self._constant(name, v) for name, v in (("signs", c.signs), ("shifts", c.shifts))]
            x = self.rewriter.new.add(Scale(*constants), (x,), location=node.location)
        self.rewriter.replace(node, x)

    def _gather(self, x: Node, places: I64) -> Node:
        return self.rewriter.new.add(Gather(self._constant("places", places.astype(np.int64))), (x,))

    def _constant(self, name: str, value: npt.ArrayLike) -> Const:
        return Const(self.rewriter.new.add_constant(f"ranks.{name}", np.asarray(value)))


def _knots(node: Node, found: Mapping[int, _Comparisons]) -> dict[int, F64]:
    """All thresholds of an input, by element, in order."""
    pairs = [_of_input(node, c) for c in found.values()]
    elements = np.concatenate([e for e, _ in pairs])
    thresholds = np.concatenate([t for _, t in pairs])
    return {int(e): np.unique(thresholds[elements == e]) for e in np.unique(elements)}


def _of_input(node: Node, c: _Comparisons) -> tuple[I64, F64]:
    mine = (c.traced.source == node.id) & (c.signs != 0)
    return c.traced.element[mine], c.thresholds[mine]


# -- of hidden values --


@expands(Steps)
def _steps(e: Expansion) -> Node:
    """The distance from the threshold, in units of the largest one of each feature, and a steep function of it."""
    op = e.node.op
    assert isinstance(op, Steps)
    graph = e.rewriter.old
    features = graph.constant(op.features.name).astype(np.int64)
    thresholds = graph.constant(op.thresholds.name).astype(np.float64)
    values = e.ranges[0].reshape(len(e.ranges[0]), -1)[:, features]
    distances = np.abs(values - thresholds)
    largest = dict(_largest(features, distances))
    units = np.array([up(largest[int(f)] or 1.0) for f in features])
    near = distances < HALF_STEP * units
    share, touched = float(near.mean()), float(near.any(axis=1).mean())
    reason = (
        f"{share:.1%} of the comparisons are nearer to their thresholds than {HALF_STEP:.3g} of the largest distance "
        f"and fractional; {touched:.0%} of the calibration samples have some"
    )
    decision = Decision(e.options.name, "smooth steps", (Candidate("smooth steps", None, reason),))
    x = e.gather(e.operands[0], features)
    scaled = e.add(Scale(e.constant("units", 1 / units), e.constant("thresholds", -thresholds / units)), x)
    return e.apply(scaled, "smooth_step", -HALF_STEP, HALF_STEP, decisions=(decision,))


def _largest(features: I64, distances: F64) -> Iterator[tuple[int, float]]:
    """The largest distance from a threshold, by feature."""
    for feature in np.unique(features):
        yield int(feature), float(distances[:, features == feature].max())
