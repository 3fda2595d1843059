"""Guard bands follow from the tail of what calibration saw, show nothing exact of it, and overruns are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st
from pass_networks import Network, mlp

import glyphc
from glyphc.cli import main
from glyphc.diagnostics import summary
from glyphc.errors import OverrunWarning
from glyphc.exchange.artifacts import ServerProgram, Specification
from glyphc.exchange.split import split, stripped
from glyphc.ir.evaluate import evaluate, evaluate_all
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, Const, Dense, Linear
from glyphc.ir.text import to_text
from glyphc.ir.types import FixedPoint, Guard
from glyphc.passes.tails import margin
from glyphc.program import Program
from glyphc.rounding import down, outward, up
from glyphc.run_record import RunRecord
from glyphc.runtime import run

F64 = npt.NDArray[np.float64]
SAMPLES = np.random.default_rng(8).normal(size=(100, 2, 3))


def one(function: str, scale: float = 1.0) -> Graph:
    """One hidden value, the first input feature times a scale, and a function of it."""
    n = Network(4)
    w = np.zeros((2, 4))
    w[0, 0] = w[1, 1] = scale
    weights, bias = Const(n.graph.add_constant("w", w)), Const(n.graph.add_constant("b", np.zeros(2)))
    hidden = n.graph.add(Dense((weights,), bias), (n.x,), location="hidden")
    n.output(n.dense(n.apply(hidden, function), 2, "last"))
    return n.graph


def hidden_format(program: Program, location: str = "hidden") -> tuple[FixedPoint, Guard]:
    (type,) = {n.type for n, _ in program.quantized.of(Linear) if n.location == location}
    assert type.fixed is not None
    assert type.calibration is not None
    assert type.calibration.guard is not None
    return type.fixed, type.calibration.guard


# -- what the server learns --


def parts(program: Program, folder: Path) -> tuple[bytes, bytes]:
    """The server's half and the client's specification, as bytes."""
    split(program.graph).server.save(folder / "p.server")
    server = ServerProgram.load(folder / "p.server")
    server.specification.save(folder / "p.spec")
    Specification.load(folder / "p.spec")
    return (folder / "p.server").read_bytes(), (folder / "p.spec").read_bytes()


@pytest.mark.parametrize("function", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("seed", range(3))
def test_one_sample_more_or_less_does_not_show(function: str, seed: int, tmp_path: Path) -> None:
    """The largest and the smallest values stem from one sample; another one takes its place, nearly as extreme."""
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(size=(400, 2, 3)), -2.5, 2.5)
    x[17] = rng.normal(size=(2, 3))
    x[17, 0] = [2.75, -2.75, 2.7]
    other = x.copy()
    other[17, 0] = [2.751, -2.752, 2.703]
    graph = mlp(function)
    programs = [glyphc.compile(graph, samples, 4, insecure_ring=1024) for samples in (x, other)]
    ranges = [[n.type.calibration for n in p.quantized] for p in programs]
    assert ranges[0] != ranges[1], "exact ranges differ, and do not leave the compiler"
    assert parts(programs[0], tmp_path) == parts(programs[1], tmp_path)


def test_histograms_do_not_show(tmp_path: Path) -> None:
    """Where values lie in a range has no influence on series; on the choice of their degrees it may have."""
    rng = np.random.default_rng(4)
    middle = np.clip(rng.normal(size=(400, 4)), -2.9, 2.9)
    ends = np.clip(rng.normal(size=(400, 4)) * 1.5, -2.9, 2.9)
    for x in (middle, ends):
        x[0], x[1] = 3.0, -3.0
    passes = glyphc.passes.pipeline.DEFAULT.replace("quantize", "quantize{margin=1.25}").replace("assign-budget,", "")
    programs = [glyphc.compile(one("tanh"), x, 4, insecure_ring=1024, passes=passes) for x in (middle, ends)]
    series = [{op.series for _, op in p.graph.of(glyphc.ir.ops.Bootstrap)} for p in programs]
    assert series[0] == series[1]


@given(st.floats(1e-12, 1e12), st.floats(-1e3, 1e3))
def test_ranges_are_rounded_outward(half: float, offset: float) -> None:
    lo, hi = (offset - 1) * half, (offset + 1) * half
    assume(lo < hi)
    low, high = outward(lo, hi)
    assert low <= lo
    assert hi <= high
    width = (hi - lo) / 2
    assert lo - low <= width / 8
    assert high - hi <= width / 8
    # whatever the exact ends were, a whole interval of ends gives the same
    again = outward(low, high)
    assert again[0] <= low
    assert again[1] >= high


@given(st.floats(1e-30, 1e30))
def test_magnitudes_are_rounded_to_eighths_of_an_octave(value: float) -> None:
    assert down(value) <= value * (1 + 1e-12)
    assert value <= up(value) * (1 + 1e-12)
    assert up(value) <= value * 2 ** (1 / 8) * (1 + 1e-12)
    assert value / 2 ** (1 / 8) <= down(value) * (1 + 1e-12)


# -- margins --


@pytest.mark.parametrize(
    ("name", "most"), [("normal", 2e-3), ("laplace", 2e-3), ("uniform", 1e-4), ("standard_t", 4e-3)]
)
def test_margins_follow_the_tail(name: str, most: float) -> None:
    """How many fresh samples go beyond, on average over calibrations with 400 samples."""
    rng = np.random.default_rng(0)
    parameters = {"standard_t": (4,)}.get(name, (0.0, 1.0))
    beyond, widths = [], []
    for _ in range(40):
        x = getattr(rng, name)(*parameters, size=400)
        half = np.ptp(x) / 2
        more = margin(x, half)
        fresh = getattr(rng, name)(*parameters, size=20_000)
        beyond.append(np.mean(fresh > x.max() + more))
        widths.append(more / half)
    assert np.mean(beyond) < most
    assert min(widths) > 0.099
    assert max(widths) < 1.001
    if name == "uniform":
        assert np.mean(widths) < 0.2, "a bounded distribution needs hardly any"


@given(st.integers(1, 60), st.floats(0.01, 100.0))
def test_few_samples_get_more(count: int, scale: float) -> None:
    x = np.linspace(0, scale, count)
    assert 0.1 * scale <= margin(x, scale) <= scale * (1 + 1e-9)
    if count < 60:
        assert margin(x[: count // 2 + 1], scale) >= margin(x, scale) * 0.99 or count > 50


def test_held_out_samples_that_would_leave_are_counted() -> None:
    x = np.random.default_rng(3).normal(size=(200, 4))
    x[50, 0] = 40.0
    _, guard = hidden_format(glyphc.compile(one("softplus"), x, 4, insecure_ring=1024))
    assert (guard.left, guard.held_out) == (1, 200)
    assert "1 of 200" in summary(glyphc.compile(one("softplus"), x, 4, insecure_ring=1024))
    _, guard = hidden_format(glyphc.compile(one("softplus"), np.clip(x, -2, 2), 4, insecure_ring=1024))
    assert (guard.left, guard.held_out) == (0, 200)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.ones((1, 4)), "only 1 calibration sample:"),
        (np.random.default_rng(0).normal(size=(10, 4)), "only 10 calibration samples"),
        (np.zeros((60, 4)), "all 60 calibration samples are equal"),
        (np.tile(np.random.default_rng(0).normal(size=(6, 4)), (10, 1)), "54 of 60 calibration samples are equal"),
        (np.random.default_rng(0).normal(size=(60, 4)), ""),
    ],
)
def test_samples_that_show_little_are_warned_of(x: F64, words: str) -> None:
    shown = summary(glyphc.compile(one("tanh"), x, 4, insecure_ring=1024))
    if words:
        assert words in shown
    else:
        assert "warning     %0" not in shown


# -- reserves --


@pytest.mark.parametrize(
    ("function", "scale", "below", "above"),
    [
        ("tanh", 1.5, True, True),
        ("sigmoid", 3.0, True, True),
        ("relu", 1.0, True, False),
        ("softplus", 2.0, True, False),
        ("abs", 1.0, False, False),
    ],
)
def test_constant_ends_have_a_reserve_in_which_nothing_goes_wrong(
    function: str, scale: float, below: bool, above: bool
) -> None:
    x = np.random.default_rng(3).normal(size=(300, 4))
    graph = one(function, scale)
    program = glyphc.compile(graph, x, 4, insecure_ring=1024, logit_tolerance=0.02)
    fixed, guard = hidden_format(program)
    assert (fixed.real_lo < 1.05 * guard.lo, fixed.real_hi > 1.05 * guard.hi) == (below, above)
    ends = [e for e, there in ((fixed.real_lo, below), (fixed.real_hi, above)) if there]
    shown = summary(program)
    assert ("error x" in shown) == bool(ends)
    for end in ends:
        far = np.zeros((1, 4))
        far[0, :2] = 0.98 * end / scale
        wanted = evaluate(graph, {"x": far})["y"]
        port = program.client.inputs[0].fixed
        if port.real_lo < far.min() and far.max() < port.real_hi:
            report = run(program, far, "simulate")
            assert report.overruns == ()
            np.testing.assert_allclose(report.outputs["y"], wanted, atol=0.1)


# -- overruns --


@pytest.fixture
def narrow() -> tuple[Program, F64]:
    """A program for small values, and samples of which some are too large for it, though their features are not."""
    rng = np.random.default_rng(1)
    n = Network(4)
    w, b = Const(n.graph.add_constant("w", np.ones((1, 4)))), Const(n.graph.add_constant("b", np.zeros(1)))
    total = n.graph.add(Dense((w,), b), (n.x,), location="sum")
    n.output(n.dense(n.graph.add(Apply((Function("softplus"),)), (total,), location="softplus"), 2, "last"))
    calibration = rng.normal(size=(200, 4))
    calibration -= calibration.mean(axis=1, keepdims=True) * 0.9
    x = calibration[:20].copy()
    x[7], x[13] = 1.0, 3.0
    return glyphc.compile(n.graph, calibration, 4, insecure_ring=1024), x


@pytest.mark.parametrize("mode", ["clear", "simulate"])
def test_values_that_leave_their_range_are_told(mode: str, narrow: tuple[Program, F64]) -> None:
    program, x = narrow
    fixed, _ = hidden_format(program, "sum")
    with pytest.warns(OverrunWarning, match="2 of 20 samples"):
        report = run(program, x, mode)
    layer = [o for o in report.overruns if o.layer == "sum"]
    assert [(o.sample, o.values) for o in layer] == [(7, 1), (13, 1)]
    middle, half = (fixed.real_hi + fixed.real_lo) / 2, (fixed.real_hi - fixed.real_lo) / 2
    assert [o.farthest for o in layer] == pytest.approx([abs(s - middle) / half for s in (4.0, 12.0)], rel=0.02)
    t = program.client.parameters.plaintext_modulus
    torus = [abs(s - middle) / fixed.scale[0] > t / 2 for s in (4.0, 12.0)]
    assert [bool(o.wraps) for o in layer] == torus
    assert torus[1]
    graph = program.quantized
    values = evaluate_all(graph, {"x": x})
    outside = {int(s) for n, _ in graph.of(Linear) for s in np.argwhere(np.abs(values[n.id]) > t / 2)[:, 0]}
    assert outside <= {o.sample for o in report.overruns}


def test_a_run_without_overruns_is_silent(narrow: tuple[Program, F64], recwarn: pytest.WarningsRecorder) -> None:
    program, x = narrow
    report = run(program, np.delete(x, [7, 13], axis=0), "simulate")
    assert report.overruns == ()
    assert not [w for w in recwarn if issubclass(w.category, OverrunWarning)]


def test_overruns_stand_on_stderr_and_in_the_record(narrow: tuple[Program, F64], tmp_path: Path) -> None:
    program, x = narrow
    program.save(tmp_path / "p.glyphc")
    np.save(tmp_path / "x.npy", x)
    names = {name: str(tmp_path / name) for name in ("p.glyphc", "x.npy", "y.npy", "run.json")}
    arguments = ["run", names["p.glyphc"], "--input", names["x.npy"], "--output", names["y.npy"], "--mode", "simulate"]
    result = CliRunner().invoke(main, [*arguments, "--record", names["run.json"]])
    assert result.exit_code == 0, result.output
    assert "values leave their ranges: the results of 2 of 20 samples" in result.stderr
    assert "samples 7, 13 of 20" in result.stderr
    assert "they wrap" in result.stderr
    record = RunRecord.load(tmp_path / "run.json", program)
    assert {o.sample for o in record.overruns} == {7, 13}
    assert json.loads((tmp_path / "run.json").read_text())["overruns"][0]["layer"] == "sum"


def test_the_servers_noise_is_predicted_without_calibration() -> None:
    program = glyphc.compile(mlp(), SAMPLES, 4, insecure_ring=1024)
    shown = to_text(stripped(program.graph))
    assert "Guard" not in shown
    assert "Calibration" not in shown
    assert "Loss" not in shown
    half = split(program.graph).server
    assert half.noise == split(stripped(program.graph)).server.noise
    assert half.fingerprint == split(stripped(program.graph)).server.fingerprint
