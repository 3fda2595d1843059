"""How the unpackings of a graph are computed, and which automorphisms take keys for that."""

from __future__ import annotations

from .errors import IRError
from .galois import Conjugation
from .graph import Graph, Node
from .layout import Layout
from .ops import Linear, Reshape, Unpack
from .parameters import Parameters


def conjugation(graph: Graph, node: Node) -> Conjugation | None:
    """Over which conjugates the sums of a value's parts go, through reshapes; None where its parts are read.

    IRError, naming the node, where there are none of these numbers, or where something else than sums reads the value.
    """
    if isinstance(node.op, Reshape):
        return conjugation(graph, graph.operands(node)[0])
    if not isinstance(node.op, Unpack):
        return None
    layout = graph.operands(node)[0].type.layout
    assert layout is not None
    if not node.op.babies:
        return _unsaid(graph, node, node.op, layout)
    for user in graph.users(node):
        if not takes_sums(graph, user):
            raise IRError(f"{node} is for sums over conjugates, and {user} reads its parts; leave out its 'babies'")
    try:
        return Conjugation(layout.ring, node.op.parts, layout.stride, node.op.babies)
    except IRError as e:
        raise IRError(f"{node}: {e}") from None


def _unsaid(graph: Graph, node: Node, op: Unpack, layout: Layout) -> Conjugation | None:
    """Of a program that was compiled before unpackings said their baby steps: it has keys for one of the two only."""
    known = graph.parameters
    if not isinstance(known, Parameters) or not known.conjugates or op.parts < 2:
        return None
    if set(strides(op, layout)) <= set(known.unpack_strides):
        return None
    if not all(takes_sums(graph, user) for user in graph.users(node)):
        return None
    steps = Conjugation.of(layout.ring, op.parts, layout.stride)
    return steps if set(steps.elements) <= set(known.conjugates) else None


def takes_sums(graph: Graph, reader: Node) -> bool:
    """Whether a node reads sums of parts alone: a linear map with plaintext weights, or a reshape for such maps.

    Plaintext weights can be given for conjugates as well as for parts; encrypted ones are those of the parts.
    """
    if isinstance(reader.op, Reshape):
        return all(takes_sums(graph, user) for user in graph.users(reader))
    return isinstance(reader.op, Linear) and not reader.op.encrypted


def strides(op: Unpack, layout: Layout) -> tuple[int, ...]:
    """Those at which one unpacking of a value of this layout splits, level by level."""
    return tuple(layout.stride << level for level in range(op.parts.bit_length() - 1))


def column_parts(layout: Layout) -> int:
    """Into how many parts a ciphertext of images is split for its columns: each has one column of one channel."""
    assert layout.image is not None
    return layout.image.group * layout.image.pitch


def column_strides(layout: Layout) -> tuple[int, ...]:
    """Strides at which a value of this layout is split into its columns."""
    return tuple(layout.stride << level for level in range(column_parts(layout).bit_length() - 1))


def split_strides(graph: Graph) -> tuple[int, ...]:
    """Strides at which unpackings split, in ascending order: each needs one automorphism key."""
    found: set[int] = set()
    for node, op in graph.of(Unpack):
        layout = graph.operands(node)[0].type.layout
        assert layout is not None
        if conjugation(graph, node) is None:
            found.update(strides(op, layout))
        if op.edges:
            found.update(column_strides(layout))
    return tuple(sorted(found))


def conjugates(graph: Graph) -> tuple[int, ...]:
    """Exponents of the automorphisms of all sums over conjugates, in ascending order: each needs a key."""
    found = (conjugation(graph, node) for node, _ in graph.of(Unpack))
    return tuple(sorted({g for steps in found if steps is not None for g in steps.elements}))
