"""Where every tensor stands in the ring, as the cheapest plan says; and the unpackings that linear maps need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

from glyphc.analysis.cost import CostModel
from glyphc.errors import ParameterError
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.layout import Layout, next_power_of_two
from glyphc.ir.ops import Apply, Input, Linear, Switch, Unpack
from glyphc.ir.types import Level, Scheme

from . import unpacking
from .base import Context, Pass
from .image_plan import ImagePlan
from .image_rewrite import with_image_layouts
from .image_search import better, image_plan
from .layout_search import LayoutPlan, Room, Search, check_room
from .uploads import Uploads, chosen


class Images(Enum):
    """When networks of images get image layouts. str() is the option's text."""

    AUTO = "auto"  # where that is the cheaper way for a sample
    ALWAYS = "always"  # where it is possible
    NEVER = "never"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class AssignLayout(Pass):
    """Choose slots and layouts for the batch, insert unpackings.

    A batch too large for one pass is cut down to what fits: into ``max_chunks`` ciphertexts for one tensor, and into
    the memory that layouts are made for (``Context.room``). images: see :class:`Images`. uploads: what inputs of other
    networks are to be small in, see :class:`.uploads.Uploads`.
    """

    name: ClassVar[str] = "assign-layout"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.LAIDOUT
    slots: ClassVar[bool | None] = False
    ring: int = 65536
    max_chunks: int = 16
    images: Images = Images.AUTO
    uploads: Uploads = Uploads.SERVER

    def __post_init__(self) -> None:
        check_room(self.name, self.ring, self.max_chunks)

    def run(self, graph: Graph, context: Context) -> Graph:
        room = Room(self.ring, self.max_chunks, context.room)
        images: ImagePlan | str = ""
        if self.images is not Images.NEVER:
            images = image_plan(graph, room, context.prices, context.models)
        search = self._search(graph, room, context, images)
        if isinstance(images, ImagePlan) and (
            search is None or self.images is Images.ALWAYS or better(images, search, context.prices)
        ):
            return with_image_layouts(graph, images, self._explain(graph, search, images, images.label, context))
        assert search is not None
        plan, sending = chosen(search.best, room, context.prices, context.models, self.uploads)
        decision = self._explain(graph, search, images, plan.label, context)
        rewriter = Rewriter(graph, Level.LAIDOUT, plan.batch)
        unpacked: dict[int, Node] = {}
        for node in graph:
            operands = tuple(
                self._unpacked(old, new, plan, rewriter, unpacked, context.prices)
                if old.id in plan.parts and not isinstance(node.op, Switch)
                else new
                for old, new in zip(graph.operands(node), rewriter.operands(node), strict=True)
            )
            rewriter.copy_constants(node)
            decisions = node.decisions + ((sending[node.id],) if node.id in sending else ())
            if isinstance(node.op, Apply) or (isinstance(node.op, Input) and plan.batch < graph.batch):
                decisions += (decision,)
            type = replace(node.type, layout=self._layout(node, operands, plan))
            new = rewriter.new.add(node.op, operands, type, node.location, decisions)
            if node.id in plan.dense:
                new = self._exactly_unpacked(node, new, plan, rewriter, context.prices)
            rewriter.replace(node, new)
        return rewriter.new

    def _unpacked(
        self, old: Node, new: Node, plan: LayoutPlan, rewriter: Rewriter, known: dict[int, Node], prices: CostModel
    ) -> Node:
        """All readers go through the one unpacking, outputs too: the bootstrap divides by its factor."""
        parts = plan.parts[old.id]
        if parts == 1:
            return new
        if old.id not in known:
            layout = new.type.layout
            assert layout is not None
            split = replace(layout, parts=parts, stride=layout.stride * parts)
            known[old.id] = self._split(old, new, Unpack(parts, babies=plan.babies(old)), split, plan, rewriter, prices)
        return known[old.id]

    def _exactly_unpacked(self, old: Node, new: Node, plan: LayoutPlan, rewriter: Rewriter, prices: CostModel) -> Node:
        """A dense input with each feature in a part of its own."""
        layout, parts = new.type.layout, plan.dense[old.id]
        assert layout is not None
        stride = layout.stride * parts
        apart = replace(layout, parts=layout.parts * parts, stride=stride, grid=stride)
        return self._split(old, new, Unpack(parts, parts, plan.babies(old)), apart, plan, rewriter, prices)

    def _split(
        self, old: Node, new: Node, op: Unpack, layout: Layout, plan: LayoutPlan, rewriter: Rewriter, prices: CostModel
    ) -> Node:
        decisions = (unpacking.decision(self.name, plan, old, prices),)
        return rewriter.new.add(op, (new,), replace(new.type, layout=layout), new.location, decisions)

    def _layout(self, node: Node, operands: tuple[Node, ...], plan: LayoutPlan) -> Layout | None:
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

    def _fresh(self, node: Node, plan: LayoutPlan) -> Layout:
        """Inputs: as many features per ciphertext as stand between two outputs of every map that reads them."""
        features, chunks = node.type.size, plan.chunks[node.id]
        if node.id in plan.dense:
            side = plan.dense[node.id]
            sources = -(-features // side)
            return Layout(self.ring, plan.batch, features, sources, 1, plan.block(chunks), 1, True, chunks)
        gap = plan.gap(node)
        per_part = min(gap, next_power_of_two(features))
        parts = -(-features // per_part)
        stride = gap // per_part
        return Layout(self.ring, plan.batch, features, parts, stride, plan.block(chunks), stride, True, chunks)

    def _search(self, graph: Graph, room: Room, context: Context, images: ImagePlan | str) -> Search | None:
        """Plans with features apart; None where only images can be laid out."""
        try:
            return Search.over(graph, room, context.prices, context.models)
        except ParameterError:
            if isinstance(images, str):
                raise
            return None

    def _explain(
        self, graph: Graph, search: Search | None, images: ImagePlan | str, chosen: str, context: Context
    ) -> Decision:
        def reason(plan: LayoutPlan | ImagePlan, what: str) -> str:
            passes = f" in passes of {plan.batch}" if plan.batch < graph.batch else ""
            # the program's parameters, which may be of another one, are selected later
            priced = f", priced with {plan.configuration.shape.label}" if plan.configuration is not None else ""
            needed = max(map(plan.memory_bytes, context.models))
            room = f", {needed / 1e9:.2f} GB of the {context.room / 1e9:.2f} GB that there is room for"
            beyond = room if needed > context.room else ""
            return f"engine {context.planned_for}, batch {graph.batch}{passes}: {what}{priced}{beyond}"

        prices = context.prices
        candidates = [
            Candidate(p.label, p.seconds(prices), reason(p, f"{p.bootstraps} bootstraps, {p.fill:.0%} full"))
            for p in (search.by_label(prices) if search is not None else ())
        ]
        if isinstance(images, str):
            candidates += [Candidate("images", None, images)] if images else []
        else:
            candidates.append(Candidate(images.label, images.seconds(prices), reason(images, images.reason)))
        return Decision(self.name, chosen, tuple(candidates))
