"""Image layouts: convolutions on ciphertexts of many images, beside numpy and ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_networks import (
    SHAPE,
    autoencoder,
    corrupted,
    enlarging,
    layout_decision,
    pooled,
    pooled_widely,
    residual,
    series,
    skipping,
    strided,
    take_plans,
    with_image,
)
from onnx import ModelProto
from onnx_models import run_onnxruntime
from roles import make_setting
from schedule_cases import assert_exact
from strategies import examples

import glyphc
from glyphc.accuracy import accuracy
from glyphc.errors import GlyphcError, ParameterError
from glyphc.exchange.server import Evaluator
from glyphc.ir.errors import IRError
from glyphc.ir.graph import prune
from glyphc.ir.image_layout import Raster
from glyphc.ir.instructions import Conjugates, Load, Powers
from glyphc.ir.instructions.partial import for_samples
from glyphc.ir.layout import Layout
from glyphc.ir.matrices import Compressed, Full
from glyphc.ir.ops import Apply, Interleave, Linear, Pixels, Unpack
from glyphc.ir.stencils import Stencil, disturbed, stencil
from glyphc.ir.verify import verify
from glyphc.passes.base import Context
from glyphc.passes.pipeline import DEFAULT
from glyphc.passes.validate import ValidateLayout
from glyphc.runtime import run
from glyphc.ways.weight_polynomials import stencil_polynomials

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
RING, BATCH = 1024, 16
IMAGES = DEFAULT.replace("assign-layout", "assign-layout{images=always}")


def samples(count: int, seed: int = 0) -> F64:
    return np.random.default_rng(seed).uniform(-1, 1, (count, *SHAPE))


def compiled(model: ModelProto, batch: int = BATCH, **options: Any) -> glyphc.Program:
    given = {"passes": IMAGES} | options
    return glyphc.compile(model, samples(32), batch, strategy="glyph", insecure_ring=RING, **given)


@pytest.fixture(scope="module", autouse=True)
def _borders() -> Iterator[None]:
    """Rows have borders here; of those without, see test_seamless_images.py."""
    with pytest.MonkeyPatch.context() as patch:
        take_plans(patch, lambda plan: not plan.seamless)
        yield


@pytest.fixture(scope="module")
def program(_borders: None) -> glyphc.Program:
    return compiled(residual(), tolerance=5.0)


# -- pure functions --


def convolved(x: I64, kernel: I64, stride: int, padding: int) -> I64:
    """Images, shape (samples, in, rows, columns), by a kernel (out, in, rows, columns): the definition."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = kernel.shape[2:]
    rows, columns = (x.shape[2] - height) // stride + 1, (x.shape[3] - width) // stride + 1
    out = np.zeros((len(x), len(kernel), rows, columns), dtype=np.int64)
    for y in range(rows):
        for c in range(columns):
            seen = x[:, :, y * stride : y * stride + height, c * stride : c * stride + width]
            out[:, :, y, c] = np.tensordot(seen, kernel, axes=((1, 2, 3), (1, 2, 3)))
    return out


def of_kernel(kernel: I64, stride: int, padding: int, rows: int, columns: int) -> Stencil:
    made, channels, height, width = kernel.shape
    reads = np.array([(y - padding, x - padding) for y in range(height) for x in range(width)])
    target = ((rows + 2 * padding - height) // stride + 1, (columns + 2 * padding - width) // stride + 1)
    taps = kernel.transpose(2, 3, 0, 1).reshape(height * width, made, channels)
    return Stencil(taps, reads, (stride, stride), (channels, rows, columns), (made, *target))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[I64, int, int, int, int]:
    """A kernel, stride, padding, rows and columns."""
    side, stride = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2]))
    padding = draw(st.integers(0, side // 2))
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 4)), side, side)
    kernel = np.random.default_rng(draw(st.integers(0, 1000))).integers(-9, 10, shape)
    return kernel, stride, padding, draw(st.integers(4, 7)), draw(st.integers(4, 7))


