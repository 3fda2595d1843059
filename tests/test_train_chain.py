"""Chains of layers in every arrangement that fits, against the step program of the reference evaluator."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_train_plan import F64, OPTIMIZERS, data, reaches, referred

from glyphc.analysis.cost import CostModel
from glyphc.analysis.security import MAX_LOG_QP_SPARSE
from glyphc.backends.base import execute_named
from glyphc.backends.ckks_clear import ClearCKKS, SimulatedCKKS
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.instructions.ckks import Bootstrap
from glyphc.ir.ops import Add, Apply, Const, Dense, Input, Output, Softmax
from glyphc.ir.types import Level
from glyphc.train.arrange import Arrangement, arrangements
from glyphc.train.errors import TrainingError
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD
from glyphc.train.plan import Plan, make_plan, wanted
from glyphc.train.stages import find_stages
from glyphc.train.step import State, make_step

RING = 1024


Skips = tuple[tuple[int, int], ...]


def chain(
    widths: tuple[int, ...],
    end: str = "sigmoid",
    activation: str = "tanh",
    seed: int = 0,
    skips: Skips = (),
    behind: str = "tanh",
) -> Graph:
    """widths: of the input and all layers. end: "sigmoid", "softmax" or "" for numbers. skips: activations, by their
    layers, that are added to the sums of later ones; behind: what follows such sums, or nothing."""
    random = np.random.default_rng(seed)
    graph = Graph(Level.SOURCE, 1)
    value = graph.add(Input("x", (widths[0],)))
    activations = []
    for layer, (fan, out) in enumerate(pairwise(widths)):
        function = behind if any(target == layer - 1 for _, target in skips) else activation
        if layer and function:
            value = graph.add(Apply((Function(function),)), (value,), location=f"act{layer - 1}")
        activations.append(value)
        w = graph.add_constant(f"w{layer}", random.normal(size=(out, fan)) / np.sqrt(fan) / 2)
        b = graph.add_constant(f"b{layer}", random.normal(size=out) / 8)
        value = graph.add(Dense((Const(w),), Const(b)), (value,), location=f"layer{layer}")
        for source, target in skips:
            if target == layer:
                value = graph.add(Add(), (value, activations[source + 1]), location=f"skip{layer}")
    if end:
        value = graph.add(Softmax(0) if end == "softmax" else Apply((Function("sigmoid"),)), (value,))
    graph.add(Output("y"), (value,))
    return graph


def trained(plan: Plan, machine: Any, x: F64, y: F64, steps: int) -> dict[str, F64]:
    names = [name for s in plan.stages for name in (s.weight.name, s.bias.name)]
    start = State(0, {name: plan.network.constant(name) for name in names}, {})
    fresh = plan.data(x, y) | plan.state(start)
    values = {name: machine.encrypt(message, limbs) for name, (message, limbs) in fresh.items()}
    assert {name: limbs for name, (_, limbs) in fresh.items()} == {n: plan.server.fresh_limbs(n) for n in fresh}
    for step in range(steps):
        values |= execute_named(plan.server.code(step), machine, values)
    return plan.decoded({name: machine.decrypt(values[name]) for name in plan.server.state_names}, steps)


def assert_close(found: dict[str, F64], expected: dict[str, F64], tolerance: float) -> None:
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=tolerance, err_msg=name)


def one_hot(samples: int, classes: int, seed: int = 0) -> F64:
    return np.eye(classes)[np.random.default_rng(seed).integers(0, classes, samples)]


def all_arrangements(graph: Graph, optimizer: SGD, batch: int) -> list[Arrangement]:
    program = make_step(graph, LOSSES["binary-cross-entropy"], optimizer, batch)
    return list(arrangements(wanted(program, find_stages(program), RING), CostModel()))


CASES = [
    ((6, 3), 9),
    ((20, 3), 5),
    ((5, 4, 3), 9),
    ((40, 8, 4), 6),
    ((5, 3, 4, 2), 6),
    pytest.param((70, 8, 8, 3), 4, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("widths", "batch"), CASES)
def test_every_arrangement_computes_the_step_program(widths: tuple[int, ...], batch: int) -> None:
    """Exactly: layouts, masks, units, frames. What encryption adds comes in the other tests."""
    graph, optimizer = chain(widths), OPTIMIZERS["nesterov, decay, schedule"]
    x, _ = data(batch, widths[0])
    x /= np.sqrt(widths[0])
    y = one_hot(batch, widths[-1])
    expected = referred(graph, "binary-cross-entropy", optimizer, x, y, 3).weights
    found = all_arrangements(graph, optimizer, batch)
    assert {a.names[0] for a in found} == {"features apart", "samples apart"}
    assert len({a.names[1:] for a in found}) >= 2 or len(widths) == 2
    for arrangement in {a.names: a for a in found}.values():
        plan = make_plan(
            graph, LOSSES["binary-cross-entropy"], optimizer, batch, 8.0, (), RING, arrangement=arrangement
        )
        assert_close(trained(plan, ClearCKKS(plan.parameters), x, y, 3), expected, 1e-8)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=4),
    st.integers(1, 7),
    st.sampled_from(["sigmoid", "softmax", ""]),
    st.integers(0, 99),
)
def test_any_chain_computes_its_step_program(widths: list[int], batch: int, end: str, seed: int) -> None:
    if end == "softmax":
        widths[-1] += 1
    loss = {"sigmoid": "binary-cross-entropy", "softmax": "softmax-cross-entropy", "": "mean-squared-error"}[end]
    graph = chain(tuple(widths), end, "sigmoid", seed)
    x = data(batch, widths[0], seed)[0] / 4
    y = one_hot(batch, widths[-1], seed)
    plan = make_plan(graph, LOSSES[loss], SGD(0.3), batch, 3.0, (), 2048)
    weights = {name: graph.constant(name) for name in graph.constants}
    assume(all(value < 0.97 * limit for value, limit in reaches(plan, weights, x, y).values()))
    expected = referred(graph, loss, SGD(0.3), x, y, 2).weights
    assert_close(trained(plan, ClearCKKS(plan.parameters), x, y, 2), expected, 1e-7)


# One pair of ways in the usual run, all in the slow one; test_train_residual has the other way of the second layer.
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("samples apart", "coarse"),
        pytest.param("features apart", "grouped", marks=pytest.mark.slow),
        pytest.param("features apart", "coarse", marks=pytest.mark.slow),
        pytest.param("samples apart", "grouped", marks=pytest.mark.slow),
    ],
)
def test_encrypted_chains_follow_their_simulation(first: str, second: str) -> None:
    """Real ciphertexts on a small ring: two hidden layers, with momentum."""
    from glyphc.backends.openfhe.ckks_client import generate_training_keys
    from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS

    widths, batch, optimizer = (5, 3, 4, 2), 6, SGD(0.3, 0.8)
    graph = chain(widths)
    x, _ = data(batch, widths[0])
    y = one_hot(batch, widths[-1])
    arrangement = next(a for a in all_arrangements(graph, optimizer, batch) if a.names == (first, second, "coarse"))
    plan = make_plan(graph, LOSSES["binary-cross-entropy"], optimizer, batch, 8.0, (), RING, arrangement=arrangement)
    client, keys = generate_training_keys(plan.parameters, plan.server.periods)

    class Machine(OpenFHECKKS):
        encrypt, decrypt = client.encrypt, client.decrypt

    # the second step has a velocity
    exact = trained(plan, ClearCKKS(plan.parameters), x, y, 2)
    simulated = trained(plan, SimulatedCKKS(plan.parameters), x, y, 2)
    real = trained(plan, Machine(keys), x, y, 2)
    assert_close(real, simulated, 5e-5)
    assert_close(real, exact, 2e-3)


def test_glyphs_network_fits_at_128_bit() -> None:
    """784-128-32-10 with 64 samples: five bootstraps, all on one grid."""
    plan = make_plan(chain((784, 128, 32, 10)), LOSSES["binary-cross-entropy"], SGD(0.5), 64, 8.0)
    assert [decision.chosen for decision in plan.decisions] == ["samples apart", "grouped", "coarse"]
    assert plan.parameters.secure
    assert plan.parameters.modulus_bits <= MAX_LOG_QP_SPARSE[65536]
    assert sum(isinstance(i, Bootstrap) for i in plan.server.code(0)) == 5


def test_reasons_against_other_ways_are_kept() -> None:
    """Of ways that have no room, and of ways that would take longer."""
    plan = make_plan(chain((784, 128, 32, 10)), LOSSES["binary-cross-entropy"], SGD(0.5), 64, 8.0)
    first, second, third = ({c.name: c for c in decision.candidates} for decision in plan.decisions)
    assert first["features apart"].seconds is None
    assert "columns do not fit" in first["features apart"].reason
    assert "samples need" in second["coarse"].reason
    for candidates, chosen in zip((first, second, third), (d.chosen for d in plan.decisions), strict=True):
        seconds = [c.seconds for c in candidates.values() if c.seconds is not None]
        assert min(seconds) == candidates[chosen].seconds


@pytest.mark.parametrize("widths", [(4, 1, 3), (4, 1, 2, 5), (5, 3, 4)])
def test_sums_of_a_softmax_do_not_meet(widths: tuple[int, ...]) -> None:
    """They spread to both sides, also where narrow layers leave little room."""
    graph = chain(widths, "softmax", "sigmoid")
    x, y = data(6, widths[0])[0] / 4, one_hot(6, widths[-1])
    plan = make_plan(graph, LOSSES["softmax-cross-entropy"], SGD(0.3), 6, 3.0, (), RING)
    expected = referred(graph, "softmax-cross-entropy", SGD(0.3), x, y, 2).weights
    assert_close(trained(plan, ClearCKKS(plan.parameters), x, y, 2), expected, 1e-7)


def test_tied_layers_are_refused() -> None:
    graph = Graph(Level.SOURCE, 1)
    value = graph.add(Input("x", (3,)))
    w, b = graph.add_constant("w", np.eye(3) / 2), graph.add_constant("b", np.zeros(3))
    value = graph.add(Apply((Function("tanh"),)), (graph.add(Dense((Const(w),), Const(b)), (value,)),))
    graph.add(Output("y"), (graph.add(Dense((Const(w),), Const(b)), (value,)),))
    for frozen in ((), ("b",)):
        with pytest.raises(TrainingError, match=r"'[wb]' belongs to two layers"):
            make_plan(graph, LOSSES["mean-squared-error"], SGD(0.3), 4, 3.0, frozen, RING)
