"""Every operator of ONNX's own domain that is read, with its rule."""

from __future__ import annotations

from . import onnx_elementwise, onnx_linear, onnx_quantization, onnx_reductions, onnx_shapes
from .onnx_call import Rule

RULES: dict[str, Rule] = {
    **onnx_elementwise.RULES,
    **onnx_linear.RULES,
    **onnx_quantization.RULES,
    **onnx_reductions.RULES,
    **onnx_shapes.RULES,
}
# Sizes of the network's tensors, which are constants whatever the tensors hold.
SIZES = ("Shape", "Size")

# What ONNX's own domain has: no activation of the user's should be called that.
OPERATORS = frozenset(RULES) | frozenset(SIZES)
