"""Layouts: how many samples fit, how many slots a bootstrap needs, and that wrong layouts are caught."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import examples

import glyphc
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.errors import IRError
from glyphc.ir.functions import Function
from glyphc.ir.galois import baby_steps
from glyphc.ir.graph import Graph, Node, Rewriter
from glyphc.ir.layout import Layout, next_power_of_two
from glyphc.ir.ops import Apply, Bootstrap, Const, Dense, Input, Linear, Op, Output, Reshape, Switch, Unpack
from glyphc.ir.types import Level, Scheme
from glyphc.ir.unpackings import conjugation
from glyphc.ir.verify import verify
from glyphc.passes import base
from glyphc.passes.assign_layout import AssignLayout
from glyphc.passes.base import Context
from glyphc.passes.layout_search import MIN_SLOTS, Room, Search
from glyphc.passes.pipeline import DEFAULT, parse_pipeline, run_pipeline
from glyphc.passes.validate import ValidateLayout

F64 = npt.NDArray[np.float64]
BEFORE = "fold,calibrate,quantize,assign-scheme{strategy=glyph},insert-switches"


def mlp(*widths: int, function: str = "relu") -> Graph:
    """Dense layers of these widths (the first is the input's), with a nonlinearity between two of them."""
    rng = np.random.default_rng(1)
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (widths[0],)), location="x")
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        if i:
            x = graph.add(Apply((Function(function),)), (x,), location=f"act{i}")
        w = Const(graph.add_constant("w", rng.normal(size=(outputs, inputs))))
        b = Const(graph.add_constant("b", rng.normal(size=outputs)))
        x = graph.add(Dense((w,), b), (x,), location=f"fc{i + 1}")
    graph.add(Output("y"), (x,), location="y")
    return graph


def assigned(source: Graph, batch: int = 1, samples: dict[str, F64] | None = None) -> tuple[Graph, Context]:
    """The graph just before layouts, for a batch."""
    rng = np.random.default_rng(2)
    context = Context(samples or {op.name: rng.normal(size=(8, *op.shape)) for _, op in source.of(Input)})
    rewriter = Rewriter(source, batch=batch)
    for node in source:
        rewriter.keep(node)
    return run_pipeline(rewriter.new, parse_pipeline(BEFORE), context), context


def laid_out(source: Graph, batch: int = 1, ring: int = 1024, max_chunks: int = 16) -> Graph:
    graph, context = assigned(source, batch)
    graph = AssignLayout(ring=ring, max_chunks=max_chunks).run(graph, context)
    verify(graph)
    return ValidateLayout().run(graph, context)


def layouts(graph: Graph, kind: type[Op]) -> list[Layout]:
    found = [n.type.layout for n, _ in graph.of(kind)]
    assert all(found)
    return [layout for layout in found if layout is not None]


def slots(graph: Graph) -> int:
    """Half of the values that a bootstrap on this grid refreshes."""
    (grid,) = {layout.grid for layout in layouts(graph, Apply)}
    return layouts(graph, Apply)[0].ring // (2 * grid)


# -- batches --


@pytest.mark.parametrize(
    ("widths", "ring", "asked", "one", "sixteen"),
    [
        ((4, 8, 3), 1024, 1, 1, 1),
        ((4, 8, 3), 1024, 128, 128, 128),
        ((4, 8, 3), 1024, 129, 128, 129),
        ((4, 8, 3), 1024, 10**9, 128, 2048),
        ((4, 8, 3), 2048, 10**9, 256, 4096),
        ((4, 9, 3), 1024, 1000, 64, 1000),  # nine outputs take the room of sixteen
        ((4, 3, 40), 1024, 1000, 16, 256),  # the widest may be the last
        ((4, 1), 1024, 5000, 1024, 5000),
        ((500, 1), 1024, 50000, 1024, 16384),  # inputs do not limit the batch
        ((4, 1024), 1024, 70, 1, 16),
        ((4, 8, 3), 1024, 100, 100, 100),  # no power of two
    ],
)
def test_a_batch_is_cut_down_to_what_fits(
    widths: tuple[int, ...], ring: int, asked: int, one: int, sixteen: int
) -> None:
    """Into one ciphertext for each tensor, and into the sixteen that are allowed by default."""
    for max_chunks, got in ((1, one), (16, sixteen)):
        graph = laid_out(mlp(*widths), asked, ring, max_chunks)
        assert graph.batch == got
        assert all(n.type.layout.batch == got for n in graph if n.type.layout)
        assert max(layout.chunks for kind in (Linear, Apply) for layout in layouts(graph, kind)) <= max_chunks


