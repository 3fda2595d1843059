"""Operators that divide by a norm or a root of a mean square, as the sums of powers that those are."""

from __future__ import annotations

from typing import Any

import numpy as np

from .onnx_compositions import Composition, Parts
from .onnx_constants import UnsupportedError

_MICROSOFT = "com.microsoft"
# Added to a norm: nothing over a length of zero is nothing.
_LEAST = 1e-6


def _axes(parts: Parts, *axes: int) -> str:
    return parts.constant(np.array(axes, dtype=np.int64))


def _number(parts: Parts, value: float) -> str:
    return parts.constant(np.float32(value))


def _lrn(parts: Parts) -> None:
    """x / (bias + alpha / size * sum of squares of the channels beside it)^beta, x (samples, channels, ...)."""
    call, shape = parts.call, parts.shape(0)
    size = call.integer("size", 1)
    if len(shape) < 3 or size < 1:
        raise UnsupportedError(f"size={size} does not fit a tensor of shape {list(shape)}")
    x, channels = parts.input(0), shape[1]
    distance = np.arange(channels) - np.arange(channels)[:, None]
    beside = (distance >= -((size - 1) // 2)) & (distance <= size // 2)
    share = call.real("alpha", 1e-4) / size
    squares = parts.reshaped(parts.add("Pow", x, _number(parts, 2.0)), 0, channels, -1)
    sums = parts.add("MatMul", parts.constant((share * beside).astype(np.float32)), squares)
    base = parts.add("Add", parts.reshaped(sums, 0, *shape[1:]), _number(parts, call.real("bias", 1.0)))
    parts.add("Mul", x, parts.add("Pow", base, _number(parts, -call.real("beta", 0.75))), to=parts.output(0))


def _lp_normalization(parts: Parts) -> None:
    """x over its sum of magnitudes, or its length, along an axis."""
    p, axis = parts.call.integer("p", 2), parts.call.integer("axis", -1)
    if p not in (1, 2):
        raise UnsupportedError(f"p={p} is not supported; 1 and 2 are")
    kind, least = ("ReduceL1", _LEAST) if p == 1 else ("ReduceSumSquare", _LEAST**2)
    norm = parts.add("Add", parts.add(kind, parts.input(0), _axes(parts, axis), keepdims=1), _number(parts, least))
    inverse = parts.add("Pow", norm, _number(parts, -1 / p))
    parts.add("Mul", parts.input(0), inverse, to=parts.output(0))


def _powers(parts: Parts) -> tuple[str, int]:
    """|x|^p and p."""
    p = parts.call.integer("p", 2)
    if p < 1:
        raise UnsupportedError(f"p={p} is not supported")
    x = parts.add("Abs", parts.input(0)) if p % 2 else parts.input(0)
    return (parts.add("Pow", x, _number(parts, p)) if p > 1 else x), p


def _root(parts: Parts, x: str, p: int) -> None:
    if p == 1:
        parts.add("Identity", x, to=parts.output(0))
    elif p == 2:
        parts.add("Sqrt", x, to=parts.output(0))
    else:
        parts.add("Pow", x, _number(parts, 1 / p), to=parts.output(0))


_WINDOW = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")


def _lp_pool(parts: Parts) -> None:
    """p-th roots of the sums of p-th powers over windows."""
    call = parts.call
    if call.integer("ceil_mode", 0):
        raise UnsupportedError("ceil_mode=1 is not supported")
    powers, p = _powers(parts)
    channels, kernel = parts.shape(0)[1], call.sizes("kernel_shape")
    ones = parts.constant(np.ones((channels, 1, *kernel), dtype=np.float32))
    given: dict[str, Any] = {name: call.sizes(name) for name in _WINDOW if name != "auto_pad" and call.sizes(name)}
    sums = parts.add("Conv", powers, ones, group=channels, auto_pad=call.text("auto_pad", "NOTSET"), **given)
    _root(parts, sums, p)


def _global_lp_pool(parts: Parts) -> None:
    powers, p = _powers(parts)
    _root(parts, parts.add("ReduceSum", powers, _axes(parts, *range(2, len(parts.shape(0)))), keepdims=1), p)


def _mean_variance_normalization(parts: Parts) -> None:
    """(x - mean) over the standard deviation, over some axes."""
    axes = _axes(parts, *(parts.call.sizes("axes") or (0, 2, 3)))
    centred = parts.add("Sub", parts.input(0), parts.add("ReduceMean", parts.input(0), axes, keepdims=1))
    variance = parts.add("ReduceMean", parts.add("Pow", centred, _number(parts, 2.0)), axes, keepdims=1)
    inverse = parts.add("Pow", parts.add("Add", variance, _number(parts, 1e-9)), _number(parts, -0.5))
    parts.add("Mul", centred, inverse, to=parts.output(0))


def _rms(parts: Parts, x: str, scale: str, axis: int, epsilon: float) -> None:
    rank = len(parts.shape(0))
    axes = _axes(parts, *range(axis % rank, rank))
    mean = parts.add("ReduceMean", parts.add("Pow", x, _number(parts, 2.0)), axes, keepdims=1)
    inverse = parts.add("Pow", parts.add("Add", mean, _number(parts, epsilon)), _number(parts, -0.5))
    parts.add("Mul", parts.add("Mul", x, inverse), scale, to=parts.output(0))


def _rms_normalization(parts: Parts) -> None:
    """x over the root of its mean square over the last axes, times a scale."""
    call = parts.call
    _rms(parts, parts.input(0), parts.input(1), call.integer("axis", -1), call.real("epsilon", 1e-5))


def _skip_rms(parts: Parts) -> None:
    """The same of a sum: input, skip, scale, bias."""
    x = parts.add("Add", parts.input(0), parts.input(1))
    if parts.input(3):
        x = parts.add("Add", x, parts.input(3))
    if parts.output(3):
        parts.add("Identity", x, to=parts.output(3))
    _rms(parts, x, parts.input(2), -1, parts.call.real("epsilon", 1e-5))


COMPOSITIONS: dict[tuple[str, str], Composition] = {
    ("", "GlobalLpPool"): Composition(_global_lp_pool, ("p",)),
    ("", "LRN"): Composition(_lrn, ("alpha", "beta", "bias", "size")),
    ("", "LpNormalization"): Composition(_lp_normalization, ("axis", "p")),
    ("", "LpPool"): Composition(_lp_pool, (*_WINDOW, "ceil_mode", "p")),
    ("", "MeanVarianceNormalization"): Composition(_mean_variance_normalization, ("axes",)),
    ("", "RMSNormalization"): Composition(_rms_normalization, ("axis", "epsilon", "stash_type")),
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): Composition(_skip_rms, ("epsilon",)),
}
