"""Resize: of nearest elements a choice, otherwise a linear map along each axis, as ONNX's reference computes it."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto
from scipy import sparse

from glyphc.ir import memory
from glyphc.ir.graph import Node

from .onnx_call import FIRST, Call, Placed, Rule, places
from .onnx_constants import F64, CombinedSamplesError, UnsupportedError, run_node
from .onnx_shapes import moved, shape_of

_ATTRIBUTES = (
    *("antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside"),
    *("extrapolation_value", "keep_aspect_ratio_policy", "mode", "nearest_mode"),
)
# What says how large results are, in place of scales.
_SCALES, _SIZES = 2, 3


def _resize(call: Call) -> Node | tuple[Placed, ...]:
    nearest = call.text("mode", "nearest") == "nearest"
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        if nearest:
            return moved(call)
        raise UnsupportedError("keeps the aspect ratio, which is not supported; give the sizes themselves")
    if call.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        if nearest:
            return moved(call)
        raise UnsupportedError("crops a region; slice it before")
    x = y = call.tensor(0)
    which, sizes = _changed(call)
    for axis, value in sizes.items():
        at = axis - call.lead
        matrix = _matrix(call, x.type.shape[at], value, which)
        y = call.gather(y, places(y).take(matrix.argmax(axis=1), axis=at)) if nearest else _along(call, y, at, matrix)
    return y


def _changed(call: Call) -> tuple[int, dict[int, float]]:
    """Which operand says how large the result is, and what it says for each axis of the ONNX tensor that changes.

    Sizes may be computed from those of other tensors, which have the number of samples among them.
    """
    conversion, name = call.conversion, call.node.input[0]
    which = _SIZES if call.has(_SIZES) else _SCALES
    if not call.is_constant(which):
        raise UnsupportedError("its sizes are computed by the network; they must be constant")
    pool = conversion.constants
    tables = {b: pool.at(call.node.input[which], b).reshape(-1) for b in pool.batches}
    where = conversion.where.get(name, FIRST) if conversion.batch_axis else None
    shapes = {b: shape_of(conversion.values[name], where, b) for b in pool.batches}
    rank = len(shapes[pool.batches[0]])
    axes = call.sizes("axes") or tuple(range(rank))
    if any(len(t) != len(axes) for t in tables.values()):
        raise UnsupportedError(f"has {len(tables[pool.batches[0]])} sizes for {len(axes)} axes")
    found: dict[int, float] = {}
    for index, axis in enumerate(a % rank for a in axes):
        wanted = {b: float(t[index]) for b, t in tables.items()}
        if all(v == (1.0 if which == _SCALES else shapes[b][axis]) for b, v in wanted.items()):
            continue
        if where is not None and axis == where.axis:
            raise CombinedSamplesError.along(axis)
        if len(set(wanted.values())) > 1:
            raise CombinedSamplesError(f"the size of axis {axis} depends on the number of samples")
        found[axis] = wanted[pool.batches[0]]
    return which, found


def resized_axes(call: Call) -> list[int]:
    """The axes that change their size."""
    return list(_changed(call)[1])


def _matrix(call: Call, size: int, value: float, which: int) -> F64:
    """What resizing does to an axis of so many elements: (new, old), from its effect on unit vectors."""
    memory.require(8 * size * int(size * value if which == _SCALES else value), "a resized axis")
    node = NodeProto()
    node.CopyFrom(call.node)
    kept = [a for a in node.attribute if a.name not in ("axes", "keep_aspect_ratio_policy")]
    del node.attribute[:]
    node.attribute.extend(kept)
    del node.input[:]
    node.input.extend(["x", "", "scales" if which == _SCALES else "", *(["sizes"] if which == _SIZES else [])])
    numbers = np.array([1.0, value], dtype=np.float32) if which == _SCALES else np.array([size, value], dtype=np.int64)
    feeds = {"x": np.eye(size, dtype=np.float32), "scales" if which == _SCALES else "sizes": numbers}
    (out,) = run_node(node, feeds, max(call.conversion.opset, 18))
    return np.asarray(out, dtype=np.float64).T


def _along(call: Call, x: Node, axis: int, matrix: F64) -> Node:
    before = int(np.prod(x.type.shape[:axis], dtype=np.int64))
    behind = int(np.prod(x.type.shape[axis + 1 :], dtype=np.int64))
    whole = sparse.kron(
        sparse.kron(sparse.eye_array(before), sparse.csr_array(matrix)), sparse.eye_array(behind), "csr"
    )
    return call.affine(x, whole, 0.0, (*x.type.shape[:axis], len(matrix), *x.type.shape[axis + 1 :]))


RULES: dict[str, Rule] = {"Resize": Rule(_resize, _ATTRIBUTES)}
