"""ONNX's quantisation: a network that carries its own grids keeps them.

Integers are computed as the real numbers that they are, so DequantizeLinear is affine (its constants are dequantised
exactly) and QuantizeLinear a univariate function: rounding to the grid and clipping to the integers' range. A bootstrap
follows its steps where they are coarse (up to about 6 bits); of finer ones it computes the line through them, which is
at most half a step away.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from glyphc.ir.functions import Function
from glyphc.ir.graph import Node
from glyphc.ir.ops import Apply

from .onnx_call import Call, Rule
from .onnx_constants import F64, Named, UnsupportedError, type_name

_RANGES: dict[int | None, tuple[int, int]] = {
    TensorProto.INT2: (-2, 1),
    TensorProto.UINT2: (0, 3),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
}


def _grid(call: Call, x: Node) -> tuple[F64, F64]:
    """Scale and zero point, each a number or one for every entry of an axis of a sample."""
    scale = call.constant(1, "its scale").value
    zero = call.constant(2, "its zero point").value if call.has(2) else np.zeros(scale.shape)
    if call.integer("block_size", 0):
        raise UnsupportedError("blocks of an axis with scales of their own (block_size) are not supported")
    if zero.size != scale.size:
        raise UnsupportedError(f"it has {scale.size} scale(s) and {zero.size} zero point(s)")
    if not (scale > 0).all():
        raise UnsupportedError("its scale is not positive")
    if scale.size == 1:
        return scale.reshape(()), zero.reshape(())
    axis = call.axis(x, call.integer("axis", 1))
    behind = [1] * (len(x.type.shape) - axis - 1)
    return scale.reshape(-1, *behind), zero.reshape(-1, *behind)


def _quantize_linear(call: Call) -> Node:
    """saturate(round(x / scale) + zero point)"""
    x = call.tensor(0)
    scale, zero = _grid(call, x)
    kind = call.kind(2) if call.has(2) else call.integer("output_dtype", 0) or TensorProto.UINT8
    if kind not in _RANGES:
        raise UnsupportedError(f"quantises to {type_name(kind or 0)}; not to integers of 2 to 16 bits")
    lo, hi = _RANGES[kind]
    clip = Function("clip", (float(lo), float(hi)))
    scaled = call.scale(x, Named(f"{call.location}.scale", 1 / scale), 0.0)
    step = Function("round", (1.0,))
    if np.all(zero == zero.flat[0]):
        return call.add(Apply((step, Function("affine", (1.0, float(zero.flat[0]))), clip)), scaled)
    # as zero points are integers, they may come before the rounding (but for ties)
    return call.add(Apply((step, clip)), call.scale(scaled, 1.0, Named(f"{call.location}.zero", zero)))


def _dequantize_linear(call: Call) -> Node:
    """(x - zero point) * scale"""
    x = call.tensor(0)
    scale, zero = _grid(call, x)
    return call.scale(x, Named(f"{call.location}.scale", scale), Named(f"{call.location}.shift", -zero * scale))


RULES: dict[str, Rule] = {
    "DequantizeLinear": Rule(_dequantize_linear, ("axis", "block_size", "output_dtype")),
    "QuantizeLinear": Rule(_quantize_linear, ("axis", "block_size", "output_dtype", "precision", "saturate")),
}
