"""Where every tensor stands in the ring: one grid for all bootstraps, and the unpackings that linear maps need.

The plan follows from one number, the slots of a bootstrap (half of the values it refreshes), since every
bootstrapped tensor stands on the same grid g = N / (2 * slots), block by block of one sample:

* A linear map of a *fresh* input (zero outside its useful positions): inputs are the fast index, outputs the slow one.
  x = sum_j x_j X^(j s), W = sum_ij w_ij X^(i g - j s) with all j s < g: z_i stands at X^(i g). Several inputs per
  ciphertext, no unpacking.
* A linear map of a *resident* (bootstrapped) value on the grid, garbage between: split it into P >= (outputs) parts by
  automorphisms; part r holds features r, r+P, ... at stride P g; W_r = sum_iq w_i,(r+qP) X^(i g - q P g). z_i
  stands at X^(i g); other terms land on other multiples of g in the block or on no useful position.

Both facts are tested with exact polynomial products (tests/test_ir_layout.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from glyphc.errors import ParameterError
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.layout import Layout, next_power_of_two
from glyphc.ir.ops import Apply, Input, Linear, Reshape, Switch, Unpack
from glyphc.ir.types import Level, Scheme

from .base import Context, Pass, check_ring

# A transform of level budget b needs at least 2^b slots.
MIN_SLOTS = 8


@dataclass(frozen=True)
class AssignLayout(Pass):
    """Choose slots and layouts for the batch, insert unpackings. A batch too large for one pass is cut down to
    what fits."""

    name: ClassVar[str] = "assign-layout"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.LAIDOUT
    ring: int = 65536

    def __post_init__(self) -> None:
        check_ring(self.name, self.ring)

    def run(self, graph: Graph, context: Context) -> Graph:
        widest = self._widest(graph)
        batch = min(graph.batch, self._capacity(graph, widest))
        block = self.ring // next_power_of_two(batch)
        grid = self._grid(graph, batch)
        rewriter = Rewriter(graph, Level.LAIDOUT, batch)
        unpacked: dict[int, Node] = {}
        for node in graph:
            operands = rewriter.operands(node)
            linear_users = [u for o in graph.operands(node) for u in graph.users(o) if isinstance(u.op, Linear)]
            if linear_users and not isinstance(node.op, Switch) and not self._is_fresh(operands[0]):
                # all readers go through the one unpacking, outputs too: the bootstrap divides by its factor
                key = node.operands[0]
                if key not in unpacked:
                    parts = max(self._parts(u, graph, grid) for u in linear_users)
                    unpacked[key] = self._unpack(operands[0], parts, rewriter)
                operands = (unpacked[key],)
            layout = self._layout(node, operands, graph, batch, block, grid)
            rewriter.copy_constants(node)
            decisions = node.decisions
            if isinstance(node.op, Apply) or (isinstance(node.op, Input) and batch < graph.batch):
                decisions += (self._explain(graph, batch, grid, widest, context),)
            type = replace(node.type, layout=layout)
            rewriter.replace(node, rewriter.new.add(node.op, operands, type, node.location, decisions))
        return rewriter.new

    # -- sizes --

    def _widest(self, graph: Graph) -> Node:
        """The linear map with the most outputs: it limits the batch."""
        return max((n for n, _ in graph.of(Linear)), key=lambda n: n.type.size)

    def _capacity(self, graph: Graph, widest: Node) -> int:
        """Largest batch of one pass, a power of two: all outputs of a layer stand in one ciphertext."""
        width = next_power_of_two(widest.type.size)
        if width > self.ring:
            raise ParameterError(
                f"{widest} has {widest.type.size} outputs; a layer can have at most {self.ring}, the ring dimension. "
                "Split it into several layers or use a narrower network"
            )
        return self.ring // width

    def _grid(self, graph: Graph, batch: int) -> int:
        """Stride of the values that a bootstrap reads: as coarse as the widest nonlinearity allows."""
        widths = [next_power_of_two(n.type.size) for n, _ in graph.of(Apply)]
        if not widths:
            return 1
        values = next_power_of_two(batch) * max(widths)
        return self.ring // max(values, 2 * MIN_SLOTS)

    def _parts(self, user: Node, graph: Graph, grid: int) -> int:
        """Ciphertexts that the operand of a linear map is split into."""
        outputs = next_power_of_two(user.type.size)
        if _bootstrapped(user, graph):
            return outputs
        # what the client reads need not stand on the grid: outputs may fill the gaps in between
        return max(1, outputs // grid)

    # -- layouts --

    def _layout(
        self, node: Node, operands: tuple[Node, ...], graph: Graph, batch: int, block: int, grid: int
    ) -> Layout | None:
        if isinstance(node.op, Input):
            return self._fresh(node, graph, batch, block, grid)
        if node.type.scheme is Scheme.CLIENT:
            return None
        source = operands[0].type.layout
        assert source is not None
        if isinstance(node.op, Apply):
            return replace(source, grid=grid, zero_elsewhere=False)
        if not isinstance(node.op, Linear):
            return source
        fresh = source.zero_elsewhere
        room = (
            block // next_power_of_two(node.type.size) if fresh else source.stride // next_power_of_two(node.type.size)
        )
        stride = grid if _bootstrapped(node, graph) else max(1, room)
        # The products put garbage on every difference of input positions plus every output position.
        finest = min(stride, source.stride)
        return Layout(self.ring, batch, node.type.size, 1, stride, block, finest, False)

    def _fresh(self, node: Node, graph: Graph, batch: int, block: int, grid: int) -> Layout:
        """Inputs: as many features per ciphertext as stand between two outputs of every map that reads them."""
        features = node.type.size
        gap = block
        for user in _linear_users(node, graph):
            outputs = next_power_of_two(user.type.size)
            gap = min(gap, grid if _bootstrapped(user, graph) else max(1, block // outputs))
        per_part = min(gap, next_power_of_two(features))
        parts = -(-features // per_part)
        stride = gap // per_part
        return Layout(self.ring, batch, features, parts, stride, block, stride, True)

    def _unpack(self, node: Node, parts: int, rewriter: Rewriter) -> Node:
        layout = node.type.layout
        assert layout is not None
        if parts == 1:
            return node
        split = replace(layout, parts=parts, stride=layout.stride * parts, grid=layout.grid)
        return rewriter.new.add(Unpack(parts), (node,), replace(node.type, layout=split), node.location)

    def _is_fresh(self, node: Node) -> bool:
        return node.type.layout is not None and node.type.layout.zero_elsewhere

    def _explain(self, graph: Graph, batch: int, grid: int, widest: Node, context: Context) -> Decision:
        slots = self.ring // (2 * grid)
        asked = f"batch {graph.batch}" if batch == graph.batch else f"batch {graph.batch} in passes of {batch}"
        return Decision(
            self.name,
            f"{slots} slots, grid {grid}",
            (
                Candidate(
                    f"{slots} slots, grid {grid}",
                    None,
                    f"{asked}: the widest layer, {widest}, has {widest.type.size} outputs per sample",
                ),
                Candidate(
                    f"{slots // 2} slots",
                    None,
                    "too few for the widest nonlinearity"
                    if slots > MIN_SLOTS
                    else "fewer than the transforms of a bootstrap can have",
                ),
                Candidate(f"{slots * 2} slots", None, "would bootstrap empty positions"),
            ),
        )


def _linear_users(node: Node, graph: Graph) -> list[Node]:
    """Linear maps that read the value, through reshapes."""
    found: list[Node] = []
    for user in graph.users(node):
        if isinstance(user.op, Linear):
            found.append(user)
        elif isinstance(user.op, Reshape | Switch):
            found += _linear_users(user, graph)
    return found


def _bootstrapped(node: Node, graph: Graph) -> bool:
    """Whether a nonlinearity reads the value, through switches and reshapes."""
    return any(
        isinstance(u.op, Apply) or (isinstance(u.op, Switch | Reshape) and _bootstrapped(u, graph))
        for u in graph.users(node)
    )
