"""Look-ups of encrypted ids and categories, beside onnxruntime."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_models import build, f32, i64, node, randoms

import glyphc
from glyphc.errors import CalibrationError, DataError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.ops import Bootstrap, Input, Output, Steps
from glyphc.ir.text import parse, to_text
from tests.onnx_beside_runtime import RNG, Floats, floats, runtime, same

# -- look-ups --


def of_ids(nodes: list[onnx.NodeProto], constants: dict[str, Any], tokens: int) -> onnx.ModelProto:
    return build(nodes, constants, (tokens,), dtype=TensorProto.INT64)


def same_of_ids(model: onnx.ModelProto, ids: Floats) -> glyphc.ir.graph.Graph:
    graph = read_onnx(model)
    found = evaluate(graph, {"x": ids.astype(np.float64)})
    for name, value in runtime(model, ids).items():
        assert np.allclose(found[name], value, atol=1e-6)
    return graph


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_embeddings(rows: int, tokens: int, width: int, seed: int) -> None:
    model = of_ids([node("Gather", ["table", "x"], ["y"])], {"table": floats(rows, width, seed=seed)}, tokens)
    same_of_ids(model, np.random.default_rng(seed).integers(0, rows, (7, tokens)))


@pytest.mark.parametrize("axis", [-1, 1])
def test_one_hot(axis: int) -> None:
    made = node("OneHot", ["x", "depth", "values"], ["y"], axis=axis)
    model = of_ids([made], {"depth": np.array(5), "values": f32(-1.0, 2.0)}, 3)
    same_of_ids(model, RNG.integers(0, 5, (9, 3)))


def test_one_hot_of_many_ids() -> None:
    """A map of a block for each id: written out in full, it would have 10^9 entries."""
    made = node("OneHot", ["x", "depth", "values"], ["y"])
    model = of_ids([made], {"depth": np.array(3), "values": f32(0.0, 1.0)}, 8000)
    same_of_ids(model, RNG.integers(0, 3, (2, 8000)))


def test_an_embedding_takes_no_bootstrap_of_its_own() -> None:
    """The client encrypts comparisons of the tokens; what follows is linear up to the first function."""
    table = floats(9, 4, seed=1)
    nodes = [
        node("Gather", ["table", "x"], ["e"]),
        node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0),
        node("Relu", ["m"], ["r"]),
        node("MatMul", ["r", "w"], ["y"]),
    ]
    model = of_ids(nodes, {"table": table, "w": floats(4, 2)}, 3)
    ids = RNG.integers(0, 9, (64, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = glyphc.compile(model, ids, 4, insecure_ring=1024)
    assert len(list(program.graph.of(Bootstrap))) == 1
    wanted = runtime(model, ids)["y"]
    found = np.asarray(program.run(ids, mode="simulate"))
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.01 * np.ptp(wanted)
    ((_, op),) = program.graph.of(Input)
    assert op.ranks is not None and set(op.ranks.counts) == {1}


@pytest.mark.parametrize(
    ("added", "ids", "text"), [(0, 9, "id 9 at element 1"), (2, 7, "id 7"), (0, -1, "id -1"), (0, 1.5, "id 1.5")]
)
def test_ids_outside_the_table_are_refused(added: int, ids: float, text: str) -> None:
    """Encrypted, they would give the first or last row; told before, in every mode, on clients between machines too."""
    nodes = [node("Add", ["x", "added"], ["more"]), node("Gather", ["table", "more"], ["y"])]
    model = of_ids(nodes, {"table": floats(9, 2), "added": i64(added)}, 3)
    good = RNG.integers(0, 9 - added, (32, 3)).astype(np.float64)
    bad = good.copy()
    bad[4, 1] = ids
    with pytest.raises(CalibrationError, match=f"sample 4 has {text}"):
        glyphc.compile(model, bad, 4, insecure_ring=1024)
    program = glyphc.compile(model, good, 4, insecure_ring=1024)
    for mode in ("clear", "simulate", "encrypted"):
        with pytest.raises(DataError, match=f"'x': sample 4 has {text}.* from {-added} to {8 - added} "):
            program.run(bad, mode=mode)
    assert parse(to_text(program.graph)) == program.graph


def test_a_look_up_of_what_the_network_computes() -> None:
    """Without ranks: steps between the integers."""
    nodes = [node("Add", ["x", "one"], ["more"]), node("Gather", ["table", "more"], ["y"])]
    graph = same_of_ids(of_ids(nodes, {"table": floats(6, 2), "one": i64(1)}, 2), RNG.integers(0, 5, (9, 2)))
    assert list(graph.of(Steps))


def ml(op: str, operands: list[str], constants: dict[str, Any] | None = None, **attributes: Any) -> onnx.ModelProto:
    made = node(op, operands, ["y"], domain="ai.onnx.ml", **attributes)
    return build([made], constants, (3,), sample_shapes={"y": (3,)})


def test_one_hot_encoder() -> None:
    x = RNG.choice([0.0, 2.0, 3.0, 7.0], (12, 3)).astype(np.float32)
    found = evaluate(read_onnx(ml("OneHotEncoder", ["x"], cats_int64s=[7, 0, 2])), {"x": x.astype(np.float64)})["y"]
    assert np.array_equal(found, x[..., None] == np.array([7, 0, 2]))


def test_imputer() -> None:
    x = RNG.choice([-1.0, 0.5, 2.0], (12, 3)).astype(np.float32)
    model = ml("Imputer", ["x"], imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=-1.0)
    same(model, x)
    plain = ml("Imputer", ["x"], imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=float("nan"))
    same(plain, x)


def test_label_encoder_of_encrypted_categories() -> None:
    x = RNG.integers(0, 5, (12, 3)).astype(np.float32)
    keys = {"keys_floats": [0.0, 1.0, 4.0], "values_floats": [2.5, -1.0, 7.0], "default_float": 9.0}
    model = ml("LabelEncoder", ["x"], **keys)
    model.opset_import[1].version = 2
    same(model, x)


def test_labels_of_labels() -> None:
    nodes = [
        node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
        node(
            "LabelEncoder",
            ["named"],
            ["y"],
            domain="ai.onnx.ml",
            keys_strings=["a", "b", "c"],
            values_int64s=[30, 10, 20],
        ),
    ]
    nodes.insert(1, node("ArrayFeatureExtractor", ["names", "i"], ["named"], domain="ai.onnx.ml"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, None)],
        [helper.make_tensor("names", TensorProto.STRING, [3], [b"a", b"b", b"c"])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    network = read_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    ((_, op),) = network.of(Output)
    x = randoms(8, 3)
    assert op.labels is not None
    found = op.labels.of(evaluate(network, {"x": x.astype(np.float64)})["y"])
    assert np.array_equal(found, np.array([30, 10, 20])[np.argmax(x, axis=1)])