def test_stencils_are_convolutions_and_matrices_show_them() -> None:
    @examples(40)
    @given(convolutions())
    def check(case: tuple[I64, int, int, int, int]) -> None:
        kernel, stride, padding, rows, columns = case
        own = of_kernel(*case)
        x = np.random.default_rng(1).integers(-9, 10, (3, kernel.shape[1], rows, columns))
        wanted = convolved(x, kernel, stride, padding).reshape(3, -1)
        flat = x.reshape(3, -1)
        assert np.array_equal(own.matrix.of(flat), wanted)
        if kernel.any():
            dense = own.matrix.dense()
            for matrix in (own.matrix, Full(dense), Compressed(own.matrix.csr())):
                found = stencil(matrix, own.source, own.target)
                assert found is not None
                assert np.array_equal(found.matrix.of(flat), wanted)
                assert stencil(matrix, own.source) is not None  # whatever the picture, it is the same matrix
        parts = [
            own.part(first, own.stride).matrix.of(x[:, :, first[0] :: stride, first[1] :: stride].reshape(3, -1))
            for first in own.parities(own.stride)
        ]
        assert np.array_equal(sum(parts), wanted)

    check()


@st.composite
def transposed(draw: st.DrawFn) -> tuple[I64, int, int, int, int]:
    """A kernel, stride, padding, rows and columns."""
    up, size = draw(st.sampled_from([2, 3])), draw(st.integers(2, 4))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), size, size)
    kernel = np.random.default_rng(draw(st.integers(0, 1000))).integers(1, 10, shape)
    return kernel, up, draw(st.integers(0, 1)), draw(st.integers(2, 4)), draw(st.integers(2, 4))


def test_transposed_convolutions_are_stencils_too() -> None:
    """Their matrices show them, and a product puts every pixel that they make in its place."""

    @examples(20)
    @given(transposed())
    def check(case: tuple[I64, int, int, int, int]) -> None:
        kernel, up, padding, rows, columns = case
        made, channels, size, _ = kernel.shape
        x = np.random.default_rng(1).integers(-9, 10, (2, channels, rows, columns))
        whole = np.zeros((2, made, up * (rows - 1) + size, up * (columns - 1) + size), dtype=np.int64)
        for y in range(rows):
            for c in range(columns):
                seen = np.tensordot(x[:, :, y, c], kernel, axes=(1, 1))
                whole[:, :, y * up : y * up + size, c * up : c * up + size] += seen
        wanted = whole[:, :, padding : whole.shape[2] - padding, padding : whole.shape[3] - padding]
        reads = np.array([(padding - y, padding - c) for y in range(size) for c in range(size)])
        taps = kernel.transpose(2, 3, 0, 1).reshape(size * size, made, channels)
        source = (channels, rows, columns)
        own = Stencil(taps, reads, (1, 1), source, wanted.shape[1:], (up, up))
        flat, result = x.reshape(2, -1), wanted.reshape(2, -1)
        assert np.array_equal(own.matrix.of(flat), result)
        for matrix in (own.matrix, Full(own.matrix.dense())):
            found = stencil(matrix, source, own.target)
            assert found is not None and np.array_equal(found.matrix.of(flat), result)
        # pixels that are read stand so far apart that there is room between them
        room = (up * rows + size, up * columns + size)
        read = Raster(channels, rows, columns, 4, 1, *room, (up, up))
        target = Raster(*own.target, 4, 4, *room)
        before, after = (Layout.of_images(r, 4096, 2, 1, r is read, 1) for r in (read, target))
        weights = stencil_polynomials(own, None, before, after, 0, tuple(range(channels)))
        products = [negacyclic(p, weights.dense(c, 4096)) for c, p in enumerate(before.pack(flat))]
        assert np.array_equal(after.unpack(np.array([sum(products)]), 2), result)
        assert not disturbed(own, read, target, 2, 4096)

    check()


def test_a_matrix_with_one_other_weight_is_no_stencil_of_its_picture() -> None:
    own = of_kernel(np.arange(1, 37).reshape(2, 2, 3, 3), 1, 1, 6, 6)
    dense = own.matrix.dense().copy()
    dense[3, 2] += 1
    assert stencil(Full(dense), own.source, own.target) is None
    hole = own.matrix.dense().copy()
    hole[0, 0] = 0
    assert stencil(Full(hole), own.source, own.target) is None


