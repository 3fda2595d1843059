"""Operators outside ONNX's own domain: scikit-learn's (``ai.onnx.ml``) and those of quantisation-aware training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from glyphc.ir import memory
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Node
from glyphc.ir.ops import Apply, Div, ReduceMax, ReduceSum, Softmax

from . import onnx_kernels, onnx_labels, onnx_lookups, onnx_trees
from .onnx_call import Call, Rule, blocks, places
from .onnx_constants import F64, Named, UnsupportedError
from .onnx_labels import CLASS_ATTRIBUTES, class_labels, classified, labels_of, transformed


def _numbers(call: Call, name: str, default: float, count: int) -> F64:
    """An attribute of one number, or one for each of so many features or outputs."""
    given = np.array(call.reals(name) or (default,), dtype=np.float64)
    if given.size not in (1, count):
        raise UnsupportedError(f"attribute {name} has {given.size} numbers for {count}")
    return np.broadcast_to(given, (count,))


def _scaler(call: Call) -> Node:
    x = call.features()
    scale, offset = (_numbers(call, name, default, x.type.size) for name, default in (("scale", 1.0), ("offset", 0.0)))
    return call.scale(x, Named(f"{call.location}.scale", scale), Named(f"{call.location}.shift", -offset * scale))


def _scores(call: Call, outputs: int) -> Node:
    x = call.features()
    weights = np.array(call.reals("coefficients"), dtype=np.float64)
    if not outputs or weights.size != outputs * x.type.size:
        raise UnsupportedError(f"has {weights.size} coefficients for {x.type.size} features and {outputs} output(s)")
    bias = _numbers(call, "intercepts", 0.0, outputs)
    named = (
        Named(f"{call.location}.coefficients", weights.reshape(outputs, -1)),
        Named(f"{call.location}.intercepts", bias),
    )
    return call.dense(x, *named)


def _linear_regressor(call: Call) -> Node:
    return transformed(call, _scores(call, call.integer("targets", 1)))


def _linear_classifier(call: Call) -> tuple[Node, Node]:
    """Label and scores. Labels are those of the largest score."""
    labels = class_labels(call)
    count = len(call.reals("coefficients")) // call.features().type.size
    scores = _scores(call, count)
    if count == 1 and len(labels) == 2:
        # one score of two classes: its sign decides
        both = sparse.csr_array(np.array([[-1.0], [1.0]]))
        return classified(call, call.affine(scores, both, 0.0, (2,)), labels, opposite=True)
    weights = np.array(call.reals("coefficients")).reshape(max(count, 1), -1)
    rows = np.column_stack([weights, _numbers(call, "intercepts", 0.0, len(weights))])
    opposite = count == 2 and bool(np.array_equal(rows[0], -rows[1]))
    return classified(call, scores, labels, opposite)


def _table(call: Call, values: Sequence[float], index: Node) -> Node:
    """values[index]"""
    return call.apply(index, "table", 0.0, float(len(values) - 1), *map(float, values))


def _normalizer(call: Call) -> Node:
    """Each sample over its largest magnitude, its sum of magnitudes or its length."""
    x, norm = call.features(), call.text("norm", "MAX")
    if norm == "L1" and isinstance(x.op, Softmax) and not x.op.log:
        return x  # shares that add up to 1 already
    if norm == "L2":
        size = call.apply(call.add(ReduceSum(), call.apply(x, "pow", 2.0)), "sqrt")
    else:
        size = call.add(ReduceSum() if norm == "L1" else ReduceMax(), call.apply(x, "abs"))
    everywhere = call.gather(size, np.zeros(x.type.shape, dtype=np.int64))
    return call.add(Div(), x, everywhere)


def _binarizer(call: Call) -> Node:
    return call.apply(call.features(), "greater", call.real("threshold", 0.0))


def _array_feature_extractor(call: Call) -> Node:
    """Elements of the last axis; or of a constant list, at an encrypted index (a class of a classifier).

    Of a list, ONNX makes (1, samples), which exporters reshape to (samples): here it is that already.
    """
    if call.is_constant(0):
        index = call.reshape(call.tensor(1), ())
        labels = labels_of(call.conversion.constants.raw(call.node.input[0]))
        if labels is not None:
            call.conversion.labels[call.node.output[0]] = labels
            return index
        return _table(call, list(call.constant(0, "the list").value.reshape(-1)), index)
    x = call.tensor(0)
    return call.gather(x, places(x)[..., call.integers(1, "its indices")])


def _quant(call: Call) -> Node | tuple[Node, ...]:
    """Rounding to a grid of ``bit_width`` bits and back: (clip(round(x / scale + zero), lo, hi) - zero) * scale."""
    if call.text("rounding_mode", "ROUND") not in ("ROUND", "HALF_EVEN"):
        raise UnsupportedError(f"rounding_mode={call.text('rounding_mode', '')} is not supported")
    scale, zero, bits = (call.constant(i, role) for i, role in enumerate(("scale", "zero point", "bits"), 1))
    if np.unique(bits.value).size != 1:
        raise UnsupportedError("one number of bits for all elements is supported")
    signed, narrow, width = call.integer("signed", 1), call.integer("narrow", 0), float(bits.value.flat[0])
    lowest = -(2.0 ** (width - 1)) + narrow if signed else 0.0
    highest = 2.0 ** (width - 1) - 1 if signed else 2.0**width - 1 - narrow
    grid = (Function("round", (1.0,)), Function("clip", (lowest, highest)))
    if call.is_constant(0):
        given = call.constant(0, "its operand").value
        weights = (compose(grid, given / scale.value + zero.value) - zero.value) * scale.value
        pool = call.conversion.constants
        pool.put(call.node.output[0], dict.fromkeys(pool.batches, weights))
        return ()
    if scale.value.size == zero.value.size == 1:
        step, origin = float(scale.value.flat[0]), float(zero.value.flat[0])
        functions = (Function("affine", (1 / step, origin)), *grid, Function("affine", (step, -origin * step)))
        return call.add(Apply(functions), call.tensor(0))
    # a scale for each channel: the same rounding of values in units of their scales
    shape = np.broadcast_shapes(scale.value.shape, zero.value.shape)
    steps, origins = (np.broadcast_to(c.value, shape) for c in (scale, zero))
    x = call.tensor(0)
    factor, shift, back, offset = (
        call.per_sample(x, call.named(role, v))
        for role, v in (("factor", 1 / steps), ("shift", origins), ("step", steps), ("offset", -origins * steps))
    )
    return call.scale(call.add(Apply(grid), call.scale(x, factor, shift)), back, offset)


def _multi_threshold(call: Call) -> Node:
    """How many thresholds of its channel, (channels or 1, thresholds), each number reaches; scaled and shifted."""
    x, given = call.tensor(0), call.constant(1, "its thresholds").value
    rank = call.rank(x)
    axis = call.axis(x, rank - 1 if call.text("data_layout", "NCHW") in ("NHWC", "NC") else min(1, rank - 1))
    channels = x.type.shape[axis] if x.type.shape else 1
    if given.ndim != 2 or given.shape[0] not in (1, channels):
        raise UnsupportedError(f"has thresholds of shape {list(given.shape)} for {channels} channels")
    channel = np.moveaxis(np.arange(x.type.size).reshape(x.type.shape), axis, 0).reshape(channels, -1)
    owner = np.empty(x.type.size, dtype=np.int64)
    owner[channel] = np.arange(channels)[:, None] if given.shape[0] > 1 else 0
    count = given.shape[1]
    memory.require(24 * x.type.size * count, f"{count} comparisons of each of {x.type.size} numbers")
    # at least a threshold: greater than the number in single precision before it
    before = np.nextafter(given.astype(np.float32), np.float32(-np.inf)).astype(np.float64)
    steps = call.steps(x, np.repeat(np.arange(x.type.size), count), before[owner].reshape(-1))
    scale, shift = call.real("out_scale", 1.0), call.real("out_bias", 0.0)
    return call.affine(steps, blocks(x.type.size, np.full(count, scale)), shift, x.type.shape)


_LINEAR = ("coefficients", "intercepts", "post_transform")
_THRESHOLDS = Rule(_multi_threshold, ("data_layout", "out_bias", "out_dtype", "out_scale"))
_QUANT = Rule(_quant, ("narrow", "rounding_mode", "signed"))

# By domain and operator.
RULES: dict[tuple[str, str], Rule] = {
    **onnx_kernels.RULES,
    **onnx_labels.RULES,
    **onnx_lookups.ML_RULES,
    **onnx_trees.RULES,
    ("ai.onnx.ml", "ArrayFeatureExtractor"): Rule(_array_feature_extractor),
    ("ai.onnx.ml", "Binarizer"): Rule(_binarizer, ("threshold",)),
    ("ai.onnx.ml", "LinearClassifier"): Rule(_linear_classifier, (*_LINEAR, *CLASS_ATTRIBUTES, "multi_class")),
    ("ai.onnx.ml", "LinearRegressor"): Rule(_linear_regressor, (*_LINEAR, "targets")),
    ("ai.onnx.ml", "Normalizer"): Rule(_normalizer, ("norm",)),
    ("ai.onnx.ml", "Scaler"): Rule(_scaler, ("offset", "scale")),
    ("finn.custom_op.general", "MultiThreshold"): _THRESHOLDS,
    ("onnx.brevitas", "Quant"): _QUANT,
    ("qonnx.custom_op.general", "MultiThreshold"): _THRESHOLDS,
    ("qonnx.custom_op.general", "Quant"): _QUANT,
}
