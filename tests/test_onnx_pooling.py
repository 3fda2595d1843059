"""Maximum pooling of ONNX against ONNX Runtime in float: which elements every window covers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, reject
from hypothesis import strategies as st
from onnx_models import assert_same, build, node, ops, randoms
from strategies import examples

from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.ops import Apply, Gather, ReduceMax, Reshape
from glyphc.passes.base import Context
from glyphc.passes.expand import Expand

seeds = st.integers(0, 2**32 - 1)


@st.composite
def pools(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Channels and sizes of an input, and attributes that ONNX allows for it."""
    rank = draw(st.sampled_from([1, 1, 2, 2, 3]))
    sizes = [draw(st.integers(1, 9 if rank == 1 else 5)) for _ in range(rank)]
    attributes: dict[str, Any] = {"kernel_shape": [draw(st.integers(1, 4)) for _ in range(rank)]}
    if draw(st.booleans()):
        attributes["strides"] = [draw(st.integers(1, 3)) for _ in range(rank)]
    padding = draw(st.sampled_from(["none", "pads", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    # ONNX Runtime leaves dilations out when it works out SAME padding, against the standard
    if not padding.startswith("SAME") and draw(st.booleans()):
        attributes["dilations"] = [draw(st.integers(1, 3)) for _ in range(rank)]
    if padding == "pads":
        kernel = attributes["kernel_shape"]
        attributes["pads"] = [draw(st.integers(0, kernel[i % rank] - 1)) for i in range(2 * rank)]
    elif padding != "none":
        attributes["auto_pad"] = padding
    # together with SAME_*, ONNX's own documents and runtimes differ on what ceil_mode means: it means nothing
    if not padding.startswith("SAME") and draw(st.booleans()):
        attributes["ceil_mode"] = 1
    return (draw(st.integers(1, 2)), *sizes), attributes


@examples(200)
@given(pools(), seeds)
def test_max_pool(case: tuple[tuple[int, ...], dict[str, Any]], seed: int) -> None:
    shape, attributes = case
    try:
        model = build([node("MaxPool", ["x"], ["y"], **attributes)], {}, shape, batch=2)
        graph = read_onnx(model)
    except Exception as e:
        # windows that do not fit are onnx's to refuse or glyphc's; whatever is read must be right
        event(type(e).__name__)
        reject()
    assert ops(graph) in ([Gather, ReduceMax], [Reshape, ReduceMax])
    # all below zero: padding that counted as zero would show
    x = np.asarray(-np.abs(np.random.default_rng(seed).normal(size=(2, *shape))) - 0.5, dtype=np.float32)
    assert_same(model, x)
    samples = {"x": x.astype(np.float64)}
    expanded = Expand().run(graph, Context(samples))
    np.testing.assert_allclose(evaluate(expanded, samples)["y"], evaluate(graph, samples)["y"])


@pytest.mark.parametrize(
    ("shape", "attributes", "values"),
    [
        ((2, 8, 8), {"kernel_shape": [2, 2], "strides": [2, 2]}, [64, 32]),
        ((1, 16, 16), {"kernel_shape": [8, 8], "strides": [8, 8]}, [128, 64, 32, 16, 8, 4]),
        # windows that overlap share what they have in common: 4 comparisons for each, not 8
        ((1, 20, 20), {"kernel_shape": [3, 3], "strides": [1, 1]}, [360, 360, 324, 324]),
        ((1, 9, 9), {"kernel_shape": [3, 3], "strides": [2, 2]}, [36, 36, 16, 16]),
        ((1, 9), {"kernel_shape": [7]}, [8, 6, 3]),
        ((1, 12), {"kernel_shape": [6], "strides": [6]}, [6, 2, 2]),
        # every place by itself where that takes fewer rounds, or where padding would stand in for a pixel
        ((1, 5, 5), {"kernel_shape": [5, 5]}, [12, 6, 3, 2, 1]),
        ((1, 4), {"kernel_shape": [2], "pads": [1, 1]}, [5]),
    ],
)
def test_maxima_by_pairs_of_pixels(shape: tuple[int, ...], attributes: dict[str, Any], values: list[int]) -> None:
    """How many each round compares, one after another."""
    model = build([node("MaxPool", ["x"], ["y"], **attributes)], {}, shape)
    x = np.random.default_rng(0).normal(size=(3, *shape))
    graph = read_onnx(model)
    expanded = Expand().run(graph, Context({"x": x}))
    np.testing.assert_allclose(evaluate(expanded, {"x": x})["y"], evaluate(graph, {"x": x})["y"])
    assert [n.type.size for n, _ in expanded.of(Apply)] == values


@pytest.mark.parametrize(
    ("shape", "attributes", "size"),
    [
        ((1, 6), {"kernel_shape": [2], "strides": [2]}, (1, 3)),
        ((2, 4, 4), {"kernel_shape": [2, 2], "strides": [2, 2]}, (2, 2, 2)),
        ((1, 5), {"kernel_shape": [2], "strides": [2]}, (1, 2)),
        ((1, 5), {"kernel_shape": [2], "strides": [2], "ceil_mode": 1}, (1, 3)),
        ((1, 5), {"kernel_shape": [3], "strides": [2], "auto_pad": "SAME_UPPER"}, (1, 3)),
        ((1, 4), {"kernel_shape": [3], "strides": [2], "auto_pad": "SAME_UPPER"}, (1, 2)),
        ((1, 4), {"kernel_shape": [3], "strides": [2], "auto_pad": "SAME_LOWER"}, (1, 2)),
        ((1, 7), {"kernel_shape": [3], "dilations": [3]}, (1, 1)),
        ((1, 3, 3), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, (1, 3, 3)),
        ((1, 3, 4), {"kernel_shape": [2, 3], "pads": [0, 1, 1, 2], "strides": [1, 2]}, (1, 3, 3)),
    ],
)
def test_pools_written_out(shape: tuple[int, ...], attributes: dict[str, Any], size: tuple[int, ...]) -> None:
    """The common kinds, none of which may be skipped."""
    graph = assert_same(build([node("MaxPool", ["x"], ["y"], **attributes)], {}, shape), randoms(3, *shape) - 3)
    assert graph.outputs[0].type.shape == size


def test_same_padding_counts_dilations() -> None:
    """By the standard's formula: five outputs for five inputs, padding (5 - 1) * 1 + (2 - 1) * 3 + 1 - 5 = 3."""
    x = np.array([[[5.0, 1.0, 4.0, 2.0, 3.0]]])
    for auto_pad, wanted in (("SAME_UPPER", [4, 5, 3, 4, 2]), ("SAME_LOWER", [1, 4, 5, 3, 4])):
        model = build([node("MaxPool", ["x"], ["y"], kernel_shape=[2], dilations=[3], auto_pad=auto_pad)], {}, (1, 5))
        assert evaluate(read_onnx(model), {"x": x})["y"].tolist() == [[wanted]]


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2), (1, 2, 2, 3)], ids=str)
def test_global_max_pool(shape: tuple[int, ...]) -> None:
    graph = assert_same(build([node("GlobalMaxPool", ["x"], ["y"])], {}, shape), randoms(4, *shape))
    assert ops(graph) == [Reshape, ReduceMax, Reshape]


