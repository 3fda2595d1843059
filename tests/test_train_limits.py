"""Errors that are sent back below a limit, and layers without an activation between them."""

from __future__ import annotations

import numpy as np
import pytest
from test_train_chain import assert_close, chain, one_hot, trained
from test_train_plan import OPTIMIZERS, data

from glyphc.backends.ckks_clear import ClearCKKS, SimulatedCKKS
from glyphc.ir.graph import Graph
from glyphc.ir.instructions.ckks import Bootstrap
from glyphc.ir.ops import Const, Dense, Input, Output
from glyphc.ir.types import Level
from glyphc.train.errors import TrainingError
from glyphc.train.job import Options
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD
from glyphc.train.plan import plan_step
from glyphc.train.step import State, StepProgram, make_step

BCE = LOSSES["binary-cross-entropy"]
RING = 1024


def after(program: StepProgram, x: np.ndarray, y: np.ndarray, steps: int) -> State:  # type: ignore[type-arg]
    state = program.initial()
    for _ in range(steps):
        state, _ = program.run(state, {"x": x}, y)
    return state


def test_a_step_limits_what_is_sent_back() -> None:
    """One step of two layers by hand."""
    graph, limit, rate = chain((4, 3, 2)), 0.05, 0.5
    x, y = data(6, 4)[0], one_hot(6, 2)
    w0, b0, w1, b1 = (graph.constant(name) for name in ("w0", "b0", "w1", "b1"))
    a = np.tanh(x @ w0.T + b0)
    errors = 1 / (1 + np.exp(-(a @ w1.T + b1))) - y
    back = limit * np.tanh(errors @ w1 / limit)
    assert np.abs(errors @ w1).max() > 2 * limit
    sums = back * (1 - a**2)
    found = after(make_step(graph, BCE, SGD(rate), 6, limit=limit), x, y, 1).weights
    expected = {"w0": sums.T @ x, "b0": sums.sum(axis=0), "w1": errors.T @ a, "b1": errors.sum(axis=0)}
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], graph.constant(name) - rate * gradient / 6, rtol=0, atol=1e-12)


@pytest.mark.parametrize("widths", [(5, 4, 3), (5, 3, 4, 2)])
def test_plans_compute_limits(widths: tuple[int, ...]) -> None:
    """Exactly, in the bootstraps that errors have anyway; in simulation nearly."""
    graph, optimizer = chain(widths), OPTIMIZERS["nesterov, decay, schedule"]
    x, y = data(6, widths[0])[0], one_hot(6, widths[-1])
    program = make_step(graph, BCE, optimizer, 6, limit=0.1)
    expected = after(program, x, y, 3).weights
    assert max(np.abs(v - after(make_step(graph, BCE, optimizer, 6), x, y, 3).weights[n]).max()
               for n, v in expected.items()) > 1e-3  # fmt: skip
    plan, free = plan_step(program, 4.0, RING), plan_step(make_step(graph, BCE, optimizer, 6), 4.0, RING)
    assert_close(trained(plan, ClearCKKS(plan.parameters), x, y, 3), expected, 1e-8)
    assert_close(trained(plan, SimulatedCKKS(plan.parameters), x, y, 3), expected, 5e-3)
    counts = [sum(isinstance(i, Bootstrap) for i in p.server.code(0)) for p in (plan, free)]
    assert counts[0] == counts[1] == 2 * len(widths) - 3


def bottleneck() -> Graph:
    """6-2-3: no activation behind the two units in the middle."""
    random, graph = np.random.default_rng(4), Graph(Level.SOURCE, 1)
    value = graph.add(Input("x", (6,)))
    for layer, (fan, out) in enumerate(((6, 2), (2, 3))):
        w = graph.add_constant(f"w{layer}", random.normal(size=(out, fan)) / np.sqrt(fan))
        b = graph.add_constant(f"b{layer}", random.normal(size=out) / 4)
        value = graph.add(Dense((Const(w),), Const(b)), (value,), location=f"layer{layer}")
    graph.add(Output("y"), (value,))
    return graph


def test_linear_bottlenecks_are_trained() -> None:
    """Two steps of squared errors by hand, and by a plan."""
    graph, rate, loss = bottleneck(), 0.1, LOSSES["mean-squared-error"]
    x, y = data(6, 6)[0] / 2, one_hot(6, 3)
    w = {name: np.array(graph.constant(name)) for name in ("w0", "b0", "w1", "b1")}
    for _ in range(2):
        middle = x @ w["w0"].T + w["b0"]
        errors = 2 * (middle @ w["w1"].T + w["b1"] - y) / y.size
        back = errors @ w["w1"]
        gradients = {"w0": back.T @ x, "b0": back.sum(axis=0), "w1": errors.T @ middle, "b1": errors.sum(axis=0)}
        w = {name: value - rate * gradients[name] for name, value in w.items()}
    program = make_step(graph, loss, SGD(rate), 6)
    assert_close(after(program, x, y, 2).weights, w, 1e-12)
    plan = plan_step(program, 16.0, RING)
    assert all(value < limit for value, limit in plan.reaches(program.values(program.initial(), {"x": x}, y)).values())
    assert_close(trained(plan, ClearCKKS(plan.parameters), x, y, 2), w, 1e-8)
    assert_close(trained(plan, SimulatedCKKS(plan.parameters), x, y, 2), w, 5e-3)


def test_a_limit_is_positive() -> None:
    with pytest.raises(TrainingError, match="errors are limited to a positive number, not -1"):
        Options(SGD(), 1, clip_errors=-1.0)