def test_every_second_row_is_a_picture_of_as_many_channels() -> None:
    """And not one of twice as many with half the rows each, which the same entries would be, too."""
    rows = np.arange(2 * 81).reshape(2, 9, 9)[:, :8:2].ravel()
    matrix = Compressed.of_parts(np.ones(len(rows)), rows, np.arange(len(rows) + 1), 2 * 81)
    found = stencil(matrix, (2, 9, 9))
    assert found is not None
    assert (found.target, found.stride) == ((2, 4, 9), (2, 1))


@st.composite
def rasters(draw: st.DrawFn) -> tuple[Raster, int, int]:
    """Images of a stage, with their batch and chunks."""
    step = draw(st.sampled_from([1, 2, 4]))
    levels = {1: (), 2: ((1, 0), (0, 1)), 4: ((0, 2), (1, 0), (0, 1))}[step]
    height, width, group = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4]))
    sizes = (height * step + draw(st.integers(2, 4)), width * step + draw(st.integers(2, 4)))
    beside = draw(st.sampled_from([1, group]))
    raster = Raster(draw(st.integers(1, 9)), height, width, group, beside, *sizes, (step, step), (0, 0), levels)
    return raster, draw(st.integers(1, 9)), draw(st.sampled_from([1, 2, 4]))


def test_every_value_has_a_place_of_its_own() -> None:
    @examples(60)
    @given(rasters())
    def check(case: tuple[Raster, int, int]) -> None:
        raster, batch, chunks = case
        layout = Layout.of_images(raster, 1 << 14, batch, 2, True, chunks)
        values = np.arange(1, batch * raster.size + 1).reshape(batch, raster.size)
        packed = layout.pack(values)
        assert np.array_equal(layout.unpack(packed, batch), values)
        assert np.count_nonzero(packed) == values.size
        feature, sample = raster.size - 1, batch - 1
        part = feature // layout.per_part
        number = sample % chunks * layout.parts + part
        assert packed[number, layout.exponent_of(feature, sample)] == values[sample, feature]
        kept = layout.mask.kept(1 << 14, 2)[np.flatnonzero(packed[: layout.parts].any(axis=0)) // 2]
        assert kept.all()

    check()


def negacyclic(a: I64, b: I64) -> I64:
    """The product modulo X^n + 1, exactly."""
    n = len(a)
    out = np.zeros(n, dtype=np.int64)
    for exponent in np.flatnonzero(b):
        moved = np.roll(a, exponent)
        moved[:exponent] *= -1
        out += b[exponent] * moved
    return out


def test_products_of_polynomials_are_convolutions() -> None:
    """Images side by side, borders of zeros, any channel: and nothing else lands on a pixel that is read."""

    @examples(15)
    @given(convolutions(), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]))
    def check(case: tuple[I64, int, int, int, int], group: int, unit: int) -> None:
        kernel, stride, padding, rows, columns = case
        channels = kernel.shape[1]
        own = of_kernel(*case)
        sizes = (rows + padding + 1, columns + padding + 1)
        read = Raster(channels, rows, columns, group, 1, *sizes)
        written = Raster(*own.target, group, group, *sizes, (stride, stride))
        source = Layout.of_images(read, 2048, 3, unit, True, 1)
        target = Layout.of_images(written, 2048, 3, unit, False, 1)
        x = np.random.default_rng(2).integers(-9, 10, (3, channels, rows, columns))
        bias = np.random.default_rng(3).integers(-99, 100, own.target[0] * own.target[1] * own.target[2])
        ciphertexts = source.pack(x.reshape(3, -1))
        out = []
        for part in range(written.parts):
            weights = stencil_polynomials(own, bias, source, target, part, tuple(range(channels)))
            products = [negacyclic(ciphertexts[c], weights.dense(c, 2048)) for c in range(channels)]
            out.append(sum(products) + weights.dense(channels, 2048))
        wanted = convolved(x, kernel, stride, padding).reshape(3, -1) + bias
        assert np.array_equal(target.unpack(np.array(out), 3), wanted)

    check()


