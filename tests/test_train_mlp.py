"""Encrypted steps of two layers: plans against the step program of the reference evaluator, and real ciphertexts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_train_plan import F64, OPTIMIZERS, data, reaches, referred

from glyphc.analysis.security import MAX_LOG_QP_SPARSE
from glyphc.backends.base import execute_named
from glyphc.backends.ckks_clear import ClearCKKS, SimulatedCKKS
from glyphc.errors import DataError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.instructions.ckks import Bootstrap
from glyphc.ir.ops import Apply, Const, Dense, Input, Output
from glyphc.ir.types import Level
from glyphc.train.errors import TrainingError
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD
from glyphc.train.plan import Plan, make_plan
from glyphc.train.step import State

BCE = LOSSES["binary-cross-entropy"]
NAMES = ("w0", "b0", "w1", "b1")


def mlp(
    inputs: int = 4, hidden: int = 3, outputs: int = 2, between: tuple[str, ...] = ("tanh",), seed: int = 0
) -> Graph:
    random = np.random.default_rng(seed)
    graph = Graph(Level.SOURCE, 1)
    value = graph.add(Input("x", (inputs,)))
    for layer, (fan, out) in enumerate(((inputs, hidden), (hidden, outputs))):
        w = graph.add_constant(f"w{layer}", random.normal(size=(out, fan)) / np.sqrt(fan))
        b = graph.add_constant(f"b{layer}", random.normal(size=out) / 4)
        value = graph.add(Dense((Const(w),), Const(b)), (value,), location=f"layer{layer}")
        if layer == 0 and between:
            value = graph.add(Apply(tuple(Function(name) for name in between)), (value,))
    graph.add(Output("y"), (graph.add(Apply((Function("sigmoid"),)), (value,)),))
    return graph


def planned(plan: Plan, machine: Any, graph: Graph, x: F64, y: F64, steps: int) -> dict[str, F64]:
    start = State(0, {name: graph.constant(name) for name in NAMES}, {})
    fresh = plan.data(x, y) | plan.state(start)
    values = {name: machine.encrypt(message, limbs) for name, (message, limbs) in fresh.items()}
    for step in range(steps):
        values |= execute_named(plan.server.code(step), machine, values)
    messages = {name: machine.decrypt(values[name]) for name in plan.server.state_names}
    return plan.decoded(messages, steps)


def assert_close(weights: dict[str, F64], expected: dict[str, F64], tolerance: float) -> None:
    for name in NAMES:
        np.testing.assert_allclose(weights[name], expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "softplus"])
def test_plan_computes_the_step_program(activation: str, optimizer: SGD) -> None:
    """Exactly: layouts, masks, units, frames. What encryption adds comes in the other tests."""
    graph = mlp(between=(activation,))
    x, y = data(13, 4, outputs=2)
    plan = make_plan(graph, BCE, optimizer, 13, insecure_ring=1024)
    expected = referred(graph, BCE.name, optimizer, x, y, 4)
    weights = planned(plan, ClearCKKS(plan.parameters), graph, x, y, 4)
    assert_close(weights, expected.weights, 1e-7)
    assert np.abs(weights["w0"] - graph.constant("w0")).max() > 1e-3


def test_a_batch_that_does_not_fit_is_refused() -> None:
    """A prime number of samples has no equal parts that fit."""
    with pytest.raises(DataError, match="at most 128 samples are computed at once, and 307 samples have no equal"):
        make_plan(mlp(), BCE, SGD(0.5), 307, insecure_ring=1024)


def test_frozen_parts_of_both_layers_stay() -> None:
    """Also those of the last layer, which the server then only has encrypted."""
    graph, (x, y) = mlp(), data(13, 4, outputs=2)
    for frozen in (("b0",), ("w1", "b0"), ("layer1",)):
        plan = make_plan(graph, BCE, OPTIMIZERS["momentum"], 13, 16.0, frozen, 1024)
        expected = referred(graph, BCE.name, OPTIMIZERS["momentum"], x, y, 3, frozen)
        assert_close(planned(plan, ClearCKKS(plan.parameters), graph, x, y, 3), expected.weights, 1e-7)


def test_a_step_has_three_bootstraps_at_128_bit() -> None:
    plan = make_plan(mlp(64, 32, 10), BCE, SGD(0.5, 0.9), 64, 6.0)
    assert sum(isinstance(i, Bootstrap) for i in plan.server.code(3)) == 3
    assert plan.parameters.degree == 13
    assert plan.parameters.secure
    assert plan.parameters.modulus_bits <= MAX_LOG_QP_SPARSE[65536]


def test_reaches_are_those_of_the_bootstraps() -> None:
    graph = mlp()
    x, y = data(10, 4, outputs=2)
    plan = make_plan(graph, BCE, SGD(), 10, insecure_ring=1024)
    w0, b0, w1, b1 = (graph.constant(name) for name in NAMES)
    hidden = x @ w0.T + b0
    logits = np.tanh(hidden) @ w1.T + b1
    back = (1 / (1 + np.exp(-logits)) - y) @ w1
    found = reaches(plan, dict(zip(NAMES, (w0, b0, w1, b1), strict=True)), x, y)
    np.testing.assert_allclose([v for v, _ in found.values()], [np.abs(v).max() for v in (hidden, logits, back)])
    assert [limit for _, limit in found.values()] == [16, 16, 4]


@pytest.mark.slow
def test_encrypted_training_follows_its_simulation() -> None:
    """Real ciphertexts (small ring), with momentum, Nesterov, weight decay and a schedule."""
    from glyphc.backends.openfhe.ckks_client import generate_training_keys
    from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS

    graph, optimizer = mlp(5, 4, 3), OPTIMIZERS["nesterov, decay, schedule"]
    x, y = data(20, 5, outputs=3)
    plan = make_plan(graph, BCE, optimizer, 20, insecure_ring=1024)
    client, keys = generate_training_keys(plan.parameters, plan.server.periods)

    class Machine(OpenFHECKKS):
        encrypt, decrypt = client.encrypt, client.decrypt

    exact = planned(plan, ClearCKKS(plan.parameters), graph, x, y, 3)
    simulated = planned(plan, SimulatedCKKS(plan.parameters), graph, x, y, 3)
    real = planned(plan, Machine(keys), graph, x, y, 3)
    assert_close(real, simulated, 2e-5)
    assert_close(real, exact, 5e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_plan(mlp(), LOSSES["mean-squared-error"], SGD(), 8), "ends in a dense layer"),
        (lambda: make_plan(mlp(between=("tanh", "exp")), BCE, SGD(), 8), "one differentiable activation"),
        (lambda: make_plan(mlp(between=("sign",)), BCE, SGD(), 8), "no gradient passes .*sign.*: a step function"),
    ],
)
def test_what_cannot_be_trained(make: Callable[[], Plan], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make()
