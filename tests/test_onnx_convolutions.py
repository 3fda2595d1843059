"""Convolutions, their transposes, mean pooling and batch normalisation of ONNX against ONNX Runtime in float."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, event, given, reject
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto
from onnx_models import Constants, assert_same, build, f32, node, ops, randoms
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException
from strategies import examples

import glyphc
from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.ops import Affine, Dense, Scale
from glyphc.passes.base import Context
from glyphc.passes.fold import Fold

Shape = tuple[int, ...]
seeds = st.integers(0, 2**32 - 1)


@st.composite
def windows(draw: st.DrawFn, dilated_same: bool = False) -> tuple[list[int], dict[str, Any]]:
    """Spatial sizes, and the attributes that all sliding windows share."""
    rank = draw(st.sampled_from([1, 1, 2, 2, 3]))
    sizes = [draw(st.integers(1, 9 if rank == 1 else 5)) for _ in range(rank)]
    attributes: dict[str, Any] = {"kernel_shape": [draw(st.integers(1, 3)) for _ in range(rank)]}
    if draw(st.booleans()):
        attributes["strides"] = [draw(st.integers(1, 3)) for _ in range(rank)]
    padding = draw(st.sampled_from(["none", "pads", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if (dilated_same or not padding.startswith("SAME")) and draw(st.booleans()):
        attributes["dilations"] = [draw(st.integers(1, 2)) for _ in range(rank)]
    if padding == "pads":
        attributes["pads"] = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    elif padding != "none":
        attributes["auto_pad"] = padding
    return sizes, attributes


@examples(60)
@given(windows(dilated_same=True), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.booleans(), seeds)
def test_convolution(
    case: tuple[list[int], dict[str, Any]], groups: int, per_group: int, outputs: int, biased: bool, seed: int
) -> None:
    """Every combination of stride, dilation, padding and groups, depthwise among them."""
    sizes, attributes = case
    shape = (groups * per_group, *sizes)
    constants: Constants = {"w": randoms(groups * outputs, per_group, *attributes["kernel_shape"], seed=seed)}
    if biased:
        constants["b"] = randoms(groups * outputs, seed=seed + 1)
    model = build([node("Conv", ["x", *constants], ["y"], group=groups, **attributes)], constants, shape)
    graph = read_or_reject(model)
    assert ops(graph) == [Affine]
    compare(model, shape, seed)


@examples(60)
@given(windows(), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.booleans(), st.data(), seeds)
def test_transposed_convolution(
    case: tuple[list[int], dict[str, Any]],
    groups: int,
    inputs: int,
    per_group: int,
    with_shape: bool,
    data: st.DataObject,
    seed: int,
) -> None:
    sizes, attributes = case
    # 3-D ones are slow in ONNX Runtime, and nothing differs
    assume(len(sizes) < 3)
    strides = attributes.get("strides", [1] * len(sizes))
    dilations = attributes.get("dilations", [1] * len(sizes))
    reaches = [(k - 1) * d + 1 for k, d in zip(attributes["kernel_shape"], dilations, strict=True)]
    if attributes.get("auto_pad", "").startswith("SAME"):
        # of shorter windows, ONNX Runtime makes less than the standard says
        assume(all(r >= s for r, s in zip(reaches, strides, strict=True)))
    if data.draw(st.booleans()):
        attributes["output_padding"] = [data.draw(st.integers(0, s - 1)) for s in strides]
    if with_shape and "auto_pad" not in attributes:
        attributes.pop("pads", None)
        attributes["output_shape"] = [n * s for n, s in zip(sizes, strides, strict=True)]
    shape = (groups * inputs, *sizes)
    constants: Constants = {"w": randoms(groups * inputs, per_group, *attributes["kernel_shape"], seed=seed)}
    constants["b"] = randoms(groups * per_group, seed=seed + 1)
    model = build([node("ConvTranspose", ["x", "w", "b"], ["y"], group=groups, **attributes)], constants, shape)
    assert ops(read_or_reject(model)) == [Affine]
    compare(model, shape, seed)


@examples(60)
@given(windows(), st.booleans(), st.booleans(), seeds)
def test_average_pool(case: tuple[list[int], dict[str, Any]], padded: bool, ceil_mode: bool, seed: int) -> None:
    sizes, attributes = case
    # of opset 19, where ONNX Runtime mistakes the padding of one axis for another's
    attributes.pop("dilations", None)
    kernel = attributes["kernel_shape"]
    if "pads" in attributes:  # padding must be smaller than the kernel
        attributes["pads"] = [min(p, kernel[i % len(kernel)] - 1) for i, p in enumerate(attributes["pads"])]
    attributes["count_include_pad"] = int(padded)
    same = attributes.get("auto_pad", "").startswith("SAME")
    # what ceil_mode means together with SAME padding, and whether that padding counts, differs between runtimes
    # and before opset 19, ONNX Runtime counts with ceil_mode what lies beyond the padding
    attributes["ceil_mode"] = int(ceil_mode and not same and not padded)
    if same:
        attributes["count_include_pad"] = 0
    shape = (2, *sizes)
    model = build([node("AveragePool", ["x"], ["y"], **attributes)], {}, shape)
    read_or_reject(model)
    assert_same(model, randoms(3, *shape, seed=seed))


def compare(model: ModelProto, shape: Shape, seed: int) -> None:
    """With ONNX Runtime, unless it refuses the model."""
    try:
        assert_same(model, randoms(2, *shape, seed=seed), atol=1e-4)
    except (Fail, InvalidArgument, RuntimeException) as e:
        event(str(e)[:60])
        reject()


def read_or_reject(model: Any) -> Any:
    """Windows that do not fit are onnx's to refuse or glyphc's; whatever is read must be right."""
    try:
        return read_onnx(model)
    except ModelError as e:
        event(str(e).splitlines()[-1][:40])
        reject()


@pytest.mark.parametrize(
    ("shape", "weight", "attributes", "result"),
    [
        ((1, 28, 28), (6, 1, 5, 5), {}, (6, 24, 24)),
        ((3, 8, 8), (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}, (4, 8, 8)),
        ((3, 8, 8), (4, 3, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (4, 4, 4)),
        ((4, 6, 6), (4, 1, 3, 3), {"group": 4}, (4, 4, 4)),
        ((4, 6, 6), (8, 2, 1, 1), {"group": 2, "strides": [2, 2]}, (8, 3, 3)),
        ((2, 20), (3, 2, 3), {"dilations": [4], "pads": [8, 0]}, (3, 20)),
        ((1, 4, 4, 4), (2, 1, 2, 2, 2), {}, (2, 3, 3, 3)),
    ],
)
def test_convolutions_written_out(shape: Shape, weight: Shape, attributes: dict[str, Any], result: Shape) -> None:
    """The common kinds, none of which may be skipped."""
    model = build([node("Conv", ["x", "w"], ["y"], **attributes)], {"w": randoms(*weight, seed=2)}, shape)
    graph = assert_same(model, randoms(2, *shape), atol=1e-4)
    assert graph.outputs[0].type.shape == result


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2), (1, 2, 2, 3)], ids=str)
def test_global_average_pool(shape: Shape) -> None:
    assert ops(assert_same(build([node("GlobalAveragePool", ["x"], ["y"])], {}, shape), randoms(4, *shape))) == [Affine]


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 2, 2)], ids=str)
def test_batch_normalization_of_channels(shape: Shape) -> None:
    constants: Constants = {"s": randoms(3), "b": randoms(3, seed=2), "m": randoms(3, seed=3), "v": f32(0.5, 1, 2)}
    model = build([node("BatchNormalization", ["x", *constants], ["y"], epsilon=1e-3)], constants, shape)
    assert ops(assert_same(model, randoms(4, *shape))) == [Scale]


def lenet(samples: Shape) -> tuple[list[NodeProto], Constants]:
    nodes = [
        node("Conv", ["x", "k1", "c1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", *"sbmv"], ["n"], "norm"),
        node("AveragePool", ["n"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Relu", ["p"], ["r"], "relu1"),
        node("Conv", ["r", "k2"], ["d"], "conv2"),
        node("Add", ["d", "d"], ["e"], "twice"),
        node("Relu", ["e"], ["g"], "relu2"),
        node("Flatten", ["g"], ["f"], "flatten"),
        node("Gemm", ["f", "w"], ["y"], "fc"),
    ]
    constants: Constants = {
        "k1": randoms(3, samples[0], 3, 3, seed=1) / 4,
        "c1": randoms(3, seed=2),
        **{name: randoms(3, seed=i) for i, name in enumerate("sbm")},
        "v": f32(0.5, 1, 2),
        "k2": randoms(4, 3, 2, 2, seed=4) / 4,
        "w": randoms(4, 5, seed=5),
    }
    return nodes, constants


def test_everything_between_two_nonlinearities_is_one_map() -> None:
    nodes, constants = lenet((1, 4, 4))
    model = build(nodes, constants, (1, 4, 4))
    graph = assert_same(model, randoms(3, 1, 4, 4), atol=1e-4)
    folded = Fold().run(graph, Context())
    assert [n.type.shape for n, _ in folded.of(Dense)] == [(12,), (4,), (5,)]
    assert [n.location for n, _ in folded.of(Dense)] == ["conv1+norm+pool", "conv2+twice", "fc"]
    x = randoms(3, 1, 4, 4).astype(np.float64)
    np.testing.assert_allclose(evaluate(folded, {"x": x})["y"], evaluate(graph, {"x": x})["y"], atol=1e-9)


@pytest.mark.parametrize("mode", ["simulate", "encrypted"])
def test_a_convolutional_network_runs(mode: str) -> None:
    nodes, constants = lenet((1, 4, 4))
    model = build(nodes, constants, (1, 4, 4))
    x = randoms(32, 1, 4, 4, seed=9)
    program = glyphc.compile(model, x, batch=32, insecure_ring=1024)
    wanted = evaluate(read_onnx(model), {"x": x.astype(np.float64)})["y"]
    found = np.asarray(program.run(x, mode=mode))
    assert np.abs(found - wanted).max() < 0.05 * np.ptp(wanted)


@pytest.mark.parametrize(
    ("op_type", "weight", "shape", "attributes", "reason"),
    [
        ("Conv", (2, 3, 3), (2, 5), {}, "does not fit 2 channels"),
        ("Conv", (3, 1, 3), (2, 5), {"group": 2}, "in 2 group.s. does not fit 2 channels"),
        ("Conv", (2, 2, 7), (2, 5), {}, "window of 7 does not fit into an axis of 5"),
        ("Conv", (2, 2, 3, 3), (2, 5), {}, "does not fit samples of shape .2, 5."),
        ("ConvTranspose", (3, 2, 3), (2, 5), {}, "does not fit 2 channels"),
    ],
)
def test_weights_that_do_not_fit(
    op_type: str, weight: Shape, shape: Shape, attributes: dict[str, Any], reason: str
) -> None:
    model = build(
        [node(op_type, ["x", "w"], ["y"], **attributes)], {"w": randoms(*weight)}, shape, sample_shapes={"y": shape}
    )
    with pytest.raises(ModelError, match=rf"(?s)({reason}|not a valid ONNX model)"):
        read_onnx(model)
