"""Where every tensor stands in the ring, how many bootstraps that takes, and the unpackings that linear maps need.

All bootstraps of a program refresh the same number V of values, which stand on one grid g = N / V. A tensor of w
elements per sample, w' the next power of two, takes w' grid positions per sample; a batch that needs more than V
positions is cut into C = batch w' / V chunks, one ciphertext each: sample s stands in chunk s mod C at block s div C.
So a narrow tensor takes fewer ciphertexts, and fewer bootstraps, than a wide one.

* A linear map of a *fresh* input (zero outside its useful positions): inputs are the fast index, outputs the slow one.
  x = sum_j x_j X^(j s), W = sum_ij w_ij X^(i g - j s) with all j s < g: z_i stands at X^(i g). Several inputs per
  ciphertext, no unpacking, nothing but results on the grid.
* A linear map of a *resident* (bootstrapped) value on the grid, garbage between: split it into P >= (outputs) parts by
  automorphisms; part r holds features r, r+P, ... at stride P g; W_r = sum_iq w_i,(r+qP) X^(i g - q P g). z_i
  stands at X^(i g); other terms land on other multiples of g in the block or on no useful position.
* From more chunks to fewer: with P = w' every part holds one feature, so there is no garbage at all; the chunks'
  results, shifted side by side, add up. Chunks never become more from one bootstrap to the next.

These facts are tested with exact polynomial products (tests/test_ir_layout.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from glyphc.approx.cost import CostModel
from glyphc.errors import ParameterError
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.layout import Layout, next_power_of_two
from glyphc.ir.ops import Apply, Input, Linear, Reshape, Switch, Unpack
from glyphc.ir.types import Level, Scheme

from .base import Context, Pass, check_option, check_ring

# A transform of level budget b needs at least 2^b slots.
MIN_SLOTS = 8
_DEGREE = 27  # typical; the series is chosen later


@dataclass(frozen=True)
class AssignLayout(Pass):
    """Choose slots and layouts for the batch, insert unpackings.

    A batch too large for one pass (more than ``max_chunks`` ciphertexts for one tensor) is cut down to what fits.
    """

    name: ClassVar[str] = "assign-layout"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.LAIDOUT
    ring: int = 65536
    max_chunks: int = 16

    def __post_init__(self) -> None:
        check_ring(self.name, self.ring)
        check_option(self.name, "max_chunks", self.max_chunks, 1, 1024)

    def run(self, graph: Graph, context: Context) -> Graph:
        batch = min(graph.batch, self._capacity(graph))
        plans = [_Plan.make(graph, self.ring, batch, values) for values in self._sizes(graph, batch)]
        plan = min(plans, key=lambda p: p.seconds(context.cost))
        decision = self._explain(graph, plan, plans, context.cost)
        rewriter = Rewriter(graph, Level.LAIDOUT, batch)
        unpacked: dict[int, Node] = {}
        for node in graph:
            operands = tuple(
                self._unpacked(old, new, plan, rewriter, unpacked)
                if old.id in plan.parts and not isinstance(node.op, Switch)
                else new
                for old, new in zip(graph.operands(node), rewriter.operands(node), strict=True)
            )
            rewriter.copy_constants(node)
            decisions = node.decisions
            if isinstance(node.op, Apply) or (isinstance(node.op, Input) and batch < graph.batch):
                decisions += (decision,)
            type = replace(node.type, layout=self._layout(node, operands, plan))
            rewriter.replace(node, rewriter.new.add(node.op, operands, type, node.location, decisions))
        return rewriter.new

    # -- sizes --

    def _capacity(self, graph: Graph) -> int:
        """Largest batch of one pass, a power of two."""
        widest = max((n for n, _ in graph.of(Linear)), key=lambda n: n.type.size)
        width = next_power_of_two(widest.type.size)
        if width > self.ring:
            raise ParameterError(
                f"{widest} has {widest.type.size} outputs; a layer can have at most {self.ring}, the ring dimension. "
                "Split it into several layers or use a narrower network"
            )
        return self.max_chunks * (self.ring // width)

    def _sizes(self, graph: Graph, batch: int) -> list[int]:
        """Numbers of values that a bootstrap of the program could refresh: powers of two."""
        widths = [next_power_of_two(n.type.size) for n, _ in graph.of(Apply)]
        if not widths:
            return [self.ring]
        # one sample's values stay together; nothing is gained beyond the whole batch in one ciphertext
        lowest = max(max(widths), 2 * MIN_SLOTS)
        highest = min(self.ring, max(lowest, next_power_of_two(batch) * max(widths)))
        sizes = [lowest]
        while sizes[-1] < highest:
            sizes.append(2 * sizes[-1])
        fits = [v for v in sizes if next_power_of_two(batch) * max(widths) // v <= self.max_chunks]
        return fits

    # -- layouts --

    def _unpacked(self, old: Node, new: Node, plan: _Plan, rewriter: Rewriter, known: dict[int, Node]) -> Node:
        """All readers go through the one unpacking, outputs too: the bootstrap divides by its factor."""
        parts = plan.parts[old.id]
        if parts == 1:
            return new
        if old.id not in known:
            layout = new.type.layout
            assert layout is not None
            split = replace(layout, parts=parts, stride=layout.stride * parts)
            type = replace(new.type, layout=split)
            known[old.id] = rewriter.new.add(Unpack(parts), (new,), type, new.location)
        return known[old.id]

    def _layout(self, node: Node, operands: tuple[Node, ...], plan: _Plan) -> Layout | None:
        if isinstance(node.op, Input):
            return self._fresh(node, plan)
        if node.type.scheme is Scheme.CLIENT:
            return None
        sources = [o.type.layout for o in operands]
        first = sources[0]
        assert first is not None
        if isinstance(node.op, Apply):
            return replace(first, grid=plan.grid, zero_elsewhere=False)
        if not isinstance(node.op, Linear):
            return first
        stride, chunks = plan.strides[node.id], plan.chunks[node.id]
        # The products put garbage on every difference of input positions plus every output position.
        finest = min(stride, *(s.stride for s in sources if s is not None))
        block = plan.block(chunks)
        return Layout(self.ring, plan.batch, node.type.size, 1, stride, block, finest, False, chunks)

    def _fresh(self, node: Node, plan: _Plan) -> Layout:
        """Inputs: as many features per ciphertext as stand between two outputs of every map that reads them."""
        features, chunks = node.type.size, plan.chunks[node.id]
        block = plan.block(chunks)
        gap = min((plan.strides[u.id] for u in _linear_users(node, plan.graph)), default=block)
        per_part = min(gap, next_power_of_two(features))
        parts = -(-features // per_part)
        stride = gap // per_part
        return Layout(self.ring, plan.batch, features, parts, stride, block, stride, True, chunks)

    def _explain(self, graph: Graph, plan: _Plan, plans: list[_Plan], cost: CostModel) -> Decision:
        asked = f"batch {graph.batch}"
        if plan.batch < graph.batch:
            asked += f" in passes of {plan.batch}"
        candidates = tuple(
            Candidate(p.label, p.seconds(cost), f"{asked}: {p.bootstraps} bootstraps, {p.fill:.0%} full") for p in plans
        )
        return Decision(self.name, plan.label, candidates)


@dataclass
class _Plan:
    """Layouts in numbers, for bootstraps of ``values`` values. By node id of the graph:

    chunks: ciphertexts (before unpacking) of inputs, linear maps and nonlinearities; strides: of the results of linear
    maps; parts: that resident values are split into (of the node that linear maps read).
    """

    graph: Graph
    ring: int
    batch: int
    values: int
    chunks: dict[int, int] = field(default_factory=dict)
    strides: dict[int, int] = field(default_factory=dict)
    parts: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def make(graph: Graph, ring: int, batch: int, values: int) -> _Plan:
        plan = _Plan(graph, ring, batch, values)
        for node in reversed(list(graph)):
            plan._count_chunks(node)
        for node in graph:
            plan._settle_chunks(node)
        for node, _ in graph.of(Linear):
            plan._split_operands(node)
        for node, _ in graph.of(Linear):
            plan._stride(node)
        return plan

    @property
    def grid(self) -> int:
        return self.ring // self.values

    @property
    def label(self) -> str:
        return f"{self.values // 2} slots"

    @property
    def bootstraps(self) -> int:
        return sum(self.chunks[n.id] for n in self._bootstrapped())

    @property
    def fill(self) -> float:
        """Share of what is bootstrapped that carries a useful value."""
        useful = sum(n.type.size * self.batch for n in self._bootstrapped())
        return useful / (self.values * max(1, self.bootstraps))

    def block(self, chunks: int) -> int:
        """Coefficients between two samples of one ciphertext."""
        return min(self.ring, self.ring * chunks // next_power_of_two(self.batch))

    def seconds(self, cost: CostModel) -> float:
        """Predicted seconds of all that depends on the plan."""
        one = cost.bootstrap_seconds(self.values // 2, _DEGREE, self.ring) + 2 * cost.scaled(cost.switch, self.ring)
        splits = sum((parts - 1) * self.chunks[i] for i, parts in self.parts.items())
        return self.bootstraps * one + splits * cost.scaled(cost.automorphism, self.ring)

    def _bootstrapped(self) -> list[Node]:
        return [n for n, _ in self.graph.of(Linear) if _is_bootstrapped(n, self.graph)]

    def _count_chunks(self, node: Node) -> None:
        """As many as the node's own values need, but no fewer than what is computed from it (users come first)."""
        if node.type.scheme is Scheme.CLIENT:
            return
        later = [self.chunks[u.id] for u in self.graph.users(node) if u.id in self.chunks]
        if isinstance(node.op, Input | Reshape | Switch):
            self.chunks[node.id] = max(later, default=1)
            return
        # what the client decrypts may stand between the grid's positions
        to_client = isinstance(node.op, Linear) and not _is_bootstrapped(node, self.graph)
        positions = next_power_of_two(self.batch) * next_power_of_two(node.type.size)
        self.chunks[node.id] = max(1, positions // (self.ring if to_client else self.values), *later)

    def _settle_chunks(self, node: Node) -> None:
        """Only linear maps change the number of chunks, and those for the client take what there is."""
        if node.id not in self.chunks or isinstance(node.op, Input):
            return
        operands = self.graph.operands(node)
        if not isinstance(node.op, Linear):
            self.chunks[node.id] = self.chunks[operands[0].id]
            return
        resident = [self.chunks[o.id] for o in operands if _is_resident(o, self.graph)]
        if resident and not _is_bootstrapped(node, self.graph):
            self.chunks[node.id] = min(resident)
        for operand in operands:
            while isinstance(operand.op, Reshape | Input):
                self.chunks[operand.id] = max(self.chunks[operand.id], self.chunks[node.id])
                if isinstance(operand.op, Input):
                    break
                (operand,) = self.graph.operands(operand)

    def _split_operands(self, node: Node) -> None:
        """Parts of the resident operands of a linear map."""
        outputs = next_power_of_two(node.type.size)
        for operand in self.graph.operands(node):
            if not _is_resident(operand, self.graph):
                continue
            chunks = self.chunks[operand.id]
            if chunks > self.chunks[node.id]:
                parts = self.block(chunks) // self.grid
            elif _is_bootstrapped(node, self.graph):
                parts = outputs
            else:
                # what the client reads need not stand on the grid: outputs may fill the gaps in between
                parts = max(1, outputs // self.grid)
            self.parts[operand.id] = max(parts, self.parts.get(operand.id, 1))

    def _stride(self, node: Node) -> None:
        """Distance of two results in one sample's block."""
        if _is_bootstrapped(node, self.graph):
            self.strides[node.id] = self.grid
            return
        outputs = next_power_of_two(node.type.size)
        rooms = [self.grid * self.parts[o.id] for o in self.graph.operands(node) if o.id in self.parts]
        self.strides[node.id] = max(1, min([self.block(self.chunks[node.id]), *rooms]) // outputs)


def _is_resident(node: Node, graph: Graph) -> bool:
    """Whether a value comes from a bootstrap, through switches and reshapes."""
    if isinstance(node.op, Switch | Reshape):
        return _is_resident(graph.operands(node)[0], graph)
    return isinstance(node.op, Apply)


def _linear_users(node: Node, graph: Graph) -> list[Node]:
    """Linear maps that read the value, through reshapes."""
    return list(_through(node, graph, Linear, Reshape | Switch))


def _is_bootstrapped(node: Node, graph: Graph) -> bool:
    """Whether a nonlinearity reads the value, through switches and reshapes."""
    return any(True for _ in _through(node, graph, Apply, Switch | Reshape))


def _through(node: Node, graph: Graph, wanted: type, transparent: object) -> Iterable[Node]:
    for user in graph.users(node):
        if isinstance(user.op, wanted):
            yield user
        elif isinstance(user.op, transparent):  # type: ignore[arg-type]
            yield from _through(user, graph, wanted, transparent)
