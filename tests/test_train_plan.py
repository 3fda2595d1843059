"""Encrypted steps of logistic and linear regression: plans against the step program of the reference evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from glyphc.analysis.security import MAX_LOG_QP_SPARSE
from glyphc.backends.base import execute_named
from glyphc.backends.ckks_clear import ClearCKKS, SimulatedCKKS
from glyphc.errors import DataError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.instructions.ckks import Bootstrap, Refresh
from glyphc.ir.ops import Apply, Const, Dense, Input, Output
from glyphc.ir.types import Level
from glyphc.train.errors import TrainingError
from glyphc.train.frames import Frame, transition
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD, Cosine, Exponential
from glyphc.train.plan import Plan, make_plan
from glyphc.train.step import State, make_step

F64 = np.ndarray[Any, np.dtype[np.float64]]
RING = 1024
OPTIMIZERS = {
    "plain": SGD(0.5),
    "decay": SGD(0.5, weight_decay=0.05),
    "momentum": SGD(0.3, 0.8),
    "nesterov, decay, schedule": SGD(0.3, 0.8, True, 0.02, Cosine(8, 0.1)),
}


def regression(features: int, sigmoid: bool = True, outputs: int = 1, seed: int = 0) -> Graph:
    random = np.random.default_rng(seed)
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (features,)))
    w = graph.add_constant("w", random.normal(size=(outputs, features)) / 4)
    b = graph.add_constant("b", random.normal(size=outputs) / 4)
    y = graph.add(Dense((Const(w),), Const(b)), (x,), location="head")
    if sigmoid:
        y = graph.add(Apply((Function("sigmoid"),)), (y,))
    graph.add(Output("y"), (y,))
    return graph


def data(samples: int, features: int, seed: int = 1, outputs: int = 1) -> tuple[F64, F64]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(samples, features))
    return x, (x[:, :outputs] + 0.3 * random.normal(size=(samples, outputs)) > 0).astype(np.float64)


def planned(plan: Plan, machine: Any, state: State, x: F64, y: F64, steps: int) -> dict[str, F64]:
    """Weights after some steps on one batch."""
    fresh = plan.data(x, y) | plan.state(state)
    values = {name: machine.encrypt(message, limbs) for name, (message, limbs) in fresh.items()}
    for step in range(steps):
        values |= execute_named(plan.server.code(step), machine, values)
    messages = {name: machine.decrypt(value) for name, value in values.items() if name.startswith("state:")}
    return plan.decoded(messages, steps)


def referred(
    graph: Graph, loss: str, optimizer: SGD, x: F64, y: F64, steps: int, frozen: tuple[str, ...] = ()
) -> State:
    program = make_step(graph, LOSSES[loss], optimizer, len(x), frozen)
    state = program.initial()
    for _ in range(steps):
        state, _ = program.run(state, {"x": x}, y)
    return state


def reaches(plan: Plan, weights: dict[str, F64], x: F64, y: F64) -> dict[str, tuple[float, float]]:
    """Of the first step from these weights."""
    start = plan.program.initial()
    return plan.reaches(plan.program.values(replace(start, weights={**start.weights, **weights}), {"x": x}, y))


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("loss", ["binary-cross-entropy", "mean-squared-error"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_plan_computes_the_step_program(outputs: int, loss: str, optimizer: SGD) -> None:
    """Exactly: layouts, units, frames. What encryption adds comes in the other tests."""
    graph = regression(5, loss.startswith("binary"), outputs)
    x, y = data(27, 5, outputs=outputs)
    plan = make_plan(graph, LOSSES[loss], optimizer, 27, insecure_ring=RING)
    expected = referred(graph, loss, optimizer, x, y, 6)
    weights = planned(plan, ClearCKKS(plan.parameters), expected_start(plan, graph), x, y, 6)
    for name in ("w", "b"):
        np.testing.assert_allclose(weights[name], expected.weights[name], rtol=1e-7, atol=1e-9)


def expected_start(plan: Plan, graph: Graph) -> State:
    return State(
        0, {name: graph.constant(name) for stage in plan.stages for name in (stage.weight.name, stage.bias.name)}, {}
    )


@pytest.mark.parametrize("frozen", ["w", "b"])
def test_frozen_half_of_the_layer_stays(frozen: str) -> None:
    graph, optimizer = regression(3), OPTIMIZERS["nesterov, decay, schedule"]
    x, y = data(20, 3)
    plan = make_plan(graph, LOSSES["binary-cross-entropy"], optimizer, 20, 16.0, (frozen,), RING)
    expected = referred(graph, "binary-cross-entropy", optimizer, x, y, 3, (frozen,))
    weights = planned(plan, ClearCKKS(plan.parameters), expected_start(plan, graph), x, y, 3)
    for name in ("w", "b"):
        np.testing.assert_allclose(weights[name], expected.weights[name], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(weights[frozen], graph.constant(frozen), rtol=1e-12)


def test_a_step_has_one_bootstrap_of_logits_only() -> None:
    plan = make_plan(regression(30), LOSSES["binary-cross-entropy"], OPTIMIZERS["momentum"], 398)
    assert sum(isinstance(i, Refresh) for i in plan.server.code(3)) == 1
    assert plan.parameters.slots == 256  # 512 values, for 398 samples
    assert plan.parameters.secure
    assert plan.parameters.modulus_bits <= MAX_LOG_QP_SPARSE[65536]


@examples(20)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 200), st.integers(0, 99))
def test_any_shape_fits_or_is_refused(features: int, outputs: int, batch: int, seed: int) -> None:
    graph, optimizer = regression(features, True, outputs, seed), SGD(0.5, schedule=Exponential(0.9))
    loss = LOSSES["binary-cross-entropy"]
    wide = 1 << (outputs - 1).bit_length()
    least = -(-batch // (RING // (2 * wide)))
    micros = next(n for n in range(least, batch + 1) if batch % n == 0)
    if micros > 2 * least:
        with pytest.raises(DataError, match="have no equal parts near that; choose another --batch"):
            make_plan(graph, loss, optimizer, batch, insecure_ring=RING)
        return
    x, y = data(batch, features, seed, min(outputs, features))
    y = np.resize(y, (batch, outputs))
    plan = make_plan(graph, loss, optimizer, batch, 32.0, insecure_ring=RING)
    assert (plan.server.micros, plan.server.micro_batch) == (micros, batch // micros)
    expected = referred(graph, loss.name, optimizer, x, y, 2)
    weights = planned(plan, ClearCKKS(plan.parameters), expected_start(plan, graph), x, y, 2)
    np.testing.assert_allclose(weights["w"], expected.weights["w"], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("decayed", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_moving_frames_turn_steps_into_additions(optimizer: SGD, decayed: bool) -> None:
    frame = Frame(optimizer, decayed)
    state = np.arange(1.0, 1 + frame.size)
    u = state.copy()
    for step, gradient in enumerate(np.random.default_rng(0).normal(size=40)):
        a, b = transition(optimizer, decayed, step)
        state = a @ state + b * gradient
        u = u + frame.push(step) * gradient
        np.testing.assert_allclose(frame.basis(step + 1) @ u, state, rtol=1e-6, atol=1e-9)


def test_momentum_over_too_many_steps() -> None:
    frame = Frame(SGD(0.1, 0.5), False)
    frame.push(15)
    with pytest.raises(TrainingError, match=r"momentum of 0.5 cannot be kept under encryption for more than 40 steps"):
        frame.push(40)


def two_layers() -> Graph:
    graph = regression(3)
    head = Graph(Level.SOURCE, 1)
    x = head.add(Input("x", (3,)))
    for name, value in graph.constants.items():
        head.add_constant(name, value)
    head.add_constant("w0", np.eye(3))
    head.add_constant("b0", np.zeros(3))
    h = head.add(Dense((Const("w0"),), Const("b0")), (x,), location="first")
    z = head.add(Dense((Const("w"),), Const("b")), (h,), location="head")
    head.add(Output("y"), (z,))
    return head


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: make_plan(regression(3), LOSSES["mean-squared-error"], SGD(), 9), TrainingError, "attached to"),
        (lambda: make_plan(regression(30), LOSSES["binary-cross-entropy"], SGD(), 40009), DataError, "at most 32768"),
        (lambda: make_plan(regression(3), LOSSES["binary-cross-entropy"], SGD(), 9, -1.0), TrainingError, "positive"),
    ],
)
def test_what_cannot_be_trained_encrypted(make: Callable[[], Plan], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_frozen_first_layer_that_is_left_in_the_step_only_goes_forward() -> None:
    """Jobs leave it out where it is the client's."""
    plan = make_plan(two_layers(), LOSSES["binary-cross-entropy"], SGD(), 9, 16.0, ("first",), RING)
    assert [(s.weight.name, s.errors is None) for s in plan.stages] == [("w0", True), ("w", False)]
    assert {name.split(":")[1] for name in plan.server.kept_names} == {"1"}