def test_a_program_remembers_the_batch_that_was_asked_for() -> None:
    x = np.random.default_rng(3).normal(size=(300, 4))
    passes = DEFAULT.replace("assign-layout", "assign-layout{max_chunks=2}")
    program = glyphc.compile(mlp(4, 8, 3), x, 300, passes=passes, insecure_ring=1024)
    assert (program.requested_batch, program.client.batch) == (300, 256)
    assert program.run(x, mode="simulate").shape == (300, 3)
    (decision,) = program.graph.inputs[0].decisions[-1:]
    assert decision.made_by == "assign-layout"
    assert "300 in passes of 256" in decision.candidates[0].reason


def test_a_plan_without_room_says_so_where_it_would_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    source, context = assigned(mlp(4, 64, 64), 512)
    plans = Search.over(source, Room(65536, 16, context.room), context.prices, context.models)
    fastest = max(map(plans.best.memory_bytes, context.models))
    monkeypatch.setattr(base, "MEMORY", fastest - 1)
    graph = AssignLayout().run(source, replace(context, memory=fastest - 1))
    (bootstrap, *_) = [n for n, _ in graph.of(Apply)]
    (decision,) = [d for d in bootstrap.decisions if d.made_by == "assign-layout"]
    said = {c.name: c.reason for c in decision.candidates}
    assert decision.chosen != plans.best.label
    assert "that there is room for" in said[plans.best.label]
    assert "that there is room for" not in said[decision.chosen]


@pytest.mark.parametrize("widths", [(4, 1025, 3), (4, 3, 1025), (4, 5, 5000, 3)])
def test_a_layer_that_is_too_wide_is_named(widths: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError) as caught:
        laid_out(mlp(*widths))
    assert f"@fc{widths.index(max(widths))}" in str(caught.value)
    assert str(max(widths)) in str(caught.value)
    assert "1024" in str(caught.value)


def test_too_wide_is_found_by_compile_as_well() -> None:
    with pytest.raises(ParameterError, match="@fc1"):
        glyphc.compile(mlp(2, 1500, 2), np.ones((2, 2)), insecure_ring=1024)


# -- slots --


@given(st.lists(st.integers(1, 64), min_size=3, max_size=5), st.integers(1, 200), st.sampled_from([1, 3, 16]))
@examples(60)
def test_slots_and_chunks_hold_what_they_must(widths: list[int], batch: int, max_chunks: int) -> None:
    graph = laid_out(mlp(*widths), batch, 2048, max_chunks)
    widest = next_power_of_two(max(widths[1:-1]))
    values, whole = 2 * slots(graph), next_power_of_two(graph.batch) * widest
    # one sample's values stay together, and no bootstrap is larger than the whole batch asks for
    assert max(widest, 2 * MIN_SLOTS) <= values <= max(whole, 2 * MIN_SLOTS)
    for layout in layouts(graph, Apply):
        assert layout.chunks <= max_chunks
        assert layout.batch_stride * layout.per_chunk <= layout.ring
    # the widest tensor takes no more chunks than its values need
    assert max(layout.chunks for layout in layouts(graph, Apply)) == max(1, whole // values)


@given(st.lists(st.integers(1, 64), min_size=3, max_size=4), st.integers(1, 200))
@examples(30)
def test_the_cheapest_of_the_plans_is_taken(widths: list[int], batch: int) -> None:
    graph = laid_out(mlp(*widths), batch, 2048)
    for node, _ in graph.of(Apply):
        decision = node.decisions[-1]
        assert decision.made_by == "assign-layout"
        assert decision.chosen == f"{slots(graph)} slots"
        seconds = {c.name: c.seconds for c in decision.candidates}
        assert len(seconds) == len(decision.candidates)
        assert seconds[decision.chosen] == min(s for s in seconds.values() if s is not None)


@pytest.mark.parametrize(("width", "wanted"), [(2, MIN_SLOTS), (16, 8), (17, 16), (100, 64)])
def test_a_single_sample_needs_a_sparse_bootstrap(width: int, wanted: int) -> None:
    graph = laid_out(mlp(20, width, 5), 1, 65536)
    assert slots(graph) == wanted
    assert slots(graph) * 256 <= 65536 // 2


def test_parameters_have_these_slots() -> None:
    x = np.random.default_rng(4).normal(size=(5, 20))
    program = glyphc.compile(mlp(20, 30, 12, 5), x, 4, insecure_ring=2048)
    assert program.client.parameters.slots == 4 * 32 // 2
    assert [op.slots for _, op in program.graph.of(Bootstrap)] == [64, 64]
    linear_only = glyphc.compile(mlp(20, 30), x, 4, insecure_ring=2048)
    assert linear_only.client.parameters.slots == 0


@given(st.lists(st.integers(1, 40), min_size=3, max_size=6), st.integers(1, 32))
@examples(50)
def test_all_bootstraps_share_a_grid(widths: list[int], batch: int) -> None:
    graph = laid_out(mlp(*widths), batch)
    assert len({(a.grid, a.stride) for a in layouts(graph, Apply)}) == 1
    for node, _ in graph.of(Apply):
        assert node.type.layout is not None
        assert node.type.layout.parts == 1
        # so the distance of two samples is a matter of how many stand in one ciphertext
        assert node.type.layout.batch_stride * next_power_of_two(batch) == 1024 * node.type.layout.chunks
        # what is read stands where a bootstrap reads, block by block
        assert not np.any(node.type.layout.positions(0) % node.type.layout.grid)


def test_two_branches_of_different_widths_share_a_grid() -> None:
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (6,)))
    for name, width in (("narrow", 3), ("wide", 30)):
        w, b = graph.add_constant("w", np.ones((width, 6))), graph.add_constant("b", np.arange(float(width)))
        y = graph.add(Dense((Const(w),), Const(b)), (x,), location=name)
        graph.add(Output(name), (graph.add(Apply((Function("tanh"),)), (y,)),))
    laid = laid_out(graph, 2)
    assert len({a.grid for a in layouts(laid, Apply)}) == 1
    assert slots(laid) == 2 * 32 // 2


