"""Every operator of ONNX's own domain that is read, with its rule; and those that are written as others."""

from __future__ import annotations

from . import (
    onnx_elementwise,
    onnx_integers,
    onnx_linear,
    onnx_lookups,
    onnx_normalizations,
    onnx_products,
    onnx_quantization,
    onnx_recurrent,
    onnx_reductions,
    onnx_resize,
    onnx_sequences,
    onnx_shapes,
)
from .onnx_call import Rule
from .onnx_compositions import Composition
from .onnx_selections import with_selections

RULES: dict[str, Rule] = {
    **onnx_elementwise.RULES,
    **onnx_linear.RULES,
    **onnx_lookups.RULES,
    **onnx_quantization.RULES,
    **onnx_reductions.RULES,
    **onnx_resize.RULES,
    **onnx_shapes.RULES,
    **with_selections(onnx_shapes.RULES),
}
# By domain and operator; ONNX's own domain is "".
COMPOSITIONS: dict[tuple[str, str], Composition] = {
    **onnx_integers.COMPOSITIONS,
    **onnx_normalizations.COMPOSITIONS,
    **onnx_products.COMPOSITIONS,
    **onnx_recurrent.COMPOSITIONS,
}
# What depends on the sizes of the network's tensors alone, and is constant whatever they hold: they are finite.
SIZES = ("EyeLike", "IsInf", "IsNaN", "Shape", "Size")

# What ONNX's own domain has: no activation of the user's should be called that.
OPERATORS = (
    frozenset(RULES) | frozenset(SIZES) | onnx_sequences.OPERATORS | {op for domain, op in COMPOSITIONS if not domain}
)