DIRECTIONS = [(1, 0), (0, 1), (1, 1)]


def test_groups_of_channels_between_pixels_do_not_meet() -> None:
    """Where they are read along one direction and made along another one, and only there."""

    @examples(15)
    @given(
        st.permutations(DIRECTIONS), st.sampled_from([2, 4]), st.integers(1, 2), st.integers(2, 4), st.integers(0, 99)
    )
    def check(ways: list[tuple[int, int]], apart: int, group: int, sites: int, seed: int) -> None:
        random, sites = np.random.default_rng(seed), min(sites, apart)
        channels, made, size = group * sites, group * sites + 1, 3
        kernel = random.integers(-9, 10, (made, channels, 3, 3))
        own = of_kernel(kernel, 1, 1, size, size)
        room = (size + 1) * apart
        # and what lands beside a row is at another site in the next one
        pitch = room + (apart if (1, 0) not in ways[:2] else 0)
        # read from the second pixels on, as behind a stride
        read = Raster(channels, size, size, group, 1, room, pitch, (apart, apart), (0, 1), (), sites, ways[0])
        target = Raster(made, size, size, group, group, room, pitch, (apart, apart), (0, 0), (), sites, ways[1])
        ring, samples = 2048, 2
        source = Layout.of_images(read, ring, samples, 1, True, 1)
        result = Layout.of_images(target, ring, samples, 1, False, 1)
        assert (source.parts, result.parts) == (group, 2)
        x = random.integers(-9, 10, (samples, channels, size, size))
        bias = random.integers(-99, 100, made * size * size)
        ciphertexts = source.pack(x.reshape(samples, -1))
        assert np.array_equal(source.unpack(ciphertexts, samples), x.reshape(samples, -1))
        out = []
        for part in range(result.parts):
            weights = stencil_polynomials(own, bias, source, result, part, tuple(range(group)))
            products = [negacyclic(ciphertexts[r], weights.dense(r, ring)) for r in range(group)]
            out.append(sum(products) + weights.dense(group, ring))
        assert np.array_equal(result.unpack(np.array(out), samples), convolved(x, kernel, 1, 1).reshape(2, -1) + bias)
        assert not disturbed(own, read, target, samples, ring)
        assert disturbed(own, read, replace(target, apart=ways[0]), samples, ring)

    check()


# -- programs --


def test_a_residual_network_computes_what_onnxruntime_does(program: glyphc.Program) -> None:
    x = samples(BATCH, seed=1).astype(np.float32)
    (wanted,) = run_onnxruntime(residual(), x).values()
    for mode, tolerated in (("clear", 0.005), ("simulate", 0.1)):
        found = program.run(x, mode)
        assert isinstance(found, np.ndarray)
        assert np.abs(found - wanted).max() < tolerated * np.ptp(wanted), mode
    assert_exact(program, {"x": x.astype(np.float64)})


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (pooled(), 8),
        (pooled(), 1),
        (pooled_widely(), 32),
        (series(), 8),
        (strided(), 2),
        (skipping(1), 4),
        (skipping(2), 4),
        (autoencoder(), 4),
        (enlarging(), 1),
    ],
)
def test_poolings_groups_dilations_and_series_are_images_too(model: ModelProto, batch: int) -> None:
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    x = np.random.default_rng(0).uniform(-1, 1, (32, *shape))
    program = glyphc.compile(model, x, batch, strategy="glyph", insecure_ring=RING, passes=IMAGES, tolerance=20.0)
    assert layout_decision(program).chosen.startswith("images")
    (wanted,) = run_onnxruntime(model, x[:batch].astype(np.float32)).values()
    found = np.asarray(program.run(x[:batch], "clear"))
    assert np.abs(found - wanted).max() < 0.005 * np.ptp(wanted) + 0.005
    assert_exact(program, {"x": x[:batch]})


