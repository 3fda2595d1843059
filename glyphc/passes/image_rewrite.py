"""An assigned graph with image layouts: masks, pixels by parity, and the unpackings of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from glyphc.ir.graph import Decision, Graph, Node, Rewriter
from glyphc.ir.image_layout import Raster, Steps
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Apply, Fold, Input, Interleave, Linear, Op, Output, Pixels, Reshape, Switch, Unpack, Weight
from glyphc.ir.types import Level, Scheme, TensorType

from .image_plan import ImagePlan
from .image_standings import WHOLE, Read, Unpacked


def with_image_layouts(graph: Graph, plan: ImagePlan, decision: Decision) -> Graph:
    """The graph as the plan says. decision: which says so, for the nonlinearities."""
    return _Images(graph, plan, decision).run()


@dataclass
class _Images:
    """bootstrapped: by id of the old nonlinearity and what is read of it, the value with its channels side by side;
    channels: the same unpacked. read: old nonlinearities that linear maps read whole."""

    graph: Graph
    plan: ImagePlan
    decision: Decision
    bootstrapped: dict[tuple[int, Steps | None, Steps], Node] = field(default_factory=dict)
    channels: dict[Unpacked, Node] = field(default_factory=dict)
    read: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rewriter = Rewriter(self.graph, Level.LAIDOUT, self.plan.batch)
        self.new = self.rewriter.new
        for (id, number), read in self.plan.reads.items():
            if not read.firsts:
                self.read.add(self.plan.value(self.graph.operands(self.graph.node(id))[number]).id)

    def run(self) -> Graph:
        for node in self.graph:
            self._node(node)
        return self.new

    def _node(self, node: Node) -> None:
        plan, rewriter = self.plan, self.rewriter
        decisions = node.decisions
        if isinstance(node.op, Input):
            image = replace(plan.raster(node), beside=1)
            if plan.batch < self.graph.batch:
                decisions += (self.decision,)
            self._add(node, node.op, (), self._layout(node, image, True), decisions)
        elif isinstance(node.op, Linear):
            self._linear(node, node.op)
        elif node.type.scheme is Scheme.CLIENT or isinstance(node.op, Output):
            self._add(node, node.op, tuple(self._plain(o) for o in self.graph.operands(node)), None, decisions)
        elif plan.resident(node):
            pass  # made when it is read
        else:
            operands = rewriter.operands(node)
            self._add(node, node.op, operands, operands[0].type.layout, decisions)

    def _add(
        self, old: Node, op: Op, operands: tuple[Node, ...], layout: Layout | None, decisions: tuple[Decision, ...]
    ) -> None:
        self.rewriter.copy_constants(old)
        type = replace(old.type, layout=layout)
        self.rewriter.replace(old, self.new.add(op, operands, type, old.location, decisions))

    def _layout(self, node: Node, image: Raster, zero_elsewhere: bool) -> Layout:
        plan = self.plan
        chunks = plan.standings[node.id].chunks
        return Layout.of_images(image, plan.ring, plan.batch, plan.stride, zero_elsewhere, chunks)

    # -- linear maps --

    def _linear(self, node: Node, op: Linear) -> None:
        operands: list[Node] = []
        weights: list[Weight] = []
        for number, (operand, weight) in enumerate(zip(self.graph.operands(node), op.weights, strict=True)):
            read, value = self.plan.reads[node.id, number], self.plan.value(operand)
            if not isinstance(value.op, Apply):
                operands.append(self._input(operand, value))
                weights.append(weight)
                continue
            group = self.plan.group * self.plan.standings[value.id].fold
            for first in read.firsts or (None,):
                own, name = self.plan.pictures.stencils[node.id, number], weight.name
                if first is not None:
                    own, name = own.part(first, read.step), f"{name}.{first[0]}.{first[1]}"
                if read.fold > 1:
                    own, name = own.folded(group, read.fold), f"{name}.folded"
                operands.append(self._channels(value, first, read))
                weights.append(weight if name == weight.name else self.new.add_matrix(name, own.matrix))
        new = Linear(tuple(weights), op.bias)
        for name in new.constant_names():
            if name not in self.new.constants:
                self.new.take_constant(self.graph, name)
        type = replace(node.type, layout=self._layout(node, self.plan.raster(node), False))
        made = self.new.add(new, tuple(operands), type, node.location, node.decisions)
        self.rewriter.replace(node, made)

    def _input(self, operand: Node, value: Node) -> Node:
        """What maps read of an input: its channels are apart; the columns at the ends of rows where they are needed."""
        made, key = self.rewriter.made(operand), (value.id, None, WHOLE)
        edges = self.plan.edges.get(key, 0)
        if edges and key not in self.channels:
            self.channels[key] = self.new.add(Unpack(1, edges=edges), (made,), made.type, made.location)
        return self.channels[key] if edges else made

    # -- what comes of bootstraps --

    def _bootstrapped(self, value: Node, first: Steps | None, read: Read) -> Node:
        """A nonlinearity of all pixels, or of every ``step``-th one from ``first`` on, back in the scheme of maps."""
        key = (value.id, first, read.step)
        if key not in self.bootstrapped:
            (source,) = self.rewriter.operands(value)
            if first is not None:
                source = self._pixels(source, value, first, read.step)
            layout, image = _standing(source)
            layout = layout.with_images(image, zero_elsewhere=True)
            assert isinstance(value.op, Apply)
            type = replace(value.type, shape=source.type.shape, layout=layout)
            op, decisions = replace(value.op, mask=layout.mask), (*value.decisions, self.decision)
            found = self.new.add(op, (source,), type, value.location, decisions)
            for switch in self.graph.users(value):
                assert isinstance(switch.op, Switch)
                back = replace(switch.type, shape=type.shape, layout=layout)
                found = self.new.add(switch.op, (found,), back, switch.location, switch.decisions)
            self.bootstrapped[key] = found
        return self.bootstrapped[key]

    def _pixels(self, source: Node, value: Node, first: Steps, step: Steps) -> Node:
        layout, image = _standing(source)
        op = Pixels(image.image, first, step)
        layout = layout.with_images(image.window(first, step))
        same = [u for u in self.new.users(source) if u.op == op]
        return same[0] if same else self.new.add(op, (source,), self._type(source, layout), value.location)

    def _channels(self, value: Node, first: Steps | None, read: Read) -> Node:
        """The same, of several chunks together, with every channel in a ciphertext of its own."""
        key = (value.id, first, read.once)
        if key not in self.channels:
            found = self._bootstrapped(value, first, read)
            layout, image = _standing(found)
            if read.levels:
                image = replace(image, origin=(0, 0), levels=read.levels + image.levels)
                layout = layout.with_images(image, layout.chunks >> len(read.levels))
                found = self.new.add(Interleave(), (found,), self._type(found, layout), found.location)
            if read.fold > 1:
                fold, image = Fold(image.image, image.group, read.fold), image.folded(read.fold)
                layout = layout.with_images(image)
                found = self.new.add(fold, (found,), self._type(found, layout), found.location)
            edges, steps = self.plan.edges.get(key, 0), self.plan.conjugated(value, read)
            if image.group > 1 or edges:
                layout = layout.with_images(replace(image, beside=1))
                op = Unpack(image.group, divided=read.fold, babies=steps.babies if steps else 0, edges=edges)
                found = self.new.add(op, (found,), self._type(found, layout), found.location)
            self.channels[key] = found
        return self.channels[key]

    @staticmethod
    def _type(source: Node, layout: Layout) -> TensorType:
        return replace(source.type, shape=(layout.features,), layout=layout)

    # -- what outputs read --

    def _plain(self, node: Node) -> Node:
        """An old node's value for an output or the client, unpacked where a linear map reads it, too."""
        if node.type.scheme is Scheme.CLIENT or not self.plan.resident(node):
            return self.rewriter.made(node)
        value = self.plan.value(node)
        found = self._channels(value, None, WHOLE) if value.id in self.read else self._bootstrapped(value, None, WHOLE)
        for reshape in self._reshapes(node):
            found = self.new.add(
                reshape.op, (found,), replace(reshape.type, layout=found.type.layout), reshape.location
            )
        return found

    def _reshapes(self, node: Node) -> Sequence[Node]:
        """Reshapes behind a nonlinearity, in order."""
        found: list[Node] = []
        while isinstance(node.op, Switch | Reshape):
            found = [node, *found] if isinstance(node.op, Reshape) else found
            (node,) = self.graph.operands(node)
        return found


def _standing(node: Node) -> tuple[Layout, Raster]:
    layout = node.type.layout
    assert layout is not None and layout.image is not None
    return layout, layout.image
