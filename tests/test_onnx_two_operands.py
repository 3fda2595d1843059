"""ONNX operators on several of the network's own values, maxima and softmax inside, against ONNX Runtime in float."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import NodeProto, TensorProto
from onnx_models import Constants, Floats, W, assert_same, build, f32, i64, node, ops, randoms
from strategies import examples

from glyphc.ir.ops import Add, Apply, ArgMax, Dense, Gather, Hardmax, ReduceMax, Reshape, Scale, Softmax

Shape = tuple[int, ...]
seeds = st.integers(0, 2**32 - 1)


def values(seed: int, *shape: int) -> Floats:
    """No two elements of a sample are nearly alike: float32 must not decide which of them is larger."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape[1:], dtype=int))
    rows = [rng.permutation(size) for _ in range(shape[0])]
    return np.asarray((np.array(rows) - size / 2 + 0.25).reshape(shape) / 4, dtype=np.float32)


# -- elementwise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_two_values_of_the_network(op_type: str, batch: int | str) -> None:
    """Both operands depend on the input; their axes broadcast, as many as there are."""

    @examples(15)
    @given(hnp.mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=2, max_side=3), seeds)
    def check(found: hnp.BroadcastableShapes, seed: int) -> None:
        a, b = found.input_shapes
        rank = max(len(a), len(b))
        a, b = ((1,) * (rank - len(s)) + s for s in (a, b))
        rng = np.random.default_rng(seed)
        constants: Constants = {
            "wa": rng.normal(size=(4, int(np.prod(a)))),
            "wb": rng.normal(size=(4, int(np.prod(b)))),
            "sa": i64(-1, *a),
            "sb": i64(-1, *b),
        }
        nodes = [
            node("MatMul", ["x", "wa"], ["a0"]),
            node("MatMul", ["x", "wb"], ["b0"]),
            node("Sigmoid", ["b0"], ["b1"]),  # divisors stay away from zero
            node("Reshape", ["a0", "sa"], ["a"]),
            node("Reshape", ["b1", "sb"], ["b"]),
            node(op_type, ["a", "b"], ["y"]),
        ]
        x = np.asarray(rng.normal(size=(batch if isinstance(batch, int) else 5, 4)))
        assert_same(build(nodes, constants, batch=batch, dtype=TensorProto.DOUBLE), x, atol=1e-9, rtol=1e-9)

    check()


@pytest.mark.parametrize("op_type", ["Max", "Min"])
@pytest.mark.parametrize(
    ("operands", "constants"),
    [
        (["x", "h", "g"], {}),
        (["x", "c"], {"c": f32(0.5)}),
        (["c", "x"], {"c": randoms(3, seed=4)}),
        (["c", "x", "d", "h"], {"c": randoms(1, 3, seed=4), "d": f32(-0.25)}),
        (["x"], {}),
        (["x", "x"], {}),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, list) else None,
)
def test_extrema_of_tensors_and_constants(op_type: str, operands: list[str], constants: Constants) -> None:
    nodes = [node("Neg", ["x"], ["h"]), node("Tanh", ["x"], ["g"]), node(op_type, operands, ["y"])]
    assert_same(build(nodes, constants, (2, 3)), randoms(5, 2, 3, seed=5))


@pytest.mark.parametrize("constant_first", [False, True])
@pytest.mark.parametrize("op_type", ["Greater", "Less"])
def test_comparisons_with_a_constant(op_type: str, constant_first: bool) -> None:
    nodes = [
        node(op_type, ["c", "x"] if constant_first else ["x", "c"], ["b"]),
        node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
    ]
    assert_same(build(nodes, {"c": f32(0.5, 0.0, -1.0)}, (3,)), randoms(20, 3))


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 2, 2)], ids=str)
@pytest.mark.parametrize("kind", ["one", "all alike", "channels", "elements"])
def test_prelu(shape: Shape, kind: str) -> None:
    slope = {
        "one": f32(0.25),
        "all alike": np.full((3, *[1] * (len(shape) - 1)), 0.25, dtype=np.float32),
        "channels": f32(0.25, -1.5, 1.0).reshape(3, *[1] * (len(shape) - 1)),
        "elements": randoms(*shape, seed=6),
    }[kind]
    graph = assert_same(build([node("PRelu", ["x", "slope"], ["y"])], {"slope": slope}, shape), randoms(5, *shape))
    assert ops(graph) == ([Apply] if kind in ("one", "all alike") else [Apply, Scale, Scale, Add])


# -- concat --------------------------------------------------------------------------------------------------


@examples(40)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.data())
def test_concat_over_every_axis(shape: list[int], data: st.DataObject) -> None:
    """The input and slices of it by dense maps, joined along any axis of a sample."""
    axis = data.draw(st.integers(1, len(shape)))
    widths = data.draw(st.lists(st.integers(1, 3), min_size=0, max_size=2))
    nodes: list[NodeProto] = [node("Flatten", ["x"], ["flat"])]
    constants: Constants = {}
    parts = ["x"]
    for i, width in enumerate(widths):
        part = [width if n == axis - 1 else size for n, size in enumerate(shape)]
        constants |= {f"w{i}": randoms(int(np.prod(shape)), int(np.prod(part)), seed=i), f"s{i}": i64(-1, *part)}
        nodes.append(node("MatMul", ["flat", f"w{i}"], [f"m{i}"]))
        nodes.append(node("Reshape", [f"m{i}", f"s{i}"], [f"p{i}"]))
        parts.insert(data.draw(st.integers(0, len(parts))), f"p{i}")
    written = data.draw(st.sampled_from([axis, axis - len(shape) - 1]))
    model = build([*nodes, node("Concat", parts, ["y"], axis=written)], constants, tuple(shape))
    assert_same(model, randoms(4, *shape), atol=1e-4)


