"""Images whose rows follow one another without a border, and strides that make channels of pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_networks import SHAPE, corrupted, pooled, pooled_widely, residual, series, skipping, strided, take_plans
from onnx import ModelProto
from onnx_models import build, node, randoms, run_onnxruntime
from schedule_cases import assert_exact
from strategies import examples

import glyphc
from glyphc.accuracy import accuracy
from glyphc.errors import ParameterError
from glyphc.ir.errors import IRError
from glyphc.ir.graph import Graph
from glyphc.ir.image_layout import Raster
from glyphc.ir.image_ops import Fold
from glyphc.ir.instructions import Split, TransientDot, weighted
from glyphc.ir.ops import Unpack
from glyphc.ir.stencils import Stencil, stencil
from glyphc.ir.verify import verify
from glyphc.passes.base import Context
from glyphc.passes.pipeline import DEFAULT
from glyphc.passes.validate import ValidateLayout
from glyphc.runtime import run

I64 = npt.NDArray[np.int64]
RING = 1024
IMAGES = DEFAULT.replace("assign-layout", "assign-layout{images=always}")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Which plans without borders the planner may take: (channels side by side, chunks)."""
    wanted: list[tuple[int, int]] = []
    take_plans(monkeypatch, lambda plan: plan.seamless and (plan.group, plan.chunks) in wanted)
    return wanted


