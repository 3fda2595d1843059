"""How the unpackings of a graph are computed, and which automorphisms take keys for that."""

from __future__ import annotations

from glyphc.ir.errors import IRError
from glyphc.ir.galois import Conjugation
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Linear, Reshape, Unpack


def conjugation(graph: Graph, node: Node) -> Conjugation | None:
    """Over which conjugates the sums of a value's parts go, through reshapes; None where its parts are read.

    IRError where there are none of these numbers, or where something else than sums reads the value.
    """
    if isinstance(node.op, Reshape):
        return conjugation(graph, graph.operands(node)[0])
    if not isinstance(node.op, Unpack) or not node.op.babies:
        return None
    for user in graph.users(node):
        if not takes_sums(graph, user):
            raise IRError(f"{node} is for sums over conjugates, and {user} reads its parts; leave out its 'babies'")
    layout = graph.operands(node)[0].type.layout
    assert layout is not None
    return Conjugation(layout.ring, node.op.parts, layout.stride, node.op.babies)


def takes_sums(graph: Graph, reader: Node) -> bool:
    """Whether a node reads sums of parts alone: a linear map with plaintext weights, or a reshape for such maps.

    Plaintext weights can be given for conjugates as well as for parts; encrypted ones are those of the parts.
    """
    if isinstance(reader.op, Reshape):
        return all(takes_sums(graph, user) for user in graph.users(reader))
    return isinstance(reader.op, Linear) and not reader.op.encrypted


def split_strides(graph: Graph) -> tuple[int, ...]:
    """Strides at which unpackings split, in ascending order: each needs one automorphism key."""
    strides: set[int] = set()
    for node, op in graph.of(Unpack):
        layout = graph.operands(node)[0].type.layout
        assert layout is not None
        if conjugation(graph, node) is None:
            strides |= {layout.stride << level for level in range(op.parts.bit_length() - 1)}
    return tuple(sorted(strides))


def conjugates(graph: Graph) -> tuple[int, ...]:
    """Exponents of the automorphisms of all sums over conjugates, in ascending order: each needs a key."""
    found = (conjugation(graph, node) for node, _ in graph.of(Unpack))
    return tuple(sorted({g for steps in found if steps is not None for g in steps.elements}))
