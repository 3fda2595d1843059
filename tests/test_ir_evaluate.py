"""The evaluator is the definition of every op: held against numbers worked out by hand and plain Python."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, graphs
from test_network_ops import MOVES_AND_REDUCTIONS, TWO_OPERANDS

from glyphc.ir.errors import IRError
from glyphc.ir.evaluate import apply_client_op, decrypted, dequantize, evaluate, evaluate_all, quantize, real
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.image_ops import Fold, Interleave, Pixels
from glyphc.ir.layout import Layout
from glyphc.ir.ops import (
    CLIENT_OPS,
    OPS,
    Apply,
    ArgMax,
    Bootstrap,
    Const,
    Dense,
    Input,
    IntegerPolynomial,
    Linear,
    MatMul,
    Op,
    Output,
    Polynomial,
    Reshape,
    Scale,
    Scatter,
    Shorten,
    Softmax,
    Steps,
    SumTo,
    Switch,
    TableLookup,
    Unpack,
    WordTable,
)
from glyphc.ir.series import Series
from glyphc.ir.text import parse, to_text
from glyphc.ir.types import Encoding, FixedPoint, Level, Scheme, TensorType
from tests.one_op import run

F64 = npt.NDArray[np.float64]
HALVES = FixedPoint((0.5,), (0.0,), -100, 100)
QUARTERS = FixedPoint((0.25,), (0.0,), -100, 100)


# -- ops on real numbers -------------------------------------------------------------------------------------


def test_dense() -> None:
    y = run(Dense((Const("w"),), Const("b")), [[1, 2, 3], [0, -1, 4]], {"w": [[1, 0, 2], [-1, 5, 0]], "b": [10, 0.5]})
    assert y.tolist() == [[1 + 6 + 10, -1 + 10 + 0.5], [8 + 10, -5 + 0.5]]


def test_dense_of_several_operands() -> None:
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (2,)))
    y = graph.add(Input("y", (1,)))
    for name, value in (("v", [[1.0, 2.0], [0.0, -1.0]]), ("w", [[10.0], [100.0]]), ("b", [0.5, 0.0])):
        graph.add_constant(name, np.array(value))
    z = graph.add(Dense((Const("v"), Const("w"), Const("v")), Const("b")), (x, y, x))
    values = evaluate_all(graph, {"x": np.array([[1.0, 3.0]]), "y": np.array([[7.0]])})
    assert values[z.id].tolist() == [[7 + 70 + 7 + 0.5, -3 + 700 - 3]]


@pytest.mark.parametrize(
    ("factor", "shift", "expected"),
    [
        ([[2, 2], [3, 0.5]], [[1, 0], [0, 0]], [[[3, 4], [9, 2]], [[1, -2], [0, 4]]]),
        ([2, 3], [1, -1], [[[3, 5], [7, 11]], [[1, -4], [1, 23]]]),  # along the last axis
        ([[10], [1]], [[0], [100]], [[[10, 20], [103, 104]], [[0, -10], [100, 108]]]),  # along the first
        (2, 1, [[[3, 5], [7, 9]], [[1, -1], [1, 17]]]),
    ],
)
def test_scale(factor: Any, shift: Any, expected: Any) -> None:
    x = [[[1, 2], [3, 4]], [[0, -1], [0, 8]]]
    y = run(Scale(Const("factor"), Const("shift")), x, {"factor": factor, "shift": shift})
    assert y.tolist() == expected


def test_reshape_keeps_row_major_order() -> None:
    assert run(Reshape((3, 2)), [[[1, 2, 3], [4, 5, 6]]]).tolist() == [[[1, 2], [3, 4], [5, 6]]]
    assert run(Reshape((6,)), [[[1, 2, 3], [4, 5, 6]]]).tolist() == [[1, 2, 3, 4, 5, 6]]
    assert run(Reshape(()), [[[7]], [[8]]]).tolist() == [7, 8]


# -- what the client computes --------------------------------------------------------------------------------


def test_softmax() -> None:
    third = 1 / 3
    x = [[0.0, 0.0, 0.0], [0.0, math.log(2), math.log(5)], [1000.0, 0.0, 1000.0]]
    expected = [[third] * 3, [1 / 8, 2 / 8, 5 / 8], [0.5, 0.0, 0.5]]
    np.testing.assert_allclose(run(Softmax(), x), expected, rtol=1e-14)
    with np.errstate(divide="ignore"):
        logs = np.log(expected)
    logs[2, 1] = -1000 - math.log(2)  # no underflow in the logarithm
    np.testing.assert_allclose(run(Softmax(log=True), x), logs, rtol=1e-14)


def test_softmax_takes_the_last_axis_of_each_sample() -> None:
    x = np.array([[[0.0, 0.0], [0.0, math.log(3)]], [[5.0, 5.0], [math.log(9), 0.0]]])
    expected = [[[0.5, 0.5], [0.25, 0.75]], [[0.5, 0.5], [0.9, 0.1]]]
    np.testing.assert_allclose(run(Softmax(), x), expected, rtol=1e-14)


@pytest.mark.parametrize("keepdims", [False, True])
def test_argmax(keepdims: bool) -> None:
    x = [[[1, 5, 2], [7, 7, 0]], [[-3, -2, -1], [0, 0, 0]]]
    y = run(ArgMax(keepdims), x)
    expected = [[1, 0], [2, 0]]  # the first one of equals
    assert y.tolist() == ([[[i] for i in row] for row in expected] if keepdims else expected)
    # float: an integer array stands for fixed-point numbers
    assert y.dtype == np.float64


def test_argmax_of_a_vector() -> None:
    assert run(ArgMax(keepdims=False), [[1, 2], [2, 1]]).tolist() == [1, 0]
    assert run(ArgMax(keepdims=True), [[1, 2], [2, 1]]).tolist() == [[1], [0]]


def test_client_reads_real_values() -> None:
    """Behind fixed-point values softmax and argmax see the numbers that the integers stand for."""
    x = [[0.0, 1.0, 3.0]]
    shares = np.exp([0.0, 1.0, 3.0]) / np.exp([0.0, 1.0, 3.0]).sum()
    np.testing.assert_allclose(run(Softmax(), x, before=HALVES)[0], shares, rtol=1e-14)
    # each element has a scale of its own: the integers are largest in the first, the numbers in the last
    uneven = FixedPoint((0.01, 0.5, 1.0), (0.0, 0.0, 0.0), -500, 500)
    assert quantize(np.array([[2.0, 2.5, 3.0]]), uneven).tolist() == [[200, 5, 3]]
    assert run(ArgMax(keepdims=False), [[2.0, 2.5, 3.0]], before=uneven).tolist() == [2]


# -- fixed point ---------------------------------------------------------------------------------------------


def test_quantize_and_dequantize_by_hand() -> None:
    fixed = FixedPoint((0.5, 0.1, 4.0), (0.0, 1.0, -2.0), -10, 10)
    x = np.array([[1.2, 1.3, 3.9], [-0.7, 0.0, -1000.0]])
    q = quantize(x, fixed)
    # not clipped to [-10, 10]
    assert q.tolist() == [[2, 3, 1], [-1, -10, -250]]
    assert q.dtype == np.int64
    np.testing.assert_allclose(dequantize(q, fixed), [[1.0, 1.3, 2.0], [-0.5, 0.0, -1002.0]], rtol=1e-15)


def test_scales_of_elements_follow_row_major_order() -> None:
    fixed = FixedPoint((1.0, 2.0, 4.0, 8.0, 16.0, 32.0), (0.0,) * 6, 0, 9)
    x = np.full((2, 2, 3), 32.0)
    assert quantize(x, fixed).tolist() == [[[32, 16, 8], [4, 2, 1]]] * 2
    assert dequantize(quantize(x, fixed), fixed).tolist() == x.tolist()


def test_dequantize_of_approximations() -> None:
    """Decrypted values carry noise: they need not be whole numbers."""
    assert dequantize(np.array([[2.5, -0.25]]), HALVES).tolist() == [[1.25, -0.125]]


def vectors(size: int, low: float, high: float) -> st.SearchStrategy[tuple[float, ...]]:
    return st.lists(st.floats(low, high), min_size=size, max_size=size).map(tuple)


@given(st.integers(1, 6), st.data())
@examples(150)
def test_quantization_errs_by_half_a_step(size: int, data: st.DataObject) -> None:
    count = data.draw(st.sampled_from([1, size]))
    scale = data.draw(vectors(count, 1e-6, 1e6))
    offset = data.draw(vectors(count, -1e6, 1e6))
    steps = np.array([data.draw(vectors(size, -1e6, 1e6))])
    x = steps * scale + np.array(offset)
    q = quantize(x, FixedPoint(scale, offset, -1, 1))
    rounding = 4 * (np.spacing(np.abs(x)) + np.spacing(np.abs(steps * scale)) + np.spacing(np.abs(offset)))
    half = np.array(scale) / 2
    error = dequantize(q, FixedPoint(scale, offset, -1, 1)) - x
    assert np.all(np.abs(error) <= half + rounding)
    # and the next integers are no closer
    for other in (q - 1, q + 1):
        assert np.all(np.abs(other * scale + np.array(offset) - x) >= half - rounding)


@given(st.integers(-(2**40), 2**40), st.integers(-(2**10), 2**10), st.integers(-30, 30))
@examples(100)
def test_integers_survive_their_real_value(integer: int, offset: int, exponent: int) -> None:
    fixed = FixedPoint((2.0**exponent,), (offset * 2.0**exponent,), -(2**40), 2**40)
    q = np.array([[integer]])
    value = dequantize(q, fixed)
    assert Fraction(value.item()) == Fraction(2) ** exponent * (integer + offset)
    assert quantize(value, fixed).tolist() == [[integer]]


def test_linear_is_exact() -> None:
    """Integers beyond the 53 bits of a float."""
    big = 2**57 + 1
    y = run(
        Linear((Const("w"),), Const("b")),
        [[0.5, 1.5], [-1.0, 0.0]],
        {"w": [[big, 3]], "b": [big + 2]},
        HALVES,
        HALVES,
    )
    assert y.dtype == np.int64
    assert y.tolist() == [[big * 1 + 3 * 3 + big + 2], [big * -2 + big + 2]]


def test_apply_between_formats() -> None:
    """From halves through the function to quarters: real values count, not integers."""
    leaky = Function("leaky_relu", (0.25,))
    y = run(Apply((leaky,)), [[1.5, -2.0, 0.0, -3.0]], before=HALVES, after=QUARTERS)
    assert y.tolist() == [[6, -2, 0, -3]]
    assert y.dtype == np.int64
    # ties go to the even integer: -0.125 and 0.375 lie between two quarters
    third = Function("affine", (0.25, 0.0))
    assert run(Apply((third,)), [[-0.5, 1.5]], before=HALVES, after=QUARTERS).tolist() == [[0, 2]]
    offset = FixedPoint((0.25,), (1.0,), -100, 100)
    assert run(Apply(()), [[1.5, -2.0]], before=HALVES, after=offset).tolist() == [[2, -12]]


def test_encrypted_levels() -> None:
    """All ops of the last level in a row, the values of each by hand."""
    graph = Graph(Level.LAIDOUT, 2)
    graph.add_constant("w", np.array([[1, 2], [0, -1]]))
    graph.add_constant("b", np.array([3, 0]))
    layout = Layout(16, 2, 2, 1, 2, 8, 2, True)
    bgv = TensorType((2,), None, HALVES, Scheme.BGV, Encoding.LSB, layout)
    torus = replace(bgv, scheme=Scheme.TORUS, encoding=Encoding.MSB)
    series = Series((0.0, 1.0), (0.0, 0.0), 0.5, 0.0, 0.0)  # what the function is approximated by has no say here
    x = graph.add(Input("x", (2,)), (), bgv)
    z = graph.add(Linear((Const("w"),), Const("b")), (x,), replace(bgv, fixed=QUARTERS))
    down = graph.add(Switch(Scheme.BGV, Scheme.TORUS, Encoding.MSB), (z,), replace(torus, fixed=QUARTERS))
    act = graph.add(Bootstrap((Function("relu"),), 2, 4, series), (down,), torus)
    up = graph.add(Switch(Scheme.TORUS, Scheme.BGV, Encoding.LSB), (act,), bgv)
    parts = graph.add(Unpack(2), (up,), replace(bgv, layout=Layout(16, 2, 2, 2, 4, 8, 4, False)))
    out = graph.add(Output("y"), (parts,), TensorType((2,), scheme=Scheme.CLIENT))
    values = evaluate_all(graph, {"x": np.array([[1.0, -2.0], [0.5, 2.5]])})
    assert values[x.id].tolist() == [[2, -4], [1, 5]]
    assert values[z.id].tolist() == [[-3, 4], [14, -5]]  # quarters: -0.75, 1, 3.5, -1.25
    assert values[down.id].tolist() == values[z.id].tolist()
    assert values[act.id].tolist() == [[0, 2], [7, 0]]  # halves again
    assert values[up.id].tolist() == values[parts.id].tolist() == values[act.id].tolist()
    assert values[out.id].tolist() == [[0.0, 1.0], [3.5, 0.0]]
    assert evaluate(graph, {"x": np.array([[1.0, -2.0]])})["y"].tolist() == [[0.0, 1.0]]


# -- graphs --------------------------------------------------------------------------------------------------


def classifier(level: Level) -> tuple[Graph, dict[str, Node]]:
    """x -> (x - 1) -> reshape -> log-softmax -> argmax, and the pre-activation as a second output."""
    graph = Graph(level, 1)
    fixed = None if level is Level.SOURCE else HALVES
    x = graph.add(Input("x", (4,)), (), TensorType((4,), fixed=fixed))
    z = graph.add(Apply((Function("affine", (1.0, -1.0)),)), (x,), TensorType((4,), fixed=fixed))
    square = graph.add(Reshape((2, 2)), (z,), TensorType((2, 2), fixed=fixed))
    soft = graph.add(Softmax(log=True), (square,))
    top = graph.add(ArgMax(keepdims=False), (soft,))
    nodes = {"x": x, "z": z, "square": square, "soft": soft, "top": top}
    for name, node in {"label": top, "raw": z, "echo": x}.items():
        nodes[name] = graph.add(Output(name), (node,))
    return graph, nodes


@pytest.mark.parametrize("level", [Level.SOURCE, Level.QUANTIZED])
def test_outputs_by_name(level: Level) -> None:
    graph, _ = classifier(level)
    outputs = evaluate(graph, {"x": np.array([[1.0, 2.5, 4.0, -1.0]])})
    assert list(outputs) == ["label", "raw", "echo"]
    assert outputs["label"].tolist() == [[1, 0]]
    assert outputs["raw"].tolist() == [[0.0, 1.5, 3.0, -2.0]]
    assert outputs["echo"].tolist() == [[1.0, 2.5, 4.0, -1.0]]


@pytest.mark.parametrize("level", [Level.SOURCE, Level.QUANTIZED])
def test_what_is_decrypted(level: Level) -> None:
    graph, n = classifier(level)
    assert decrypted(graph, n["label"]) == (n["z"], (n["square"].op, n["soft"].op, n["top"].op))
    assert decrypted(graph, n["raw"]) == (n["z"], ())
    assert decrypted(graph, n["echo"]) == (n["x"], ())


def test_client_op_on_decrypted_values() -> None:
    graph, n = classifier(Level.QUANTIZED)
    noisy = np.array([[0.1, 1.4, 3.1, -2.0], [5.0, 0.0, 0.0, 1.0]])
    x: npt.NDArray[Any] = noisy
    for op in decrypted(graph, n["label"])[1]:
        x = apply_client_op(op, x)
    assert x.tolist() == [[1, 0], [0, 1]]
    logs = apply_client_op(n["soft"].op, noisy.reshape(2, 2, 2))
    np.testing.assert_allclose(np.exp(logs).sum(axis=-1), 1.0)


@given(graphs(Level.QUANTIZED, tame=True), st.integers(0, 2**32 - 1))
@examples(60)
def test_tail_and_encrypted_part_make_the_whole(graph: Graph, seed: int) -> None:
    """What a backend and the client compute together is what the evaluator says."""
    values = evaluate_all(graph, inputs_for(graph, seed))
    for output, op in graph.of(Output):
        node, tail = decrypted(graph, output)
        assert node.type.fixed is not None, "the client's part starts at an encrypted value"
        x = real(node, values[node.id])
        for step in tail:
            x = apply_client_op(step, x)
        np.testing.assert_array_equal(x, evaluate(graph, inputs_for(graph, seed))[op.name])


def inputs_for(graph: Graph, seed: int, samples: int = 3) -> dict[str, F64]:
    rng = np.random.default_rng(seed)
    return {op.name: rng.integers(-8, 9, (samples, *op.shape)) / 4 for _, op in graph.of(Input)}


@given(graphs(tame=True), st.integers(0, 2**32 - 1))
@examples(60)
def test_samples_do_not_influence_each_other(graph: Graph, seed: int) -> None:
    together = evaluate_all(graph, inputs_for(graph, seed))
    for i in range(3):
        alone = evaluate_all(graph, {k: v[i : i + 1] for k, v in inputs_for(graph, seed).items()})
        for node in graph:
            assert together[node.id].shape == (3, *node.type.shape)
            np.testing.assert_allclose(together[node.id][i : i + 1], alone[node.id], rtol=1e-9, atol=1e-12)


@given(graphs(tame=True), st.integers(0, 2**32 - 1))
@examples(40)
def test_kinds_of_values(graph: Graph, seed: int) -> None:
    """Integers where there is a fixed-point format, floats elsewhere; outputs are always real."""
    values = evaluate_all(graph, inputs_for(graph, seed))
    for node in graph:
        assert values[node.id].dtype == (np.float64 if node.type.fixed is None else np.int64)
    again = evaluate(parse(to_text(graph)), inputs_for(graph, seed))
    for output, op in graph.of(Output):
        np.testing.assert_array_equal(again[op.name], values[output.id])


def test_inputs_that_do_not_fit() -> None:
    graph, _ = classifier(Level.SOURCE)
    with pytest.raises(IRError, match="no value for input 'x'"):
        evaluate(graph, {"y": np.zeros((1, 4))})
    with pytest.raises(IRError, match=r"input 'x' has shape \[3\] per sample, expected \[4\]"):
        evaluate(graph, {"x": np.zeros((1, 3))})
    with pytest.raises(IRError, match=r"input 'x' has shape \[\] per sample, expected \[4\]"):
        evaluate(graph, {"x": np.zeros(4)})


def test_every_op_is_defined() -> None:
    """An op that is added to the table needs a definition, and a test in this file or in test_network_ops.py."""
    here = {Input, Output, Reshape, Dense, Scale, Linear, Apply, Softmax, ArgMax, Switch, Unpack, Bootstrap}
    training = {MatMul, SumTo, Scatter}  # test_train_gradients.py
    trees = {Steps}  # test_trees.py
    slots = {Polynomial, IntegerPolynomial}  # test_slots.py, test_integers.py
    tables = {TableLookup, *CLIENT_OPS}  # test_tables.py, test_integers.py
    words = {Shorten, WordTable}  # test_words.py
    images = {Pixels, Interleave, Fold}  # test_image_layouts.py, test_seamless_images.py
    assert set(OPS.values()) == here | training | slots | tables | words | images | trees | {
        *TWO_OPERANDS,
        *MOVES_AND_REDUCTIONS,
    }


def test_op_without_a_definition() -> None:
    class Strange(Op):
        mnemonic = "strange"

    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (1,)))
    graph.add(Strange(), (x,))
    with pytest.raises(IRError, match=r"no definition for %1 \(strange\)"):
        evaluate_all(graph, {"x": np.zeros((1, 1))})
