"""Layers that slide windows over images of shape [channels, *spatial]: convolutions and poolings."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from glyphc.ir.graph import Node
from glyphc.ir.matrices import Matrix
from glyphc.ir.ops import Affine, Gather, ReduceMax, Reshape

from .dsl_errors import MistakeError
from .dsl_rules import Builder, Layer, Shape, operand
from .dsl_values import F64, Arguments, Kind, Parameter, Word

if TYPE_CHECKING:
    from .onnx_windows import Window

_PLACES = (Parameter("stride", Kind.SIZES), Parameter("padding", Kind.SIZES))


def _conv(b: Builder, a: Arguments) -> Node:
    """Weights (channels, channels in / groups, *kernel), as PyTorch and ONNX have them; padding is zero."""
    from .window_maps import convolution  # loads onnx

    x = operand(a)
    inputs, *spatial = _image(a, x)
    groups = a.integer("groups", 1)
    if groups < 1 or inputs % groups:
        raise MistakeError(
            a.span, f"{groups} groups do not divide {inputs} channels", "write groups=1, or leave it out"
        )
    kernel = _per_axis(a.sizes("kernel"), len(spatial)) or (0,) * len(spatial)
    name, weight = b.tensor(a, "weight", (a.integer("channels"), inputs // groups, *kernel))
    outputs = weight.shape[0]
    if outputs % groups:
        raise MistakeError(a.span, f"{groups} groups do not divide {outputs} channels", "choose other channels")
    _, bias = b.tensor(a, "bias", (outputs,))
    axes = _windows(a, tuple(spatial), weight.shape[2:])
    shape = (outputs, *(axis.outputs for axis in axes))
    matrix = convolution(weight, inputs, groups, axes)
    return _mapped(b, a, x, name, matrix, np.repeat(bias, prod(shape[1:])), shape)


def _average_pool(b: Builder, a: Arguments) -> Node:
    """Means over windows; what lies in the padding does not count."""
    x = operand(a)
    channels, *spatial = _image(a, x)
    axes = _windows(a, tuple(spatial), _per_axis(a.sizes("window"), len(spatial)))
    return _means(b, a, x, axes, channels)


def _global_average_pool(b: Builder, a: Arguments) -> Node:
    x = operand(a)
    channels, *spatial = _image(a, x)
    return _means(b, a, x, _windows(a, tuple(spatial), tuple(spatial)), channels)


def _means(b: Builder, a: Arguments, x: Node, axes: tuple[Window, ...], channels: int) -> Node:
    from .window_maps import means

    matrix = means(channels, axes, with_padding=False)
    shape = (channels, *(axis.outputs for axis in axes))
    return _mapped(b, a, x, f"{a.label}.means", matrix, np.zeros(prod(shape)), shape)


def _max_pool(b: Builder, a: Arguments) -> Node:
    x = operand(a)
    # onnx is loaded only for what needs it
    from .onnx_windows import covered

    _, *spatial = _image(a, x)
    axes = _windows(a, tuple(spatial), _per_axis(a.sizes("window"), len(spatial)))
    places = covered(x.type.shape, axes)
    return b.add(a, ReduceMax(), b.add(a, Gather(b.constant(a, f"{a.label}.indices", places)), x))


def _global_max_pool(b: Builder, a: Arguments) -> Node:
    x = operand(a)
    channels, *spatial = _image(a, x)
    largest = b.add(a, ReduceMax(), b.add(a, Reshape((channels, prod(spatial))), x))
    return b.add(a, Reshape((channels, *[1] * len(spatial))), largest)


def _mapped(b: Builder, a: Arguments, x: Node, name: str, matrix: Matrix, bias: F64, shape: Shape) -> Node:
    """matrix @ x + bias for all elements of an image, as one of another shape."""
    parts = {part: b.constant(a, f"{name}.map.{part}", value) for part, value in matrix.arrays().items()}
    return b.add(a, Affine(shape, bias=b.constant(a, f"{name}.shift", bias), **parts), x)


def _image(a: Arguments, x: Node) -> Shape:
    if len(x.type.shape) < 2:
        hint = "do not flatten before it, or write reshape([channels, height, width])"
        what = f"{a.layer.text} reads images of shape [channels, height, width], this value has {list(x.type.shape)}"
        raise MistakeError(a.span, what, hint)
    return x.type.shape


def _windows(a: Arguments, spatial: Shape, kernel: Shape) -> tuple[Window, ...]:
    """Where windows stand. stride: 1 for convolutions, a window for poolings; padding: at both ends, or ``same``."""
    from .onnx_constants import UnsupportedError
    from .onnx_windows import taps, windows

    rank = len(spatial)
    stride = _per_axis(a.sizes("stride"), rank) or (kernel if a.layer.text.endswith("pool") else ())
    given = a.given.get("padding")
    same = isinstance(given, Word) and given.name.text == "same"
    padding = () if same else _per_axis(a.sizes("padding"), rank)
    try:
        found = windows(spatial, kernel, stride, (), (*padding, *padding), "SAME_UPPER" if same else "NOTSET", False)
        if not taps(found)[1].any(axis=1).all():
            raise UnsupportedError("some windows cover nothing but padding")
    except UnsupportedError as e:
        raise MistakeError(a.span, str(e), "choose another window, stride or padding") from None
    return found


def _per_axis(sizes: Shape, rank: int) -> Shape:
    return sizes * rank if len(sizes) == 1 else sizes


WINDOWS: Mapping[str, Layer] = {
    "avg_pool": Layer(_average_pool, (Parameter("window", Kind.SIZES, required=True), *_PLACES)),
    "conv": Layer(
        _conv,
        (
            Parameter("channels", Kind.INTEGER),
            Parameter("kernel", Kind.SIZES),
            *_PLACES,
            Parameter("groups", Kind.INTEGER),
            Parameter("weight", Kind.TENSOR),
            Parameter("bias", Kind.TENSOR),
        ),
    ),
    "global_avg_pool": Layer(_global_average_pool),
    "global_max_pool": Layer(_global_max_pool),
    "max_pool": Layer(_max_pool, (Parameter("window", Kind.SIZES, required=True), *_PLACES)),
}
