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

from glyphc.frontends.onnx_windows import windows
from glyphc.frontends.window_maps import convolution
from glyphc.ir.errors import IRError, TooLargeError
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.kronecker import Kronecker
from glyphc.ir.matrices import Compressed, Full, Matrix, held_entries, settled, stacked, widened
from glyphc.ir.matrix_algebra import added, composed, diagonal, identity, negative
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


@st.composite
def kroneckers(
    draw: st.DrawFn, inputs: int | None = None, positions: int | None = None, like: Kronecker | None = None
) -> Kronecker:
    """Sums of Kronecker products of small integers; taps that stand nowhere and positions without any among them."""
    taps, outputs = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    inputs, positions = inputs or draw(st.integers(1, 3)), positions or draw(st.integers(1, 5))
    rows = draw(st.integers(1, 5))
    if like is not None:
        (_, outputs, inputs), (rows, positions) = like.kernel.shape, like.taps.shape
    kernel = draw(hnp.arrays(np.int64, (taps, outputs, inputs), elements=st.just(0) | st.integers(-9, 9)))
    places = draw(hnp.arrays(np.int64, (rows, positions), elements=st.integers(0, taps)))
    found = sparse.csr_array(places)
    return Kronecker.of_taps(kernel, found.data, found.indices, found.indptr, positions)


def entries(m: Kronecker) -> Array:
    """All entries, by numpy's Kronecker product."""
    places = m.taps.toarray()
    return sum(np.kron(k, places == t) for t, k in enumerate(m.kernel, 1))  # type: ignore[return-value]


@examples(60)
@given(integers() | kroneckers(), st.data())
def test_all_forms_say_the_same_as_all_entries(given: Array | Kronecker, data: st.DataObject) -> None:
    values = entries(given) if isinstance(given, Kronecker) else given
    rows, columns = values.shape
    x = data.draw(integers(columns=columns))
    one_or_each = st.sampled_from([1, columns])
    by_column = data.draw(one_or_each.flatmap(lambda n: hnp.arrays(np.float64, n, elements=st.floats(-4, 4))))
    by_row = data.draw(hnp.arrays(np.float64, rows, elements=st.floats(0.5, 4)))
    for m in [given] if isinstance(given, Kronecker) else both(values):
        assert m.finite
        np.testing.assert_array_equal(m.transposed.dense(), values.T)
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
            used, found = m.row(i)
            np.testing.assert_array_equal(used, np.flatnonzero(values[i]))
            np.testing.assert_array_equal(found, values[i][values[i] != 0])


@examples(40)
@given(integers() | kroneckers(), st.integers(1, 6))
def test_parts_hold_every_entry_once(given: Array | Kronecker, count: int) -> None:
    values = entries(given) if isinstance(given, Kronecker) else given
    for m in [given] if isinstance(given, Kronecker) else both(values):
        parts = m.parts(count)
        for part in range(count):
            block = values[:, part::count]
            rows, places, found = parts.entries(part)
            assert parts.used(part) is bool(block.any())
            out = np.zeros_like(block)
            out[rows, places] = found
            np.testing.assert_array_equal(out, block)
            order = rows * block.shape[1] + places
            assert found.all() and (np.diff(order) > 0).all()  # row by row, which programs are compared by


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


@examples(60)
@given(st.data())
def test_products_and_sums(data: st.DataObject) -> None:
    inner = data.draw(kroneckers())
    (_, channels, _), positions = inner.kernel.shape, inner.taps.shape[0]
    outer = data.draw(kroneckers(channels, positions))
    product = composed(outer, inner, "it")
    assert isinstance(product, Kronecker)
    np.testing.assert_array_equal(product.dense(), entries(outer) @ entries(inner))
    plain = Compressed(outer.csr())
    np.testing.assert_array_equal(composed(plain, inner, "it").dense(), entries(outer) @ entries(inner))
    # what poolings and paddings are: the same within every channel
    moved = data.draw(kroneckers(1, positions))
    alike = Kronecker(np.eye(channels) * moved.kernel[:, :1, :1], moved.taps)
    np.testing.assert_array_equal(
        composed(Compressed(alike.csr()), inner, "it").dense(), entries(alike) @ entries(inner)
    )
    other = data.draw(kroneckers(like=inner))
    sign = data.draw(st.sampled_from([1.0, -1.0]))
    total = added(inner, other, sign)
    assert isinstance(total, Kronecker)
    np.testing.assert_array_equal(total.dense(), entries(inner) + sign * entries(other))
    np.testing.assert_array_equal(added(Compressed(inner.csr()), other, sign).dense(), total.dense())
    np.testing.assert_array_equal(negative(inner).dense(), -entries(inner))
    if inner.shape[0] == inner.shape[1]:
        unit = np.eye(inner.shape[0])
        np.testing.assert_array_equal(added(inner, identity(len(unit)), sign).dense(), entries(inner) + sign * unit)
        np.testing.assert_array_equal(added(identity(len(unit)), inner, sign).dense(), unit + sign * entries(inner))


