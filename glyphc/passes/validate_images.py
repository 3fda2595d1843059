"""Checks of image layouts: nothing but an image's own pixels, or zeros, lands where a map's results are read."""

from __future__ import annotations

import numpy as np

from glyphc.errors import ParameterError
from glyphc.ir.graph import Graph, Node
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Apply, Bootstrap, Linear
from glyphc.ir.stencils import stencil

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
    """ParameterError where a product with some pixel of an operand puts anything else than that on a result.

    Checked on exponents alone, for all samples of a chunk and every tap. Channels cannot meet: those of the operand
    stand in ciphertexts of their own, at multiples of the room that the result's have side by side.
    """
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
    samples = np.arange(target.per_chunk, dtype=np.int64)
    before, after = read.pixels(samples) * source.stride, made.pixels(samples) * target.stride
    occupied = np.zeros(source.ring, dtype=bool)
    occupied[before.ravel()] = True
    rows, columns = (
        np.arange(size, dtype=np.int64) * step for size, step in zip(made.image[1:], found.stride, strict=True)
    )
    for down, right in found.reads:
        at = after + read.steps(int(down) * read.dilation[0], int(right) * read.dilation[1]) * source.stride
        y, x = np.broadcast_arrays((rows + down)[:, None], (columns + right)[None, :])
        inside = (y >= 0) & (y < read.height) & (x >= 0) & (x < read.width)
        wanted = before[:, y[inside], x[inside]]
        if not (at[:, inside] == wanted).all() or occupied[at[:, ~inside] % source.ring].any():
            raise ParameterError(f"{node}: products with pixels of {operand} collide in the layout {made}; {_BUG}")


def _fit(source: Layout, target: Layout) -> bool:
    """Whether an operand's channels are apart, with zeros around, and its images stand where the result's do."""
    read, made = source.image, target.image
    assert read is not None and made is not None
    one = (read.group, read.rows, read.pitch, read.origin, read.levels)
    same = one == (made.group, made.rows, made.pitch, made.origin, made.levels)
    sizes = (source.ring, source.batch, source.chunks, source.stride)
    alike = sizes == (target.ring, target.batch, target.chunks, target.stride)
    return same and alike and read.beside == 1 and source.zero_elsewhere
