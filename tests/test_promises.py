"""What is said before a run is what happens in it: promised, simulated and encrypted errors agree."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pass_networks import Network as PassNetwork
from test_merge import Network
from test_noise_model import phases
from test_passes_layout import mlp

import glyphc
from glyphc.accuracy import accuracy
from glyphc.analysis import noise, security
from glyphc.analysis.series import fit
from glyphc.backends.openfhe.bootstrap import Bootstrapper
from glyphc.backends.openfhe.client import generate_keys
from glyphc.backends.openfhe.evaluator import OpenFHEMachine
from glyphc.diagnostics import graph_text, summary
from glyphc.errors import GlyphcError
from glyphc.ir.accuracy import Loss, MeasureKind
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import ClientSpec, Schedule
from glyphc.ir.ops import Apply, Bootstrap, Const, Dense, Input, Output, Unpack
from glyphc.ir.parameters import INSECURE, Parameters
from glyphc.ir.series import LARGEST_BITS, OUTPUT_BITS, evaluate_series
from glyphc.ir.types import Level
from glyphc.passes.assign_budget import _Try
from glyphc.passes.fit_series import scaled
from glyphc.passes.pipeline import DEFAULT
from glyphc.passes.tolerance import Halves
from glyphc.program import Program

F64 = npt.NDArray[np.float64]
RING = 2048


def samples(width: int, count: int, seed: int) -> F64:
    return np.random.default_rng(seed).normal(size=(count, width))


def rms(x: npt.ArrayLike) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def deep() -> Graph:
    """ReLUs of positive weights: what noise makes of values near zero adds up from layer to layer."""
    graph = mlp(6, 24, 24, 24, 24, 1)
    for name in graph.constants:
        graph.constant(name).setflags(write=True)
        graph.constant(name)[...] = np.abs(graph.constant(name)) - 0.4
    return graph


def skipping() -> Graph:
    net = Network(6)
    first = net.layer([net.x], 16, "tanh", "a")
    second = net.layer([first], 16, "relu", "b")
    return net.done(first, second)


NETWORKS = {
    "relu, wide unpacking": lambda: mlp(6, 8, 128, 3),
    "tanh": lambda: mlp(6, 16, 16, 3, function="tanh"),
    "relu, biased errors": deep,
    "branches that are read twice": skipping,
}


@cache
def program(name: str, batch: int = 8) -> tuple[Graph, Program]:
    source = NETWORKS[name]()
    return source, glyphc.compile(source, samples(6, 128, 1), batch, insecure_ring=RING)


@pytest.mark.parametrize("name", NETWORKS)
def test_error_column_is_what_a_simulation_shows(name: str) -> None:
    """Of every layer, on samples that the compiler has not seen, by the simulator of ciphertexts."""
    source, p = program(name)
    x = 0.8 * samples(6, 64, 2)  # inside the calibrated ranges
    found = accuracy(p, x, evaluate(source, {"x": x})["y"])
    text = [line.rsplit(None, 1)[-1] for line in graph_text(p.graph, columns=("node", "error")).splitlines()[1:]]
    compared = 0
    for node in found.nodes:
        op = p.graph.node(node.node).op
        if isinstance(op, Input) or node.simulated is None or node.lo is None or node.hi is None:
            continue
        ratio = float(text[node.node]) / (node.simulated * (node.hi - node.lo))
        assert 0.5 < ratio < 2.0, (node.expression, ratio)
        compared += 1
    assert compared >= 4


@pytest.mark.parametrize("name", ["relu, wide unpacking", "branches that are read twice"])
def test_promised_is_simulated_is_encrypted(name: str) -> None:
    source, p = program(name)
    x = samples(6, 8, 3)
    wanted = evaluate(source, {"x": x})["y"]
    (loss,) = next(d for n in p.graph for d in n.decisions if d.made_by == "assign-budget").losses
    assert loss.held_out
    simulated, encrypted = (np.asarray(p.run(x, mode=m)) - wanted for m in ("simulate", "encrypted"))
    assert rms(encrypted) == pytest.approx(rms(simulated), rel=0.35)
    spread = np.std(evaluate(source, {"x": samples(6, 128, 1)})["y"], axis=0)
    shown = 100 * rms(simulated[:, loss.column]) / spread[loss.column]
    assert 0.4 < shown / loss.error < 2.5


def test_classes_that_rounding_would_tie_are_not_promised() -> None:
    """Where all activations are dead, the largest of equal logits is what errors make of it: rounding would hide it."""
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (2,)))
    w = Const(graph.add_constant("w", np.array([[1.0, 0.0], [0.0, 1.0]])))
    zero = Const(graph.add_constant("zero", np.zeros(2)))
    hidden = graph.add(Apply((Function("relu"),)), (graph.add(Dense((w,), zero), (x,), location="a"),), location="f")
    mixed = Const(graph.add_constant("mixed", np.array([[1.0, 0.3], [0.3, 1.0]])))
    graph.add(Output("logits"), (graph.add(Dense((mixed,), zero), (hidden,), location="b"),))
    seen = -np.abs(samples(2, 512, 4))
    seen[::5] = np.abs(seen[::5])
    p = glyphc.compile(graph, seen, 8, insecure_ring=1024, measure={"logits": "classes"})
    (loss,) = next(d for n in p.graph for d in n.decisions if d.made_by == "assign-budget").losses
    got = np.asarray(p.run(seen[1::2][:512], mode="simulate"))
    wanted = evaluate(graph, {"x": seen[1::2][:512]})["logits"]
    changed = 100 * float(np.mean(got.argmax(1) != wanted.argmax(1)))
    assert changed > 20
    assert loss.value == pytest.approx(changed, rel=0.35)
    assert "more than the tolerated" in summary(p)


@given(st.integers(1, 200), st.integers(1, 64))
def test_halves_have_nothing_in_common(count: int, most: int) -> None:
    halves = Halves.of({"x": np.arange(count, dtype=np.float64)}, most)
    first, second = (set(h["x"]) for h in (halves.first, halves.second))
    if halves.held_out:
        assert not first & second
        assert len(second) == min(most, count // 2)
        assert set(halves.both["x"]) == first | second
    else:
        assert count < 16
        assert first == second == set(range(count))


@pytest.mark.parametrize(("count", "words"), [(12, "on 12 calibration samples"), (40, "on 20 held-out calibration")])
def test_it_is_said_on_which_samples(count: int, words: str) -> None:
    assert words in summary(glyphc.compile(mlp(6, 8, 1), samples(6, count, 1), 4, insecure_ring=1024))


def test_a_large_unpacking_leaves_values_above_the_noise() -> None:
    """At N = 65536: a result that is split into 4096 parts is made 4096 times smaller before."""
    source = mlp(4, 1024, 4096, 1)
    x = np.random.default_rng(1).normal(size=(16, 4))
    p = glyphc.compile(source, x, 1)
    parameters = p.client.parameters
    predicted = noise.predict(p.graph, parameters, parameters.bgv_bits)
    unpacked = [(n, op) for n, op in p.graph.of(Unpack) if op.parts >= 4096]
    assert unpacked
    for node, _ in unpacked:
        fixed = node.type.fixed
        assert fixed is not None
        assert predicted[node.id].bootstrap < 2**-9 * (fixed.hi - fixed.lo)


def test_zeros_need_no_precision() -> None:
    """A layer with few weights a row takes a smaller plaintext modulus than a full one."""

    def bits(rows: F64) -> int:
        graph = mlp(4, 256, 256, 1, function="tanh")
        graph.constant("w.1").setflags(write=True)
        graph.constant("w.1")[...] = rows
        x = samples(4, 16, 1)
        return glyphc.compile(graph, x, 1, insecure_ring=1024, tolerance=50.0).client.parameters.plaintext_bits

    assert bits(np.eye(256)) < bits(np.random.default_rng(2).normal(size=(256, 256)))


def test_a_series_may_reach_its_largest_value() -> None:
    """Where OpenFHE's moduli would overflow first: at degree 59 and few slots."""
    p = Parameters(1024, 20, 54, slots=32, degree=59, level_budget=(2, 2), security=INSECURE)
    client, evaluation = generate_keys(p)
    series = scaled(fit(lambda x: np.maximum(x, 0) / 0.45, 59), 2.0**LARGEST_BITS)
    t, grid = p.plaintext_modulus, p.ring // (2 * p.slots)
    message = np.rint(np.linspace(-0.44, 0.44, p.ring) * t).astype(np.int64)
    machine = OpenFHEMachine(Schedule(ClientSpec(p, (), (), 1), (), {}), evaluation)
    powers = machine.powers(machine.to_torus(client.encrypt(message), p.slots), p.slots, 59)
    got = phases(client, Bootstrapper(client.contexts.torus, client.contexts.torus_ring, p).evaluate(powers, series))
    error = got[::grid] * 2.0**OUTPUT_BITS - evaluate_series(series, message[::grid] / t)
    assert rms(error) < 2.0 ** (LARGEST_BITS - 14)


