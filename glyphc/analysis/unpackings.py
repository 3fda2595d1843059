"""How the unpackings of a graph are computed, and which automorphisms take keys for that."""

from __future__ import annotations

from glyphc.ir.galois import Conjugation
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Linear, Reshape, Unpack
from glyphc.ir.parameters import Parameters


def conjugation(graph: Graph, node: Node) -> Conjugation | None:
    """Over which conjugates the sums of a value's parts go, through reshapes; None where there are none.

    Of an unpacking whose readers all sum up: plaintext weights can be given for conjugates as well as for parts.
    Encrypted ones are those of the parts, and outputs are the parts. A program whose parameters ask for no keys of
    these conjugates, as an earlier glyphc wrote it, splits.
    """
    if isinstance(node.op, Reshape):
        return conjugation(graph, graph.operands(node)[0])
    if not isinstance(node.op, Unpack) or node.op.parts < 2:
        return None
    if not all(takes_sums(graph, user) for user in graph.users(node)):
        return None
    layout = graph.operands(node)[0].type.layout
    assert layout is not None
    steps = Conjugation.of(layout.ring, node.op.parts, layout.stride)
    known = graph.parameters
    if isinstance(known, Parameters) and not set(steps.elements) <= set(known.conjugates):
        return None
    return steps


def takes_sums(graph: Graph, reader: Node) -> bool:
    """Whether a node reads sums of parts alone: a linear map with plaintext weights, or a reshape for such maps."""
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