def test_one_image_alone_has_its_channels_between_the_pixels() -> None:
    """Behind each stride there are twice as many channels, and as many ciphertexts as before."""
    program = compiled(residual(), batch=1, tolerance=20.0)
    bootstrapped = [n.type.layout for n in program.graph if n.op.mnemonic == "bootstrap"]
    images = [layout.image for layout in bootstrapped if layout is not None and layout.image is not None]
    assert [image.sites for image in images] == [1] * 3 + [1] * 3 + [2] * 2 + [2] * 3 + [4] * 2, images
    values = {program.graph.bootstrapped(n).id: n for n in program.graph if n.op.mnemonic == "bootstrap"}
    assert all(n.type.layout is not None and n.type.layout.ciphertexts == 1 for n in values.values())
    x = samples(1, seed=1).astype(np.float32)
    (wanted,) = run_onnxruntime(residual(), x).values()
    found = np.asarray(program.run(x, "clear"))
    assert np.abs(found - wanted).max() < 0.005 * np.ptp(wanted)
    assert_exact(program, {"x": x.astype(np.float64)})


def test_a_batch_that_is_not_full_takes_fewer_chunks(program: glyphc.Program) -> None:
    x = samples(3, seed=2)
    assert_exact(program, {"x": x.astype(np.float64)})
    whole, part = (for_samples(program.schedule, count).schedule.instructions for count in (BATCH, 3))
    loads = [sum(isinstance(i, Load) for i in code) for code in (whole, part)]
    assert loads[1] < loads[0]


def test_images_are_brought_together_behind_strides(program: glyphc.Program) -> None:
    chunks = [n.type.layout.chunks for n, _ in program.graph.of(Linear) if n.type.layout is not None]
    assert chunks[0] > chunks[3] > chunks[-1]
    assert len(list(program.graph.of(Interleave))) == 8  # four parities before each of two stages
    # functions of a value share the first half of its bootstraps, whichever pixels they are of
    code = program.schedule.instructions
    values = {program.graph.bootstrapped(n).id: n for n in program.graph if n.op.mnemonic == "bootstrap"}
    assert sum(isinstance(i, Powers) for i in code) == sum(
        n.type.layout.ciphertexts for n in values.values() if n.type.layout is not None
    )
    # channels alone are unpacked, not features
    assert {i.parts for i in code if isinstance(i, Conjugates)} == {4}
    assert {op.parts for _, op in program.graph.of(Unpack)} == {4}


def test_the_artifact_keeps_the_layouts(program: glyphc.Program) -> None:
    again = glyphc.Program.from_bytes(program.to_bytes())
    assert again.graph == program.graph
    x = samples(4, seed=3)
    assert np.array_equal(np.asarray(again.run(x, "simulate")), np.asarray(program.run(x, "simulate")))


def test_noise_is_as_predicted(program: glyphc.Program) -> None:
    """Of the outputs, simulated beside the series alone."""
    x = samples(BATCH, seed=4)
    report = run(program, x, "simulate")
    assert report.lost is not None
    assert all(loss.kept for loss in report.lost)


@pytest.mark.parametrize(("engine", "batch"), [("kernels", 16), ("openfhe", 16), ("kernels", 8)])
def test_ciphertexts_hold_what_the_simulation_says(engine: str, batch: int) -> None:
    """Behind the stride the images of several chunks stand together; of one chunk, several groups of channels."""
    program = compiled(strided(), batch, tolerance=20.0)
    layouts = [n.type.layout for n, _ in program.graph.of(Linear)]
    together = [layout.image.sites > 1 for layout in layouts if layout is not None and layout.image is not None]
    assert (bool(list(program.graph.of(Interleave))), any(together)) == (batch == 16, batch == 8)
    x = samples(batch, seed=5)
    (simulated,) = run(program, x, "simulate").outputs.values()
    (encrypted,) = run(program, x, "encrypted", engine=engine).outputs.values()
    assert np.abs(encrypted - simulated).max() < 0.01 * np.ptp(simulated)


# -- choices and checks --


