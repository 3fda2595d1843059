"""Matrices of linear maps, dense and in compressed rows, against numpy on all of their entries."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from strategies import examples

from glyphc.ir.errors import IRError, TooLargeError
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.matrices import Compressed, Full, Matrix, matrix, stacked, widened
from glyphc.ir.ops import Const, Dense, Input, Linear, Output, Sparse
from glyphc.ir.text import parse, to_text
from glyphc.ir.types import FixedPoint, Level, TensorType
from glyphc.ir.verify import verify

Array = npt.NDArray[Any]
sizes = st.integers(1, 9)


@st.composite
def integers(draw: st.DrawFn, rows: int | None = None, columns: int | None = None) -> npt.NDArray[np.int64]:
    """Small integers, most of them zero; rows and columns of zeros among them."""
    shape = (rows or draw(sizes), columns or draw(sizes))
    elements = st.just(0) | st.integers(-9, 9)
    return draw(hnp.arrays(np.int64, shape, elements=elements))


def both(values: Array) -> list[Matrix]:
    """All ways to hold a matrix."""
    return [Full(values), Compressed.canonical(sparse.csr_array(values))]


@examples(60)
@given(integers(), st.data())
def test_both_forms_say_the_same_as_all_entries(values: npt.NDArray[np.int64], data: st.DataObject) -> None:
    rows, columns = values.shape
    x = data.draw(integers(columns=columns))
    one_or_each = st.sampled_from([1, columns])
    by_column = data.draw(one_or_each.flatmap(lambda n: hnp.arrays(np.float64, n, elements=st.floats(-4, 4))))
    by_row = data.draw(hnp.arrays(np.float64, rows, elements=st.floats(0.5, 4)))
    for m in both(values):
        assert (m.shape, m.count, m.largest) == (values.shape, np.count_nonzero(values), np.abs(values).max())
        np.testing.assert_array_equal(m.dense(), values)
        np.testing.assert_array_equal(m.csr().toarray(), values)
        assert m.of(x).dtype == np.int64
        np.testing.assert_array_equal(m.of(x), x @ values.T)
        np.testing.assert_array_equal(m.times(x[0]), values @ x[0])
        np.testing.assert_array_equal(m.floats().times(x.T.astype(np.float64)), values @ x.T)
        np.testing.assert_array_equal(m.sums(), values.sum(axis=1))
        np.testing.assert_allclose(m.weighted(by_column), (values * by_column).sum(axis=1), atol=1e-9)
        np.testing.assert_allclose(m.energies(by_column), ((values * by_column) ** 2).sum(axis=1), atol=1e-9)
        np.testing.assert_array_equal(m.reached(x[0].astype(np.float64)), (values != 0) @ x[0])
        scaled = m.scaled(by_row, by_column)
        np.testing.assert_allclose(scaled.dense(), values * by_column / by_row[:, None], rtol=1e-12)
        np.testing.assert_array_equal(scaled.rounded().dense(), np.rint(values * by_column / by_row[:, None]))
        assert scaled.rounded().count == np.count_nonzero(scaled.rounded().dense())
        for i in range(rows):
            used, entries = m.row(i)
            np.testing.assert_array_equal(used, np.flatnonzero(values[i]))
            np.testing.assert_array_equal(entries, values[i][values[i] != 0])


@examples(40)
@given(integers(), st.integers(1, 6))
def test_parts_hold_every_entry_once(values: npt.NDArray[np.int64], count: int) -> None:
    for m in both(values):
        parts = m.parts(count)
        for part in range(count):
            block = values[:, part::count]
            rows, places, entries = parts.entries(part)
            assert parts.used(part) is bool(block.any())
            out = np.zeros_like(block)
            out[rows, places] = entries
            np.testing.assert_array_equal(out, block)
            order = rows * block.shape[1] + places
            assert entries.all() and (np.diff(order) > 0).all()  # row by row, which programs are compared by


@examples(40)
@given(st.data())
def test_stacked_and_widened(data: st.DataObject) -> None:
    columns, above = data.draw(sizes), data.draw(st.integers(0, 5))
    first, second = data.draw(integers(columns=columns)), data.draw(integers(columns=columns))
    at = len(first) if data.draw(st.booleans()) else 0
    rows = max(len(first), at + len(second))
    wanted = np.zeros((rows, columns), dtype=np.int64)
    wanted[: len(first)] += first
    wanted[at : at + len(second)] += second
    wide = np.pad(first, ((0, 0), (above, 3)))
    for a, b in zip(both(first), both(second), strict=True):
        np.testing.assert_array_equal(stacked([(0, a), (at, b)], rows).dense(), wanted)
        np.testing.assert_array_equal(widened(a, above, columns + above + 3).dense(), wide)
    np.testing.assert_array_equal(stacked([(0, both(first)[0]), (at, both(second)[1])], rows).dense(), wanted)


def test_large_matrices_of_few_entries_are_held_by_these() -> None:
    eye = sparse.eye_array(5000, format="csr")
    assert isinstance(matrix(eye), Compressed)
    assert isinstance(matrix(eye[:20, :20]), Full)
    assert isinstance(matrix(sparse.csr_array(np.ones((300, 300)))), Full)


def test_all_entries_of_a_huge_matrix_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLYPHC_MEMORY_LIMIT", "1GB")
    with pytest.raises(TooLargeError, match=r"linear map from 5000 to 5000 values needs about 1\.4 GB"):
        matrix(sparse.eye_array(5000, format="csr")).dense()


# -- as weights of graphs --


def network(level: Level = Level.SOURCE, rows: int = 400) -> Graph:
    """A map of 400 values that shifts them, held by its weights."""
    dtype = np.float64 if level is Level.SOURCE else np.int64
    shift = matrix(sparse.csr_array(sparse.diags_array([np.full(rows - 1, 3)], offsets=[1], dtype=dtype)))
    graph = Graph(level, 1)
    fixed = None if level is Level.SOURCE else FixedPoint((1.0,), (0.0,), -100, 100)
    type = TensorType((rows,), fixed=fixed)
    x = graph.add(Input("x", (rows,)), type=type)
    weights, bias = (graph.add_matrix("w", shift),), Const(graph.add_constant("b", np.arange(rows, dtype=dtype)))
    op = Dense(weights, bias) if level is Level.SOURCE else Linear(weights, bias)
    graph.add(Output("y"), (graph.add(op, (x,), type, "shift"),))
    return graph


@pytest.mark.parametrize("level", [Level.SOURCE, Level.QUANTIZED])
def test_sparse_weights_are_a_part_of_the_text(level: Level) -> None:
    graph = network(level)
    verify(graph)
    again = parse(to_text(graph))
    assert again == graph
    (_, op) = next(again.of(Dense if level is Level.SOURCE else Linear))  # type: ignore[type-abstract]
    assert isinstance(op.weights[0], Sparse)
    x = np.random.default_rng(0).integers(-9, 9, (2, 400)).astype(np.float64)
    wanted = np.pad(3 * x[:, 1:], ((0, 0), (0, 1))) + np.arange(400)
    np.testing.assert_array_equal(evaluate(again, {"x": x})["y"], wanted)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("w.indices", lambda v: v + 1, "beyond the 400 elements"),
        ("w.indices", lambda v: v - 2, "beyond the 400 elements"),
        ("w.indices", lambda v: v[:-1], "399 entries has 398 places"),
        ("w.indices", lambda v: v.astype(np.float64), "are integers"),
        ("w.indptr", lambda v: v[::-1].copy(), "must follow one another"),
        ("w.indptr", lambda v: v[:-2], "must follow one another"),
        ("w.indptr", lambda v: v[:0], "beginnings of its rows"),
        ("w.indptr", lambda v: np.concatenate([np.zeros(len(v) - 1, v.dtype), v[-1:]]), "must grow"),
    ],
)
def test_damaged_sparse_weights_are_refused(part: str, value: Any, message: str) -> None:
    """Whatever a file holds, no place outside the matrix is ever read."""
    good = network()
    bad = Graph(Level.SOURCE, 1)
    for name, known in good.constants.items():
        bad.add_constant(name, value(known) if name == part else known)
    if message == "must grow":
        bad._constants["w.indices"] = good.constants["w.indices"][::-1]
    x = bad.add(Input("x", (400,)))
    ((_, op),) = good.of(Dense)
    with pytest.raises(IRError, match=message):
        bad.add(op, (x,))


def test_the_text_of_damaged_sparse_weights_names_the_line() -> None:
    text = to_text(network()).replace("columns=400", "columns=300")
    with pytest.raises(IRError, match=r"line 3, column 1: .*beyond the 300 elements"):
        parse(text)


def test_encrypted_weights_show_no_zeros() -> None:
    graph = network(Level.QUANTIZED)
    ((node, op),) = graph.of(Linear)
    hidden = Graph(Level.QUANTIZED, 1)
    for name in graph.constants:
        hidden.take_constant(graph, name)
    x = hidden.add(graph.node(0).op, (), graph.node(0).type)
    y = hidden.add(Linear(op.weights, op.bias, (4.0,)), (x,), node.type)
    hidden.add(Output("y"), (y,), node.type)
    with pytest.raises(IRError, match="show where their zeros are"):
        verify(hidden)
