"""Sequences of tensors, as exporters split and join with them: nothing is left of them. Against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import NodeProto
from onnx_models import assert_same, build, i64, node, ops, randoms

from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.ops import Concat, Gather, Reshape

_TWO = np.array(2, dtype=np.int64)


def at(index: int) -> list[NodeProto]:
    """The entry of a sequence ``s`` at a constant."""
    return [node("SequenceAt", ["s", f"i{index}"], [f"p{index}"])]


def places(*indices: int) -> dict[str, np.ndarray]:
    return {f"i{index}": np.array(index, dtype=np.int64) for index in indices}


def test_pieces_of_one_size() -> None:
    nodes = [node("SplitToSequence", ["x", "two"], ["s"], axis=1), *at(0), *at(-2), *at(2)]
    nodes += [node("Sub", ["p0", "p-2"], ["d"]), node("Concat", ["d", "p2"], ["y"], axis=1)]
    assert_same(build(nodes, {"two": _TWO, **places(0, -2, 2)}, (5,)), randoms(3, 5))


def test_pieces_of_given_sizes_and_their_number() -> None:
    nodes = [
        node("SplitToSequence", ["x", "sizes"], ["s"], axis=2),
        node("SequenceLength", ["s"], ["n"]),
        node("Cast", ["n"], ["f"], to=1),
        *at(1),
        node("Mul", ["p1", "f"], ["y"]),
    ]
    assert_same(build(nodes, {"sizes": i64(1, 3), **places(1)}, (2, 4)), randoms(3, 2, 4))


def test_entries_taken_apart_and_joined_in_another_order() -> None:
    nodes = [
        node("SplitToSequence", ["x"], ["s"], axis=1, keepdims=0),
        *at(0),
        *at(1),
        *at(2),
        node("SequenceConstruct", ["p2", "p0"], ["t"]),
        node("SequenceInsert", ["t", "p1", "i0"], ["u"]),
        node("SequenceErase", ["u", "i1"], ["v"]),
        node("Identity", ["v"], ["w"]),
        node("ConcatFromSequence", ["w"], ["y"], axis=1, new_axis=1),
    ]
    graph = assert_same(build(nodes, places(0, 1, 2), (3, 4)), randoms(3, 3, 4))
    assert set(ops(graph)) <= {Concat, Gather, Reshape}


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([node("SplitToSequence", ["x", "two"], ["y"], axis=1)], "output 'y' .* is a sequence of tensors"),
        (
            [node("SplitToSequence", ["x"], ["s"], axis=0, keepdims=0), *at(0), node("Relu", ["p0"], ["y"])],
            "axis=0 is the batch",
        ),
        ([node("SplitToSequence", ["x"], ["s"], axis=1), *at(9), node("Relu", ["p9"], ["y"])], "position 9 does not"),
    ],
)
def test_refused(nodes: list[NodeProto], text: str) -> None:
    model = build([node("Relu", ["x"], ["y"])], {"two": _TWO, **places(0, 9)}, (6,))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].ClearField("type")
    with pytest.raises(ModelError, match=text):
        read_onnx(model)
