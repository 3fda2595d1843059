"""Folding keeps what a network computes, and brings it into the form that the later passes count on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, note
from hypothesis import strategies as st
from strategies import examples, graphs

from glyphc.errors import ModelError
from glyphc.ir.errors import TooLargeError
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import (
    Add,
    Apply,
    ArgMax,
    Concat,
    Const,
    Dense,
    Gather,
    Input,
    Mul,
    Output,
    ReduceSum,
    Reshape,
    Softmax,
    Sparse,
    Sub,
)
from glyphc.ir.types import Level
from glyphc.passes.base import Context
from glyphc.passes.fold import Fold
from tests.folded_networks import Network, assert_same, check_form, fold, ops

# -- random networks --


MOVES = (Input, Output, Reshape, Softmax, ArgMax)  # what computes nothing on ciphertexts


def comparable(graph: Graph, values: dict[str, Any]) -> bool:
    """Whether rounding errors stay rounding errors: argmax turns ties into other indices, steps likewise."""
    steps = {"sign", "floor", "round", "greater", "less", "thresholded_relu"}
    for node, _ in graph.of(Apply):
        if {f.name for f in node.op.functions} & steps:  # type: ignore[attr-defined]
            return False
    return all(np.all(np.abs(v) < 1e6) for v in values.values()) and not any(graph.of(ArgMax))


@given(graphs(Level.SOURCE, max_steps=9, tame=True, expanded=True), st.integers(0, 2**32 - 1))
@examples(120)
def test_any_graph_keeps_its_function(graph: Graph, seed: int) -> None:
    note("\n".join(f"{n} {list(n.type.shape)} of {list(n.operands)}" for n in graph))
    if all(isinstance(graph.node(i).op, MOVES) for i in graph.live()):
        with pytest.raises(ModelError, match="nothing"):
            fold(graph)
        return
    folded = fold(graph)
    check_form(folded)
    assert [n.op for n in folded.inputs] == [n.op for n in graph.inputs]
    assert [(n.op, n.type.shape) for n in folded.outputs] == [(n.op, n.type.shape) for n in graph.outputs]
    rng = np.random.default_rng(seed)
    x = {op.name: rng.integers(-16, 17, (5, *op.shape)) / 8 for _, op in graph.of(Input)}
    wanted = evaluate(graph, x)
    assume(comparable(graph, wanted))
    assert_same(wanted, evaluate(folded, x))


@given(graphs(Level.SOURCE, max_steps=7, tame=True, expanded=True))
@examples(60)
def test_folding_twice_changes_nothing_more(graph: Graph) -> None:
    try:
        folded = fold(graph)
    except ModelError:
        return
    again = fold(folded)
    # the order of independent nodes may change
    assert Counter(ops(again)) == Counter(ops(folded))
    assert sorted(str(n.op) for n, _ in again.of(Apply)) == sorted(str(n.op) for n, _ in folded.of(Apply))
    assert sorted((c + 0.0).tobytes() for c in again.constants.values()) == sorted(
        (c + 0.0).tobytes() for c in folded.constants.values()
    )


# -- chains --


def test_affine_chains_become_one_dense_map() -> None:
    n = Network(3)
    x = n.scale(n.x, [1.0, -2.0, 3.0], 0.5, "bn0")
    x = n.dense(x, 4, "fc1")
    x = n.scale(x, -1.5, [1.0, 2.0, 3.0, 4.0], "bn1")
    x = n.scale(n.dense(x, 5, "fc2"), 2.0, 0.0, "times")
    n.output(x)
    folded = n.fold()
    assert ops(folded) == [Input, Dense, Output]
    assert folded.node(1).location == "bn0+fc1+bn1+fc2+times"


def test_each_nonlinearity_has_its_own_map() -> None:
    n = Network(3)
    x = n.apply(n.dense(n.dense(n.x, 6, "fc1"), 4, "fc2"), "relu")
    x = n.scale(n.dense(n.scale(x, 0.5, 1.0, "s1"), 3, "fc3"), [1.0, 2.0, 3.0], 0.0, "s2")
    n.output(n.dense(n.apply(x, "tanh"), 2, "fc4"))
    folded = n.fold()
    assert ops(folded) == [Input, Dense, Apply, Dense, Apply, Dense, Output]
    names = [node.location for node in folded]
    assert names == ["x", "fc1+fc2", "relu", "s1+fc3+s2", "tanh", "fc4", "y"]


def test_adjacent_nonlinearities_are_composed_in_order() -> None:
    n = Network(4)
    x = n.apply(n.dense(n.x, 4, "fc"), "sigmoid")
    x = n.apply(n.scale(x, 3.0, -1.0, "between"), "tanh")
    n.output(n.apply(x, "relu"))
    folded = n.fold()
    assert ops(folded) == [Input, Dense, Apply, Output]
    assert folded.node(2).op == Apply(
        (Function("sigmoid"), Function("affine", (3.0, -1.0)), Function("tanh"), Function("relu"))
    )
    assert folded.node(2).location == "sigmoid+between+tanh+relu"


def test_an_affine_map_that_differs_between_elements_is_no_univariate_function() -> None:
    n = Network(3)
    x = n.apply(n.dense(n.x, 3, "fc"), "tanh")
    n.output(n.apply(n.scale(x, [1.0, 2.0, 1.0], 0.0, "gains"), "relu"))
    folded = n.fold()
    assert ops(folded) == [Input, Dense, Apply, Dense, Apply, Output]
    np.testing.assert_array_equal(folded.constant(folded.node(3).op.weights[0].name), np.diag([1.0, 2.0, 1.0]))  # type: ignore[attr-defined]


def test_a_nonlinearity_of_the_input_reads_an_identity() -> None:
    n = Network(2, 3)
    n.output(n.apply(n.x, "relu"))
    folded = n.fold()
    assert ops(folded) == [Input, Reshape, Dense, Apply, Reshape, Output]
    np.testing.assert_array_equal(folded.constant(folded.node(2).op.weights[0].name), np.eye(6))  # type: ignore[attr-defined]
    assert folded.node(3).location == "relu"


# -- branches that meet --


def test_sums_of_branches_are_one_map_of_several_operands() -> None:
    n = Network(3)
    hidden = n.apply(n.dense(n.x, 4, "fc1"), "tanh")
    skip = n.dense(n.x, 2, "skip")
    both = n.graph.add(Sub(), (n.dense(hidden, 2, "fc2"), skip), location="minus")
    n.output(n.graph.add(Add(), (both, n.scale(skip, 3.0, 1.0, "again")), location="plus"))
    folded = n.fold()
    assert ops(folded) == [Input, Dense, Apply, Dense, Output]
    last = folded.node(3)
    assert {folded.node(i).op.mnemonic for i in last.operands} == {"input", "apply"}
    assert last.location == "fc2+skip+minus+again+plus"


def test_values_that_cancel_are_not_read() -> None:
    n = Network(3)
    hidden = n.apply(n.dense(n.x, 4, "fc1"), "tanh")
    nothing = n.graph.add(Sub(), (hidden, hidden), location="nothing")
    n.output(n.graph.add(Add(), (nothing, n.dense(n.x, 4, "fc2")), location="plus"))
    folded = n.fold()
    assert ops(folded) == [Input, Dense, Output]
    assert folded.node(1).operands == (0,)


def test_moves_and_sums_become_matrices() -> None:
    n = Network(2, 3)
    turned = n.gather(n.x, np.arange(6).reshape(2, 3).T, "transpose")
    total = n.graph.add(ReduceSum(), (turned,), location="sum")  # of columns of x
    joined = n.graph.add(Concat(), (total, total, n.reshape(n.x, 6)), location="concat")
    n.output(joined)
    folded = n.fold()
    assert ops(folded) == [Input, Reshape, Dense, Output]
    columns = np.tile(np.eye(3), (1, 2))
    weight = folded.constant(folded.node(2).op.weights[0].name)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(weight, np.vstack([columns, columns, np.eye(6)]))


def test_broadcasting_repeats_rows_and_columns() -> None:
    n = Network(2, 3)
    row = n.gather(n.x, np.arange(3), "row")
    column = n.gather(n.x, np.array([[0], [3]]), "column")
    n.output(n.graph.add(Add(), (n.graph.add(Add(), (row, column)), n.x), location="y"))
    assert ops(n.fold()) == [Input, Reshape, Dense, Reshape, Output]


@pytest.mark.parametrize("places", [[2, 0, 1, 3], [0, 1, 2, 3, 3, 0], [1, 2]])
def test_nonlinearities_are_composed_through_selections(places: list[int]) -> None:
    """tanh(relu(x)[places]) is one function, whatever the order, and whether elements are repeated or left out."""
    n = Network(3)
    x = n.gather(n.apply(n.dense(n.x, 4, "fc"), "relu"), np.array(places), "select")
    n.output(n.dense(n.apply(n.scale(x, 2.0, -0.5, "same"), "tanh"), 2, "last"))
    folded = n.fold()
    assert ops(folded) == [Input, Dense, Apply, Dense, Output]
    assert folded.node(2).op == Apply((Function("relu"), Function("affine", (2.0, -0.5)), Function("tanh")))


def test_nonlinearities_are_composed_through_joins() -> None:
    n = Network(3)
    parts = [n.apply(n.dense(n.x, width, f"fc{width}"), name) for width, name in ((2, "relu"), (3, "sigmoid"))]
    n.output(n.apply(n.graph.add(Concat(), tuple(parts), location="concat"), "tanh"))
    folded = n.fold()
    assert [node.op.functions[-1].name for node, _ in folded.of(Apply)] == ["tanh", "tanh"]  # type: ignore[attr-defined]
    assert [len(node.op.functions) for node, _ in folded.of(Apply)] == [2, 2]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["sum", "two factors", "input beside it"])
def test_what_is_no_selection_is_not_composed(kind: str) -> None:
    n = Network(4)
    hidden = n.apply(n.dense(n.x, 4, "fc"), "tanh")
    match kind:
        case "sum":
            x = n.graph.add(Add(), (hidden, n.gather(hidden, np.array([1, 0, 2, 3]), "swap")))
        case "two factors":
            x = n.graph.add(Concat(), (hidden, n.scale(hidden, 2.0, 0.0, "twice")))
        case _:
            x = n.graph.add(Concat(), (hidden, n.x))
    n.output(n.apply(x, "relu"))
    assert [len(node.op.functions) for node, _ in n.fold().of(Apply)] == [1, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("places", "composed"), [([0, 1, 2], True), ([2, 1, 0, 0], True), ([0, 2], False)])
def test_a_function_that_is_not_defined_everywhere_keeps_to_its_own_elements(places: list[int], composed: bool) -> None:
    """The logarithm of some elements says nothing of the others, which may be negative."""
    n = Network(3)
    hidden = n.apply(n.dense(n.x, 3, "fc"), "sigmoid")
    n.output(n.apply(n.gather(hidden, np.array(places), "select"), "log"))
    assert [len(node.op.functions) for node, _ in n.fold().of(Apply)] == ([2] if composed else [1, 1])  # type: ignore[attr-defined]


def test_what_must_be_expanded_first() -> None:
    n = Network(3)
    n.output(n.graph.add(Mul(), (n.x, n.x), location="square"))
    with pytest.raises(ModelError, match=r"@square\) cannot be folded .*; run 'expand' before 'fold'"):
        fold(n.graph)


# -- shapes --


def test_tensors_are_flat_inside_and_keep_their_shapes_outside() -> None:
    n = Network(2, 3)
    x = n.scale(n.x, [1.0, 2.0, 3.0], [[0.5], [-0.5]], "bn")  # along rows, and along columns
    x = n.dense(n.reshape(x, 6), 12, "fc")
    x = n.scale(n.reshape(x, 2, 3, 2), [[1.0], [2.0], [3.0]], 0.0, "middle")
    x = n.apply(x, "tanh")
    x = n.dense(n.reshape(n.reshape(x, 3, 4), 12), 6, "fc2")
    n.output(n.add(Softmax(), n.reshape(x, 2, 3), "softmax"))
    folded = n.fold()
    assert ops(folded) == [Input, Reshape, Dense, Apply, Dense, Reshape, Softmax, Output]
    assert [node.type.shape for node in folded] == [(2, 3), (6,), (12,), (12,), (6,), (2, 3), (2, 3), (2, 3)]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_network_of_one_number(shape: tuple[int, ...]) -> None:
    n = Network(*shape)
    n.output(n.reshape(n.apply(n.scale(n.x, 2.0, 1.0, "s"), "tanh"), *shape))
    folded = n.fold()
    assert folded.outputs[0].type.shape == shape


# -- outputs, branches, dead code --


def test_branches_share_what_they_can() -> None:
    n = Network(3)
    hidden = n.apply(n.dense(n.x, 4, "fc"), "relu")
    scaled = n.scale(hidden, [1.0, 2.0, 3.0, 4.0], 1.0, "scaled")
    n.output(scaled, "y1")
    n.output(n.add(Softmax(), scaled, "softmax"), "y2")
    n.output(n.dense(hidden, 2, "head"), "y3")
    n.output(hidden, "y4")
    folded = n.fold()
    assert ops(folded).count(Apply) == 1
    # one for the layer, one for both readers of the scaled value, one for the head
    assert ops(folded).count(Dense) == 3


def test_functions_of_one_value_share_its_map() -> None:
    n = Network(3)
    hidden = n.dense(n.x, 4, "fc")
    for name in ("relu", "tanh", "sigmoid"):
        n.output(n.apply(hidden, name), name)
    folded = n.fold()
    assert (ops(folded).count(Dense), ops(folded).count(Apply)) == (1, 3)


def test_a_nonlinearity_with_a_second_reader_stays() -> None:
    n = Network(3)
    first = n.apply(n.dense(n.x, 4, "fc"), "sigmoid")
    n.output(n.apply(first, "tanh"), "y1")
    n.output(first, "y2")
    folded = n.fold()
    assert [n.op.functions for n, _ in folded.of(Apply)] == [  # type: ignore[attr-defined]
        (Function("sigmoid"),),
        (Function("sigmoid"), Function("tanh")),
    ]


def test_dead_code_is_dropped_and_inputs_stay() -> None:
    n = Network(3)
    unused = n.graph.add(Input("unused", (2, 2)), location="unused")
    n.scale(unused, 2.0, 0.0, "dead1")
    x = n.dense(n.x, 4, "fc")
    n.add(Softmax(), n.dense(n.apply(x, "relu"), 7, "dead2"), "dead3")
    n.output(x)
    folded = fold(n.graph)
    check_form(folded)
    assert ops(folded) == [Input, Input, Dense, Output]
    assert len(folded.constants) == 2
    assert not any("dead" in node.location for node in folded)


def test_several_inputs() -> None:
    n = Network(3)
    other = n.graph.add(Input("z", (2,)), location="z")
    n.output(n.dense(n.x, 2, "fc"), "y1")
    n.output(n.apply(n.dense(other, 2, "gc"), "relu"), "y2")
    folded = fold(n.graph)
    check_form(folded)
    x = {"x": n.rng.normal(size=(4, 3)), "z": n.rng.normal(size=(4, 2))}
    assert_same(evaluate(n.graph, x), evaluate(folded, x))


def test_an_output_that_is_an_input_beside_one_that_is_not() -> None:
    n = Network(2, 2)
    n.output(n.x, "same")
    n.output(n.apply(n.x, "relu"), "other")
    folded = n.fold()
    assert folded.outputs[0].type.shape == (2, 2)


@pytest.mark.parametrize("tail", ["", "reshape", "softmax", "dead"])
def test_a_network_that_computes_nothing(tail: str) -> None:
    n = Network(2, 2)
    x = n.x
    if tail == "dead":
        n.apply(n.dense(n.reshape(x, 4), 3, "dead"), "relu")
    elif tail:
        x = n.reshape(x, 4)
    if tail == "softmax":
        x = n.add(Softmax(), x, "softmax")
    n.output(x)
    with pytest.raises(ModelError, match="computes nothing"):
        fold(n.graph)


STEPS: dict[str, Callable[[Network, Node], Node]] = {
    "dense": lambda n, x: n.dense(x, 2, "after"),
    "scale": lambda n, x: n.scale(x, 2.0, 1.0, "after"),
    "apply": lambda n, x: n.apply(x, "after", Function("relu")),
}


@pytest.mark.parametrize("op", list(STEPS))
@pytest.mark.parametrize("between", [False, True])
def test_nothing_encrypted_can_follow_what_the_client_computes(op: str, between: bool) -> None:
    n = Network(4)
    x = n.add(Softmax(), n.dense(n.x, 4, "fc"), "attention")
    if between:
        x = n.reshape(n.reshape(x, 2, 2), 4)
    n.output(STEPS[op](n, x))
    with pytest.raises(ModelError, match="@after"):
        fold(n.graph)


def test_the_given_graph_is_not_changed() -> None:
    n = Network(2, 3)
    x = n.apply(n.dense(n.reshape(n.scale(n.x, 2.0, 1.0, "s"), 6), 4, "fc"), "relu")
    n.output(n.dense(x, 2, "gc"))
    before = [(node.op, node.operands, node.type) for node in n.graph]
    constants = {k: v.copy() for k, v in n.graph.constants.items()}
    n.fold()
    assert [(node.op, node.operands, node.type) for node in n.graph] == before
    for name, value in constants.items():
        np.testing.assert_array_equal(n.graph.constant(name), value)


def test_maps_beyond_all_measure_are_refused_by_name() -> None:
    """Before gigabytes are asked for: the sum of a huge tensor, as many times."""
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (50000,)))
    total = graph.add(Reshape((1,)), (graph.add(ReduceSum(), (x,)),))
    places = Const(graph.add_constant("i", np.zeros(50000, dtype=np.int64)))
    copies = graph.add(Gather(places), (total,), location="copies")
    graph.add(Output("y"), (graph.add(Apply((Function("relu"),)), (copies,)),))
    with pytest.raises(TooLargeError, match=r"copies: a linear map from 50000 to 50000 values needs about 80 GB"):
        Fold().run(graph, Context())


def test_a_map_of_few_weights_is_held_by_these() -> None:
    """Every element of a large tensor once, at another place: the matrix would have 400,000,000 entries."""
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (20000,)))
    places = np.random.default_rng(1).permutation(20000)
    moved = graph.add(Gather(Const(graph.add_constant("i", places))), (x,), location="moved")
    graph.add(Output("y"), (graph.add(Apply((Function("relu"),)), (moved,)),))
    folded = Fold().run(graph, Context())
    ((_, op),) = folded.of(Dense)
    (weight,) = op.weights
    assert isinstance(weight, Sparse)
    assert sum(v.nbytes for v in folded.constants.values()) < 1_000_000
    values = np.random.default_rng(2).normal(size=(3, 20000))
    np.testing.assert_array_equal(evaluate(folded, {"x": values})["y"], np.maximum(values[:, places], 0))
