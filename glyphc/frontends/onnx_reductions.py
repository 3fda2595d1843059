"""ONNX operators that combine elements along axes: sums, extrema, softmax, poolings of maxima, statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

from glyphc.ir.graph import Node
from glyphc.ir.ops import ArgMax, Hardmax, Mul, Op, ReduceMax, ReduceSum, Reshape, Softmax, Sub

from . import onnx_sorting
from .onnx_call import I64, Call, Rule, Shape, places
from .onnx_constants import Named, UnsupportedError
from .onnx_masks import masked_softmax
from .onnx_windows import covered, windows
from .window_maps import require_entries

# -- over any axes --


def _axes(call: Call, x: Node) -> tuple[int, ...] | None:
    """Axes of one sample that a Reduce operator names, as attribute or as operand; None when it does nothing."""
    given = call.sizes("axes") or (tuple(call.integers(1, "its axes")) if call.has(1) else ())
    if not given:
        if call.integer("noop_with_empty_axes", 0):
            return None
        given = tuple(range(call.rank(x)))
    return tuple(sorted({call.axis(x, a) for a in given}))


def _reduction(combine: Callable[[Call, Node, int], Node]) -> Callable[[Call], Node]:
    """combine: makes (rest..., 1 result) of (rest..., elements), given their number."""

    def convert(call: Call) -> Node:
        x = call.tensor(0)
        axes = _axes(call, x)
        if axes is None:
            # only the reduction is left out, not what is done to every element
            return call.reshape(combine(call, call.reshape(x, (*x.type.shape, 1)), 1), x.type.shape)
        kept = [1 if a in axes else n for a, n in enumerate(x.type.shape)]
        if not call.integer("keepdims", 1):
            kept = [n for a, n in enumerate(x.type.shape) if a not in axes]
        if not axes:
            axes, x = (len(x.type.shape),), call.reshape(x, (*x.type.shape, 1))
        count = math.prod(x.type.shape[a] for a in axes)
        return call.reshape(combine(call, call.last(x, axes), count), kept)

    return convert


def _total(call: Call, x: Node, count: int) -> Node:
    return call.add(ReduceSum(), x)


def _average(call: Call, x: Node, count: int) -> Node:
    return call.scale(call.add(ReduceSum(), x), 1 / count, 0.0)


def _largest(call: Call, x: Node, count: int) -> Node:
    return call.add(ReduceMax(), x)


def _smallest(call: Call, x: Node, count: int) -> Node:
    return call.scale(call.add(ReduceMax(), call.scale(x, -1.0, 0.0)), -1.0, 0.0)


def _magnitudes(call: Call, x: Node, count: int) -> Node:
    return call.add(ReduceSum(), call.apply(x, "abs"))


def _squares(call: Call, x: Node, count: int) -> Node:
    return call.add(ReduceSum(), call.apply(x, "pow", 2.0))


def _length(call: Call, x: Node, count: int) -> Node:
    return call.apply(_squares(call, x, count), "sqrt")


def _log_sum(call: Call, x: Node, count: int) -> Node:
    return call.apply(_total(call, x, count), "log")


def _log_sum_exp(call: Call, x: Node, count: int) -> Node:
    """z - log softmax(z) is the same for every element: the first one's."""
    difference = call.add(Sub(), x, call.add(Softmax(log=True), x))
    y = call.gather(difference, places(difference)[..., 0])
    while isinstance(x.op, Reshape):
        (x,) = call.conversion.graph.operands(x)
    if y.type.size == 1:
        call.conversion.log_sums[y.id] = x.id
    return y


# -- along one axis --


def _along(call: Call, op: Op) -> Node:
    """An op over the last axis, along any one: which is moved there and back."""
    x = call.tensor(0)
    axis = call.axis(x, call.integer("axis", -1))
    shape = x.type.shape
    if math.prod(shape[axis + 1 :]) == 1:
        return call.reshape(call.add(op, call.reshape(x, shape[: axis + 1])), shape)
    y = call.add(op, call.last(x, (axis,)))
    return call.gather(y, np.moveaxis(places(y), -1, axis))