def test_degrees_that_have_no_parameters_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    source, x = mlp(4, 64, 1, function="abs"), samples(4, 32, 1)
    # all that is lost is lost by series
    passes = DEFAULT.replace("quantize", "quantize{input_bits=20,weight_precision=16}")

    def compiled() -> Program:
        return glyphc.compile(source, x, 64, tolerance=0.0, passes=passes)

    wanted = compiled().client.parameters.degree
    assert wanted >= 119
    for limit in range(1500, 1100, -40):  # until more digits do not help any more
        monkeypatch.setattr(security, "MAX_LOG_QP_SPARSE", {65536: limit})
        short = compiled()
        assert short.client.parameters.modulus_bits <= limit
        if short.client.parameters.degree < wanted:
            break
    assert re.search(r"%\d+ \(apply @act1\) asks for a degree above \d+,.*--batch", summary(short))
    monkeypatch.setattr(security, "MAX_LOG_QP_SPARSE", {65536: 900})
    with pytest.raises(GlyphcError, match=r"no parameters fit: .*need moduli of \d+ bits.*allows 900.*act1.*--batch"):
        compiled()


def test_what_series_cannot_win_back_buys_none() -> None:
    """Where inputs are too coarse, precise series change nothing, and cost time."""
    passes = DEFAULT.replace("quantize", "quantize{input_bits=5}")
    p = glyphc.compile(mlp(6, 16, 16, 3), samples(6, 200, 1), 8, tolerance=0.01, insecure_ring=1024, passes=passes)
    assert max(op.series.degree for _, op in p.graph.of(Bootstrap)) <= 59


