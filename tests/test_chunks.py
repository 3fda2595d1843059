"""Tensors of several ciphertexts: their products, the validator that guards them, and how many are alive at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import examples
from test_passes_layout import assigned, check, corrupted, laid_out, mlp, of

import glyphc
from glyphc.analysis.kernels_cost import KERNELS, MODELLED, shipped
from glyphc.backends.spectra import NegacyclicFFT
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.errors import IRError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node, Rewriter
from glyphc.ir.instructions import Conjugates, Free, Load, Polynomials, Schedule, Split
from glyphc.ir.layout import Layout, next_power_of_two
from glyphc.ir.matrices import Full
from glyphc.ir.op import weight_shape
from glyphc.ir.ops import Apply, Const, Dense, Input, Linear, Op, Output, Unpack
from glyphc.ir.types import Level
from glyphc.passes.assign_layout import AssignLayout
from glyphc.passes.pipeline import DEFAULT
from glyphc.passes.validate import ValidateLayout
from glyphc.ways.weight_polynomials import weight_polynomials
from tests.schedule_cases import assert_exact, check_bootstraps, check_registers

I64 = npt.NDArray[np.int64]
RING = 1024
FFT = NegacyclicFFT(RING)


def shifted(a: I64, places: int) -> I64:
    """a * X^places for places below N."""
    return np.concatenate([-a[len(a) - places :], a[: len(a) - places]]) if places else a


def garbage(layout: Layout, rng: np.random.Generator) -> I64:
    """Numbers wherever a ciphertext of this layout may hold something that nobody wants; zero where it holds values."""
    noise = np.zeros((layout.ciphertexts, layout.ring), dtype=np.int64)
    if not layout.zero_elsewhere:
        # an unpacked part has something at multiples of its stride only
        step = layout.stride if layout.parts > 1 else layout.grid
        noise[:, ::step] = rng.integers(1, 10, noise[:, ::step].shape)
        noise[layout.pack(np.ones((layout.batch, layout.features), dtype=np.int64)) != 0] = 0
    return noise


def product(
    operands: list[tuple[Layout, I64]], weights: list[I64], bias: I64, target: Layout, rng: np.random.Generator
) -> I64:
    """A linear map as the schedule does it: for every chunk of every operand, moved to its place and added up."""
    total = np.zeros((target.chunks, target.ring), dtype=np.int64)
    for number, ((source, x), weight) in enumerate(zip(operands, weights, strict=True)):
        ciphertexts = source.pack(x) + garbage(source, rng)
        polynomials = weight_polynomials(Full(weight).parts(source.parts), None if number else bias, source, target)
        parts = min(source.parts, source.features)
        assert len(polynomials) == parts + (number == 0)
        spectra = [FFT.forward(polynomials.dense(part, target.ring).astype(float)) for part in range(parts)]
        added = np.zeros(target.ring, dtype=np.int64) if number else polynomials.dense(parts, target.ring)
        for chunk in range(source.chunks):
            rows = ciphertexts[chunk * source.parts :][:parts].astype(float)
            products = sum(FFT.forward(row) * spectrum for row, spectrum in zip(rows, spectra, strict=True))
            # exact, as the numbers of these tests are small
            result = added + np.rint(FFT.inverse(np.asarray(products))).astype(np.int64)
            total[chunk % target.chunks] += shifted(result, chunk // target.chunks * target.batch_stride)
    return target.unpack(total, target.batch)


def assert_products(graph: Graph, seed: int) -> None:
    """All linear maps of a laid-out graph on random integers."""
    rng = np.random.default_rng(seed)
    for node, op in graph.of(Linear):
        target = node.type.layout
        assert target is not None
        operands, weights, wanted = [], [], rng.integers(-99, 100, node.type.size)
        result = np.tile(wanted, (target.batch, 1))
        for operand, const in zip(graph.operands(node), op.weights, strict=True):
            source = operand.type.layout
            assert source is not None
            x = rng.integers(-9, 10, (source.batch, source.features))
            w = rng.integers(1, 10, weight_shape(const, graph.constants))
            operands.append((source, x))
            weights.append(w)
            result = result + x @ w.T
        np.testing.assert_array_equal(product(operands, weights, wanted, target, rng), result, err_msg=str(node))


# -- what the planner makes ----------------------------------------------------------------------------------

widths = st.lists(st.integers(1, 20), min_size=3, max_size=5)
batches = st.integers(1, 64) | st.integers(100, 1000)


@given(widths, batches, st.sampled_from([1, 2, 16]), st.integers(0, 2**32 - 1))
@examples(120)
def test_products_of_planned_layouts(widths: list[int], batch: int, max_chunks: int, seed: int) -> None:
    graph = laid_out(mlp(*widths), batch, RING, max_chunks)
    chunks = [n.type.layout.chunks for n, _ in graph.of(Linear) if n.type.layout]
    event(f"chunks: {max(chunks)}" + (" to fewer" if len(set(chunks)) > 1 else ""))
    assert_products(graph, seed)


@st.composite
def branching(draw: st.DrawFn) -> Graph:
    """Hidden values of several widths, each a function of the input or of one before it; a layer that reads several."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    graph = Graph(Level.SOURCE, 1)
    values = [graph.add(Input("x", (draw(st.integers(1, 20)),)), location="x")]

    def dense(operands: list[Node], width: int, name: str) -> Node:
        weights = tuple(Const(graph.add_constant("w", rng.normal(size=(width, v.type.size)))) for v in operands)
        bias = Const(graph.add_constant("b", rng.normal(size=width)))
        return graph.add(Dense(weights, bias), tuple(operands), location=name)

    for i in range(draw(st.integers(1, 3))):
        chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique_by=lambda n: n.id))
        hidden = dense(chosen, draw(st.integers(1, 20)), f"h{i}")
        values.append(graph.add(Apply((Function("tanh"),)), (hidden,), location=f"act{i}"))
    chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique_by=lambda n: n.id))
    graph.add(Output("y"), (dense([*chosen, values[-1]], draw(st.integers(1, 20)), "last"),), location="y")
    return graph


