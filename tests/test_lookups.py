"""Tables that bootstraps look up by Gray-code bits: what they are, their text and rules, and bootstraps that do it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import glyphc
from glyphc import knowledge
from glyphc.analysis.estimate import estimate
from glyphc.analysis.kernels_cost import KERNELS
from glyphc.analysis.lookups import fit_lookup, least_degree
from glyphc.analysis.security import modulus_bits, modulus_limit, secured
from glyphc.backends.base import execute
from glyphc.backends.engine import best_engine, engine
from glyphc.backends.kernels.shape import EngineShape
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.errors import IRError
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
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
    with_frees,
)
from glyphc.ir.instructions.check import check_schedule
from glyphc.ir.instructions.text import COEFFICIENTS, code_text, parse_code
from glyphc.ir.layout import Layout
from glyphc.ir.masks import Mask
from glyphc.ir.noise import DECODING_FLOOR, bootstrap
from glyphc.ir.ops import Bootstrap
from glyphc.ir.parameters import INSECURE, Parameters
from glyphc.ir.series import OUTPUT_BITS, Lookup, rms_slope
from glyphc.ir.tables import gray, lookup_levels
from glyphc.ir.text import parse, to_text
from glyphc.ir.types import FixedPoint
from glyphc.program import Program
from glyphc.runtime import run
from tests.pass_networks import Network

N = 1024
RING = 1024
BITS = 30
FACTOR = 13
HALF = 0.45

F64 = np.ndarray


def relu(x: F64) -> F64:
    return np.maximum(x, 0.0)


def bump(x: F64) -> F64:
    return np.cos(5 * x)


# -- tables --


@given(st.integers(2, 6).flatmap(lambda n: st.lists(st.floats(-8, 8), min_size=1 << n, max_size=1 << n)))
@examples(60)
def test_bits_of_a_gray_code_look_up_every_entry(table: list[float]) -> None:
    bits = len(table).bit_length() - 1
    series = fit_lookup(relu, bits, 13, HALF).bits
    lookup = Lookup(series, tuple(table), HALF, 0.0, 0.0)
    codes = gray(np.arange(len(table)))
    assert sorted(codes) == list(range(len(table)))
    assert all(int(a ^ b).bit_count() == 1 for a, b in pairwise(codes))
    exact = [(codes >> k & 1).astype(np.float64) for k in range(bits)]
    np.testing.assert_allclose(lookup.combined(exact), table, atol=1e-12)
    # the factors say the same, as a polynomial of the bits
    products = [np.prod([b for k, b in enumerate(exact) if s >> k & 1], axis=0) for s in range(1, len(table))]
    factors = lookup.factors.reshape(-1)
    np.testing.assert_allclose(factors[0] + factors[1:] @ np.array(products), table, atol=1e-9)
    # where one bit alone is a fraction, the result lies between two neighbours
    halfway = [(a[:-1] + a[1:]) / 2 for a in exact]
    middle = (np.array(table)[:-1] + np.array(table)[1:]) / 2
    np.testing.assert_allclose(lookup.combined(halfway), middle, atol=1e-12)
    at = np.linspace(-HALF, HALF, len(table))
    np.testing.assert_array_equal(lookup.nearest(at), table)
    step = at[1] - at[0]
    np.testing.assert_array_equal(lookup.nearest(at[:-1] + 0.49 * step), table[:-1])
    np.testing.assert_array_equal(lookup.nearest(np.array([-0.6, 0.6])), [table[0], table[-1]])


@pytest.mark.parametrize(("bits", "degree"), [(6, 27), (6, 59), (4, 13), (7, 119)])
@pytest.mark.parametrize("function", [relu, lambda x: x], ids=["relu", "ramp"])
def test_series_look_up_within_one_and_a_half_steps(bits: int, degree: int, function: Callable[[F64], F64]) -> None:
    """On entries, half way between them, and anywhere; the errors are those that the look-up claims."""
    lookup = fit_lookup(function, bits, degree, HALF)
    last = (1 << bits) - 1
    entries = np.linspace(-HALF, HALF, last + 1)
    x = np.concatenate([entries, (entries[:-1] + entries[1:]) / 2, np.random.default_rng(1).uniform(-HALF, HALF, 2000)])
    steps = (lookup.values(x) - function(x)) * last / np.ptp(function(entries))
    assert np.abs(steps).max() < 1.5
    assert np.sqrt(np.mean(steps**2)) < 0.35
    assert np.abs(steps).max() <= 1.02 * lookup.max_error * last
    np.testing.assert_allclose(lookup.table, function(entries), atol=1e-12)
    # coefficients between the values that are read have any phase, and must overflow nothing
    anywhere = np.linspace(-0.5, 0.5, 4001)
    assert max(np.abs(series.values(anywhere)).max() for series in lookup.bits) < 2.05
    assert degree >= least_degree(bits)


def test_degrees_below_the_wave_of_the_lowest_bit_cannot_hold_it() -> None:
    assert [least_degree(bits) for bits in (2, 4, 6, 7, 8)] == [1, 5, 18, 36, 71]
    blurred = fit_lookup(lambda x: x, 6, 13, HALF)
    assert blurred.bits[0].rms_error > 0.3


@pytest.mark.parametrize(("bits", "levels"), [(2, 2), (3, 3), (4, 3), (5, 4), (6, 4), (7, 4), (8, 4)])
def test_levels_of_look_ups(bits: int, levels: int) -> None:
    assert lookup_levels(bits) == levels


# -- programs --

FUNCTION = (Function("relu"),)


class Untold:
    """Nobody is told what a run is doing."""

    def stage(self, name: str, total: float = 1.0) -> AbstractContextManager[None]:
        return nullcontext()

    def advance(self, amount: float, what: str = "") -> None:
        pass


def parameters(slots: int, bits: int, masks: bool, degree: int) -> Parameters:
    return Parameters(
        N,
        BITS,
        54,
        slots=slots,
        degree=degree,
        level_budget=(2, 2),
        slot_levels=lookup_levels(bits) + masks,
        table_bits=bits,
        security=INSECURE,
    )


def program(slots: int, lookup: Lookup, *masks: Mask | None) -> Schedule:
    """One bootstrap, and the same table with each of the masks."""
    fixed = FixedPoint((1.0,), (0.0,), -(1 << 30), 1 << 30)
    port = Port("x", (1,), fixed, Layout(N, 1, 1, 1, 1, N, 1, True))
    code: list[Instruction] = [Load(0, "x"), ToTorus(1, 0, slots, 0), Powers(2, 1, slots, lookup.degree, 0)]
    for number, mask in enumerate(masks):
        code.append(Evaluate(3 + 3 * number, 2, lookup, FUNCTION, fixed, fixed, 1, 0, mask))
        phases, read, scaled = (3 + 3 * number + k for k in range(3))
        code.append(FromTorus(read, phases, 0))
        code += [Dot(scaled, (read,), "factor", None, 0), Store(scaled, f"y{number}")]
    outputs = tuple(replace(port, name=f"y{number}") for number in range(len(masks)))
    has_masks = any(mask is not None for mask in masks)
    client = ClientSpec(parameters(slots, len(lookup.bits), has_masks, lookup.degree), (port,), outputs, 1)
    factor = Polynomials(np.array([0, 1]), np.zeros(1, dtype=np.int32), np.array([1 << FACTOR]))
    return Schedule(client, tuple(with_frees(code)), {"factor": factor})


KEPT = Mask(8, ((4, 256), (3, 64), (6, 8)))


@pytest.mark.parametrize("name", ["simulate", "kernels"])
@pytest.mark.parametrize(
    ("slots", "bits", "degree", "masks"),
    [(N // 2, 6, 27, (None,)), (N // 16, 6, 27, (KEPT, None)), (N // 16, 3, 13, (None,)), (N // 16, 2, 13, (None,))],
)
def test_bootstraps_look_tables_up(name: str, slots: int, bits: int, degree: int, masks: tuple[Mask | None]) -> None:
    """Within noise of the series' own result, and that within one and a half steps of the function, boundaries too."""
    lookup = fit_lookup(relu, bits, degree, HALF)
    schedule = program(slots, lookup, *masks)
    check_schedule(schedule)
    grid, last = N // (2 * slots), (1 << bits) - 1
    phases = np.random.default_rng(3).uniform(-HALF, HALF, 2 * slots)
    boundaries = np.linspace(-HALF, HALF, 2 * last + 1)
    phases[: len(boundaries)] = boundaries
    x = np.zeros(N, dtype=np.int64)
    x[::grid] = np.rint(phases * 2.0**BITS)
    with engine(name).session(schedule, Untold()) as session:
        found = execute(schedule.instructions, session.machine, {"x": [session.encrypt(x)]})
        messages = [session.decrypt(found[f"y{number}"][0]).astype(np.float64) for number in range(len(masks))]
    noise = np.hypot(bootstrap(N, rms_slope(lookup)), DECODING_FLOOR * 2.0**OUTPUT_BITS)
    for message, mask in zip(messages, masks, strict=True):
        kept = np.ones(2 * slots, dtype=bool) if mask is None else mask.kept(N, grid)
        values = message[::grid] / 2.0 ** (BITS - OUTPUT_BITS + FACTOR)
        assert np.sqrt(np.mean((values - lookup.values(phases))[kept] ** 2)) < 2 * noise
        steps = (values - relu(phases))[kept] * last / HALF
        assert np.abs(steps).max() < 1.5
        assert np.sqrt(np.mean(steps**2)) < 0.35
        assert np.abs(values[~kept]).max(initial=0.0) < 20 * noise