@pytest.mark.parametrize(
    ("value", "own", "alone", "enough"),
    [
        (0.5, 0.5, 0.1, True),  # within the tolerance
        (0.8, 0.7, 0.4, False),  # beyond, and by the series
        (4.2, 2.9, 3.0, True),  # rounding alone is beyond, and is most of it
        (4.4, 3.1, 3.0, False),
        (30.0, 30.0, 0.5, False),  # rounding keeps to it, however much the series lose
    ],
)
def test_which_part_limits(value: float, own: float, alone: float, enough: bool) -> None:
    def losses(percent: float) -> tuple[Loss]:
        return (Loss("y", MeasureKind.RELATIVE, percent, 0.75, 100, percent, 0, 1),)

    assert _Try({}, {}, losses(value), losses(own)).tolerated(losses(alone)) == enough


@pytest.mark.parametrize(("times", "least", "most"), [(500.0, 0, 13), (50.0, 119, 247)])
def test_series_are_bought_while_they_limit_and_no_longer(times: float, least: int, most: int) -> None:
    """A small difference of large values: rounding alone spoils it at 500 times, at 50 times the series do."""
    n = PassNetwork(2)
    eye, zero = Const(n.graph.add_constant("eye", np.eye(2))), Const(n.graph.add_constant("zero", np.zeros(2)))
    hidden = n.apply(n.graph.add(Dense((eye,), zero), (n.x,), location="same"), "relu")
    w, b = (
        Const(n.graph.add_constant("w", times * np.array([[1.0, -1.0]]))),
        Const(n.graph.add_constant("b", np.zeros(1))),
    )
    n.output(n.graph.add(Dense((w,), b), (hidden,), location="difference"))
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 1))
    p = glyphc.compile(n.graph, np.hstack([x, x + rng.normal(size=(200, 1)) / times]), 4, insecure_ring=1024)
    (degree,) = [op.series.degree for _, op in p.graph.of(Bootstrap)]
    assert least <= degree <= most
    budget = next(d for n in p.graph for d in n.decisions if d.made_by == "assign-budget")
    found = re.search(r"([\d.]+) % of the spread.*alone.*error ([\d.]+) % .*beside that: ([\d.]+) %", budget.warning)
    assert found
    whole, alone, series = map(float, found.groups())
    assert whole == pytest.approx(np.hypot(alone, series), rel=0.2)
    assert series < alone  # what limits in the end is no series


@pytest.mark.parametrize(
    "functions",
    [("sqrt", "reciprocal"), ("log", "sqrt"), ("exp", "log"), ("sqrt", "log"), ("tanh", "reciprocal")],
)
def test_guard_bands_stay_inside_the_domain_of_compositions(functions: tuple[str, ...]) -> None:
    """Positive data of which the guard band alone would leave the domain."""
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (3,)))
    w = Const(graph.add_constant("w", np.eye(3)))
    b = Const(graph.add_constant("b", np.zeros(3)))
    value = graph.add(Dense((w,), b), (x,), location="a")
    graph.add(Output("y"), (graph.add(Apply(tuple(map(Function, functions))), (value,), location="f"),))
    seen = np.random.default_rng(1).uniform(1.02 if functions[0] == "log" else 0.02, 2.0, size=(64, 3))
    p = glyphc.compile(graph, seen, 4, insecure_ring=1024)
    got, wanted = np.asarray(p.run(seen, mode="simulate")), evaluate(graph, {"x": seen})["y"]
    assert np.all(np.isfinite(got))
    assert rms(got - wanted) < 0.1 * np.std(wanted)