@examples(30)
@given(kroneckers(), st.integers(0, 99), st.booleans())
def test_scaled_channels_leave_a_convolution_one(m: Kronecker, seed: int, by_channel: bool) -> None:
    rng = np.random.default_rng(seed)
    (_, outputs, inputs), (rows, columns) = m.kernel.shape, m.taps.shape
    after = np.repeat(rng.normal(size=outputs), rows) if by_channel else rng.normal(size=m.shape[0])
    before = np.repeat(rng.normal(size=inputs), columns) if by_channel else rng.normal(size=m.shape[1])
    found = composed(composed(diagonal(after), m, "it"), diagonal(before), "it")
    np.testing.assert_allclose(found.dense(), after[:, None] * entries(m) * before, atol=1e-12)
    assert isinstance(found, Kronecker) or not by_channel
    scaled = m.scaled(1 / after, before)
    np.testing.assert_allclose(scaled.dense(), found.dense(), atol=1e-12)
    assert isinstance(scaled, Kronecker) or not by_channel
    assert composed(identity(m.shape[0]), m, "it") is m
    assert composed(m, identity(m.shape[1]), "it") is m


def test_selections_of_positions_leave_a_convolution_one() -> None:
    """Of every channel the same ones: what the maximum over windows begins with."""
    rng = np.random.default_rng(3)
    m = convolution(rng.normal(size=(4, 3, 3, 3)), 3, 1, windows((9, 9), (3, 3), (), (), (1, 1, 1, 1), "NOTSET", False))
    places = rng.permutation(81)[:30]
    after = Compressed(sparse.csr_array(sparse.kron(sparse.eye_array(4), sparse.eye_array(81).tocsr()[places])))
    before = Compressed(sparse.csr_array(sparse.kron(sparse.eye_array(3), sparse.eye_array(81).tocsr()[:, ::-1])))
    found = composed(composed(after, m, "it"), before, "it")
    assert isinstance(found, Kronecker)
    np.testing.assert_allclose(found.dense(), after.dense() @ m.dense() @ before.dense())
    # not where channels are moved
    other = Compressed(sparse.csr_array(sparse.eye_array(324).tocsr()[rng.permutation(324)]))
    np.testing.assert_allclose(composed(other, m, "it").dense(), other.dense() @ m.dense())


def test_a_product_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLYPHC_MEMORY_LIMIT", "1GB")
    column = Compressed.canonical(sparse.csr_array(np.ones((20000, 1))))
    with pytest.raises(TooLargeError, match=r"it: a linear map from 20000 to 20000 values needs about 12.8 GB"):
        composed(column, column.transposed, "it")


def test_large_matrices_of_few_entries_are_held_by_these() -> None:
    eye = Compressed(sparse.eye_array(5000, format="csr"))
    assert isinstance(settled(eye), Compressed)
    assert isinstance(settled(Compressed(eye.rows[:20, :20])), Full)
    assert isinstance(settled(Compressed(sparse.csr_array(np.ones((300, 300))))), Full)
    assert (held_entries(eye), held_entries(Compressed(eye.rows[:20, :20]))) == (5000, 400)


def test_a_convolution_is_held_by_its_kernel() -> None:
    """64 channels at 32 x 32 positions: 38 million weights in the matrix, 36,864 in the kernel."""
    m = convolution(np.ones((64, 64, 3, 3)), 64, 1, windows((32, 32), (3, 3), (), (), (1, 1, 1, 1), "NOTSET", False))
    assert isinstance(settled(m), Kronecker)
    assert (m.count, m.shape) == (64 * 64 * (3 * 32 - 2) ** 2, (65536, 65536))
    assert held_entries(m) == 64 * 64 * 9 + (3 * 32 - 2) ** 2


def test_all_entries_of_a_huge_matrix_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLYPHC_MEMORY_LIMIT", "1GB")
    with pytest.raises(TooLargeError, match=r"linear map from 5000 to 5000 values needs about 1\.4 GB"):
        Compressed(sparse.eye_array(5000, format="csr")).dense()


# -- as weights of graphs --


def network(level: Level = Level.SOURCE, rows: int = 400) -> Graph:
    """A map of 400 values that shifts them, held by its weights."""
    dtype = np.float64 if level is Level.SOURCE else np.int64
    shift = Compressed(sparse.csr_array(sparse.diags_array([np.full(rows - 1, 3)], offsets=[1], dtype=dtype)))
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


def test_sums_of_many_places_of_one_tap_stay_exact() -> None:
    """A mean reads its one tap at every place: the sum is beyond 2^53 where no single product is."""
    kernel = np.ones((1, 1, 1), dtype=np.int64)
    taps = sparse.csr_array(np.ones((1, 49), dtype=np.int32))
    x = np.full((49, 1), 2**52 - 1, dtype=np.int64)
    x[0] += 2
    assert Kronecker(kernel, taps).times(x)[0, 0] == sum(int(v) for v in x[:, 0])


def test_no_samples_give_no_results() -> None:
    empty = np.zeros((49, 0), dtype=np.int64)
    taps = sparse.csr_array(np.ones((1, 49), dtype=np.int32))
    assert Kronecker(np.ones((1, 1, 1), dtype=np.int64), taps).times(empty).shape == (1, 0)
