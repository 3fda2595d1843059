"""A trained network as the file that it came from, with other numbers: convolutions, names and all else stay.

``to_onnx`` writes any graph, but a graph no longer knows which operators it was. Here the file itself is kept, and the
weights that changed are put where the old ones were found. The result is read again: it is what was trained, or None.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from glyphc.errors import ModelError
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Affine
from glyphc.ir.text import to_text

from .from_onnx import read_network
from .onnx_constants import F64, Source, load

# Of float32, which files hold.
_CLOSE = 1e-6


def retrained(
    source: Source, trained: Graph, read: Callable[[Graph], Graph] = lambda graph: graph
) -> ModelProto | None:
    """The model of ``source`` with the constants of ``trained``, a graph that was read from it; None if that fails.

    read: what was done to the graph after it was read. Constants have the names of initializers where a file has them;
    those that are stored transposed, or in another shape, are found by comparing old values. Kernels and shifts of
    convolutions are those of the operator that they come from.
    """
    try:
        model, _ = load(source)
        old = read(read_network(model).graph)
    except ModelError:
        return None
    if old.constants.keys() != trained.constants.keys():
        return None
    written = onnx.ModelProto()
    written.CopyFrom(model)
    initializers, convolutions = {t.name: t for t in written.graph.initializer}, _of_convolutions(written, trained)
    for name, value in trained.constants.items():
        before = old.constant(name)
        if np.array_equal(before, value):
            continue
        tensor = initializers.get(convolutions.get(name, name))
        found = None if tensor is None else _like(numpy_helper.to_array(tensor), before, value)
        if tensor is None or found is None:
            return None
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(found), tensor.name))
    return written if _same(written, trained, read) else None


def _of_convolutions(model: ModelProto, graph: Graph) -> dict[str, str]:
    """Initializers of kernels and shifts, by the constants that were made of them."""
    operators = {node.name: list(node.input) for node in model.graph.node if node.op_type == "Conv" and node.name}
    found: dict[str, str] = {}
    for node, op in graph.of(Affine):
        inputs = operators.get(node.location, [])
        if op.kernel is not None and len(inputs) > 1:
            found |= {op.kernel.name: inputs[1], op.bias.name: inputs[2] if len(inputs) > 2 else ""}
    return found


def _like(stored: F64, before: F64, after: F64) -> F64 | None:
    """The new value as the old one is stored."""
    if before.ndim == 3 and stored.ndim > 3:  # a kernel (taps, outputs, channels)
        before, after = (v.transpose(1, 2, 0).reshape(stored.shape) for v in (before, after))
    elif stored.ndim == before.ndim == 1 and stored.size and before.size % stored.size == 0:  # shifts of all pixels
        before, after = (v.reshape(stored.size, -1)[:, 0] for v in (before, after))
    if stored.size != before.size:
        return None
    if stored.shape != before.shape or not np.allclose(stored, before, rtol=_CLOSE):
        flat = before.T.reshape(stored.shape) if before.ndim == 2 else before.reshape(stored.shape)
        if not np.allclose(stored, flat, rtol=_CLOSE):
            return None
        after = after.T
    return np.asarray(after.reshape(stored.shape).astype(stored.dtype))


def _same(model: ModelProto, trained: Graph, read: Callable[[Graph], Graph]) -> bool:
    """Whether a model is read as this network."""
    try:
        found = read(read_network(model).graph)
    except ModelError:
        return False
    if found.constants.keys() != trained.constants.keys():
        return False
    close = all(
        np.allclose(found.constant(name), value, rtol=_CLOSE, atol=_CLOSE) for name, value in trained.constants.items()
    )
    return close and _structure(found) == _structure(trained)


def _structure(graph: Graph) -> list[str]:
    return [line for line in to_text(graph).splitlines() if line.startswith("%")]
