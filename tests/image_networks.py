"""Small networks of images, in the shape of those that people train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import build, node, randoms

import glyphc
from glyphc.ir.graph import Graph, Node, prune
from glyphc.passes import image_search
from glyphc.passes.image_plan import ImagePlan

SHAPE = (3, 8, 8)


def residual() -> onnx.ModelProto:
    """Of CIFAR's residual networks: three stages of 4, 8 and 16 channels, halved by strides, a pooled head."""
    constants = {
        "k0": randoms(4, 3, 3, 3, seed=1) / 5,
        "k1": randoms(4, 4, 3, 3, seed=2) / 6,
        "k2": randoms(4, 4, 3, 3, seed=3) / 6,
        "k3": randoms(8, 4, 3, 3, seed=4) / 6,
        "k4": randoms(8, 8, 3, 3, seed=5) / 8,
        "s4": randoms(8, 4, 1, 1, seed=6) / 2,
        "k5": randoms(16, 8, 3, 3, seed=7) / 8,
        "k6": randoms(16, 16, 3, 3, seed=8) / 12,
        "s6": randoms(16, 8, 1, 1, seed=9) / 3,
        "b0": randoms(4, seed=10) / 4,
        "w": randoms(5, 16, seed=11),
        "b": randoms(5, seed=12),
    }
    one = [1, 1, 1, 1]
    nodes = [
        node("Conv", ["x", "k0", "b0"], ["c0"], name="conv0", pads=one),
        node("Relu", ["c0"], ["r0"], name="relu0"),
        node("Conv", ["r0", "k1"], ["c1"], name="conv1", pads=one),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("Conv", ["r1", "k2"], ["c2"], name="conv2", pads=one),
        node("Add", ["c2", "r0"], ["a2"], name="add2"),
        node("Relu", ["a2"], ["r2"], name="relu2"),
        node("Conv", ["r2", "k3"], ["c3"], name="conv3", pads=one, strides=[2, 2]),
        node("Relu", ["c3"], ["r3"], name="relu3"),
        node("Conv", ["r3", "k4"], ["c4"], name="conv4", pads=one),
        node("Conv", ["r2", "s4"], ["h4"], name="short4", strides=[2, 2]),
        node("Add", ["c4", "h4"], ["a4"], name="add4"),
        node("Relu", ["a4"], ["r4"], name="relu4"),
        node("Conv", ["r4", "k5"], ["c5"], name="conv5", pads=one, strides=[2, 2]),
        node("Relu", ["c5"], ["r5"], name="relu5"),
        node("Conv", ["r5", "k6"], ["c6"], name="conv6", pads=one),
        node("Conv", ["r4", "s6"], ["h6"], name="short6", strides=[2, 2]),
        node("Add", ["c6", "h6"], ["a6"], name="add6"),
        node("Relu", ["a6"], ["r6"], name="relu6"),
        node("GlobalAveragePool", ["r6"], ["g"], name="mean"),
        node("Flatten", ["g"], ["f"], name="flat"),
        node("Gemm", ["f", "w", "b"], ["y"], name="head", transB=1),
    ]
    return build(nodes, constants, SHAPE)


def strided() -> onnx.ModelProto:
    """The smallest one with a stride between two functions."""
    constants = {
        "k0": randoms(2, 3, 3, 3, seed=1) / 5,
        "k1": randoms(4, 2, 3, 3, seed=2) / 4,
        "w": randoms(3, 4, seed=3),
        "b": randoms(3, seed=4),
    }
    one = [1, 1, 1, 1]
    nodes = [
        node("Conv", ["x", "k0"], ["c0"], name="conv0", pads=one),
        node("Relu", ["c0"], ["r0"], name="relu0"),
        node("Conv", ["r0", "k1"], ["c1"], name="conv1", pads=one, strides=[2, 2]),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("GlobalAveragePool", ["r1"], ["g"], name="mean"),
        node("Flatten", ["g"], ["f"], name="flat"),
        node("Gemm", ["f", "w", "b"], ["y"], name="head", transB=1),
    ]
    return build(nodes, constants, SHAPE)


