"""Quantised operators as the float ones that they stand for, and fused ones of ONNX Runtime's optimiser.

An operator on integers is dequantised, computed in float and quantised again to the grid that the file gives. Grids
that depend on the values themselves (DynamicQuantizeLinear) are left out: values stay as they are, which errs less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper

from .onnx_compositions import Composition, Parts
from .onnx_constants import UnsupportedError

_MICROSOFT = "com.microsoft"
Build = Callable[[Parts], None]


def _float(parts: Parts, x: int, scale: int, zero: int, axis: int = 1) -> str:
    """An operand of integers as the numbers that they stand for."""
    operands = [parts.input(x), parts.input(scale), *([parts.input(zero)] if parts.input(zero) else [])]
    return parts.add("DequantizeLinear", *operands, axis=axis)


def _quantised(parts: Parts, y: str, scale: int, zero: int, axis: int = 1) -> None:
    operands = [y, parts.input(scale), *([parts.input(zero)] if parts.input(zero) else [])]
    parts.add("QuantizeLinear", *operands, axis=axis, to=parts.output(0))


def _attributes(parts: Parts, *names: str) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in parts.node.attribute if a.name in names}


_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def _qlinear_conv(parts: Parts) -> None:
    x, w = _float(parts, 0, 1, 2), _float(parts, 3, 4, 5, axis=0)
    operands = [x, w]
    if parts.input(8):
        scales = [parts.call.constant(i, "a scale").value.reshape(-1) for i in (1, 4)]
        bias = parts.call.constant(8, "its bias").value * scales[0] * scales[1]
        operands.append(parts.constant(bias.astype(np.float32)))
    _quantised(parts, parts.add("Conv", *operands, **_attributes(parts, *_CONV)), 6, 7)


def _qlinear_matmul(parts: Parts) -> None:
    axis = len(parts.shape(3)) - 1
    _quantised(parts, parts.add("MatMul", _float(parts, 0, 1, 2), _float(parts, 3, 4, 5, axis=axis)), 6, 7)


def _qgemm(parts: Parts) -> None:
    """alpha * (A - zero) (B - zero) * scales + C, quantised if a scale for that is given."""
    attributes = _attributes(parts, "alpha", "transA", "transB")
    axis = 0 if attributes.get("transB") else 1
    operands = [_float(parts, 0, 1, 2), _float(parts, 3, 4, 5, axis=axis)]
    if parts.input(6):
        scales = [parts.call.constant(i, "a scale").value.reshape(-1) for i in (1, 4)]
        bias = parts.call.constant(6, "its bias").value * parts.call.real("alpha", 1.0) * scales[0] * scales[1]
        operands.append(parts.constant(bias.astype(np.float32)))
    if parts.input(7):
        _quantised(parts, parts.add("Gemm", *operands, **attributes), 7, 8)
    else:
        parts.add("Gemm", *operands, to=parts.output(0), **attributes)


def _qlinear_pair(op: str) -> Build:
    def build(parts: Parts) -> None:
        _quantised(parts, parts.add(op, _float(parts, 0, 1, 2), _float(parts, 3, 4, 5)), 6, 7)

    return build


def _qlinear_one(op: str, *attributes: str) -> Build:
    """One operand; scales and zero points before and behind."""

    def build(parts: Parts) -> None:
        if parts.call.integer("channels_last", 0):
            raise UnsupportedError("channels_last=1 is not supported")
        y = parts.add(op, _float(parts, 0, 1, 2), **_attributes(parts, *attributes))
        _quantised(parts, y, 3, 4)

    return build


def _qlinear_concat(parts: Parts) -> None:
    """scale and zero point of the result, then three operands for each part."""
    count = len(parts.node.input)
    values = [_float(parts, i, i + 1, i + 2) for i in range(2, count, 3)]
    _quantised(parts, parts.add("Concat", *values, **_attributes(parts, "axis")), 0, 1)


def _dynamic(parts: Parts) -> None:
    """x, with the scale 1 and the zero point 0: right for whoever takes all three together."""
    if not parts.call.conversion.outputs.isdisjoint(parts.node.output):
        raise UnsupportedError("gives integers on a grid that depends on the values; take what is computed from them")
    parts.add("Identity", parts.input(0), to=parts.output(0))
    if parts.output(1):
        parts.constant(np.float32(1.0), parts.output(1))
    if parts.output(2):
        parts.constant(np.uint8(0), parts.output(2))


def _shifted(parts: Parts, x: int, zero: int, axis_from_right: int = 0) -> str:
    """x - zero point, as floats."""
    if parts.call.is_constant(x):
        value: npt.NDArray[Any] = parts.call.conversion.constants.raw(parts.input(x)).astype(np.float32)
        if parts.input(zero):
            given: npt.NDArray[Any] = parts.call.conversion.constants.raw(parts.input(zero)).astype(np.float32)
            if given.ndim and given.size > 1:
                given = given.reshape(-1, *[1] * axis_from_right)
            value = value - (given.reshape(()) if given.size == 1 else given)
        return parts.constant(value)
    if parts.zeros(zero):
        return parts.input(x)
    shift = parts.call.constant(zero, "a zero point").value
    if shift.size != 1:
        raise UnsupportedError("an encrypted operand has one zero point for each row; one for all is supported")
    return parts.add("Sub", parts.input(x), parts.constant(np.float32(shift.reshape(()))))


def _conv_integer(parts: Parts) -> None:
    w = _shifted(parts, 1, 3, len(parts.shape(1)) - 1)
    parts.add("Conv", _shifted(parts, 0, 2), w, to=parts.output(0), **_attributes(parts, *_CONV))


def _matmul_integer(parts: Parts) -> None:
    parts.add("MatMul", _shifted(parts, 0, 2), _shifted(parts, 1, 3), to=parts.output(0))


def _dynamic_matmul(parts: Parts) -> None:
    """A (B - zero) * scale + bias: A is not quantised."""
    operands = [parts.input(1), parts.input(2), *([parts.input(3)] if parts.input(3) else [])]
    b = parts.add("DequantizeLinear", *operands, axis=len(parts.shape(1)) - 1)
    y = parts.add("MatMul", parts.input(0), b, to="" if parts.input(4) else parts.output(0))
    if parts.input(4):
        parts.add("Add", y, parts.input(4), to=parts.output(0))


def _matmul_integer_to_float(parts: Parts) -> None:
    """(A - zero) (B - zero) * scales + bias."""
    a = parts.add("Mul", _shifted(parts, 0, 4), parts.input(2))
    b = parts.add("Mul", _shifted(parts, 1, 5), parts.input(3))
    y = parts.add("MatMul", a, b, to="" if parts.input(6) else parts.output(0))
    if parts.input(6):
        parts.add("Add", y, parts.input(6), to=parts.output(0))


# -- fused --


def _activated(parts: Parts, y: str) -> None:
    """The attribute ``activation`` of a fused operator."""
    name = parts.call.text("activation", "")
    values = parts.call.reals("activation_params")
    known: dict[str, tuple[str, ...]] = {
        "": (), "Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"),
    }  # fmt: skip
    if name == "Clip" and len(values) == 2:
        limits = [parts.constant(np.float32(v)) for v in values]
        parts.add("Clip", y, *limits, to=parts.output(0))
    elif name in known and (not values or len(values) == len(known[name])):
        attributes: dict[str, Any] = dict(zip(known[name], values, strict=False))
        if parts.call.has(0) and name == "LeakyRelu" and not values:
            attributes = {"alpha": parts.call.real("activation_alpha", 0.01)}
        parts.add(name or "Identity", y, to=parts.output(0), **attributes)
    else:
        raise UnsupportedError(f"its activation {name!r} is not supported")


def _fused_conv(parts: Parts) -> None:
    operands = [parts.input(i) for i in range(3) if parts.input(i)]
    y = parts.add("Conv", *operands, **_attributes(parts, *_CONV))
    if parts.input(3):
        y = parts.add("Add", y, parts.input(3))
    _activated(parts, y)


def _fused_gemm(parts: Parts) -> None:
    operands = [parts.input(i) for i in range(3) if parts.input(i)]
    _activated(parts, parts.add("Gemm", *operands, **_attributes(parts, "alpha", "beta", "transA", "transB")))


def _fused_matmul(parts: Parts) -> None:
    operands = []
    for index, name in enumerate(("transA", "transB")):
        rank = len(parts.shape(index))
        perm = [*range(rank - 2), rank - 1, rank - 2]
        x = parts.input(index)
        operands.append(parts.add("Transpose", x, perm=perm) if parts.call.integer(name, 0) and rank > 1 else x)
    if parts.call.integer("transBatchA", 0) or parts.call.integer("transBatchB", 0):
        raise UnsupportedError("transBatchA and transBatchB are not supported")
    y = parts.add("MatMul", *operands)
    parts.add("Mul", y, parts.constant(np.float32(parts.call.real("alpha", 1.0))), to=parts.output(0))


def _gelu(approximate: str) -> Build:
    """Gelu of a tensor, or of a sum with a bias."""

    def build(parts: Parts) -> None:
        x = parts.add("Add", parts.input(0), parts.input(1)) if parts.input(1) else parts.input(0)
        parts.add("Gelu", x, approximate=approximate, to=parts.output(0))

    return build


def _quick_gelu(parts: Parts) -> None:
    """x sigmoid(alpha x)"""
    parts.add("Swish", parts.input(0), alpha=parts.call.real("alpha", 1.702), to=parts.output(0))


def _skip_layer_norm(parts: Parts) -> None:
    """Layer normalisation of a sum: input, skip, scale, shift, bias."""
    x = parts.add("Add", parts.input(0), parts.input(1))
    if parts.input(4):
        x = parts.add("Add", x, parts.input(4))
    operands = [x, *(parts.input(i) for i in (2, 3) if parts.input(i))]
    parts.add("LayerNormalization", *operands, epsilon=parts.call.real("epsilon", 1e-5), axis=-1, to=parts.output(0))
    if parts.output(3):
        parts.add("Identity", x, to=parts.output(3))


def _same(op: str, **defaults: int) -> Build:
    """An operator of ONNX's own under another domain."""

    def build(parts: Parts) -> None:
        attributes = {**defaults, **_attributes(parts, *defaults)}
        parts.several(op, list(parts.node.input), list(parts.node.output), **attributes)

    return build


