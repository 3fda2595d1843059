"""Resize: of nearest elements a choice, otherwise a linear map along each axis, as ONNX's reference computes it."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto
from scipy import sparse

from glyphc.ir import memory
from glyphc.ir.graph import Node

from .onnx_call import Call, Placed, Rule
from .onnx_constants import F64, CombinedSamplesError, UnsupportedError, run_node
from .onnx_shapes import moved

_ATTRIBUTES = (
    *("antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside"),
    *("extrapolation_value", "keep_aspect_ratio_policy", "mode", "nearest_mode"),
)
# What says how large results are, in place of scales.
_SCALES, _SIZES = 2, 3


def _resize(call: Call) -> Node | tuple[Placed, ...]:
    if call.text("mode", "nearest") == "nearest":
        return moved(call)
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedError("keeps the aspect ratio, which is not supported; give the sizes themselves")
    if call.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise UnsupportedError("crops a region; slice it before")
    x = call.tensor(0)
    which = _SIZES if call.has(_SIZES) else _SCALES
    given = [float(v) for v in call.constant(which, "its sizes").value.reshape(-1)]
    axes = call.sizes("axes") or tuple(range(call.rank(x)))
    if len(given) != len(axes):
        raise UnsupportedError(f"has {len(given)} sizes for {len(axes)} axes")
    y = x
    for axis, value in zip(axes, given, strict=True):
        at = axis % call.rank(x) - call.lead
        if at < 0:
            if value != (1.0 if which == _SCALES else value):
                raise CombinedSamplesError.along(axis)
            continue
        size = x.type.shape[at]
        if value == (1.0 if which == _SCALES else size):
            continue
        y = _along(call, y, at, _matrix(call, size, value, which))
    return y


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