@given(branching(), batches, st.sampled_from([1, 2, 16]), st.integers(0, 2**32 - 1))
@examples(120)
def test_products_of_several_operands(source: Graph, batch: int, max_chunks: int, seed: int) -> None:
    """Fresh and resident operands in one map, of as many chunks as the result or of more."""
    graph = laid_out(source, batch, RING, max_chunks)
    event(f"operands: {max(len(n.operands) for n, _ in graph.of(Linear))}")
    assert_products(graph, seed)


@given(widths, batches)
@examples(60)
def test_chunks_never_become_more(widths: list[int], batch: int) -> None:
    graph = laid_out(mlp(*widths), batch, RING)
    for node in graph:
        for operand in graph.operands(node):
            source, target = operand.type.layout, node.type.layout
            if source is not None and target is not None:
                assert source.chunks % target.chunks == 0
                if not isinstance(node.op, Linear):
                    assert source.chunks == target.chunks


def test_a_narrow_layer_takes_fewer_ciphertexts() -> None:
    """64 hidden values of 64 samples fill four ciphertexts of 1024; 16 values one; so that is one bootstrap."""
    graph = laid_out(mlp(8, 64, 16, 4), 64, RING)
    chunks = {n.location: n.type.layout.chunks for n, _ in graph.of(Apply) if n.type.layout}
    assert chunks == {"act1": 4, "act2": 1}
    program = glyphc.compile(mlp(8, 64, 16, 4), np.random.default_rng(1).normal(size=(64, 8)), 64, insecure_ring=RING)
    made = [type(i).__name__ for i in program.schedule.instructions]
    assert (made.count("Powers"), made.count("ToTorus"), made.count("FromTorus")) == (5, 5, 5)