# -- inputs and unpackings --


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 40), st.integers(1, 32))
@examples(60)
def test_fresh_inputs_are_packed_densely(inputs: int, hidden: int, outputs: int, batch: int) -> None:
    graph = laid_out(mlp(inputs, hidden, outputs), batch)
    (layout,) = layouts(graph, Input)
    assert layout.zero_elsewhere
    assert layout.features == inputs
    # a finer or equal packing would put two products on one position: all room between two outputs is used, unless the
    # server takes denser ciphertexts apart
    (grid,) = {a.grid for a in layouts(graph, Apply)}
    if any(op.divided > 1 for _, op in graph.of(Unpack)):
        assert layout.parts < -(-inputs // grid)
    else:
        assert layout.parts == -(-inputs // grid)


@pytest.mark.parametrize(("outputs", "parts"), [(1, 0), (16, 0), (32, 2), (33, 4), (64, 4)])
def test_the_last_layer_is_unpacked_into_as_few_parts_as_possible(outputs: int, parts: int) -> None:
    """64 values on a grid of 16: sixteen outputs fit into the gaps without any unpacking."""
    graph = laid_out(mlp(4, 64, outputs), 1)
    assert slots(graph) == 32
    assert [op.parts for _, op in graph.of(Unpack)] == ([parts] if parts else [])


def test_an_inner_layer_is_unpacked_for_all_its_outputs() -> None:
    graph = laid_out(mlp(4, 64, 20, 3), 1)
    (unpack,) = [op for n, op in graph.of(Unpack) if graph.users(n)[0].location == "fc2"]
    assert unpack.parts == 32


def test_one_unpacking_serves_all_readers() -> None:
    rng = np.random.default_rng(5)
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (6,)))

    def dense(x: Node, width: int) -> Node:
        w, b = graph.add_constant("w", rng.normal(size=(width, x.type.size))), graph.add_constant("b", np.zeros(width))
        return graph.add(Dense((Const(w),), Const(b)), (x,))

    hidden = graph.add(Apply((Function("tanh"),)), (dense(x, 8),))
    graph.add(Output("hidden"), (hidden,))
    graph.add(Output("shaped"), (graph.add(Reshape((2, 4)), (hidden,)),))
    for width in (3, 17):
        graph.add(Output(f"y{width}"), (graph.add(Apply((Function("relu"),)), (dense(hidden, width),)),))
    laid = laid_out(graph, 2)
    (unpack,) = [n for n, _ in laid.of(Unpack)]
    assert unpack.op == Unpack(32)
    assert len(laid.users(unpack)) == 4
    (decision,) = unpack.decisions
    sums, parts = decision.candidates
    assert decision.chosen == parts.name == "parts one by one"
    assert sums.seconds is None
    assert sums.reason.startswith("output")
    (switch,) = laid.operands(unpack)
    assert laid.users(switch) == (unpack,), "nothing reads the value that is divided by the parts"