def test_encrypted_training_follows_its_simulation() -> None:
    """Real ciphertexts (small ring): weights after some steps, against simulation and the exact run."""
    from glyphc.backends.openfhe.ckks_client import generate_training_keys
    from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS

    graph, optimizer = regression(5, True, 3), OPTIMIZERS["nesterov, decay, schedule"]
    x, y = data(30, 5, outputs=3)
    plan = make_plan(graph, LOSSES["binary-cross-entropy"], optimizer, 30, insecure_ring=RING)
    client, keys = generate_training_keys(plan.parameters, plan.server.periods)

    class Machine(OpenFHECKKS):
        encrypt, decrypt = client.encrypt, client.decrypt

    start = expected_start(plan, graph)
    exact = planned(plan, ClearCKKS(plan.parameters), start, x, y, 5)
    simulated = planned(plan, SimulatedCKKS(plan.parameters), start, x, y, 5)
    real = planned(plan, Machine(keys), start, x, y, 5)
    for name in ("w", "b"):
        assert np.abs(real[name] - exact[name]).max() < 2e-4
        assert np.abs(real[name] - simulated[name]).max() < 3e-5


# -- softmax --


@pytest.mark.parametrize("outputs", [2, 3, 5])
@pytest.mark.parametrize("optimizer", [SGD(0.5), OPTIMIZERS["nesterov, decay, schedule"]])
def test_softmax_plan_computes_the_step_program(outputs: int, optimizer: SGD) -> None:
    graph = regression(4, False, outputs)
    loss = LOSSES["softmax-cross-entropy"]
    x, _ = data(13, 4)
    y = np.eye(outputs)[np.random.default_rng(2).integers(0, outputs, 13)]
    plan = make_plan(graph, loss, optimizer, 13, 5.0, insecure_ring=RING)
    expected = referred(graph, loss.name, optimizer, x, y, 4)
    weights = planned(plan, ClearCKKS(plan.parameters), expected_start(plan, graph), x, y, 4)
    for name in ("w", "b"):
        np.testing.assert_allclose(weights[name], expected.weights[name], rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_softmax_under_encryption() -> None:
    from glyphc.backends.openfhe.ckks_client import generate_training_keys
    from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS

    graph, optimizer = regression(4, False, 3), SGD(0.5, 0.5)
    loss = LOSSES["softmax-cross-entropy"]
    x, _ = data(13, 4)
    y = np.eye(3)[np.random.default_rng(2).integers(0, 3, 13)]
    plan = make_plan(graph, loss, optimizer, 13, 5.0, insecure_ring=RING)
    assert sum(isinstance(i, Bootstrap) for i in plan.server.code(1)) == 2
    client, keys = generate_training_keys(plan.parameters, plan.server.periods)

    class Machine(OpenFHECKKS):
        encrypt, decrypt = client.encrypt, client.decrypt

    start = expected_start(plan, graph)
    simulated = planned(plan, SimulatedCKKS(plan.parameters), start, x, y, 3)
    real = planned(plan, Machine(keys), start, x, y, 3)
    exact = referred(graph, loss.name, optimizer, x, y, 3).weights
    for name in ("w", "b"):
        assert np.abs(real[name] - simulated[name]).max() < 1e-4
        assert np.abs(real[name] - exact[name]).max() < 4e-3


def test_softmax_over_too_wide_a_range() -> None:
    with pytest.raises(TrainingError, match="--logit-range 6"):
        make_plan(regression(4, False, 3), LOSSES["softmax-cross-entropy"], SGD(), 13, 16.0, insecure_ring=RING)