def network(*layers: tuple[int, int, int], shape: tuple[int, int, int] = SHAPE) -> ModelProto:
    """Convolutions of so many channels, with square kernels of that side and that stride, and a pooled head."""
    constants, nodes, value, channels = {}, [], "x", shape[0]
    for number, (made, side, stride) in enumerate(layers):
        constants[f"k{number}"] = randoms(made, channels, side, side, seed=number) / (2 * side)
        pads, strides = [side // 2] * 4, [stride, stride]
        nodes.append(
            node("Conv", [value, f"k{number}"], [f"c{number}"], name=f"conv{number}", pads=pads, strides=strides)
        )
        nodes.append(node("Relu", [f"c{number}"], [f"r{number}"], name=f"relu{number}"))
        value, channels = f"r{number}", made
    constants |= {"w": randoms(3, channels, seed=99), "b": randoms(3, seed=98)}
    nodes.append(node("GlobalAveragePool", [value], ["g"], name="mean"))
    nodes.append(node("Flatten", ["g"], ["f"], name="flat"))
    nodes.append(node("Gemm", ["f", "w", "b"], ["y"], name="head", transB=1))
    return build(nodes, constants, shape)


def samples(count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-1, 1, (count, *SHAPE))


def compiled(model: ModelProto, batch: int, **options: Any) -> glyphc.Program:
    given = {"passes": IMAGES, "tolerance": 20.0} | options
    return glyphc.compile(model, samples(32), batch, strategy="glyph", insecure_ring=RING, **given)


@st.composite
def strides(draw: st.DrawFn) -> tuple[Stencil, int, int]:
    """A convolution, channels side by side, and pixels that become one."""
    group, by = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([2, 4]))
    side, made = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 3))
    channels, height, width = group * draw(st.integers(1, 2)), draw(st.integers(2, 5)), by * draw(st.integers(1, 3))
    reads = np.array([(y, x) for y in range(-(side // 2), side // 2 + 1) for x in range(-(side // 2), side // 2 + 1)])
    kernel = np.random.default_rng(draw(st.integers(0, 1000))).integers(1, 10, (side * side, made, channels))
    own = Stencil(kernel, reads, (1, by), (channels, height, width), (made, height, width // by))
    return own, group, by


def test_a_stride_along_rows_is_none_where_pixels_are_channels() -> None:
    @examples(40)
    @given(strides())
    def check(case: tuple[Stencil, int, int]) -> None:
        own, group, by = case
        x = np.random.default_rng(1).integers(-9, 10, (2, int(np.prod(own.source))))
        folded = own.folded(group, by)
        assert folded.stride == (1, 1)
        order = Fold(own.source, group, by).order
        assert sorted(order) == list(range(x.shape[1]))
        assert np.array_equal(folded.matrix.of(x[:, order]), own.matrix.of(x))
        assert stencil(folded.matrix, folded.source, folded.target) is not None

    check()


@st.composite
def rasters(draw: st.DrawFn) -> tuple[Raster, int]:
    """A raster without a border, and how many pixels of a row become one."""
    group, by, width = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([2, 4])), draw(st.sampled_from([4, 8]))
    channels, height, down = group * draw(st.integers(1, 3)), draw(st.integers(2, 4)), draw(st.sampled_from([1, 2]))
    levels = ((1, 0),) if down == 2 and draw(st.booleans()) else ()
    rows = height * down + draw(st.integers(1, 3))
    return Raster(channels, height, width, group, group, rows, width, (down, 1), levels=levels), by


def test_pixels_that_become_channels_stay_where_they_are() -> None:
    @examples(40)
    @given(rasters())
    def check(case: tuple[Raster, int]) -> None:
        image, by = case
        folded, samples = image.folded(by), np.arange(3)
        assert image.seamless and folded.seamless
        assert folded.slot == image.slot
        order = Fold(image.image, image.group, by).order
        for part in range(folded.parts):
            columns = order[folded.columns_of(part)]
            before = {int(c): n for n, c in enumerate(image.columns_of(part))}
            places = image.places(part, samples)[:, [before[int(c)] for c in columns]]
            assert np.array_equal(folded.places(part, samples), places)

    check()


@pytest.mark.parametrize(
    ("layers", "plan", "batch"),
    [
        ([(2, 3, 1), (2, 3, 1)], (2, 1), 4),
        ([(3, 3, 1), (2, 3, 1)], (2, 1), 4),  # the second group has one channel
        ([(2, 5, 1), (2, 5, 1)], (1, 1), 6),
        ([(2, 5, 1), (2, 5, 1)], (2, 2), 4),
        ([(2, 3, 1), (4, 3, 2), (4, 3, 1)], (2, 2), 8),  # images of two chunks between the rows
        ([(2, 3, 1), (4, 3, 2), (4, 3, 1)], (2, 1), 4),  # nothing between the rows
        ([(2, 3, 1), (4, 1, 2), (4, 3, 2)], (2, 4), 12),
    ],
)
def test_programs_compute_what_their_networks_do(
    layers: list[tuple[int, int, int]], plan: tuple[int, int], batch: int, only: list[tuple[int, int]]
) -> None:
    only.append(plan)
    program = compiled(network(*layers), batch)
    assert any(op.edges for _, op in program.graph.of(Unpack))
    assert_exact(program, {"x": samples(32)[:batch]})  # of the calibration: nothing wraps


def test_a_residual_network_is_simulated_and_encrypted_as_it_is(only: list[tuple[int, int]]) -> None:
    only.append((2, 2))
    program = compiled(residual(), 8, tolerance=5.0)
    assert [op.by for _, op in program.graph.of(Fold)] == [2, 2, 2]
    x = samples(8, seed=1)
    assert_exact(program, {"x": x})
    (wanted,) = run_onnxruntime(residual(), x.astype(np.float32)).values()
    report = run(program, x, "simulate")
    (simulated,) = report.outputs.values()
    assert np.abs(simulated - wanted).max() < 0.1 * np.ptp(wanted)
    assert report.lost is not None and all(loss.kept for loss in report.lost)
    (encrypted,) = run(program, x, "encrypted").outputs.values()
    assert np.abs(encrypted - simulated).max() < 0.01 * np.ptp(simulated)
    (few,) = run(program, x[:3], "encrypted").outputs.values()  # two of them in the first chunk, one in the second
    assert np.abs(few - simulated[:3]).max() < 0.01 * np.ptp(simulated)
    again = glyphc.Program.from_bytes(program.to_bytes())
    assert again.graph == program.graph


@pytest.mark.parametrize("model", [pooled(), pooled_widely(), series(), skipping(1), skipping(2), strided()])
def test_poolings_series_and_sums_stand_so_too(model: ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    take_plans(monkeypatch, lambda plan: plan.seamless)
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    x = np.random.default_rng(0).uniform(-1, 1, (32, *shape))
    program = glyphc.compile(model, x, 4, strategy="glyph", insecure_ring=RING, passes=IMAGES, tolerance=20.0)
    assert_exact(program, {"x": x[:4]})


@pytest.mark.parametrize("width", [6, 7, 12])
def test_rows_that_are_no_powers_of_two_leave_what_is_behind_them_free(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a stride does not divide them there is no such plan, and another one is taken."""
    take_plans(monkeypatch, lambda plan: plan.seamless)
    model = network((2, 3, 1), (2, 3, 2), (4, 3, 2), shape=(2, 8, width))
    x = np.random.default_rng(0).uniform(-1, 1, (32, 2, 8, width))
    program = glyphc.compile(model, x, 4, strategy="glyph", insecure_ring=RING, passes=IMAGES, tolerance=20.0)
    assert len(list(program.graph.of(Fold))) == (2 if width == 12 else 0)
    assert_exact(program, {"x": x[:4]})


def test_openfhe_computes_the_same(only: list[tuple[int, int]]) -> None:
    only.append((2, 2))
    program = compiled(network((2, 3, 1), (4, 3, 2)), 8)
    x = samples(8, seed=5)
    (simulated,) = run(program, x, "simulate").outputs.values()
    (encrypted,) = run(program, x, "encrypted", engine="openfhe").outputs.values()
    assert np.abs(encrypted - simulated).max() < 0.01 * np.ptp(simulated)


def test_what_takes_back_is_not_kept(only: list[tuple[int, int]]) -> None:
    """And all exponents are taken apart for it: columns and channels together."""
    only.append((2, 1))
    schedule = compiled(network((2, 3, 1), (2, 3, 1)), 4).schedule
    brief = {i.weights for i in schedule.instructions if isinstance(i, TransientDot)}
    assert brief
    assert set(weighted(schedule.instructions)) == set(schedule.polynomials) - brief
    assert {(i.parts, i.stride) for i in schedule.instructions if isinstance(i, Split)} == {(2 * 8, 1)}


# -- what is refused --


@pytest.fixture
def graph(only: list[tuple[int, int]]) -> Graph:
    only.append((2, 2))
    return compiled(network((2, 3, 1), (4, 3, 2)), 8).stages["assign-layout"]


def test_a_map_without_the_columns_that_it_carries_over_is_found(graph: Graph) -> None:
    ValidateLayout().run(graph, Context())
    bad = corrupted(graph, Unpack, lambda n: replace(n, op=replace(n.op, edges=0)), 0)
    with pytest.raises(ParameterError, match="collide"):
        ValidateLayout().run(bad, Context())


@pytest.mark.parametrize("edges", [-1, 5])
def test_columns_that_there_are_not_are_refused(graph: Graph, edges: int) -> None:
    with pytest.raises(IRError, match="unpacks"):
        verify(corrupted(graph, Unpack, lambda n: replace(n, op=replace(n.op, edges=edges)), 0))


@pytest.mark.parametrize("change", [{"by": 4}, {"group": 1}])
def test_pixels_that_become_other_channels_are_refused(graph: Graph, change: dict[str, int]) -> None:
    with pytest.raises(IRError, match="stand elsewhere"):
        verify(corrupted(graph, Fold, lambda n: replace(n, op=replace(n.op, **change))))


def test_features_apart_have_no_columns(only: list[tuple[int, int]]) -> None:
    passes = DEFAULT.replace("assign-layout", "assign-layout{images=never}")
    graph = compiled(network((2, 3, 1), (2, 3, 1)), 4, passes=passes).stages["assign-layout"]
    with pytest.raises(IRError, match="unpacks"):
        verify(corrupted(graph, Unpack, lambda n: replace(n, op=replace(n.op, edges=1))))


def test_columns_are_split_by_keys_that_are_asked_for(only: list[tuple[int, int]]) -> None:
    only.append((2, 2))
    graph = compiled(network((2, 3, 1), (4, 3, 2)), 8).graph
    assert graph.parameters is not None
    graph.parameters = replace(graph.parameters, unpack_strides=())
    with pytest.raises(IRError, match="no keys"):
        verify(graph)


def test_rows_with_a_border_have_no_columns_that_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    take_plans(monkeypatch, lambda plan: not plan.seamless)
    graph = compiled(network((2, 3, 1), (2, 3, 1)), 4).stages["assign-layout"]
    with pytest.raises(IRError, match="unpacks"):
        verify(corrupted(graph, Unpack, lambda n: replace(n, op=replace(n.op, edges=1))))


def test_what_each_layer_loses_is_found(only: list[tuple[int, int]]) -> None:
    """Values are read from the ciphertexts of channels, beside which there are those of columns."""
    only.append((2, 2))
    model, x = network((2, 3, 1), (4, 3, 2)), samples(8, seed=6)
    (wanted,) = run_onnxruntime(model, x.astype(np.float32)).values()
    found = accuracy(compiled(model, 8), x, np.argmax(wanted, axis=1))
    losses = [node.simulated for node in found.nodes if node.simulated is not None]
    assert len(losses) >= 4 and max(losses) < 0.1
