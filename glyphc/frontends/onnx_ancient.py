"""Nodes of opsets 1 to 6, in which broadcasting was said by attributes, as opset 7 has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

# The oldest opset with today's broadcasting.
BROADCASTS = 7

# Attributes that said how to compute, or that one was training, and mean nothing to the result in inference.
_OBSOLETE = ("broadcast", "consumed_inputs", "is_test", "output_sequence")
_PAIRS = frozenset({"Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "PRelu", "Sub", "Xor"})


class AncientNodes:
    """Rewrites nodes of a graph of opset ``version``; constants that they need are put into the graph.

    ranks: numbers of axes by value name, as far as they are known.
    """

    def __init__(self, graph: GraphProto, version: int, ranks: Mapping[str, int]) -> None:
        self._graph, self._version = graph, version
        self._ranks = {**ranks, **{t.name: len(t.dims) for t in graph.initializer}}

    def of(self, node: NodeProto) -> list[NodeProto]:
        """A node as opset 7 has it, behind what it takes to broadcast."""
        if self._version >= BROADCASTS:
            return [node]
        axis = _take(node, "axis") if node.op_type in _PAIRS else None
        broadcast = _take(node, "broadcast")
        for name in _OBSOLETE:
            _take(node, name)
        before: list[NodeProto] = []
        if node.op_type == "PRelu" or (broadcast is not None and broadcast.i and axis is not None):
            before += self._aligned(node, 1 if axis is None else axis.i)
        rule = _RULES.get(node.op_type)
        if rule is not None and self._version < rule[0]:
            rule[1](self, node)
        return [*before, node]

    def constant(self, node: NodeProto, index: int, value: object) -> None:
        """Give a node integers as an operand."""
        name = f"{node.output[0]}.operand{index}"
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype=np.int64), name))
        while len(node.input) <= index:
            node.input.append("")
        node.input[index] = name

    def _aligned(self, node: NodeProto, axis: int) -> Iterator[NodeProto]:
        """The second operand with axes of size 1 behind it, so that it lies along ``axis`` of the first one."""
        first, second = (self._ranks.get(name) for name in node.input[:2])
        if first is None or not second:
            return
        missing = first - axis % first - second
        if missing <= 0:
            return
        aligned = f"{node.output[0]}.aligned"
        unsqueeze = helper.make_node("Unsqueeze", [node.input[1]], [aligned], node.name)
        unsqueeze.attribute.append(helper.make_attribute("axes", [second + n for n in range(missing)]))
        node.input[1] = aligned
        yield unsqueeze


def _take(node: NodeProto, name: str) -> AttributeProto | None:
    """An attribute, which the node has no longer."""
    for at, attribute in enumerate(node.attribute):
        if attribute.name == name:
            found = AttributeProto()
            found.CopyFrom(attribute)
            del node.attribute[at]
            return found
    return None


def _reshape(nodes: AncientNodes, node: NodeProto) -> None:
    shape = _take(node, "shape")
    if shape is not None:
        nodes.constant(node, 1, list(shape.ints))


def _cast(nodes: AncientNodes, node: NodeProto) -> None:
    """Types were named by texts."""
    to = _take(node, "to")
    if to is not None:
        named = to.type == AttributeProto.STRING
        node.attribute.append(helper.make_attribute("to", TensorProto.DataType.Value(to.s.decode()) if named else to.i))


def _concat(nodes: AncientNodes, node: NodeProto) -> None:
    """Along axis 1 where nothing is said."""
    if all(a.name != "axis" for a in node.attribute):
        node.attribute.append(helper.make_attribute("axis", 1))


def _pad(nodes: AncientNodes, node: NodeProto) -> None:
    pads = _take(node, "paddings")
    if pads is not None:
        node.attribute.append(helper.make_attribute("pads", list(pads.ints)))


def _upsample(nodes: AncientNodes, node: NodeProto) -> None:
    """Factors of height and width had attributes of their own."""
    height, width = _take(node, "height_scale"), _take(node, "width_scale")
    if height is not None and width is not None:
        node.attribute.append(helper.make_attribute("scales", [1.0, 1.0, height.f, width.f]))


_Rule = Callable[[AncientNodes, NodeProto], None]
# By operator: the opset from which on it is as opset 7 has it.
_RULES: dict[str, tuple[int, _Rule]] = {
    "Cast": (6, _cast),
    "Concat": (4, _concat),
    "Pad": (2, _pad),
    "Reshape": (5, _reshape),
    "Upsample": (BROADCASTS, _upsample),
}