@pytest.mark.parametrize(
    ("shape", "attributes", "reason"),
    [
        ((1, 3), {"kernel_shape": [5]}, "window of 5 does not fit into an axis of 3 padded by 0"),
        ((1, 3), {"kernel_shape": [2], "dilations": [4]}, "window of 5 does not fit"),
        ((1, 2), {"kernel_shape": [1], "pads": [1, 1], "strides": [3]}, "nothing but padding"),
    ],
)
def test_pools_that_make_no_sense(shape: tuple[int, ...], attributes: dict[str, Any], reason: str) -> None:
    model = build([node("MaxPool", ["x"], ["y"], **attributes)], {}, shape, sample_shapes={"y": (1, 1)})
    with pytest.raises(ModelError, match=rf"(?s)({reason}|not a valid ONNX model)"):
        read_onnx(model)


def test_constants_of_a_pool_survive_its_expansion() -> None:
    """The expansion names its constants after the same node."""
    nodes = [node("MaxPool", [a], [b], "pool", kernel_shape=[2, 2]) for a, b in (("x", "p"), ("p", "y"))]
    model = build(nodes, {}, (1, 4, 4))
    x = randoms(6, 1, 4, 4).astype(np.float64)
    graph = read_onnx(model)
    expanded = Expand().run(graph, Context({"x": x}))
    np.testing.assert_allclose(evaluate(expanded, {"x": x})["y"], evaluate(graph, {"x": x})["y"])