def test_a_tensor_beside_itself() -> None:
    model = build([node("Concat", ["x", "x"], ["y"], axis=2)], {}, (2, 2))
    assert ops(assert_same(model, randoms(3, 2, 2))) == [Gather]


# -- the largest element -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "axis"), [((5,), 1), ((5,), -1), ((2, 3), 2), ((1,), 1)])
@pytest.mark.parametrize("op_type", ["Hardmax", "TopK values", "TopK indices", "TopK both"])
def test_the_largest(op_type: str, shape: Shape, axis: int) -> None:
    kinds: list[type] = [Hardmax]
    if op_type == "Hardmax":
        model = build([node("Hardmax", ["x"], ["y"], axis=axis)], {}, shape)
    else:
        nodes = [
            node("TopK", ["x", "k"], ["v", "i"], axis=axis, sorted=1),
            node("Cast", ["i"], ["index"], to=TensorProto.FLOAT),
            node("Neg", ["v"], ["value"]),
        ]
        outputs = {"values": ("value",), "indices": ("index",), "both": ("value", "index")}[op_type.split()[1]]
        model = build(nodes, {"k": i64(1)}, shape, outputs=outputs)
        kinds = {"values": [ReduceMax, Reshape, Scale], "indices": [ArgMax]}.get(
            op_type.split()[1], [ReduceMax, Reshape, ArgMax, Scale]
        )
    graph = assert_same(model, values(1, 6, *shape))
    assert ops(graph) == kinds


def test_hardmax_of_equal_elements_marks_the_first() -> None:
    x = f32([1, 2, 2], [3, 3, 3], [-1, -2, -1], [0, 0, 1])
    assert_same(build([node("Hardmax", ["x"], ["y"])], {}, (3,)), x)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "ArgMax"])
@pytest.mark.parametrize("also_output", [False, True])
def test_softmax_and_argmax_inside_the_network(op_type: str, also_output: bool) -> None:
    """Read like everything else; whether they are computed encrypted is the compiler's affair."""
    nodes = [
        node(op_type, ["x"], ["p"], "inner", axis=1),
        node("Identity", ["p"], ["q"]),
        node("Cast", ["q"], ["r"], to=TensorProto.FLOAT),
        node("Neg", ["r"], ["y"], "after"),
    ]
    graph = assert_same(build(nodes, outputs=("p", "y") if also_output else ("y",)), values(2, 6, 4))
    assert ops(graph) == [ArgMax if op_type == "ArgMax" else Softmax, Scale]


def test_attention_over_features() -> None:
    """Two branches meet in a product, one of them through a softmax; names of all nodes are kept."""
    nodes = [
        node("Gemm", ["x", "w"], ["h"], "values"),
        node("Gemm", ["x", "v"], ["s"], "scores"),
        node("Softmax", ["s"], ["p"], "weights"),
        node("Mul", ["h", "p"], ["y"], "weighted"),
    ]
    graph = assert_same(build(nodes, {"w": W, "v": randoms(4, 3, seed=7)}), randoms(5, 4))
    assert [n.location for n in graph][1:-1] == ["values", "scores", "weights", "weighted"]
    assert ops(graph)[:3] == [Dense, Dense, Softmax]


@pytest.mark.parametrize("shape", [[5], [2, 5], [2, 1]])
@pytest.mark.parametrize("less_maximum", [False, True])
def test_a_softmax_that_is_written_out(shape: list[int], less_maximum: bool) -> None:
    nodes = [node("Exp", ["z"], ["e"]), node("ReduceSum", ["e", "last"], ["s"]), node("Div", ["e", "s"], ["y"])]
    before = [node("ReduceMax", ["x"], ["m"], axes=[-1]), node("Sub", ["x", "m"], ["z"])]
    nodes = [*(before if less_maximum else [node("Identity", ["x"], ["z"])]), *nodes]
    model = build(nodes, {"last": i64(-1)}, tuple(shape))
    graph = assert_same(model, randoms(3, *shape))
    assert [op for _, op in graph.of(Softmax)] == [Softmax()] and not any(True for _ in graph.of(Apply))


@pytest.mark.parametrize("other", ["another sum", "another axis"])
def test_what_looks_like_a_softmax(other: str) -> None:
    """The sum is of something else, or goes along another axis."""
    nodes = [
        node("Exp", ["x"], ["e"]),
        node("Mul", ["x", "two"], ["w"]),
        node("Exp", ["w"], ["f"]),
        node("ReduceSum", ["f" if other == "another sum" else "e", "axis"], ["s"]),
        node("Div", ["e", "s"], ["y"]),
    ]
    axis = i64(-1 if other == "another sum" else 1)
    graph = assert_same(build(nodes, {"axis": axis, "two": f32(2.0)}, (3, 3)), randoms(2, 3, 3))
    assert not any(True for _ in graph.of(Softmax))
