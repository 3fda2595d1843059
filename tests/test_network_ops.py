"""The ops of networks that `expand` and `fold` replace: shapes, values against numpy, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import examples

from glyphc.ir.errors import IRError
from glyphc.ir.evaluate import evaluate_all
from glyphc.ir.graph import Graph
from glyphc.ir.ops import (
    Add,
    Affine,
    Concat,
    Const,
    Div,
    Gather,
    Hardmax,
    Max,
    Min,
    Mul,
    Op,
    ReduceMax,
    ReduceSum,
    Sub,
)
from glyphc.ir.ops import Input as Source
from glyphc.ir.types import Level

F64 = npt.NDArray[np.float64]
Shape = tuple[int, ...]

# By plain arithmetic on one pair of numbers.
TWO_OPERANDS: dict[type[Op], Callable[[float, float], float]] = {
    Add: lambda a, b: a + b,
    Sub: lambda a, b: a - b,
    Mul: lambda a, b: a * b,
    Div: lambda a, b: a / b,
    Max: lambda a, b: a if a > b else b,
    Min: lambda a, b: a if a < b else b,
}
MOVES_AND_REDUCTIONS = (Affine, Concat, Gather, ReduceSum, ReduceMax, Hardmax)


def run(op: Op, *operands: npt.NDArray[Any], constants: dict[str, Any] | None = None) -> F64:
    """The value of ``op`` for samples of each operand, after a look at its shape."""
    graph = Graph(Level.SOURCE, len(operands[0]))
    for name, value in (constants or {}).items():
        graph.add_constant(name, np.asarray(value))
    sources = tuple(graph.add(Source(f"x{i}", x.shape[1:])) for i, x in enumerate(operands))
    node = graph.add(op, sources)
    value = evaluate_all(graph, {f"x{i}": x for i, x in enumerate(operands)})[node.id]
    assert value.shape == (len(operands[0]), *node.type.shape)
    return np.asarray(value)


def refused(op: Op, *shapes: Shape, constants: dict[str, Any] | None = None) -> str:
    graph = Graph(Level.SOURCE, 1)
    for name, value in (constants or {}).items():
        graph.add_constant(name, np.asarray(value))
    sources = tuple(graph.add(Source(f"x{i}", shape)) for i, shape in enumerate(shapes))
    with pytest.raises(IRError) as caught:
        graph.add(op, sources, location="here")
    assert str(caught.value).startswith(f"{op.mnemonic} @here")
    return str(caught.value)


def samples(seed: int, count: int, shape: Shape) -> F64:
    """Small multiples of 1/4, no zeros: sums and products are exact, quotients exist, ties occur."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.integers(1, 9, (count, *shape)) * rng.choice([-0.25, 0.25], (count, *shape)))


seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
with_axis = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


# -- two operands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TWO_OPERANDS, ids=lambda kind: kind.mnemonic)
def test_elementwise_ops_broadcast_the_axes_of_samples(kind: type[Op]) -> None:
    """Sample by sample and element by element; the batch never takes part, whatever the ranks."""

    @examples(40)
    @given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3), st.integers(1, 3), seeds)
    def check(found: hnp.BroadcastableShapes, count: int, seed: int) -> None:
        a, b = (samples(seed + i, count, shape) for i, shape in enumerate(found.input_shapes))
        y = run(kind(), a, b)
        assert y.shape == (count, *found.result_shape)
        for s in range(count):
            left, right = np.broadcast_to(a[s], found.result_shape), np.broadcast_to(b[s], found.result_shape)
            for at in np.ndindex(*found.result_shape):
                assert y[s][at] == TWO_OPERANDS[kind](float(left[at]), float(right[at]))

    check()


@pytest.mark.parametrize("kind", TWO_OPERANDS, ids=lambda kind: kind.mnemonic)
@pytest.mark.parametrize("pair", [((3,), (2,)), ((2, 3), (2,)), ((4,), (3, 2))], ids=str)
def test_shapes_that_do_not_broadcast(kind: type[Op], pair: tuple[Shape, Shape]) -> None:
    message = refused(kind(), *pair)
    assert f"shapes {list(pair[0])} and {list(pair[1])} do not broadcast" in message


@pytest.mark.parametrize("kind", TWO_OPERANDS, ids=lambda kind: kind.mnemonic)
@pytest.mark.parametrize("count", [1, 3])
def test_two_operands_are_two(kind: type[Op], count: int) -> None:
    assert f"takes 2 operand(s), not {count}" in refused(kind(), *[(2,)] * count)


def test_a_quotient_by_zero_is_not_finite_and_no_warning() -> None:
    """Passes look for such values and name the node."""
    y = run(Div(), np.array([[1.0, 0.0, -2.0]]), np.zeros((1, 3)))
    assert not np.isfinite(y).any()


# -- concat and gather ---------------------------------------------------------------------------------------


@examples(40)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3), seeds)
def test_concat(sizes: list[int], count: int, seed: int) -> None:
    parts = [samples(seed + i, count, (size,)) for i, size in enumerate(sizes)]
    y = run(Concat(), *parts)
    assert y.tolist() == [[float(v) for part in parts for v in part[s]] for s in range(count)]


def test_concat_needs_flat_tensors_and_at_least_one() -> None:
    assert "concat takes flat tensors" in refused(Concat(), (2,), (2, 1))
    assert "concat takes flat tensors" in refused(Concat(), ())
    assert "takes any number of operand(s), not 0" in refused(Concat())