@pytest.mark.parametrize(
    ("widths", "summed"),
    [((4, 64, 64), True), ((4, 2, 512, 3), False)],  # few features in many parts
)
def test_parts_are_read_where_sums_over_conjugates_are_dearer(widths: tuple[int, ...], summed: bool) -> None:
    source, context = assigned(mlp(*widths), 2)
    plan = Search.over(source, Room(1024, 16, context.room), context.prices).best
    nodes = [(node, op) for node, op in laid_out(mlp(*widths), 2).of(Unpack) if op.divided == 1]
    ids = [id for id in sorted(plan.parts) if plan.parts[id] > 1]
    for id, (node, op) in zip(ids, nodes, strict=True):
        other = copy(plan)
        other.apart = plan.apart ^ {id}
        spared = other.seconds(context.prices) - plan.seconds(context.prices)
        assert spared >= 0
        (decision,) = node.decisions
        assert decision.chosen == ("sums over conjugates" if op.babies else "parts one by one")
        taken, lost = sorted(c.seconds or 0.0 for c in decision.candidates)
        assert lost - taken == pytest.approx(spared)
        assert [c.seconds for c in decision.candidates if c.name == decision.chosen] == [taken]
    _, unpack = nodes[0]
    assert unpack.babies == (baby_steps(unpack.parts) if summed else 0)


def test_conjugates_are_for_sums_alone() -> None:
    """A graph from a file, whose output reads parts that are not there."""
    laid = laid_out(mlp(4, 64, 64), 2)
    (unpack,) = [n for n, op in laid.of(Unpack) if op.babies and op.divided == 1]
    assert conjugation(laid, unpack) is not None
    laid.add(Output("parts"), (unpack,))
    with pytest.raises(IRError, match=r"is for sums over conjugates, and .*reads its parts; leave out its 'babies'"):
        conjugation(laid, unpack)


# -- the validator --


def corrupted(graph: Graph, change: Callable[[Node], Layout | None]) -> Graph:
    """The graph with other layouts: ``change`` gives the new one of a node, None to keep it."""
    rewriter = Rewriter(graph)
    for node in graph:
        layout = change(node)
        rewriter.keep(node, replace(node.type, layout=layout) if layout else None)
    return rewriter.new


def check(graph: Graph) -> None:
    ValidateLayout().run(graph, Context())


def of(location: str, kind: type[Op], **fields: Any) -> Callable[[Node], Layout | None]:
    """Changes fields of the layout of one node; a callable field gets the old value."""

    def change(node: Node) -> Layout | None:
        layout = node.type.layout
        if node.location != location or not isinstance(node.op, kind) or layout is None:
            return None
        return replace(layout, **{k: v(getattr(layout, k)) if callable(v) else v for k, v in fields.items()})

    return change


@pytest.fixture(scope="module")
def good() -> Graph:
    """20 inputs, 8 hidden, 6 outputs, 4 samples in 1024: grid 32, 20 inputs per ciphertext, 8 parts."""
    graph = laid_out(mlp(20, 8, 8, 6), 4)
    assert layouts(graph, Input)[0].parts == 1
    assert [op.parts for _, op in graph.of(Unpack)] == [8]
    return graph


def test_good_layouts_pass(good: Graph) -> None:
    check(good)
    check(corrupted(good, lambda node: None))


