"""What a value is and what reads it, through ops that leave it as it is: for plans of layouts, of assigned graphs."""

from __future__ import annotations

from collections.abc import Iterable

from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Linear, Reshape, Switch


def is_resident(node: Node, graph: Graph) -> bool:
    """Whether a value comes from a bootstrap, through switches and reshapes."""
    if isinstance(node.op, Switch | Reshape):
        return is_resident(graph.operands(node)[0], graph)
    return isinstance(node.op, Apply)


def origin(node: Node, graph: Graph) -> Node:
    """The input that a value is, through reshapes."""
    return origin(graph.operands(node)[0], graph) if isinstance(node.op, Reshape) else node


def linear_users(node: Node, graph: Graph, transparent: object = Reshape | Switch) -> list[Node]:
    """Linear maps that read the value, through reshapes and, by default, switches."""
    return list(_through(node, graph, Linear, transparent))


def is_bootstrapped(node: Node, graph: Graph) -> bool:
    """Whether a nonlinearity reads the value, through switches and reshapes."""
    return any(True for _ in _through(node, graph, Apply, Switch | Reshape))


def _through(node: Node, graph: Graph, wanted: type, transparent: object) -> Iterable[Node]:
    for user in graph.users(node):
        if isinstance(user.op, wanted):
            yield user
        elif isinstance(user.op, transparent):  # type: ignore[arg-type]
            yield from _through(user, graph, wanted, transparent)