def test_the_cheaper_layout_is_chosen_and_the_other_kept_with_its_price() -> None:
    # in a small ring features apart are cheaper: borders of zeros are a large part of small images
    program = compiled(strided(), batch=8, passes=DEFAULT)
    decision = layout_decision(program)
    names = [c.name for c in decision.candidates]
    assert not decision.chosen.startswith("images") and any(name.startswith("images") for name in names)
    assert all(n.type.layout is None or n.type.layout.image is None for n in program.graph)
    never = compiled(strided(), batch=8, passes=DEFAULT.replace("assign-layout", "assign-layout{images=never}"))
    assert not any(c.name.startswith("images") for c in layout_decision(never).candidates)


def test_a_network_that_is_none_of_images_is_refused_with_its_reason() -> None:
    program = compiled(strided(), batch=2, encrypt_weights="all")
    (reason,) = [c.reason for c in layout_decision(program).candidates if c.name == "images"]
    assert "encrypted weights" in reason
    with pytest.raises(GlyphcError, match="'often' is none of auto, always, never"):
        compiled(strided(), passes=DEFAULT.replace("assign-layout", "assign-layout{images=often}"))


def test_what_would_collide_is_found(program: glyphc.Program) -> None:
    graph = program.stages["assign-layout"]
    ValidateLayout().run(graph, Context())
    bad = corrupted(graph, Apply, lambda n: replace(n, op=replace(n.op, mask=None)))
    with pytest.raises(ParameterError, match="no mask clears"):
        ValidateLayout().run(bad, Context())
    with pytest.raises(ParameterError, match="not on one raster"):
        ValidateLayout().run(corrupted(graph, Linear, lambda n: with_image(n, rows=11)), Context())
    # all on a raster without room for borders
    narrow = prune(graph)
    for node in list(narrow):
        layout = node.type.layout
        if layout is not None and layout.image is not None:
            pitch = layout.image.pitch - 1
            changed = with_image(node, pitch=pitch)
            if isinstance(node.op, Apply):
                assert changed.type.layout is not None
                changed = replace(changed, op=replace(node.op, mask=changed.type.layout.mask))
            narrow._nodes[node.id] = changed
    with pytest.raises(ParameterError, match="collide"):
        ValidateLayout().run(narrow, Context())


@pytest.mark.parametrize(
    ("kind", "what"), [(Pixels, "stand elsewhere"), (Interleave, "stand elsewhere"), (Unpack, "unpacks")]
)
def test_layouts_that_do_not_follow_are_refused(program: glyphc.Program, kind: type, what: str) -> None:
    graph = program.stages["assign-layout"]
    with pytest.raises(IRError, match=re.escape(what)):
        verify(corrupted(graph, kind, lambda n: with_image(n, rows=11)))


def test_what_each_layer_loses_is_found(program: glyphc.Program) -> None:
    """Values of the nodes are read from the ciphertexts of all their channels."""
    x = samples(BATCH, seed=6)
    (wanted,) = run_onnxruntime(residual(), x.astype(np.float32)).values()
    found = accuracy(program, x, np.argmax(wanted, axis=1))
    losses = {node.location: node for node in found.nodes if node.simulated is not None}
    assert {"conv0", "conv3", "conv5", "mean+head"} <= set(losses)
    assert all(node.simulated < 0.1 for node in losses.values() if node.simulated is not None)


def test_client_and_server_exchange_images_in_files(tmp_path: Path) -> None:
    """19 samples of passes of 16: the last one takes fewer chunks, and is not encrypted for the others."""
    program = compiled(strided(), batch=16, tolerance=20.0)
    setting = make_setting(tmp_path / "setting", program, "kernels")
    x = samples(19, seed=7)
    setting.account.encrypt(x, tmp_path / "in")
    with Evaluator(setting.half, setting.keys) as evaluator:
        evaluator.evaluate(tmp_path / "in", tmp_path / "out", tmp_path / "checkpoint")
    (found,) = setting.account.decrypt(tmp_path / "out").values()
    simulated = np.asarray(program.run(x, "simulate"))
    assert np.abs(found - simulated).max() < 0.01 * np.ptp(simulated)
