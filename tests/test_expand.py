"""Products, quotients, maxima, softmax and argmax as affine maps and functions: the same values, and few bootstraps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, event, given, note
from hypothesis import strategies as st
from strategies import examples, graphs

from glyphc.errors import CalibrationError, GlyphcError, ModelError
from glyphc.ir.evaluate import evaluate, evaluate_all
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import (
    Add,
    Affine,
    Apply,
    ArgMax,
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
from glyphc.ir.types import Level
from glyphc.ir.verify import verify
from glyphc.passes.base import Context
from glyphc.passes.expand import Expand
from glyphc.passes.fold import Fold
from tests.folded_networks import check_form

Samples = Mapping[str, npt.NDArray[Any]]
LEFT = (Input, Output, Dense, Scale, Add, Sub, Concat, Gather, Affine, ReduceSum, Reshape, Apply)
seeds = st.integers(0, 2**32 - 1)


def network(op: Op, *shapes: tuple[int, ...]) -> Graph:
    """One op on inputs ``x0``, ``x1``, named ``here``."""
    graph = Graph(Level.SOURCE, 1)
    operands = tuple(graph.add(Input(f"x{i}", shape)) for i, shape in enumerate(shapes))
    node = graph.add(op, operands, location="here")
    graph.add(Output("y"), (node,))
    return graph


def expanded(graph: Graph, samples: Samples, **options: Any) -> Graph:
    result = Expand(**options).run(graph, Context(dict(samples)))
    verify(result)
    return result


def assert_equal(graph: Graph, result: Graph, samples: Samples, atol: float = 1e-9) -> None:
    wanted, got = evaluate(graph, samples), evaluate(result, samples)
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        assert got[name].shape == value.shape
        np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=atol, err_msg=name)


def check_ops(graph: Graph, tail: bool) -> None:
    """Nothing but affine maps and functions is left, besides what the client does at the very end."""
    for node in graph:
        if tail and isinstance(node.op, Softmax | ArgMax):
            behind = {type(u.op) for u in graph.users(node)}
            assert behind <= {Softmax, ArgMax, Reshape, Output}, f"{node} is inside the network"
        else:
            assert isinstance(node.op, LEFT), f"{node} is left"


def depth(graph: Graph) -> int:
    """Most nonlinearities in a row."""
    levels: dict[int, int] = {}
    for node in graph:
        before = max((levels[i] for i in node.operands), default=0)
        levels[node.id] = before + isinstance(node.op, Apply)
    return max(levels.values())


# -- random graphs -------------------------------------------------------------------------------------------


def decisive(graph: Graph, values: dict[int, npt.NDArray[Any]]) -> bool:
    """Whether every largest element is so by far more than rounding."""
    for node in graph:
        if isinstance(node.op, Hardmax | ArgMax):
            x = np.sort(values[node.operands[0]], axis=-1)
            if x.shape[-1] > 1 and (x[..., -1] - x[..., -2]).min() < 1e-6:
                return False
    return True


@examples(150)
@given(graphs(Level.SOURCE, max_steps=6, tame=True), seeds, st.booleans())
def test_any_graph_keeps_its_function(graph: Graph, seed: int, client_tail: bool) -> None:
    note("\n".join(f"{n} {list(n.type.shape)} of {list(n.operands)}" for n in graph))
    rng = np.random.default_rng(seed)
    samples = {op.name: rng.uniform(-2, 2, (7, *op.shape)) for _, op in graph.of(Input)}
    values = evaluate_all(graph, samples)
    assume(all(np.abs(v).max() < 1e3 for v in values.values()))
    assume(decisive(graph, values))
    for node in graph:
        if not isinstance(node.op, LEFT):
            event(node.op.mnemonic)
    result = expanded(graph, samples, client_tail=client_tail)
    check_ops(result, client_tail)
    assert_equal(graph, result, samples, atol=1e-8)
    # what it leaves is what `fold` takes
    try:
        folded = Fold().run(result, Context())
    except ModelError as e:
        assert "computes nothing" in str(e)  # noqa: PT017
        return
    check_form(folded)
    assert_equal(graph, folded, samples, atol=1e-8)


@examples(60)
@given(st.integers(1, 4), st.integers(1, 4), st.floats(-50, 50), st.floats(-50, 50), seeds)
def test_products_wherever_the_operands_are(rows: int, columns: int, a: float, b: float, seed: int) -> None:
    """Around zero and far from it, beside rows and columns that broadcast; also for values that calibration missed."""
    rng = np.random.default_rng(seed)
    graph = network(Mul(), (rows, columns), (columns,))
    samples = {"x0": a + rng.normal(size=(9, rows, columns)), "x1": b + rng.normal(size=(9, columns))}
    result = expanded(graph, samples)
    check_ops(result, tail=False)
    scale = max(np.abs(v).max() for v in samples.values()) ** 2
    assert_equal(graph, result, samples, atol=1e-12 * scale)
    beyond = {name: 1.5 * v for name, v in samples.items()}
    assert_equal(graph, result, beyond, atol=1e-11 * scale)


@examples(60)
@given(st.floats(-30, 30), st.sampled_from([-1.0, 1.0]), st.floats(0.01, 10), seeds)
def test_quotients(a: float, sign: float, least: float, seed: int) -> None:
    """By divisors of either sign."""
    rng = np.random.default_rng(seed)
    samples = {"x0": a + rng.normal(size=(9, 3)), "x1": sign * rng.uniform(least, 3 * least, (9, 3))}
    graph = network(Div(), (3,), (3,))
    result = expanded(graph, samples)
    check_ops(result, tail=False)
    assert_equal(graph, result, samples, atol=1e-11 * (abs(a) + 5) / least)


@pytest.mark.parametrize("constant", [0.0, 3.0, -2.5])
@pytest.mark.parametrize("kind", [Mul, Max, Min], ids=lambda kind: kind.mnemonic)
def test_operands_that_calibration_saw_constant(kind: type[Op], constant: float) -> None:
    samples = {"x0": np.full((4, 2), constant), "x1": np.linspace(-1, 1, 8).reshape(4, 2)}
    graph = network(kind(), (2,), (2,))
    assert_equal(graph, expanded(graph, samples), samples)


@examples(60)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=2), st.integers(1, 9), st.floats(0.01, 100), seeds)
def test_softmax_of_every_range(shape: list[int], size: int, spread: float, seed: int) -> None:
    """Directly or by a tree; the sums of exponentials may vary beyond what float64 can hold."""
    z = np.random.default_rng(seed).normal(size=(6, *shape, size)) * spread
    for log in (False, True):
        graph = network(Softmax(log=log), (*shape, size))
        result = expanded(graph, {"x0": z}, client_tail=False)
        check_ops(result, tail=False)
        assert_equal(graph, result, {"x0": z}, atol=1e-9 * max(1.0, spread))


@examples(60)
@given(st.lists(st.integers(1, 3), max_size=2), st.integers(1, 7), seeds)
def test_the_first_of_equal_elements_wins(shape: list[int], size: int, seed: int) -> None:
    """Whole numbers, many of them alike: comparisons are exact and ONNX says which index counts."""
    z = np.random.default_rng(seed).integers(-1, 2, (9, *shape, size)).astype(np.float64)
    for op in (Hardmax(), ArgMax(keepdims=False), ArgMax(keepdims=True), ReduceMax()):
        graph = network(op, (*shape, size))
        result = expanded(graph, {"x0": z}, client_tail=False)
        check_ops(result, tail=False)
        np.testing.assert_array_equal(evaluate(result, {"x0": z})["y"], evaluate(graph, {"x0": z})["y"])


# -- how deep ------------------------------------------------------------------------------------------------

BINARY: dict[type[Op], int] = {Mul: 1, Div: 2, Max: 1, Min: 1}


@pytest.mark.parametrize("kind", BINARY, ids=lambda kind: kind.mnemonic)
def test_bootstraps_of_two_operands(kind: type[Op]) -> None:
    samples = {"x0": np.linspace(-1, 1, 12).reshape(4, 3), "x1": np.linspace(1, 2, 12).reshape(4, 3)}
    result = expanded(network(kind(), (3,), (3,)), samples)
    assert depth(result) == BINARY[kind]
    # the two squares of a product go through one bootstrap
    assert len(list(result.of(Apply))) == BINARY[kind]


def test_a_square_is_one_function() -> None:
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (3,)))
    graph.add(Output("y"), (graph.add(Mul(), (x, x)),))
    result = expanded(graph, {"x": np.ones((2, 3))})
    assert [n.op for n in result][1] == Apply((Function("pow", (2.0,)),))
    assert len(result) == 3


@pytest.mark.parametrize("shape", [(4,), (2, 4), (3, 2, 4)])
def test_squares_of_what_reaches_less_far_are_magnified(shape: tuple[int, ...]) -> None:
    """A series errs by a share of its range. Of images, channels keep one factor, so that convolutions stay some."""
    reach = np.geomspace(1.0, 1e-3, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    samples = {"x0": np.random.default_rng(4).uniform(-1, 1, (40, *shape)) * reach}
    graph = network(Apply((Function("pow", (2.0,)),)), shape)
    result = expanded(graph, samples)
    assert depth(result) == 1
    assert_equal(graph, result, samples)
    ((squared, _),) = result.of(Apply)
    read = np.abs(evaluate_all(result, samples)[squared.operands[0]]).reshape(40, shape[0], -1).max(axis=(0, 2))
    assert read.max() == pytest.approx(np.abs(samples["x0"]).max())
    assert (4 * 1.0001 * read)[reach.reshape(-1) > 4.0**-4].min() > read.max() and read.min() > read.max() / 16
    factors = next(result.constant(op.factor.name) for _, op in result.of(Scale))
    assert factors.shape == (shape if len(shape) < 3 else (3, 1, 1))
    # what reaches as far, or nowhere, is squared as it is
    even = expanded(graph, {"x0": np.ones((2, *shape))})
    assert [type(n.op) for n in even] == [Input, Apply, Output]
    assert [type(n.op) for n in expanded(graph, {"x0": np.zeros((2, *shape))})] == [Input, Apply, Output]


@pytest.mark.parametrize(("size", "levels"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (64, 6)])
def test_a_maximum_is_a_tree(size: int, levels: int) -> None:
    samples = {"x0": np.random.default_rng(1).normal(size=(5, 2, size))}
    graph = network(ReduceMax(), (2, size))
    result = expanded(graph, samples)
    assert depth(result) == levels
    assert_equal(graph, result, samples)


@pytest.mark.parametrize(("size", "levels"), [(2, 1), (3, 2), (8, 3), (10, 4)])
@pytest.mark.parametrize("log", [False, True])
def test_a_softmax_is_direct_where_its_sums_are_alike(size: int, levels: int, log: bool) -> None:
    z = np.random.default_rng(2).normal(size=(50, size))
    graph = network(Softmax(log=log), (size,))
    near, far = (expanded(graph, {"x0": z * s}, client_tail=False) for s in (0.1, 40.0))
    assert depth(near) == 2 + (not log)
    assert depth(far) == levels + (not log)
    chosen = [d.chosen for g in (near, far) for n in g for d in n.decisions]
    # a logarithm by a tree has no single place for the decision
    assert chosen == ["log of the sum"] + ([] if log else ["tree of softplus"])
    # the limit is an option
    forced = expanded(graph, {"x0": z * 0.1}, client_tail=False, direct_softmax=1.0)
    assert depth(forced) == levels + (not log)


@pytest.mark.parametrize("op", [Hardmax(), ArgMax(keepdims=True)], ids=lambda op: op.mnemonic)
@pytest.mark.parametrize("size", [2, 3, 10, 40])
def test_the_largest_takes_two_bootstraps(op: Op, size: int) -> None:
    """However many elements there are: all comparisons in one, then who has won all of his."""
    z = np.random.default_rng(3).normal(size=(5, size))
    graph = network(op, (size,))
    result = expanded(graph, {"x0": z}, client_tail=False)
    assert depth(result) == 2
    compared, won = (n.type.size for n, _ in result.of(Apply))
    assert (compared, won) == (size * (size - 1) // 2, size)
    assert_equal(graph, result, {"x0": z})


# -- the client's part ---------------------------------------------------------------------------------------


def classifier(*tail: Op, inner: bool = False) -> Graph:
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (4,)))
    for number, op in enumerate(tail):
        x = graph.add(op, (x,), location=f"tail{number}")
    graph.add(Output("y"), (x,))
    if inner:
        graph.add(Output("z"), (graph.add(Apply((Function("relu"),)), (x,)),))
    return graph


@pytest.mark.parametrize(
    "tail",
    [
        (Softmax(),),
        (Softmax(), ArgMax(keepdims=False)),
        (Softmax(), Reshape((2, 2)), Softmax(log=True)),
        (Reshape((2, 2)), ArgMax(keepdims=True)),
    ],
    ids=lambda tail: "-".join(op.mnemonic for op in tail),
)
def test_softmax_and_argmax_at_the_end_stay_with_the_client(tail: tuple[Op, ...]) -> None:
    graph = classifier(*tail)
    assert Expand().run(graph, Context()) is graph, "nothing to do, so not even calibration samples are needed"
    x = {"x": np.random.default_rng(4).normal(size=(5, 4))}
    result = expanded(graph, x, client_tail=False)
    check_ops(result, tail=False)
    assert_equal(graph, result, x)


def test_a_tail_that_the_network_reads_is_expanded_for_all() -> None:
    graph = classifier(Softmax(), inner=True)
    x = {"x": np.random.default_rng(5).normal(size=(5, 4))}
    result = expanded(graph, x)
    check_ops(result, tail=False)
    assert_equal(graph, result, x)


def test_hardmax_is_never_the_clients() -> None:
    x = {"x": np.random.default_rng(6).normal(size=(5, 4))}
    check_ops(expanded(classifier(Hardmax()), x), tail=False)


def test_names_and_other_nodes_are_kept() -> None:
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (2,)), location="in")
    w = Const(graph.add_constant("w", np.eye(2)))
    b = Const(graph.add_constant("b", np.ones(2)))
    y = graph.add(Dense((w,), b), (x,), location="fc")
    z = graph.add(Mul(), (x, y), location="gate")
    graph.add(Output("y"), (z,), location="out")
    result = expanded(graph, {"x": np.array([[1.0, 2.0]])})
    names = [n.location for n in result]
    assert names[:2] == ["in", "fc"]
    assert set(names[2:-1]) == {"gate"}
    assert result.node(1).op == Dense((w,), b)
    assert all(name in ("w", "b") or name.startswith("gate.") for name in result.constants)


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lowest", [-1.0, 0.0])
def test_a_divisor_that_crosses_zero_is_named(lowest: float) -> None:
    samples = {"x0": np.ones((3, 1)), "x1": np.array([[lowest], [1.0], [2.5]])}
    with np.errstate(all="ignore"), pytest.raises(CalibrationError, match=r"@here\)") as caught:
        expanded(network(Div(), (1,), (1,)), samples)
    if lowest:
        assert "between -1 and 2.5" in str(caught.value)
        assert "one side of zero" in str(caught.value)


@pytest.mark.parametrize("op", [Hardmax(), ArgMax(keepdims=False)], ids=lambda op: op.mnemonic)
def test_too_many_classes_are_named(op: Op) -> None:
    with pytest.raises(ModelError, match=r"@here\) compares 129 elements.*128"):
        expanded(network(op, (129,)), {"x0": np.arange(129.0)[None]}, client_tail=False)


@pytest.mark.parametrize("kind", [Mul, Div], ids=lambda kind: kind.mnemonic)
def test_calibration_samples_are_needed(kind: type[Op]) -> None:
    with pytest.raises(CalibrationError, match="no calibration samples for input 'x0'"):
        expanded(network(kind(), (2,), (2,)), {})


@pytest.mark.parametrize("value", [0.5, 1e7, float("nan")])
def test_unusable_options(value: float) -> None:
    with pytest.raises(GlyphcError, match="direct_softmax"):
        Expand(direct_softmax=value)


@pytest.mark.parametrize("kind", [Mul, Div], ids=lambda kind: kind.mnemonic)
def test_values_that_overflow_are_named(kind: type[Op]) -> None:
    samples = {"x0": np.full((1, 2), 1e14), "x1": np.full((1, 2), 1e14 if kind is Mul else 1e-14)}
    with pytest.raises(CalibrationError, match=r"@here\) reaches 1e\+28"):
        expanded(network(kind(), (2,), (2,)), samples)
