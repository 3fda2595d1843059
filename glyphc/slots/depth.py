"""Levels that a network takes whose values are in slots."""

from __future__ import annotations

from collections.abc import Callable

from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Input, Linear, Polynomial, Reshape
from glyphc.ir.types import Encoding

from .polynomials import polynomial_depth


def network_depth(graph: Graph, degree: Callable[[Node], int]) -> int:
    """The most levels on any way from an input to an output; ``degree``: of each nonlinearity."""
    spent: dict[int, int] = {}
    for node in graph:
        if node.type.encoding is not Encoding.SLOTS:
            continue
        before = max((spent[i] for i in node.operands), default=0)
        own = 0
        if isinstance(node.op, Linear):
            own = 1
        elif isinstance(node.op, Apply | Polynomial):
            own = polynomial_depth(degree(node)) + reads_input(graph, node)
        spent[node.id] = before + own
    return max(spent.values(), default=0)


def reads_input(graph: Graph, node: Node) -> bool:
    """Whether a nonlinearity reads an input as it comes: then a level brings it to a scale that can be chosen."""
    (source,) = graph.operands(node)
    while isinstance(source.op, Reshape):
        (source,) = graph.operands(source)
    return isinstance(source.op, Input)
