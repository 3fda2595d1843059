"""Why a program is as it is: the decisions that passes made, as text. ``glyphc inspect --why`` prints it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from glyphc.ir.graph import Graph, Node
from glyphc.text_tables import align


def why(node: Node, graph: Graph | None = None) -> str:
    """The decisions made for a node: candidates, costs, and why the losers lost.

    graph: that the node is of; where no choice was made for it, names the nodes nearby whose choices it follows from.
    """
    if not node.decisions:
        near = [] if graph is None else sorted({*_decided(node, graph.operands), *_decided(node, graph.users)})
        follows = f"; it follows from those made for {', '.join(f'%{id}' for id in near)}" if near else ""
        return f"{node}: no choice was made for this node{follows}"
    lines = []
    for decision in dict.fromkeys(node.decisions):
        lines.append(f"{node}: {decision.made_by} chose {decision.chosen}")
        rows = [("  candidate", "seconds", "reason")]
        for c in decision.candidates:
            mark = "*" if c.name == decision.chosen else " "
            rows.append((f"{mark} {c.name}", "" if c.seconds is None else f"{c.seconds:.3g}", c.reason))
        lines += [align(rows), ""]
    return "\n".join(lines).rstrip()


def _decided(node: Node, near: Callable[[Node], Sequence[Node]]) -> set[int]:
    """The nearest nodes with decisions in one direction."""
    seen, waiting = {node.id}, [node]
    found: set[int] = set()
    while waiting:
        for other in near(waiting.pop()):
            if other.decisions:
                found.add(other.id)
            elif other.id not in seen:
                seen.add(other.id)
                waiting.append(other)
    return found