def _attention(parts: Parts) -> None:
    """Queries, keys and values by one matrix: input (samples, tokens, width), weights (width, 3 * size), bias."""
    call = parts.call
    if any(parts.input(i) for i in range(3, len(parts.node.input))):
        raise UnsupportedError("masks, earlier keys and biases of the scores are not supported; leave them out")
    sizes = call.sizes("qkv_hidden_sizes")
    total = parts.shape(1)[1]
    sizes = sizes or (total // 3,) * 3
    joined = parts.add("Add", parts.add("MatMul", parts.input(0), parts.input(1)), parts.input(2))
    names = [parts.name() for _ in range(3)]
    parts.several("Split", [joined, parts.constant(np.array(sizes, dtype=np.int64))], names, axis=2)
    _heads_apart(parts, names)


def _multi_head_attention(parts: Parts) -> None:
    """Queries, keys and values of shape (samples, tokens, size), and a bias for all three."""
    if any(parts.input(i) for i in range(4, len(parts.node.input))) or not (parts.input(1) and parts.input(2)):
        raise UnsupportedError("masks, packed or earlier keys and biases of the scores are not supported")
    names = [parts.input(i) for i in range(3)]
    if parts.input(3):
        sizes = np.cumsum([parts.shape(i)[-1] for i in range(2)])
        biases = np.split(parts.call.constant(3, "its bias").value.astype(np.float32), sizes)
        names = [parts.add("Add", x, parts.constant(b)) for x, b in zip(names, biases, strict=True)]
    _heads_apart(parts, names)


def _heads_apart(parts: Parts, names: list[str]) -> None:
    call = parts.call
    if any(parts.output(i) for i in range(1, len(parts.node.output))):
        raise UnsupportedError("keys and values for later calls are not supported")
    heads = call.integer("num_heads", 0)
    given: dict[str, Any] = {"scale": call.real("scale", 0.0)} if call.real("scale", 0.0) else {}
    causal = call.integer("unidirectional", 0)
    # under a name of its own: what it is written as takes names from that
    y = parts.add("Attention", *names, q_num_heads=heads, kv_num_heads=heads, is_causal=causal, **given)
    parts.add("Identity", y, to=parts.output(0))


_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides", "dilations")

COMPOSITIONS: dict[tuple[str, str], Composition] = {
    ("", "ConvInteger"): Composition(_conv_integer, _CONV),
    ("", "DynamicQuantizeLinear"): Composition(_dynamic),
    ("", "MatMulInteger"): Composition(_matmul_integer),
    ("", "QLinearConv"): Composition(_qlinear_conv, _CONV),
    ("", "QLinearMatMul"): Composition(_qlinear_matmul),
    (_MICROSOFT, "Attention"): Composition(
        _attention, ("mask_filter_value", "num_heads", "qkv_hidden_sizes", "scale", "unidirectional")
    ),
    (_MICROSOFT, "BiasGelu"): Composition(_gelu("none")),
    (_MICROSOFT, "DequantizeLinear"): Composition(_same("DequantizeLinear", axis=1), ("axis",)),
    (_MICROSOFT, "DynamicQuantizeMatMul"): Composition(_dynamic_matmul),
    (_MICROSOFT, "FastGelu"): Composition(_gelu("tanh")),
    (_MICROSOFT, "FusedConv"): Composition(_fused_conv, (*_CONV, "activation", "activation_params")),
    (_MICROSOFT, "FusedGemm"): Composition(
        _fused_gemm, ("alpha", "beta", "transA", "transB", "activation", "activation_alpha")
    ),
    (_MICROSOFT, "FusedMatMul"): Composition(
        _fused_matmul, ("alpha", "transA", "transB", "transBatchA", "transBatchB")
    ),
    (_MICROSOFT, "Gelu"): Composition(_gelu("none")),
    (_MICROSOFT, "MatMulIntegerToFloat"): Composition(_matmul_integer_to_float),
    (_MICROSOFT, "MultiHeadAttention"): Composition(
        _multi_head_attention, ("mask_filter_value", "num_heads", "scale", "unidirectional")
    ),
    (_MICROSOFT, "QGemm"): Composition(_qgemm, ("alpha", "transA", "transB")),
    (_MICROSOFT, "QLinearAdd"): Composition(_qlinear_pair("Add")),
    (_MICROSOFT, "QLinearAveragePool"): Composition(_qlinear_one("AveragePool", *_POOL), (*_POOL, "channels_last")),
    (_MICROSOFT, "QLinearConcat"): Composition(_qlinear_concat, ("axis",)),
    (_MICROSOFT, "QLinearGlobalAveragePool"): Composition(_qlinear_one("GlobalAveragePool"), ("channels_last",)),
    (_MICROSOFT, "QLinearLeakyRelu"): Composition(_qlinear_one("LeakyRelu", "alpha"), ("alpha",)),
    (_MICROSOFT, "QLinearMul"): Composition(_qlinear_pair("Mul")),
    (_MICROSOFT, "QLinearSigmoid"): Composition(_qlinear_one("Sigmoid")),
    (_MICROSOFT, "QLinearSoftmax"): Composition(_qlinear_one("Softmax", "axis"), ("axis", "opset")),
    (_MICROSOFT, "QuantizeLinear"): Composition(_same("QuantizeLinear", axis=1), ("axis",)),
    (_MICROSOFT, "QuickGelu"): Composition(_quick_gelu, ("alpha",)),
    (_MICROSOFT, "SkipLayerNormalization"): Composition(_skip_layer_norm, ("epsilon",)),
}
