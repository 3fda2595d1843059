"""Models of old opsets, as they would be written for the oldest opset whose operators glyphc reads.

Nodes keep their names, so messages name what the user knows. ONNX's own version converter is not used: it refuses whole
models for a single operator (Upsample, anything of ``ai.onnx.ml``), and renames values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper

from glyphc.errors import ModelError
from glyphc.ir.errors import FILE_FAULTS

from .onnx_ancient import AncientNodes

# Operators are read as this opset defines them, or a later one.
CURRENT = 13
OLDEST = 1

_DOMAINS = ("", "ai.onnx")


def modernise(model: ModelProto, version: int, label: str) -> None:
    """Rewrite the nodes of a model of opset ``version`` for opset 13; one of a later opset stays as it is.

    ModelError, with the model's ``label``, for a node that is none of its opset.
    """
    if version >= CURRENT:
        return
    _rewrite(model.graph, version, label)
    set_opset(model, CURRENT)


def set_opset(model: ModelProto, version: int) -> None:
    """Say that a model uses an opset."""
    for known in model.opset_import:
        if known.domain in _DOMAINS:
            known.version = version


def _rewrite(graph: GraphProto, version: int, label: str) -> None:
    values = (*graph.value_info, *graph.input, *graph.output)
    known = {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}
    nodes: list[NodeProto] = []
    ancient = AncientNodes(graph, version, known)
    for old in graph.node:
        try:
            nodes += [new for node in ancient.of(old) for new in _current(node, graph, version, known, label)]
        except FILE_FAULTS as e:
            raise ModelError(
                f"{label} is not a valid ONNX model: node {old.name!r} ({old.op_type}) is none of opset {version}: its "
                f"attributes and operands do not fit one another ({type(e).__name__}: {e})"
            ) from e
    # kept alive by the list while the graph lets go of them
    nodes = [_copy(n) for n in nodes]
    del graph.node[:]
    graph.node.extend(nodes)


def _current(
    node: NodeProto, graph: GraphProto, version: int, known: dict[str, int], label: str
) -> Iterable[NodeProto]:
    """A node of opset 7 or later as opset 13 has it."""
    for body in (b for a in node.attribute for b in (a.g, *a.graphs) if b.node):
        _rewrite(body, version, label)
    rule = _RULES.get(node.op_type) if node.domain in _DOMAINS else None
    return (node,) if rule is None or version >= rule[0] else rule[1](_Old(node, graph, version, known))


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


class _Old:
    """A node of an old opset, to be changed in place."""

    def __init__(self, node: NodeProto, graph: GraphProto, version: int, ranks: dict[str, int]) -> None:
        self.node, self.graph, self.version, self._ranks = node, graph, version, ranks

    def take(self, name: str) -> AttributeProto | None:
        """An attribute, which the node has no longer."""
        for at, attribute in enumerate(self.node.attribute):
            if attribute.name == name:
                found = AttributeProto()
                found.CopyFrom(attribute)
                del self.node.attribute[at]
                return found
        return None

    def operand(self, index: int, value: object, dtype: type[np.generic]) -> None:
        """Give the node a constant as an operand."""
        name = f"{self.node.output[0]}.operand{index}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        while len(self.node.input) <= index:
            self.node.input.append("")
        self.node.input[index] = name

    def put(self, name: str, value: object) -> None:
        self.node.attribute.append(helper.make_attribute(name, value))

    def rank(self, index: int) -> int | None:
        return self._ranks.get(self.node.input[index])

    def dtype(self, index: int) -> type[np.generic]:
        """The numpy type of an operand of floats; float32 where it is unknown."""
        name = self.node.input[index]
        for value in (*self.graph.value_info, *self.graph.input, *self.graph.output):
            kind = value.type.tensor_type.elem_type
            if value.name == name and kind:
                return helper.tensor_dtype_to_np_dtype(kind).type
        return np.float32


_Rule = Callable[[_Old], Iterable[NodeProto]]


def _integers(**operands: int) -> _Rule:
    """Attributes of integers that became operands, at these positions."""

    def rewrite(old: _Old) -> Iterator[NodeProto]:
        for name, index in operands.items():
            attribute = old.take(name)
            if attribute is not None:
                old.operand(index, list(attribute.ints) if attribute.ints else [attribute.i], np.int64)
        yield old.node

    return rewrite


def _clip(old: _Old) -> Iterator[NodeProto]:
    for index, name in enumerate(("min", "max"), start=1):
        attribute = old.take(name)
        if attribute is not None:
            old.operand(index, attribute.f, old.dtype(0))
    yield old.node


def _pad(old: _Old) -> Iterator[NodeProto]:
    pads, value = old.take("pads"), old.take("value")
    old.operand(1, list(pads.ints) if pads else [], np.int64)
    if value is not None:
        old.operand(2, value.f, old.dtype(0))
    yield old.node


def _dropout(old: _Old) -> Iterator[NodeProto]:
    """In inference the share of dropped values does not matter."""
    old.take("ratio")
    yield old.node


def _batch_normalization(old: _Old) -> Iterator[NodeProto]:
    """spatial=0, statistics for every place of their own, stays, and is refused: nothing follows that says the same."""
    spatial = old.take("spatial")
    if spatial is not None and not spatial.i:
        old.put("spatial", 0)
    yield old.node


def _scatter(old: _Old) -> Iterator[NodeProto]:
    old.node.op_type = "ScatterElements"
    yield old.node


def _upsample(old: _Old) -> Iterator[NodeProto]:
    """Upsample, and the first Resize, which did the same: corners stay where they are, places are rounded down."""
    scales = old.take("scales")
    if scales is not None:
        old.operand(2, list(scales.floats), np.float32)
    else:
        given = old.node.input[1]
        old.node.input[1] = ""
        old.node.input.append(given)
    old.node.op_type = "Resize"
    old.put("coordinate_transformation_mode", "asymmetric")
    old.put("nearest_mode", "floor")
    yield old.node


def _softmax(old: _Old) -> Iterator[NodeProto]:
    """Over all axes from ``axis`` on together. Where that is the last one alone, it is the Softmax of today."""
    node = old.node
    given = old.take("axis")
    axis, rank = 1 if given is None else given.i, old.rank(0)
    if axis == -1 or (rank is not None and axis == rank - 1):
        old.put("axis", -1)
        yield node
        return
    x, y = node.input[0], node.output[0]
    made = [f"{y}.{part}" for part in ("shape", "matrix", "result")]
    yield helper.make_node("Shape", [x], made[:1], node.name)
    yield helper.make_node("Flatten", [x], made[1:2], node.name, axis=axis)
    yield helper.make_node(node.op_type, made[1:2], made[2:], node.name, axis=-1)
    yield helper.make_node("Reshape", [made[2], made[0]], [y], node.name)


# By operator: the opset from which on it is as today, and what makes today's of an older one.
_RULES: dict[str, tuple[int, _Rule]] = {
    "BatchNormalization": (9, _batch_normalization),
    "Clip": (11, _clip),
    "Dropout": (12, _dropout),
    "Hardmax": (13, _softmax),
    "LogSoftmax": (13, _softmax),
    "Pad": (11, _pad),
    "ReduceSum": (13, _integers(axes=1)),
    "Resize": (11, _upsample),
    "Scatter": (11, _scatter),
    "Slice": (10, _integers(starts=1, ends=2, axes=3)),
    "Softmax": (13, _softmax),
    "Split": (13, _integers(split=1)),
    "Squeeze": (13, _integers(axes=1)),
    "TopK": (10, _integers(k=1)),
    "Unsqueeze": (13, _integers(axes=1)),
    "Upsample": (14, _upsample),
}