@pytest.mark.parametrize("engine", MODELLED)
@pytest.mark.parametrize(("automorphism", "wanted"), [(1e-6, [4, 1, 1]), (4.0, [4, 4, 4])])
def test_chunks_stay_apart_where_unpacking_costs_more_than_bootstraps(
    automorphism: float, wanted: list[int], engine: str
) -> None:
    """64 hidden values in four chunks: bringing them together takes 64 parts of each, the next layer 16.

    The prices are those of the engine that is planned for.
    """
    graph, context = assigned(mlp(8, 64, 16, 1, 2), 64)
    prices = {name: replace(shipped(name), automorphism=4.0 - automorphism) for name in MODELLED}
    prices[engine] = replace(prices[engine], automorphism=automorphism)
    cost = replace(prices["openfhe"], kernels=prices["kernels"])
    graph = ValidateLayout().run(
        AssignLayout(ring=RING).run(graph, replace(context, cost=cost, engine=engine)), context
    )
    assert [n.type.layout.chunks for n, _ in graph.of(Apply) if n.type.layout] == wanted
    assert_products(graph, 0)
    (decision,) = next(n.decisions[-1:] for n, _ in graph.of(Apply))
    assert ("2 left in chunks" in decision.chosen) == (automorphism == 4.0)
    assert all(c.reason.startswith(f"engine {engine}, batch 64") for c in decision.candidates)


@pytest.mark.parametrize("engine", MODELLED)
def test_every_engine_has_room_for_a_plan(engine: str) -> None:
    graph, context = assigned(mlp(8, 64, 16, 1, 2), 64)
    larger = [replace(c, costs=tuple(replace(r, idle_bytes=1.5e12) for r in c.costs)) for c in KERNELS.configurations]
    cost = replace(context.cost, kernels=replace(KERNELS, configurations=tuple(larger)))
    laid = AssignLayout(ring=RING).run(graph, replace(context, engine=engine))
    cut = AssignLayout(ring=RING).run(graph, replace(context, cost=cost, engine=engine))
    assert cut.batch < laid.batch == 64


def test_engines_without_prices_are_refused() -> None:
    with pytest.raises(GlyphcError, match="by the prices of the engines openfhe and kernels, not 'clear'"):
        glyphc.compile(mlp(2, 2, 1), np.zeros((4, 2)), engine="clear", insecure_ring=RING)


# -- the validator -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good() -> Graph:
    """Hidden widths 64 and 16, 64 samples: four chunks of 16 samples, then one of 64 samples at a quarter distance."""
    graph = laid_out(mlp(8, 64, 16, 6), 64, RING)
    (unpack, last) = [n.type.layout for n, op in graph.of(Unpack) if n.type.layout and op.divided == 1]
    assert (unpack.chunks, unpack.parts, unpack.batch_stride) == (4, 64, 64)
    assert (last.chunks, last.batch_stride) == (1, 16)
    return graph


def half(value: int) -> int:
    return value // 2


