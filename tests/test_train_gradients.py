"""Gradients of step programs against numerical ones in the reference evaluator, op by op, and optimizers by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from glyphc.errors import DataError
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import _TABLE, Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import (
    Add,
    Affine,
    Apply,
    Concat,
    Const,
    Dense,
    Div,
    Gather,
    Hardmax,
    Input,
    Max,
    Min,
    Mul,
    Op,
    Output,
    ReduceMax,
    ReduceSum,
    Reshape,
    Scale,
    Softmax,
    Sub,
)
from glyphc.ir.text import parse, to_text
from glyphc.ir.types import Level
from glyphc.ir.verify import verify
from glyphc.train.batches import Batches
from glyphc.train.derivatives import derivative
from glyphc.train.errors import TrainingError
from glyphc.train.losses import LOSSES, choose_loss
from glyphc.train.optimizers import SCHEDULES, SGD, Cosine, parse_schedule
from glyphc.train.step import State, make_step, with_weights

BATCH = 3
Body = Callable[[Graph, Node, Node], Node]


def network(body: Body, sizes: tuple[int, int] = (6, 6), seed: int = 0) -> Graph:
    """Two dense layers of one input, what ``body`` makes of them, and a dense layer to two outputs."""
    random = np.random.default_rng(seed)
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (4,)))

    def dense(node: Node, out: int, name: str) -> Node:
        weight = graph.add_constant(name, random.normal(size=(out, node.type.size)))
        bias = graph.add_constant(name + "_bias", random.normal(size=out))
        return graph.add(Dense((Const(weight),), Const(bias)), (node,), location=name)

    value = body(graph, dense(x, sizes[0], "left"), dense(x, sizes[1], "right"))
    flat = graph.add(Reshape((value.type.size,)), (value,))
    graph.add(Output("y"), (dense(flat, 2, "last"),))
    return graph


def constant(graph: Graph, value: object) -> Const:
    return Const(graph.add_constant("c", np.asarray(value)))


def elementwise(op: Op) -> Body:
    return lambda g, a, b: g.add(op, (a, b))


def of_first(*ops: Op) -> Body:
    def body(g: Graph, a: Node, b: Node) -> Node:
        for op in ops:
            a = g.add(op, (a,))
        return g.add(Concat(), (g.add(Reshape((a.type.size,)), (a,)), b))

    return body


def broadcast_product(g: Graph, a: Node, b: Node) -> Node:
    return g.add(Mul(), (g.add(Reshape((2, 3)), (a,)), g.add(ReduceSum(), (g.add(Reshape((3, 2)), (b,)),))))


def positive_quotient(g: Graph, a: Node, b: Node) -> Node:
    return g.add(Div(), (a, g.add(Apply((Function("softplus"), Function("affine", (1.0, 0.5)))), (b,))))


def scaled(g: Graph, a: Node, b: Node) -> Node:
    op = Scale(constant(g, np.arange(6) - 2.5), constant(g, 0.3))
    return g.add(op, (g.add(Mul(), (a, b)),))


def gathered(g: Graph, a: Node, b: Node) -> Node:
    # repeats some elements and drops others
    return g.add(Gather(constant(g, np.array([[0, 2, 2], [5, 0, 3]]))), (g.add(Mul(), (a, b)),))


def sparse_map(g: Graph, a: Node, b: Node) -> Node:
    # an empty row, and two entries at one place
    parts = ([1.5, -2.0, 0.5, 3.0, 1.0], [0, 4, 4, 5, 2], [0, 3, 3, 5], [0.1, 0.2, 0.3])
    return g.add(Affine((3, 1), *(constant(g, part) for part in parts)), (g.add(Mul(), (a, b)),))


def shared(g: Graph, a: Node, b: Node) -> Node:
    return g.add(Add(), (g.add(Mul(), (a, a)), b))


BODIES: dict[str, Body] = {
    "add": elementwise(Add()),
    "sub": elementwise(Sub()),
    "mul": elementwise(Mul()),
    "max": elementwise(Max()),
    "min": elementwise(Min()),
    "div": positive_quotient,
    "scale": scaled,
    "gather": gathered,
    "square": shared,
    "sparse map": sparse_map,
    "broadcast": broadcast_product,
    "concat": elementwise(Concat()),
    "reshape and sum": of_first(Reshape((2, 3)), ReduceSum()),
    "maximum of an axis": of_first(Reshape((2, 3)), ReduceMax()),
    "softmax": of_first(Softmax()),
    "log softmax of rows": of_first(Reshape((3, 2)), Softmax(log=True), Reshape((6,))),
    "composition": of_first(Apply((Function("tanh"), Function("affine", (2.0, 1.0)), Function("sigmoid")))),
}


def numerical(program_graph: Graph, inputs: dict[str, np.ndarray], name: str, h: float = 1e-5) -> np.ndarray:
    """Central differences of the loss by every element of an input."""
    value = inputs[name]
    out = np.zeros_like(value)
    for at in np.ndindex(value.shape):
        ends = []
        for sign in (1, -1):
            moved = value.copy()
            moved[at] += sign * h
            ends.append(float(evaluate(program_graph, {**inputs, name: moved})["loss"][0]))
        out[at] = (ends[0] - ends[1]) / (2 * h)
    return out


def check_gradients(graph: Graph, loss: str, tolerance: float = 1e-6) -> None:
    """The update of plain gradient descent at rate 1 is the negative gradient."""
    program = make_step(graph, LOSSES[loss], SGD(1.0), BATCH)
    random = np.random.default_rng(1)
    x = random.normal(size=(BATCH, 4))
    labels = random.normal(size=(BATCH, 2)) if loss.startswith("mean") else random.integers(0, 2, (BATCH, 2))
    y = program.loss.targets(labels[:, 0] if loss.startswith("softmax") else labels, 2)
    state = program.initial()
    after, _ = program.run(state, {"x": x}, y)
    inputs = {"x": x[None], "labels": y[None], "learning_rate": np.ones(1)}
    inputs |= {f"weight:{name}": value[None] for name, value in state.weights.items()}
    for name, weight in state.weights.items():
        expected = numerical(program.graph, inputs, f"weight:{name}")[0]
        np.testing.assert_allclose(weight - after.weights[name], expected, rtol=tolerance, atol=tolerance, err_msg=name)
    verify(program.graph)
    assert parse(to_text(program.graph)) == program.graph


@pytest.mark.parametrize("name", BODIES)
def test_gradient_of_each_op(name: str) -> None:
    check_gradients(network(BODIES[name]), "mean-squared-error")


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_of_each_loss(loss: str) -> None:
    check_gradients(network(elementwise(Mul())), loss)


PARAMETERS: dict[str, tuple[float, ...]] = {
    "affine": (2.0, 0.3),
    "between": (-0.5, 0.5),
    "ceil": (0.5,),
    "celu": (0.7,),
    "clip": (-0.6, 0.8),
    "elu": (0.6,),
    "elu_slope": (0.6,),
    "floor": (0.5,),
    "fmod": (0.7,),
    "greater": (0.1,),
    "hard_sigmoid": (0.4, 0.5),
    "leaky_relu": (0.1,),
    "less": (0.1,),
    "maximum": (0.15,),
    "minimum": (0.15,),
    "mod": (0.7,),
    "polynomial": (-3.0, 2.5, 0.5, 1.0, -0.25, 0.125),
    "pow": (3.0,),
    "quadratic": (0.5, 1.0, -2.0),
    "quotient": (3.0,),
    "round": (0.5,),
    "selu": (1.67, 1.05),
    "shrink": (0.1, 0.4),
    "smooth_step": (-1.0, 3.0),
    "swish": (1.5,),
    "table": (-3.0, 3.0, *np.tanh(np.linspace(-3, 3, 2001))),
    "table_with_jumps": (-3.0, 3.0, 1, -2.9, 1.0, *np.tanh(np.linspace(-3, 3, 2001))),
    "thresholded_relu": (0.2,),
}
# Derivatives of derivatives are not needed: a step program is differentiated once.
SLOPES = {name for name in _TABLE if name.endswith("_slope")} | {"between"}
STEPS = {"ceil", "floor", "greater", "less", "near_zero", "quotient", "round", "sign", "trunc"}
# Where functions are compared that are not defined, or not smooth, on [-2.5, 2.5].
INTERVALS = {
    "acos": (-0.95, 0.95),
    "acosh": (1.05, 2.5),
    "asin": (-0.95, 0.95),
    "atanh": (-0.95, 0.95),
    "exp_nonpositive": (-2.5, 0.2),
    "log": (0.05, 2.5),
    "reciprocal": (0.05, 2.5),
    "sqrt": (0.05, 2.5),
    "tan": (-1.4, 1.4),
}


@pytest.mark.parametrize("name", sorted(set(_TABLE) - SLOPES))
def test_derivative_of_each_function(name: str) -> None:
    function = Function(name, PARAMETERS.get(name, ()))
    x = np.linspace(*INTERVALS.get(name, (-2.5, 2.5)), 1003) + 1e-3
    h = 1e-6
    numerical = (function(x + h) - function(x - h)) / (2 * h)
    slope = derivative(function)
    if name in STEPS:
        assert slope is None
        assert np.median(np.abs(numerical)) == 0
        return
    assert slope is not None
    exact = x
    for part in slope:
        exact = part(exact)
    tolerance = 1e-2 if name.startswith("table") else 1e-4  # tables are piecewise linear
    np.testing.assert_allclose(exact, numerical, rtol=tolerance, atol=tolerance)


def test_step_functions_stop_gradients() -> None:
    body = of_first(Apply((Function("sign"),)))
    with pytest.raises(TrainingError, match=r"no gradient passes %\d+ \(apply\) \(sign\)"):
        make_step(network(body), LOSSES["mean-squared-error"], SGD(), BATCH)
    with pytest.raises(TrainingError, match=r"no gradient passes .*hardmax"):
        make_step(network(of_first(Hardmax())), LOSSES["mean-squared-error"], SGD(), BATCH)


def test_frozen_layers_keep_their_weights_and_need_no_gradient() -> None:
    graph = network(of_first(Apply((Function("sign"),))))
    program = make_step(graph, LOSSES["mean-squared-error"], SGD(), BATCH, ("left", "right_bias"))
    state = program.initial()
    after, _ = program.run(state, {"x": np.ones((BATCH, 4))}, np.zeros((BATCH, 2)))
    same = {name for name in state.weights if np.array_equal(state.weights[name], after.weights[name])}
    assert same == {"left", "left_bias", "right_bias"}
    with pytest.raises(TrainingError, match=r"no layer 'middle' to freeze; the network has .*last"):
        make_step(graph, LOSSES["mean-squared-error"], SGD(), BATCH, ("middle",))
    with pytest.raises(TrainingError, match=r"nothing to train"):
        make_step(graph, LOSSES["mean-squared-error"], SGD(), BATCH, ("left", "right", "last"))


@pytest.mark.parametrize("nesterov", [False, True])
def test_optimizer_follows_its_definition(nesterov: bool) -> None:
    graph = network(elementwise(Mul()))
    optimizer = SGD(0.1, 0.8, nesterov, 0.05, Cosine(10))
    loss = LOSSES["mean-squared-error"]
    program, plain = make_step(graph, loss, optimizer, BATCH), make_step(graph, loss, SGD(1.0), BATCH)
    x, y = {"x": np.random.default_rng(2).normal(size=(BATCH, 4))}, np.ones((BATCH, 2))
    state = program.initial()
    weight, velocity = state.weights["left"], np.zeros_like(state.weights["left"])
    for step in range(4):
        moved = plain.run(State(0, state.weights, {}), x, y)[0].weights["left"]
        gradient = state.weights["left"] - moved + 0.05 * weight
        velocity = 0.8 * velocity + gradient
        weight = weight - optimizer.rate(step) * (gradient + 0.8 * velocity if nesterov else velocity)
        state, _ = program.run(state, x, y)
        np.testing.assert_allclose(state.weights["left"], weight, rtol=1e-9, atol=1e-12)
    assert state.step == 4
    assert "left_bias" in state.velocity


def test_losses_hold_out_against_large_logits() -> None:
    graph = with_weights(network(elementwise(Add())), {"last": np.full((2, 6), 1e4)})
    for name in ("softmax-cross-entropy", "binary-cross-entropy"):
        program = make_step(graph, LOSSES[name], SGD(), 1)
        y = LOSSES[name].targets(np.array([0]) if name.startswith("softmax") else np.array([[0, 1]]), 2)
        after, value = program.run(program.initial(), {"x": np.ones((1, 4))}, y)
        assert np.isfinite(value)
        assert all(np.isfinite(w).all() for w in after.weights.values())


def test_losses_strip_the_last_nonlinearity() -> None:
    def ending(op: Op) -> Graph:
        graph = Graph(Level.SOURCE, 1)
        x = graph.add(Input("x", (4,)))
        weight, bias = graph.add_constant("w", np.eye(2, 4)), graph.add_constant("b", np.zeros(2))
        z = graph.add(Dense((Const(weight),), Const(bias)), (x,))
        graph.add(Output("y"), (graph.add(op, (z,)),))
        return graph

    softmax, sigmoid = ending(Softmax()), ending(Apply((Function("sigmoid"),)))
    assert choose_loss(softmax).name == "softmax-cross-entropy"
    assert choose_loss(sigmoid).name == "binary-cross-entropy"
    assert isinstance(choose_loss(softmax).attachment(softmax, softmax.outputs[0]).op, Dense)
    assert isinstance(choose_loss(sigmoid).attachment(sigmoid, sigmoid.outputs[0]).op, Dense)
    with pytest.raises(TrainingError, match="goes with a sigmoid"):
        LOSSES["binary-cross-entropy"].attachment(softmax, softmax.outputs[0])


def test_numbers_for_every_output_choose_a_loss_for_numbers() -> None:
    graph, numbers = network(elementwise(Add())), np.array([[0.5, -1.0], [2.0, 0.0]])
    assert choose_loss(graph, numbers).name == "mean-squared-error"
    for classes in (np.array([0, 1]), np.array([0.0, 1.0]), np.eye(2), numbers[:, :1]):
        assert choose_loss(graph, classes).name == "softmax-cross-entropy"
    with pytest.raises(DataError, match="use --loss mean-squared-error"):
        LOSSES["softmax-cross-entropy"].targets(numbers, 2)
    with pytest.raises(DataError, match="use --loss mean-squared-error"):
        LOSSES["binary-cross-entropy"].targets(numbers, 2)


def test_labels_are_checked() -> None:
    with pytest.raises(DataError, match="label 3 of sample 1 is no class; the network has 3"):
        LOSSES["softmax-cross-entropy"].targets([0, 3], 3)
    with pytest.raises(DataError, match="class indices of shape"):
        LOSSES["softmax-cross-entropy"].targets([0.5, 1], 3)
    with pytest.raises(DataError, match="NaN"):
        LOSSES["mean-squared-error"].targets([0.5, np.nan], 1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_at_one_and_never_rise(name: str) -> None:
    schedule = parse_schedule(name)
    factors = [schedule.factor(step) for step in range(200)]
    assert factors[0] == 1
    assert all(0 <= b <= a for a, b in pairwise(factors))
    assert parse_schedule(str(schedule)) == schedule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linear", "unknown schedule 'linear'; known: constant"),
        ("cosine{step=3}", r"cannot read 'step=3'; options: steps=100, final=0.0"),
        ("steps{every=0}", "every=0 must be at least 1"),
        ("exponential{decay=x}", "cannot read 'decay=x'"),
    ],
)
def test_bad_schedules(text: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        parse_schedule(text)


@examples(30)
@given(st.integers(1, 40), st.data())
def test_epochs_go_through_all_samples(samples: int, data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, samples))
    batches = Batches(samples, batch, 3)
    numbers = [batches.number(step) for step in range(2 * batches.per_epoch)]
    assert numbers == 2 * list(range(batches.per_epoch))
    rows = [batches.rows(number) for number in range(batches.per_epoch)]
    assert all(len(r) == batch for r in rows)
    assert set(np.concatenate(rows)) == set(range(samples))
    assert np.array_equal(Batches(samples, batch, 3).rows(0), rows[0])
