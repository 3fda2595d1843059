"""Checks of image layouts: nothing but an image's own pixels, or zeros, lands where a map's results are read."""

from __future__ import annotations

from glyphc.errors import ParameterError
from glyphc.ir.graph import Graph, Node
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Apply, Bootstrap, Linear, Unpack
from glyphc.ir.stencils import disturbed, stencil

_BUG = "this is a bug of the layout planner, please report it"


def check_masks(graph: Graph) -> None:
    """ParameterError where images are said to have zeros around them that no mask has made."""
    for node in graph:
        layout = node.type.layout
        if layout is None or layout.image is None or not layout.zero_elsewhere:
            continue
        if isinstance(node.op, Apply | Bootstrap) and node.op.mask != layout.mask:
            raise ParameterError(f"{node}: no mask clears what stands around its images; {_BUG}")


def check_pixels(graph: Graph, node: Node, number: int) -> None:
    """ParameterError where a product with some pixel of an operand puts anything else than that on a result: for all
    samples of a chunk, every tap and every group of channels."""
    assert isinstance(node.op, Linear)
    operand = graph.operands(node)[number]
    source, target = operand.type.layout, node.type.layout
    assert source is not None and target is not None
    read, made = source.image, target.image
    if read is None or made is None or not _fit(source, target):
        raise ParameterError(f"{node}: {read} and {made} are not on one raster; {_BUG}")
    found = stencil(graph.matrix(node.op.weights[number]), read.image, made.image)
    if found is None:
        raise ParameterError(f"{node} does not do the same at every pixel of {operand}; {_BUG}")
    edges = operand.op.edges if isinstance(operand.op, Unpack) else 0
    if disturbed(found, read, made, target.per_chunk, source.ring // source.stride, edges):
        raise ParameterError(f"{node}: products with pixels of {operand} collide in the layout {made}; {_BUG}")


def _fit(source: Layout, target: Layout) -> bool:
    """Whether an operand's channels are apart, with zeros around, and its images stand where the result's do."""
    read, made = source.image, target.image
    assert read is not None and made is not None
    same = (read.group, read.rows, read.pitch, read.levels) == (made.group, made.rows, made.pitch, made.levels)
    sizes = (source.ring, source.batch, source.chunks, source.stride)
    alike = sizes == (target.ring, target.batch, target.chunks, target.stride)
    return same and alike and read.beside == 1 and source.zero_elsewhere