def _softmax(call: Call) -> Node:
    masked = masked_softmax(call)
    if masked is not None:
        return masked
    return _along(call, Softmax(log=call.node.op_type == "LogSoftmax"))


def _hardmax(call: Call) -> Node:
    return _along(call, Hardmax())


def _arg_extremum(sign: float) -> Callable[[Call], Node]:
    """Index of the first (or last) largest element of sign * x along an axis."""

    def convert(call: Call) -> Node:
        x = call.tensor(0)
        shape, axis = x.type.shape, call.axis(x, call.integer("axis", 0))
        kept = [*shape[:axis], *[1] * (call.integer("keepdims", 1) != 0), *shape[axis + 1 :]]
        y = call.last(x, (axis,))
        if sign < 0:
            y = call.scale(y, sign, 0.0)
        if not call.integer("select_last_index", 0):
            # at the very end of a network this is the client's, and nothing may follow but reshapes
            keepdims = bool(kept) and kept[-1] == 1 and axis == len(shape) - 1
            return call.reshape(call.add(ArgMax(keepdims), y), kept)
        backwards = call.add(ArgMax(False), call.gather(y, places(y)[..., ::-1]))
        return call.reshape(call.scale(backwards, -1.0, float(shape[axis] - 1)), kept)

    return convert


def _cumulative_sum(call: Call) -> Node:
    """A triangle of ones along one axis."""
    x = call.tensor(0)
    given = call.integers(1, "its axis")
    if len(given) != 1:
        raise UnsupportedError(f"its axis is {given}, not one number")
    axis = call.axis(x, given[0])
    size = x.type.shape[axis]
    require_entries(x.type.size * size)
    triangle = np.tri(size, k=-1 if call.integer("exclusive", 0) else 0)
    one = triangle.T if call.integer("reverse", 0) else triangle
    before, behind = math.prod(x.type.shape[:axis]), math.prod(x.type.shape[axis + 1 :])
    matrix = sparse.kron(sparse.kron(sparse.eye_array(before), one), sparse.eye_array(behind), "csr")
    return call.affine(x, matrix, 0.0, x.type.shape)


# -- maxima over windows --


def _max_pool(call: Call) -> Node:
    """The largest element of every window; x is (samples, channels, *spatial)."""
    if call.integer("storage_order", 0):
        raise UnsupportedError("storage_order=1 is not supported")
    x = call.tensor(0)
    count, item = call.items(x)
    kernel, strides, dilations, pads = (call.sizes(name) for name in ("kernel_shape", "strides", "dilations", "pads"))
    auto_pad, ceil_mode = call.text("auto_pad", "NOTSET"), call.integer("ceil_mode", 0) != 0
    axes = windows(item[1:], kernel, strides, dilations, pads, auto_pad, ceil_mode)
    return call.add(ReduceMax(), call.gather(x, _for_items(call, covered(item, axes), count, math.prod(item))))


def _for_items(call: Call, indices: I64, count: int, size: int) -> I64:
    """Places within one entry of axis 0, for all entries."""
    if call.lead:
        return indices
    starts = np.arange(count).reshape(-1, *[1] * indices.ndim) * size
    return np.asarray(starts + indices)


def _global_max_pool(call: Call) -> Node:
    x = call.tensor(0)
    count, item = call.items(x)
    if len(item) < 2:
        raise UnsupportedError(f"samples have shape {list(item)}; channels and spatial axes are needed")
    outer: Shape = (item[0],) if call.lead else (count, item[0])
    largest = call.add(ReduceMax(), call.add(Reshape((*outer, math.prod(item[1:]))), x))
    return call.add(Reshape((*outer, *[1] * (len(item) - 1))), largest)


# -- statistics of each sample --