CORRUPTIONS: dict[str, Callable[[Node], Layout | None]] = {
    "three chunks out of four": of("fc2", Linear, chunks=3),
    "chunks become more": of("fc2", Linear, chunks=8, batch_stride=128, stride=8, grid=1),
    "half of the samples per chunk": of("fc1", Linear, chunks=8, batch_stride=128, stride=2),
    "twice the samples per chunk": of("x", Input, chunks=2, batch_stride=32, stride=1),
    "two chunks at the distance of one": of("fc2", Linear, chunks=2),
    "fewer parts than positions of a block": of("act1", Unpack, parts=32, stride=32),
    "blocks of the operand at another distance": of("act1", Unpack, batch_stride=32, stride=32, grid=1),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_wrong_chunks_are_refused(name: str, good: Graph) -> None:
    check(good)
    bad = corrupted(good, CORRUPTIONS[name])
    assert any(a.type.layout != b.type.layout for a, b in zip(bad, good, strict=True)), "nothing was changed"
    with pytest.raises(ParameterError, match=r"collide|cannot become"):
        check(bad)


def _random_layout(rng: np.random.Generator, batch: int, features: int, fresh: bool) -> Layout:
    """Mostly such as a planner might make, with one field or the other out of order."""
    chunks = min(batch, int(rng.choice([1, 1, 2, 4, 3])))
    block = RING * chunks // next_power_of_two(batch)
    if rng.random() < 0.2:
        block = int(rng.choice([block // 2, 2 * block, 3 * block // 4]))
    parts = int(rng.choice([1, features, next_power_of_two(features), 2]))
    per_part = -(-features // parts)
    stride = int(rng.choice([max(1, block // next_power_of_two(per_part)), 1, 4, 16]))
    return Layout(RING, batch, features, parts, stride, block, stride if not fresh else 1, fresh, chunks)


def _dense_map(source: Layout, target: Layout) -> Graph:
    template, _ = assigned(mlp(source.features, target.features))
    rewriter = Rewriter(template, Level.LAIDOUT, source.batch)
    for node in template:
        layout = {Input: source, Linear: target}.get(type(node.op))
        rewriter.keep(node, replace(node.type, layout=layout))
    return rewriter.new


@given(st.integers(0, 2**32 - 1), st.booleans())
@examples(400)
def test_whatever_passes_computes_the_right_products(seed: int, fresh: bool) -> None:
    """Random layouts of one dense map: the validator accepts none that gives wrong products."""
    rng = np.random.default_rng(seed)
    batch = int(rng.choice([1, 3, 4, 6, 8, 16, 32]))
    features, outputs = (int(v) for v in rng.integers(1, 7, 2))
    try:
        source = _random_layout(rng, batch, features, fresh)
        target = replace(_random_layout(rng, batch, outputs, False), parts=1)
    except IRError:
        return
    graph = _dense_map(source, target)
    try:
        check(graph)
    except ParameterError:
        event("refused")
        return
    event(f"accepted: {source.chunks} to {target.chunks}")
    assert_products(graph, seed)


# -- live ciphertexts ----------------------------------------------------------------------------------------


def peak(schedule: Schedule, inputs: bool = False) -> int:
    """Most registers that are alive at once. inputs: those of inputs count, too (the client's, loaded when needed)."""
    alive: set[int] = set()
    loaded: set[int] = set()
    most = 0
    for instruction in schedule.instructions:
        if isinstance(instruction, Free):
            alive -= set(instruction.registers)
        elif isinstance(instruction, Split | Conjugates):
            alive |= set(instruction.targets)
        elif hasattr(instruction, "target"):
            alive.add(instruction.target)
            if isinstance(instruction, Load):
                loaded.add(instruction.target)
        most = max(most, len(alive if inputs else alive - loaded))
    return most


def compiled(graph: Graph, batch: int) -> Schedule:
    shape = graph.inputs[0].type.shape
    x = np.random.default_rng(3).normal(size=(200, *shape))
    program = glyphc.compile(graph, x, batch, insecure_ring=RING)
    check_registers(program.schedule)
    check_bootstraps(program.schedule)
    return program.schedule


def two_heads(*, narrow: bool) -> Graph:
    """One hidden value, two functions of it, and a layer that reads both; optionally behind it a narrow one."""
    rng = np.random.default_rng(4)
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (8,)))

    def dense(*operands: Node, width: int) -> Node:
        weights = tuple(Const(graph.add_constant("w", rng.normal(size=(width, v.type.size)))) for v in operands)
        return graph.add(Dense(weights, Const(graph.add_constant("b", rng.normal(size=width)))), operands)

    hidden = dense(x, width=64)
    heads = [graph.add(Apply((Function(name),)), (hidden,)) for name in ("tanh", "sigmoid")]
    joined = graph.add(Apply((Function("tanh"),)), (dense(*heads, width=4 if narrow else 64),))
    graph.add(Output("y"), (dense(joined, width=4),))
    return graph


@pytest.mark.parametrize(
    ("graph", "merging"),
    [
        pytest.param(mlp(8, 64, 64, 4, function="tanh"), 0, id="as wide all along"),
        pytest.param(mlp(8, 64, 16, 4, function="tanh"), 1, id="once narrower"),
        pytest.param(mlp(8, 64, 16, 4, 2, function="tanh"), 2, id="twice narrower"),
        pytest.param(two_heads(narrow=False), 0, id="two functions of a value"),
        pytest.param(two_heads(narrow=True), 1, id="two functions that meet in a narrower one"),
    ],
)
def test_live_ciphertexts_do_not_grow_with_the_chunks(graph: Graph, merging: int) -> None:
    """Chunk after chunk goes through the network: more of them take no more memory than the first ones, but for the
    sums in which narrower tensors gather, one for each layer that merges chunks."""
    # values of several chunks that are merged are split into more parts, so one chunk does not compare with two
    least = 32 if merging else 16
    few = peak(compiled(graph, least))
    for batch in (2 * least, 4 * least, 256):
        schedule = compiled(graph, batch)
        chunks = max(p.layout.chunks for p in schedule.client.inputs)
        assert chunks == batch // 16
        assert peak(schedule) <= few + max(0, merging - 1), f"{chunks} chunks"


def test_a_register_is_loaded_when_it_is_needed() -> None:
    """Inputs of later chunks are not held before their turn."""
    graph = mlp(40, 64, 64, 4, function="tanh")
    assert peak(compiled(graph, 256), inputs=True) <= peak(compiled(graph, 16), inputs=True)


def test_the_default_pipeline_reaches_chunks() -> None:
    """Otherwise the tests above would say nothing of what users get."""
    assert "assign-layout" in DEFAULT
    program = glyphc.compile(mlp(8, 64, 16, 4), np.random.default_rng(1).normal(size=(80, 8)), 70, insecure_ring=RING)
    assert program.client.batch == 70
    kinds: set[type[Op]] = {type(n.op) for n in program.graph if n.type.layout and n.type.layout.chunks > 1}
    assert Linear in kinds
    x = np.random.default_rng(2).normal(size=(70, 8))
    clear, simulated = program.run(x, mode="clear"), program.run(x, mode="simulate")
    assert np.abs(np.asarray(simulated) - np.asarray(clear)).max() < 0.05 * np.ptp(np.asarray(clear))


def polynomials_of(schedule: Schedule) -> dict[str, Polynomials]:
    return {name: p for name, p in schedule.polynomials.items() if name.startswith("X^")}


def test_narrower_tensors_are_moved_by_monomials() -> None:
    """Four chunks of 16 blocks of 64 become one of 64 blocks of 16: three of them are moved."""
    found = polynomials_of(compiled(mlp(8, 64, 16, 4, function="tanh"), 64))
    assert sorted(found) == ["X^16", "X^32", "X^48"]
    for name, polynomial in found.items():
        row: Any = polynomial.dense(0, RING)
        assert len(polynomial) == 1
        assert np.flatnonzero(row).tolist() == [int(name[2:])]
        assert row.sum() == 1


@pytest.mark.parametrize("width", [70, 128, 150])
def test_large_unpackings_keep_few_ciphertexts(width: int) -> None:
    """Sums of all parts read sixteen conjugates, whatever parts there are."""
    samples = np.random.default_rng(1).normal(size=(16, 8))
    program = glyphc.compile(mlp(8, width, 130, 4), samples, 4, insecure_ring=RING)
    first = next(n for n, op in program.graph.of(Unpack) if op.parts == 256)
    (images,) = (i for i in program.schedule.instructions if isinstance(i, Conjugates) and i.node == first.id)
    assert (images.parts, len(images.targets)) == (256, 15)
    assert not [i for i in program.schedule.instructions if isinstance(i, Split)]
    assert program.client.parameters.unpack_strides == ()
    check_registers(program.schedule)
    assert peak(program.schedule) <= 16 + 4
    assert_exact(program, {"x": samples[:4]})


@pytest.mark.parametrize("width", [70, 150])
def test_large_unpackings_for_encrypted_weights_come_in_groups(width: int) -> None:
    """As many products and automorphisms as in one go, the same results, and far fewer ciphertexts at a time."""
    samples = np.random.default_rng(1).normal(size=(16, 8))
    program = glyphc.compile(mlp(8, width, 130, 4), samples, 4, insecure_ring=RING, encrypt_weights="all")
    first = next(n for n, op in program.graph.of(Unpack) if op.parts == 256)
    splits = [i for i in program.schedule.instructions if isinstance(i, Split) and i.node == first.id]
    assert [i.parts for i in splits] == [4, 64, 64, 64, 64]
    assert sum(len(i.targets) for i in splits[1:]) == width
    assert program.client.parameters.conjugates == ()
    assert peak(program.schedule) <= 4 + 64 + 4
    assert_exact(program, {"x": samples[:4]})
