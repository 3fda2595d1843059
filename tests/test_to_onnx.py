"""Names in ONNX files that glyphc writes: readable, unique, stable; constants keep theirs."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import MODELS, build, node, randoms, run_onnxruntime

from glyphc.frontends.from_onnx import read_onnx
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, Const, Dense, Input, Output, Scale
from glyphc.ir.types import Level


def check_names(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    operators = [n.name for n in model.graph.node]
    values = [v for n in model.graph.node for v in n.output]
    values += [i.name for i in (*model.graph.initializer, *model.graph.input)]
    for names in (operators, values):
        assert [name for name, count in Counter(names).items() if count > 1] == []
        # an input may be called as it likes
        assert not [name for name in names if not name.strip("/") and name not in [i.name for i in model.graph.input]]


def shown(model: onnx.ModelProto) -> list[str]:
    """Operators with their names and those of values."""
    return [f"{n.op_type} {n.name}: {' '.join(n.input)} -> {' '.join(n.output)}" for n in model.graph.node]


def test_layers_give_their_names_to_values() -> None:
    constants = {"w1": randoms(4, 3), "b1": randoms(3), "w2": randoms(3, 2), "half": np.array(0.5, np.float32)}
    nodes = [
        node("Mul", ["x", "half"], ["scaled"], name="scale"),
        node("Gemm", ["scaled", "w1", "b1"], ["hidden"], name="fc1"),
        node("Tanh", ["hidden"], ["active"]),
        node("MatMul", ["active", "w2"], ["y"], name="y"),
    ]
    model = to_onnx(read_onnx(build(nodes, constants)))
    check_names(model)
    assert shown(model) == [
        "Mul scale: x half -> scale",
        "Gemm fc1: scale w1 b1 -> fc1",
        "Tanh tanh: fc1 -> tanh",
        "Gemm y: tanh w2 -> y",
    ]
    assert [i.name for i in model.graph.initializer] == ["half", "w1", "b1", "w2"]


def test_names_that_are_taken() -> None:
    """An output called like a layer before it, layers of one name, constants called like inputs, shared constants."""
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (2,)))
    weight, bias = (Const(graph.add_constant(n, v)) for n, v in (("x", np.eye(2) * 3), ("", np.ones(2))))
    factor = Const(graph.add_constant("f", np.array([2.0, 3.0])))
    y = x
    for _ in range(2):
        y = graph.add(Dense((weight,), bias), (y,), location="out")
    y = graph.add(Scale(factor, bias), (y,), location="#7")
    y = graph.add(Apply((Function("affine", (2.0, 1.0)), Function("relu"))), (y,), location="")
    graph.add(Output("out"), (y,))
    graph.add(Output("twice"), (y,))
    graph.add(Output("same"), (x,))
    model = to_onnx(graph)
    check_names(model)
    assert shown(model) == [
        "Gemm out: x x_2 constant -> out_2",
        "Gemm out/dense: out_2 x_2 constant -> out/dense",
        "Mul scale/mul: out/dense f -> scale/mul",
        "Add scale: scale/mul constant -> scale",
        "Mul relu/mul: scale relu/number -> relu/mul",
        "Add relu/add: relu/mul relu/number_2 -> relu/add",
        "Relu relu: relu/add -> out",
        "Identity twice/identity: out -> twice",
        "Identity same/identity: x -> same",
    ]
    value = randoms(5, 2)
    expected = evaluate(graph, {"x": value.astype(np.float64)})
    for name, found in run_onnxruntime(model, value).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-5)


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda p: p.stem)
def test_names_stay_from_one_file_to_the_next(path: Path) -> None:
    first = to_onnx(read_onnx(path))
    check_names(first)
    second = to_onnx(read_onnx(first))
    check_names(second)
    if any(n.op_type == "Gather" for n in first.graph.node):
        # what a sparse map is written as are operators of their own the next time
        assert {n.name for n in first.graph.node} <= {n.name for n in second.graph.node}
    else:
        assert shown(second) == shown(first)
    kept = {i.name for i in onnx.load(path).graph.initializer if i.name.endswith((".weight", ".bias"))}
    dense = {n for n in kept if "conv" not in n and "stem" not in n and "shortcut" not in n}
    assert dense <= {i.name for i in first.graph.initializer}
    assert not [n for n in first.graph.node if re.search(r"#\d|\.\d+$|value", n.name)]
