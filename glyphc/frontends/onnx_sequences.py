"""Sequences of tensors: which tensors they hold is known while a model is read, so nothing of them is left.

``Conversion.sequences`` has the values' names; operators that make or change sequences only write there, and those that
take tensors out of them become Identity, Split and Concat.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto

from .onnx_call import Call, UnknownOperandError
from .onnx_compositions import Parts
from .onnx_constants import DEFAULT_DOMAINS, CombinedSamplesError, UnsupportedError

Names = tuple[str, ...]


def sequence_nodes(call: Call) -> list[NodeProto] | None:
    """Nodes in place of one that has to do with sequences; None for all others. Raises UnsupportedError."""
    node, known = call.node, call.conversion.sequences
    if node.domain not in DEFAULT_DOMAINS:
        return None
    if node.op_type == "Identity" and node.input[0] in known:
        known[node.output[0]] = known[node.input[0]]
        return []
    build = _BUILDERS.get(node.op_type)
    if build is None:
        return None
    parts = Parts(call)
    build(parts)
    return parts.nodes


def _sequence(parts: Parts) -> Names:
    found = parts.call.conversion.sequences.get(parts.input(0))
    if found is None:
        raise UnknownOperandError
    return found


def _keep(parts: Parts, names: Names) -> None:
    parts.call.conversion.sequences[parts.output(0)] = names


def _place(parts: Parts, index: int, count: int, default: int) -> int:
    """A position in a sequence, which may count back from its end."""
    if not parts.input(index):
        return default
    at = parts.call.integers(index, "its position")[0]
    if not -count <= at < count:
        raise UnsupportedError(f"position {at} does not exist in a sequence of {count}")
    return at % count


def _construct(parts: Parts) -> None:
    _keep(parts, tuple(parts.node.input))


def _empty(parts: Parts) -> None:
    _keep(parts, ())


def _insert(parts: Parts) -> None:
    names = list(_sequence(parts))
    names.insert(_place(parts, 2, len(names) + 1, len(names)), parts.input(1))
    _keep(parts, tuple(names))


def _erase(parts: Parts) -> None:
    names = list(_sequence(parts))
    del names[_place(parts, 1, len(names), len(names) - 1)]
    _keep(parts, tuple(names))


def _at(parts: Parts) -> None:
    names = _sequence(parts)
    parts.add("Identity", names[_place(parts, 1, len(names), 0)], to=parts.output(0))


def _length(parts: Parts) -> None:
    parts.constant(np.array(len(_sequence(parts)), dtype=np.int64), parts.output(0))


def _concatenated(parts: Parts) -> None:
    names, axis = list(_sequence(parts)), parts.call.integer("axis", 0)
    if not names:
        raise UnsupportedError("joins a sequence of no tensors")
    if parts.call.integer("new_axis", 0):
        names = [parts.unsqueezed(name, axis) for name in names]
    parts.concatenated(names, axis, to=parts.output(0))


def _split(parts: Parts) -> None:
    """Into pieces of given sizes, of one size but for the last, or of one entry each, whose axis may go."""
    shape = parts.shape(0)
    axis = parts.call.integer("axis", 0) % len(shape)
    if not parts.call.is_constant(0) and parts.call.conversion.batch_axis and parts.call.where(0).axis == axis:
        raise CombinedSamplesError.along(axis)
    size = shape[axis]
    single = not parts.input(1)
    sizes = [1] * size if single else parts.call.integers(1, "its sizes")
    if not single and not parts.call.conversion.constants.raw(parts.input(1)).ndim:
        (step,) = sizes
        if step < 1:
            raise UnsupportedError(f"splits into pieces of {step}")
        sizes = [min(step, size - at) for at in range(0, size, step)]
    names = [parts.name() for _ in sizes]
    parts.several("Split", [parts.input(0), parts.constant(np.array(sizes, dtype=np.int64))], names, axis=axis)
    if single and not parts.call.integer("keepdims", 1):
        axes = parts.constant(np.array([axis], dtype=np.int64))
        names = [parts.add("Squeeze", name, axes) for name in names]
    _keep(parts, tuple(names))


_BUILDERS: dict[str, Callable[[Parts], None]] = {
    "ConcatFromSequence": _concatenated,
    "SequenceAt": _at,
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": _length,
    "SplitToSequence": _split,
}
OPERATORS = frozenset(_BUILDERS)