@examples(60)
@given(shapes, shapes, st.integers(1, 3), seeds, st.sampled_from([np.int64, np.uint8]))
def test_gather_takes_elements_in_row_major_order(
    shape: Shape, wanted: Shape, count: int, seed: int, dtype: type[np.generic]
) -> None:
    x = samples(seed, count, shape)
    indices = np.random.default_rng(seed).integers(0, x[0].size, wanted)
    y = run(Gather(Const("i")), x, constants={"i": np.asarray(indices, dtype=dtype)})
    assert y.shape == (count, *wanted)
    for s in range(count):
        np.testing.assert_array_equal(y[s], x[s].ravel()[indices])


def test_gather_can_transpose_slice_and_repeat() -> None:
    x = np.arange(12.0).reshape(2, 2, 3)
    transposed = np.arange(6).reshape(2, 3).T
    np.testing.assert_array_equal(run(Gather(Const("i")), x, constants={"i": transposed}), x.transpose(0, 2, 1))
    np.testing.assert_array_equal(run(Gather(Const("i")), x, constants={"i": [1, 4]}), x[:, :, 1])
    np.testing.assert_array_equal(run(Gather(Const("i")), x, constants={"i": [5] * 3}), x[:, 1, 2:].repeat(3, axis=1))


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        (np.array([0, 6]), "reach beyond the 6 elements"),
        (np.array([-1]), "reach beyond the 6 elements"),
        (np.array([0.0, 1.0]), "needs integer indices, 'i' is float64 of 2"),
        (np.array([True, False]), "needs integer indices, 'i' is bool of 2"),
        (np.zeros((0, 2), dtype=np.int64), "needs integer indices, 'i' is int64 of 0"),
    ],
)
def test_indices_that_do_not_fit(indices: npt.NDArray[Any], words: str) -> None:
    assert words in refused(Gather(Const("i")), (2, 3), constants={"i": indices})


@examples(60)
@given(shapes, shapes, st.integers(1, 3), seeds)
def test_affine_is_a_matrix_over_all_elements(shape: Shape, wanted: Shape, count: int, seed: int) -> None:
    x, rng = samples(seed, count, shape), np.random.default_rng(seed)
    rows = int(np.prod(wanted, dtype=int))
    indptr = np.concatenate([[0], np.cumsum(rng.integers(0, 4, rows))])
    indices, data = rng.integers(0, x[0].size, indptr[-1]), rng.normal(size=indptr[-1])
    bias = rng.normal(size=rows)
    constants = {"d": data, "i": indices, "p": indptr, "b": bias}
    y = run(Affine(wanted, *map(Const, "dipb")), x, constants=constants)
    assert y.shape == (count, *wanted)
    for s in range(count):
        for row in range(rows):
            entries = range(indptr[row], indptr[row + 1])
            total = bias[row] + sum(data[e] * x[s].ravel()[indices[e]] for e in entries)
            assert y[s].ravel()[row] == pytest.approx(total)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"b": [0.0]}, "needs 2 rows and shifts"),
        ({"p": [0, 1]}, "needs 2 rows and shifts"),
        ({"i": [0.0, 1.0]}, "places of a sparse matrix are integers"),
        ({"d": [1.0]}, "sparse matrix of 1 entries has 2 places"),
        ({"p": [0, 1, 1]}, "rows of a sparse matrix must follow one another"),
        ({"p": [0, 3, 2]}, "rows of a sparse matrix must follow one another"),
        ({"i": [0, 6]}, "beyond the 6 elements"),
        ({"i": [-1, 0]}, "beyond the 6 elements"),
    ],
)
def test_sparse_matrices_that_do_not_fit(changed: dict[str, Any], words: str) -> None:
    constants = {"d": [1.0, 2.0], "i": [0, 5], "p": [0, 1, 2], "b": [0.0, 0.0]} | changed
    assert words in refused(Affine((2,), *map(Const, "dipb")), (2, 3), constants=constants)


# -- over the last axis --------------------------------------------------------------------------------------


@examples(40)
@given(with_axis, st.integers(1, 3), seeds)
def test_reductions_of_the_last_axis(shape: Shape, count: int, seed: int) -> None:
    x = samples(seed, count, shape)
    total, largest = run(ReduceSum(), x), run(ReduceMax(), x)
    for at in np.ndindex(count, *shape[:-1]):
        assert total[at] == sum(x[at].tolist())
        assert largest[at] == max(x[at].tolist())


@examples(40)
@given(with_axis, st.integers(1, 3), seeds)
def test_hardmax_marks_the_first_largest(shape: Shape, count: int, seed: int) -> None:
    x = samples(seed, count, shape)
    y = run(Hardmax(), x)
    for at in np.ndindex(count, *shape[:-1]):
        row = x[at].tolist()
        assert y[at].tolist() == [1.0 if i == row.index(max(row)) else 0.0 for i in range(len(row))]


@pytest.mark.parametrize("kind", [ReduceSum, ReduceMax, Hardmax], ids=lambda kind: kind.mnemonic)
def test_reductions_need_an_axis(kind: type[Op]) -> None:
    assert "needs at least one axis" in refused(kind(), ())


@pytest.mark.parametrize("kind", [*TWO_OPERANDS, *MOVES_AND_REDUCTIONS], ids=lambda kind: kind.mnemonic)
def test_these_ops_are_of_the_source_level_only(kind: type[Op]) -> None:
    """What is quantized has been expanded and folded."""
    assert kind.levels == {Level.SOURCE}