def _normalised(call: Call, x: Node, axes: Sequence[int], epsilon: float) -> tuple[Node, Node, Node]:
    """(x - mean) / sqrt(variance + epsilon) over some axes of a sample, the mean, and 1 / sqrt(variance + epsilon)."""
    order = [a for a in range(len(x.type.shape)) if a not in axes] + list(axes)
    moved = call.last(x, axes)
    size = moved.type.shape[-1]
    require_entries(moved.type.size * size)
    centring = sparse.eye_array(size) - np.full((size, size), 1 / size)
    matrix = sparse.kron(sparse.eye_array(moved.type.size // size), centring, "csr")
    centred = call.affine(moved, matrix, 0.0, moved.type.shape)
    variance = _average(call, call.apply(centred, "pow", 2.0), size)
    inverse = call.apply(call.scale(variance, 1.0, epsilon), "pow", -0.5)
    everywhere = call.gather(inverse, np.broadcast_to(places(inverse)[..., None], moved.type.shape))
    y = call.add(Mul(), centred, everywhere)
    result = call.gather(y, places(y).reshape([x.type.shape[a] for a in order]).transpose(np.argsort(order)))
    kept = [1 if a in axes else n for a, n in enumerate(x.type.shape)]
    return result, call.reshape(_average(call, moved, size), kept), call.reshape(inverse, kept)


def _layer_normalization(call: Call) -> tuple[Node, ...]:
    x = call.tensor(0)
    first = call.axis(x, call.integer("axis", -1))
    y, mean, inverse = _normalised(call, x, range(first, len(x.type.shape)), call.real("epsilon", 1e-5))
    shift: Named | float = call.constant(2, "its bias") if call.has(2) else 0.0
    return call.scale(y, call.constant(1, "its scale"), shift), mean, inverse


def _instance_normalization(call: Call) -> Node:
    x = call.tensor(0)
    _, item = call.items(x)
    if not item:
        raise UnsupportedError("samples are single numbers; a channel axis is needed")
    rank = len(x.type.shape)
    y, _, _ = _normalised(call, x, range(rank - len(item) + 1, rank), call.real("epsilon", 1e-5))
    behind = (-1, *[1] * (len(item) - 1))
    scale, shift = (call.constant(i, role) for i, role in ((1, "its scale"), (2, "its bias")))
    return call.scale(y, Named(scale.name, scale.value.reshape(behind)), Named(shift.name, shift.value.reshape(behind)))


_REDUCE = ("axes", "keepdims", "noop_with_empty_axes")

RULES: dict[str, Rule] = {
    "ArgMax": Rule(_arg_extremum(1.0), ("axis", "keepdims", "select_last_index")),
    "ArgMin": Rule(_arg_extremum(-1.0), ("axis", "keepdims", "select_last_index")),
    "CumSum": Rule(_cumulative_sum, ("exclusive", "reverse")),
    "GlobalMaxPool": Rule(_global_max_pool),
    "Hardmax": Rule(_hardmax, ("axis",)),
    "InstanceNormalization": Rule(_instance_normalization, ("epsilon",)),
    "LayerNormalization": Rule(_layer_normalization, ("axis", "epsilon", "stash_type")),
    "LogSoftmax": Rule(_softmax, ("axis",)),
    "MaxPool": Rule(
        _max_pool, ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides")
    ),
    "ReduceL1": Rule(_reduction(_magnitudes), _REDUCE),
    "ReduceL2": Rule(_reduction(_length), _REDUCE),
    "ReduceLogSum": Rule(_reduction(_log_sum), _REDUCE),
    "ReduceLogSumExp": Rule(_reduction(_log_sum_exp), _REDUCE),
    "ReduceMax": Rule(_reduction(_largest), _REDUCE),
    "ReduceMean": Rule(_reduction(_average), _REDUCE),
    "ReduceMin": Rule(_reduction(_smallest), _REDUCE),
    "ReduceProd": Rule(_reduction(onnx_sorting.product), _REDUCE),
    "ReduceSum": Rule(_reduction(_total), _REDUCE),
    "ReduceSumSquare": Rule(_reduction(_squares), _REDUCE),
    "Softmax": Rule(_softmax, ("axis",)),
    **onnx_sorting.RULES,
}