def test_the_definition_of_a_look_up_is_the_entry_of_the_nearest_index() -> None:
    lookup = fit_lookup(bump, 4, 13, HALF)
    schedule = program(N // 2, lookup, None)
    phases = np.random.default_rng(4).uniform(-HALF, HALF, N)
    x = np.rint(phases * 2.0**BITS).astype(np.int64)
    with engine("clear").session(schedule, Untold()) as session:
        found = execute(schedule.instructions, session.machine, {"x": [session.encrypt(x)]})
        message = session.decrypt(found["y0"][0])
    entries = np.linspace(-HALF, HALF, 16)
    index = np.abs(phases[:, None] - entries).argmin(axis=1)
    unit = 2.0 ** (BITS - OUTPUT_BITS)
    np.testing.assert_array_equal(message, np.rint(np.cos(5 * entries[index]) * unit) * 2**FACTOR)


def test_look_ups_have_a_text() -> None:
    schedule = program(N // 16, fit_lookup(relu, 3, 13, HALF), KEPT, None)
    text = code_text(schedule.instructions, COEFFICIENTS)
    assert parse_code(text, COEFFICIENTS) == schedule.instructions
    assert text.count('"table"') == 2


LOOKUP = fit_lookup(relu, 3, 13, HALF)
SHORT = replace(LOOKUP.bits[0], real=LOOKUP.bits[0].real[:-1], imag=LOOKUP.bits[0].imag[:-1])


@pytest.mark.parametrize(
    ("lookup", "changes", "message"),
    [
        (LOOKUP, {"table_bits": 2}, "for which there are no levels"),
        (LOOKUP, {"slot_levels": 2}, "for which there are no levels"),
        (LOOKUP, {"slot_levels": 3}, "has a mask, for which there is no level"),
        (LOOKUP, {"folded_levels": 1}, "has a mask, for which there is no level"),
        (replace(LOOKUP, bits=(*LOOKUP.bits[:2], SHORT)), {}, "different degrees"),
        (replace(LOOKUP, bits=(SHORT,) * 3), {}, "coefficients on powers up to 13"),
        (replace(LOOKUP, table=(1e300,) * 8), {}, "numbers beyond"),
        (replace(LOOKUP, half_range=-HALF, bits=tuple(replace(b, half_range=-HALF) for b in LOOKUP.bits)), {}, "range"),
    ],
)
def test_look_ups_that_do_not_fit_a_program_are_refused(lookup: Lookup, changes: dict[str, int], message: str) -> None:
    schedule = program(N // 16, LOOKUP, KEPT)
    client = replace(schedule.client, parameters=replace(schedule.parameters, **changes))
    code = tuple(replace(i, series=lookup) if isinstance(i, Evaluate) else i for i in schedule.instructions)
    with pytest.raises(IRError, match=rf"instruction \d \(evaluate\).*{message}"):
        check_schedule(replace(schedule, client=client, instructions=code))


def test_tables_that_their_bits_do_not_fit_are_none() -> None:
    with pytest.raises(IRError, match="7 entries is not looked up by 3 bits"):
        replace(LOOKUP, table=LOOKUP.table[:-1])
    with pytest.raises(IRError, match="2 to 8"):
        Lookup(LOOKUP.bits[:1], (0.0, 1.0), HALF, 0.0, 0.0)


# -- parameters --


@pytest.mark.parametrize("slots", [64, 2048, 8192, 32768])
@pytest.mark.parametrize("degree", [27, 59])
def test_there_are_secure_parameters_for_six_bits(slots: int, degree: int) -> None:
    """Of the kernels' own keys, which is what is checked; OpenFHE's bound is beside the point, and it refuses them."""
    budget = KERNELS.configuration(slots).level_budget
    found = secured(
        Parameters(65536, 27, 55, (1, 2), slots, degree, budget, slot_levels=lookup_levels(6), table_bits=6)
    )
    assert modulus_bits(found) == EngineShape(found).modulus_bits <= modulus_limit(found) == 1462
    assert found.level_budget == budget
    assert best_engine(found, here=False)[0].name == "kernels"
    assert "look tables up" in str(engine("openfhe").refusal(found))
    assert engine("openfhe").refusal(replace(found, table_bits=0, slot_levels=1)) is None


# -- networks --


def network() -> Graph:
    n = Network(6)
    a = n.apply(n.dense(n.x, 8, "a"), "relu")
    n.output(n.dense(n.apply(n.dense(a, 4, "b"), "sigmoid"), 3, "c"))
    return n.graph


def test_networks_are_encrypted_as_simulated_and_show_nothing_to_the_client() -> None:
    x = np.random.default_rng(5).normal(size=(80, 6))
    program = glyphc.compile(network(), x, 16, strategy="nandakumar", trips=0, insecure_ring=RING, tolerance=3.0)
    p = program.client.parameters
    assert isinstance(p, Parameters)
    assert (p.table_bits, p.slot_levels) == (6, 4)
    tables = [op.series for _, op in program.graph.of(Bootstrap)]
    assert [type(table) for table in tables] == [Lookup, Lookup]
    assert knowledge.trips(program) == 0
    assert "activations" in str(knowledge.of_program(program)).rpartition("neither")[2]
    found = {mode: run(program, x[:16], mode) for mode in ("clear", "simulate", "encrypted")}
    clear, simulated, encrypted = (found[mode].outputs["y"] for mode in ("clear", "simulate", "encrypted"))
    assert found["encrypted"].engine == "kernels"
    wanted = evaluate(network(), {"x": x[:16]})["y"]
    spread = np.ptp(wanted)
    assert np.abs(encrypted - simulated).max() < 1e-4 * spread
    # beside the table's own entries: no more than what the function changes from one to the next, in both layers
    assert np.abs(encrypted - clear).max() < 0.1 * spread
    assert np.abs(encrypted - wanted).max() < 0.05 * spread
    assert Program.from_bytes(program.to_bytes()).fingerprint == program.fingerprint
    assert parse(to_text(program.graph)) == program.graph
    with pytest.raises(ParameterError, match=r"'openfhe' does not take this program.*look tables up.*kernels"):
        run(program, x[:16], engine="openfhe")


def test_more_bits_cost_more_and_err_less() -> None:
    x = np.random.default_rng(5).normal(size=(60, 6))
    wanted = evaluate(network(), {"x": x})["y"]
    errors, seconds = [], []
    for bits in (3, 5, 7):
        program = glyphc.compile(
            network(), x, 16, strategy="nandakumar-server", table_bits=bits, insecure_ring=RING, tolerance=3.0
        )
        errors.append(np.abs(run(program, x, "clear").outputs["y"] - wanted).max())
        seconds.append(estimate(program.schedule, KERNELS).seconds)
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert seconds[0] < seconds[1] < seconds[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "hesamifard", "trips": 0}, "'hesamifard' takes trips to the client, and none is allowed"),
        ({"strategy": "nandakumar-server", "table_bits": 9}, "2 to 8, not 9"),
        ({"strategy": "nandakumar", "trips": 0, "table_bits": 1}, "2 to 8, not 1"),
    ],
)
def test_what_cannot_be_looked_up_is_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(GlyphcError, match=message):
        glyphc.compile(network(), np.ones((4, 6)), 4, insecure_ring=RING, **options)