CORRUPTIONS = {
    # products of the last inputs for one output land on the first ones for the next
    "inputs reach into the next output": of("x", Input, stride=2, grid=1),
    "outputs too near to each other": of("fc1", Linear, stride=16, grid=1),
    "inputs with garbage in between": of("x", Input, zero_elsewhere=False),
    "samples at another distance": of("fc1", Linear, batch_stride=lambda s: s // 2, stride=lambda s: s // 2, grid=1),
    "samples of the operand at another distance": of("x", Input, batch_stride=lambda s: s // 2, stride=1, grid=1),
    "too few parts": of("act1", Unpack, parts=4, stride=128),
    "parts at the stride of a whole": of("act1", Unpack, stride=32),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_wrong_layouts_are_refused(name: str, good: Graph) -> None:
    bad = corrupted(good, CORRUPTIONS[name])
    assert any(a.type.layout != b.type.layout for a, b in zip(bad, good, strict=True)), "nothing was changed"
    with pytest.raises(ParameterError, match="collide"):
        check(bad)


def test_the_validator_takes_memory_by_the_output_not_by_its_square() -> None:
    """1 MB for each of 8192 outputs, were there a number for each pair of them."""
    graph = laid_out(mlp(2, 8192, 1), 1, 1 << 14)
    tracemalloc.start()
    try:
        check(graph)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000
    bad = corrupted(graph, of("x", Input, zero_elsewhere=False))
    with pytest.raises(ParameterError, match="collide"):
        check(bad)


@given(st.integers(0, 2**32 - 1), st.booleans())
@examples(300)
def test_whatever_passes_computes_the_right_products(seed: int, fresh: bool) -> None:
    """Random layouts of one dense map: the validator accepts none that gives wrong products on plain polynomials."""
    rng = np.random.default_rng(seed)
    ring, batch = 64, int(rng.integers(1, 5))
    features, outputs = (int(v) for v in rng.integers(1, 7, 2))
    try:
        source = _random_layout(rng, ring, batch, features, fresh)
        target = replace(_random_layout(rng, ring, batch, outputs, False), parts=1)
    except IRError:
        return
    graph, weight = _dense_map(source, target, rng)
    try:
        check(graph)
    except ParameterError:
        event("refused")
        return
    event("accepted")
    x = rng.integers(-9, 10, (batch, features))
    coefficients = source.pack(x)
    if not fresh:  # garbage at all other places of the grid
        useful = source.pack(np.ones_like(x)) != 0
        garbage = np.zeros_like(useful)
        garbage[:, :: source.grid] = True
        coefficients[garbage & ~useful] = rng.integers(1, 10, coefficients.shape)[garbage & ~useful]
    total = np.zeros(ring, dtype=np.int64)
    for part, row in enumerate(coefficients):
        total += _product(row, _weights(weight, part, source, target))
    np.testing.assert_array_equal(target.unpack(total[None], batch), x @ weight.T)


def _random_layout(rng: np.random.Generator, ring: int, batch: int, features: int, fresh: bool) -> Layout:
    parts = int(rng.choice([1, features, int(rng.integers(1, features + 1))]))
    stride, batch_stride = int(rng.integers(1, 17)), int(rng.choice([8, 16, 32, 64]))
    if not fresh:
        stride = 1 << int(rng.integers(0, 6))
    return Layout(ring, batch, features, parts, stride, batch_stride, 1 if fresh else stride, fresh)


def _dense_map(source: Layout, target: Layout, rng: np.random.Generator) -> tuple[Graph, npt.NDArray[np.int64]]:
    template, _ = assigned(mlp(source.features, target.features))
    weight = rng.integers(1, 10, (target.features, source.features))
    rewriter = Rewriter(template, Level.LAIDOUT, source.batch)
    for node in template:
        layout = {Input: source, Linear: target}.get(type(node.op))
        rewriter.keep(node, replace(node.type, layout=layout))
    return rewriter.new, weight


def _weights(weight: npt.NDArray[np.int64], part: int, source: Layout, target: Layout) -> npt.NDArray[np.int64]:
    """sum w[i, j] X^(e_out(i) - e_in(j)) over the features j of a part, modulo X^N + 1."""
    out = np.zeros(source.ring, dtype=np.int64)
    for j in range(part, source.features, source.parts):
        for i in range(target.features):
            exponent = i * target.stride - j // source.parts * source.stride
            out[exponent % source.ring] += weight[i, j] * (-1) ** (exponent // source.ring)
    return out


def _product(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    full = np.convolve(a, b)
    out = full[: len(a)].copy()
    out[: len(full) - len(a)] -= full[len(a) :]
    return out


# -- options --


@pytest.mark.parametrize("ring", [0, -1024, 1000, 3, 512, 131072])
def test_unusable_rings(ring: int) -> None:
    with pytest.raises(GlyphcError, match="ring"):
        glyphc.compile(mlp(4, 3), np.ones((2, 4)), passes=f"{BEFORE},assign-layout{{ring={ring}}},select-parameters")


def test_every_encrypted_value_has_a_layout_of_the_ring() -> None:
    graph = laid_out(mlp(20, 8, 8, 6), 3, 4096)
    for node in graph:
        if node.type.scheme is Scheme.CLIENT:
            assert node.type.layout is None
        else:
            assert node.type.layout is not None
            assert node.type.layout.ring == 4096
        if isinstance(node.op, Switch):
            assert node.type.layout == graph.operands(node)[0].type.layout


def test_a_batch_is_cut_down_to_what_memory_holds() -> None:
    """Three hundred inputs stand in a ciphertext each, for every chunk of the batch."""
    graph, context = assigned(mlp(300, 256, 3), 64)
    rooms = [14e9, 0.6e9, 0.55e9, 0.3e9]
    plans = [Search.over(graph, Room(4096, 16, memory), context.cost).best for memory in rooms]
    batches = [plan.batch for plan in plans]
    assert batches[0] == AssignLayout(ring=4096).run(graph, context).batch == 64
    assert batches == sorted(batches, reverse=True)
    assert 1 <= batches[-1] < 64
    for memory, plan in zip(rooms[:-1], plans, strict=False):
        assert plan.batch == 1 or plan.memory_bytes(context.cost) <= memory
