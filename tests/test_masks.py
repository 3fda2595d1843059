"""Masks: boxes of exponents, their text, their rules in programs and graphs, and bootstraps that keep to them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pass_networks import mlp, rebuilt, upto
from pass_networks import run as pipeline
from strategies import examples

from glyphc.analysis.cost import CostModel, deepest
from glyphc.analysis.estimate import estimate
from glyphc.analysis.kernels_cost import KERNELS
from glyphc.analysis.series import fit
from glyphc.backends.base import execute
from glyphc.backends.engine import engine
from glyphc.backends.kernels.shape import EngineShape
from glyphc.diagnostics import expression, schedule_text
from glyphc.errors import GlyphcError
from glyphc.ir.errors import IRError
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import (
    ClientSpec,
    Dot,
    Evaluate,
    FromTorus,
    Instruction,
    Load,
    Polynomials,
    Port,
    Powers,
    Schedule,
    Store,
    ToTorus,
    masks_of,
    with_frees,
)
from glyphc.ir.instructions.check import check_schedule
from glyphc.ir.instructions.text import COEFFICIENTS, code_text, parse_code
from glyphc.ir.layout import Layout
from glyphc.ir.masks import Mask
from glyphc.ir.noise import DECODING_FLOOR, bootstrap
from glyphc.ir.ops import Apply, Bootstrap
from glyphc.ir.parameters import INSECURE, Parameters
from glyphc.ir.series import OUTPUT_BITS, evaluate_series, rms_slope
from glyphc.ir.text import parse, to_text
from glyphc.ir.types import FixedPoint
from glyphc.ir.verify import verify
from glyphc.passes.pipeline import parse_pipeline, run_pipeline
from glyphc.passes.schedule import schedule

N = 1024

AXES = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 40)), max_size=4).map(tuple)


@given(st.integers(0, 50), AXES)
@examples(200)
def test_a_mask_is_its_box(origin: int, axes: tuple[tuple[int, int], ...]) -> None:
    box = [
        origin + sum(i * stride for i, (_, stride) in zip(at, axes, strict=True))
        for at in product(*(range(count) for count, _ in axes))
    ]
    if len(set(box)) < len(box):
        with pytest.raises(IRError, match="each of its exponents once"):
            Mask(origin, axes)
        return
    mask = Mask(origin, axes)
    assert mask.exponents().tolist() == box
    assert (mask.size, mask.last) == (len(box), max(box))
    for grid in (1, 2, 4):
        on_grid = all(e % grid == 0 for e in box)
        assert (mask.problem(1024, grid) == "") is on_grid
        if on_grid:
            assert np.flatnonzero(mask.kept(1024, grid)).tolist() == sorted(e // grid for e in box)
    assert "the ring has" in mask.problem(max(box), 1)


@pytest.mark.parametrize(
    ("origin", "axes"),
    [(-1, ()), (0, ((0, 1),)), (0, ((2, 0),)), (0, ((2, -1),)), (0, ((1 << 60, 1),)), (0, ((1, 1 << 62),) * 17)],
)
def test_numbers_that_are_no_box_are_refused(origin: int, axes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(IRError, match="a mask has"):
        Mask(origin, axes)


# -- programs --

FUNCTION = (Function("tanh"),)
SERIES = fit(lambda x: compose((Function("affine", (4.0, 0.0)), *FUNCTION), x), 13)
BITS = 30
# so large that the noise of what is cleared shows in the message
FACTOR = 13


class Untold:
    """Nobody is told what a run is doing."""

    def stage(self, name: str, total: float = 1.0) -> AbstractContextManager[None]:
        return nullcontext()

    def advance(self, amount: float, what: str = "") -> None:
        pass


def parameters(slots: int, folded: bool = True) -> Parameters:
    return Parameters(
        N,
        BITS,
        54,
        slots=slots,
        degree=13,
        level_budget=(2, 2),
        large_digits=3,
        slot_levels=1,
        folded_levels=int(folded),
        security=INSECURE,
    )


def program(slots: int, *masks: Mask | None, folded: bool = True) -> Schedule:
    """One bootstrap, and the same function of it with each of the masks."""
    fixed = FixedPoint((1.0,), (0.0,), -(1 << 30), 1 << 30)
    port = Port("x", (1,), fixed, Layout(N, 1, 1, 1, 1, N, 1, True))
    code: list[Instruction] = [Load(0, "x"), ToTorus(1, 0, slots, 0), Powers(2, 1, slots, 13, 0)]
    for number, mask in enumerate(masks):
        code.append(Evaluate(3 + 3 * number, 2, SERIES, FUNCTION, fixed, fixed, 1, 0, mask))
        phases, read, scaled = (3 + 3 * number + k for k in range(3))
        code.append(FromTorus(read, phases, 0))
        code += [Dot(scaled, (read,), "factor", None, 0), Store(scaled, f"y{number}")]
    outputs = tuple(replace(port, name=f"y{number}") for number in range(len(masks)))
    client = ClientSpec(parameters(slots, folded), (port,), outputs, 1)
    factor = Polynomials(np.array([0, 1]), np.zeros(1, dtype=np.int32), np.array([1 << FACTOR]))
    return Schedule(client, tuple(with_frees(code)), {"factor": factor})


# all images, rows and columns but borders, both halves of the ring; and one that treats both halves alike
BORDERS = Mask(8, ((4, 256), (3, 64), (6, 8)))
ALIKE = Mask(16, ((8, 128), (3, 16)))


@pytest.mark.parametrize(
    ("name", "folded"), [("simulate", True), ("kernels", True), ("kernels", False), ("openfhe", True)]
)
@pytest.mark.parametrize("slots", [N // 2, N // 16])
def test_bootstraps_keep_what_the_mask_keeps(slots: int, name: str, folded: bool) -> None:
    """Values survive inside; outside there is the noise of SlotsToCoeffs, and no more."""
    grid = N // (2 * slots)
    schedule = program(slots, BORDERS, None, ALIKE, folded=folded)
    check_schedule(schedule)
    x = np.zeros(N, dtype=np.int64)
    x[::grid] = np.random.default_rng(3).uniform(-0.44, 0.44, 2 * slots) * 2.0**BITS
    with engine(name).session(schedule, Untold()) as session:
        found = execute(schedule.instructions, session.machine, {"x": [session.encrypt(x)]})
        messages = [session.decrypt(found[f"y{number}"][0]).astype(np.float64) for number in range(3)]
    wanted = evaluate_series(SERIES, x[::grid] / 2.0**BITS)
    floor = DECODING_FLOOR * 2.0**OUTPUT_BITS
    inside, outside = (np.hypot(bootstrap(N, slope), floor) for slope in (rms_slope(SERIES), 0.0))
    for message, mask in zip(messages, (BORDERS, None, ALIKE), strict=True):
        kept = np.ones(2 * slots, dtype=bool) if mask is None else mask.kept(N, grid)
        values = message[::grid] / 2.0 ** (BITS - OUTPUT_BITS + FACTOR)
        errors = values - wanted
        assert np.sqrt(np.mean(errors[kept] ** 2)) < 2 * inside
        if mask is not None:
            assert np.abs(wanted[~kept]).max() > 0.9
            assert np.sqrt(np.mean(values[~kept] ** 2)) < 2 * outside
            assert np.abs(values[~kept]).max() < 10 * outside


def test_the_definition_of_a_mask_is_exact() -> None:
    schedule = program(N // 2, BORDERS, None)
    x = np.random.default_rng(3).integers(-1000, 1000, N)
    with engine("clear").session(schedule, Untold()) as session:
        found = execute(schedule.instructions, session.machine, {"x": [session.encrypt(x)]})
        masked, whole = (session.decrypt(found[name][0]) for name in ("y0", "y1"))
    kept = BORDERS.kept(N, 1)
    assert np.all(masked[~kept] == 0)
    np.testing.assert_array_equal(masked[kept], whole[kept])
    assert np.any(whole[~kept])


def test_masks_have_a_text() -> None:
    schedule = program(N // 2, BORDERS, None, ALIKE)
    text = code_text(schedule.instructions, COEFFICIENTS)
    assert parse_code(text, COEFFICIENTS) == schedule.instructions
    assert text.count("mask") == 2
    assert masks_of(schedule.instructions) == (BORDERS, ALIKE)


@pytest.mark.parametrize(
    ("mask", "slots", "levels", "message"),
    [
        (BORDERS, N // 2, 0, "has a mask, for which there is no level"),
        (Mask(0, ((2, N),)), N // 2, 1, "keeps the exponent 1024, the ring has 1024"),
        (Mask(1, ((2, 8),)), N // 16, 1, "off the grid of 8"),
        (Mask(0, ((2, 12),)), N // 16, 1, "off the grid of 8"),
    ],
)
def test_masks_that_do_not_fit_a_program_are_refused(mask: Mask, slots: int, levels: int, message: str) -> None:
    schedule = program(slots, mask)
    client = replace(schedule.client, parameters=replace(parameters(slots, bool(levels)), slot_levels=levels))
    with pytest.raises(IRError, match=rf"instruction \d \(evaluate\).*{message}"):
        check_schedule(replace(schedule, client=client))


# -- graphs --


def laid_out(mask: Mask | None) -> Graph:
    """A small network with a mask on its nonlinearity, up to its parameters."""
    graph, context = pipeline(mlp(), upto("assign-layout"))

    def masked(node: Node) -> Node:
        return replace(node, op=replace(node.op, mask=mask)) if isinstance(node.op, Apply) else node

    return run_pipeline(rebuilt(graph, masked), parse_pipeline("select-parameters{security=insecure}"), context)


def positions(graph: Graph) -> Mask:
    """What the result of the nonlinearity takes of its grid."""
    (layout,) = (n.type.layout for n, _ in graph.of(Bootstrap))
    assert layout is not None
    return Mask(0, ((layout.per_chunk, layout.batch_stride), (layout.features, layout.stride)))


def test_a_mask_in_a_graph_becomes_one_of_the_instructions() -> None:
    plain = laid_out(None)
    mask = positions(plain)
    graph = laid_out(mask)
    verify(graph)
    assert parse(to_text(graph)) == graph
    assert "mask" not in to_text(plain)
    before, after = plain.parameters, graph.parameters
    assert isinstance(before, Parameters)
    assert after == replace(before, slot_levels=1, folded_levels=1)
    code = schedule(graph).instructions
    assert masks_of(code) == (mask,)
    unmasked = tuple(replace(i, mask=None) if isinstance(i, Evaluate) else i for i in code)
    assert unmasked == schedule(plain).instructions
    (node,) = (n for n, _ in graph.of(Bootstrap))
    assert f"keeps {mask}" in expression(graph, node)
    assert f"keeps {mask}" in schedule_text(schedule(graph), wide=True)


def test_masks_have_their_price() -> None:
    """A level and its keys with OpenFHE, and neither on the kernels."""
    plain = laid_out(None)
    graph = laid_out(positions(plain))
    for cost in (CostModel(), KERNELS):
        without, found = (estimate(schedule(g), cost) for g in (plain, graph))
        assert 1.0 < found.seconds / without.seconds < 1.15
        assert (found.key_bytes > without.key_bytes) == (cost.engine == "openfhe")
        assert found.memory_bytes > without.memory_bytes


def test_a_context_for_masks_is_as_deep_as_one_for_longer_series() -> None:
    masked = parameters(N // 2, folded=False)
    longer = replace(masked, slot_levels=0, degree=deepest(masked, "openfhe"))
    assert (longer.degree, longer.depth) == (27, masked.depth)
    assert EngineShape(longer).chain_bits == EngineShape(masked).chain_bits
    assert deepest(longer, "openfhe") == 27
    folded = parameters(N // 2)
    assert (deepest(folded, "kernels"), deepest(folded, "openfhe"), folded.depth) == (13, 27, masked.depth)
    assert EngineShape(folded).chain_bits == EngineShape(replace(folded, slot_levels=0, folded_levels=0)).chain_bits


def test_masks_that_do_not_fit_a_graph_are_refused() -> None:
    mask = positions(laid_out(None))
    _, (features, stride) = mask.axes
    for wrong, message in (
        (Mask(0, ((features, stride),)), "clears positions where its values stand"),
        (replace(mask, origin=1), "off the grid"),
        (Mask(0, ((2, 1024),)), "the ring has 1024"),
    ):
        with pytest.raises((IRError, GlyphcError), match=message):
            laid_out(wrong)
    early = rebuilt(mlp(), lambda n: replace(n, op=replace(n.op, mask=mask)) if isinstance(n.op, Apply) else n)
    with pytest.raises(IRError, match="has a mask, but no layout yet"):
        verify(early)


def test_no_more_levels_are_folded_than_there_are() -> None:
    with pytest.raises(ValueError, match="folded_levels=1 are more than slot_levels=0"):
        replace(parameters(N // 2), slot_levels=0)