def pooled() -> onnx.ModelProto:
    """Maxima of windows between two convolutions, the second one of each channel for itself and without padding."""
    constants = {
        "k0": randoms(2, 3, 3, 3, seed=1) / 5,
        "k1": randoms(4, 1, 3, 3, seed=2) / 2,
        "w": randoms(3, 16, seed=3) / 2,
        "b": randoms(3, seed=4),
    }
    nodes = [
        node("Conv", ["x", "k0"], ["c0"], name="conv0", pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"], name="relu0"),
        node("MaxPool", ["r0"], ["m"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["m", "k1"], ["c1"], name="conv1", group=2),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("Flatten", ["r1"], ["f"], name="flat"),
        node("Gemm", ["f", "w", "b"], ["y"], name="head", transB=1),
    ]
    return build(nodes, constants, SHAPE)


def pooled_widely() -> onnx.ModelProto:
    """Maxima of windows of 4 x 4, which take four rounds, before a head."""
    constants = {"k0": randoms(2, 3, 3, 3, seed=1) / 5, "w": randoms(3, 8, seed=3) / 2, "b": randoms(3, seed=4)}
    nodes = [
        node("Conv", ["x", "k0"], ["c0"], name="conv0", pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"], name="relu0"),
        node("MaxPool", ["r0"], ["m"], name="pool", kernel_shape=[4, 4], strides=[4, 4]),
        node("Flatten", ["m"], ["f"], name="flat"),
        node("Gemm", ["f", "w", "b"], ["y"], name="head", transB=1),
    ]
    return build(nodes, constants, SHAPE)


def series() -> onnx.ModelProto:
    """Of one axis: a forecast from 16 steps of 3 channels, with a dilated kernel."""
    constants = {
        "k0": randoms(4, 3, 3, seed=1) / 4,
        "k1": randoms(4, 4, 3, seed=2) / 4,
        "w": randoms(2, 32, seed=3) / 4,
        "b": randoms(2, seed=4),
    }
    nodes = [
        node("Conv", ["x", "k0"], ["c0"], name="conv0", pads=[2, 2], dilations=[2]),
        node("Relu", ["c0"], ["r0"], name="relu0"),
        node("Conv", ["r0", "k1"], ["c1"], name="conv1", pads=[1, 1], strides=[2]),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("Flatten", ["r1"], ["f"], name="flat"),
        node("Gemm", ["f", "w", "b"], ["y"], name="head", transB=1),
    ]
    return build(nodes, constants, (3, 16))


def skipping(stride: int) -> onnx.ModelProto:
    """A sum of what a function makes of the input and of the input itself, or of every second pixel of it."""
    constants = {
        "k0": randoms(2, 3, 3, 3, seed=1) / 5,
        "k1": randoms(4, 2, 3, 3, seed=2) / 4,
        "s1": randoms(4, 3, 1, 1, seed=3) / 2,
        "w": randoms(3, 4, seed=4),
        "b": randoms(3, seed=5),
    }
    one, by = [1, 1, 1, 1], [stride, stride]
    nodes = [
        node("Conv", ["x", "k0"], ["c0"], name="conv0", pads=one),
        node("Relu", ["c0"], ["r0"], name="relu0"),
        node("Conv", ["r0", "k1"], ["c1"], name="conv1", pads=one, strides=by),
        node("Conv", ["x", "s1"], ["h1"], name="short1", strides=by),
        node("Add", ["c1", "h1"], ["a1"], name="add1"),
        node("Relu", ["a1"], ["r1"], name="relu1"),
        node("GlobalAveragePool", ["r1"], ["g"], name="mean"),
        node("Flatten", ["g"], ["f"], name="flat"),
        node("Gemm", ["f", "w", "b"], ["y"], name="head", transB=1),
    ]
    return build(nodes, constants, SHAPE)


def autoencoder() -> onnx.ModelProto:
    """Half as large behind a stride, and back by a transposed convolution beside a copy of what it was."""
    constants = {
        "k0": randoms(2, 3, 3, 3, seed=1) / 5,
        "k1": randoms(4, 2, 3, 3, seed=2) / 4,
        "t2": randoms(4, 2, 4, 4, seed=3) / 6,
        "k3": randoms(3, 4, 3, 3, seed=4) / 6,
    }
    one = [1, 1, 1, 1]
    nodes = [
        node("Conv", ["x", "k0"], ["c0"], name="conv0", pads=one),
        node("Relu", ["c0"], ["r0"], name="relu0"),
        node("Conv", ["r0", "k1"], ["c1"], name="conv1", pads=one, strides=[2, 2]),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("ConvTranspose", ["r1", "t2"], ["c2"], name="larger", pads=one, strides=[2, 2]),
        node("Relu", ["c2"], ["r2"], name="relu2"),
        node("Concat", ["r2", "r0"], ["m"], name="both", axis=1),
        node("Conv", ["m", "k3"], ["y"], name="conv3", pads=one),
    ]
    return build(nodes, constants, SHAPE)


def enlarging() -> onnx.ModelProto:
    """Twice as large by nearest pixels, and twice again by a transposed convolution of windows side by side."""
    constants = {
        "k0": randoms(2, 3, 3, 3, seed=1) / 5,
        "scales": np.array([1, 1, 2, 2], dtype=np.float32),
        "k1": randoms(2, 2, 3, 3, seed=2) / 4,
        "t2": randoms(2, 1, 2, 2, seed=3) / 2,
    }
    nodes = [
        node("Conv", ["x", "k0"], ["c0"], name="conv0", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c0"], ["r0"], name="relu0"),
        node(
            "Resize",
            ["r0", "", "scales"],
            ["u"],
            name="nearest",
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        ),
        node("Conv", ["u", "k1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("ConvTranspose", ["r1", "t2"], ["y"], name="larger", strides=[2, 2]),
    ]
    return build(nodes, constants, SHAPE)


def corrupted(graph: Graph, kind: type, change: Any, number: int = -1) -> Graph:
    """The laid-out graph with one node of a kind changed, the last one by default."""
    graph = prune(graph)
    node = [n for n in graph if isinstance(n.op, kind)][number]
    graph._nodes[node.id] = change(node)
    return graph


def take_plans(patch: pytest.MonkeyPatch, wanted: Callable[[ImagePlan], bool]) -> None:
    """The planner weighs such image layouts alone."""
    plans = image_search._plans
    patch.setattr(image_search, "_plans", lambda *given: (plan for plan in plans(*given) if wanted(plan)))


def with_image(node: Node, **changes: Any) -> Node:
    layout = node.type.layout
    assert layout is not None and layout.image is not None
    return replace(node, type=replace(node.type, layout=layout.with_images(replace(layout.image, **changes))))


def layout_decision(program: glyphc.Program) -> Any:
    """Of the layouts, which the nonlinearities have."""
    nonlinear = (n for n in program.graph if n.op.mnemonic == "bootstrap")
    return next(d for n in nonlinear for d in n.decisions if d.made_by == "assign-layout")
