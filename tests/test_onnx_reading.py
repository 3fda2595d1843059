"""Files as people have them: moved batches, several inputs, one sample, what only onnx's checker minds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper
from onnx_models import Constants, W, build, f32, i64, node, randoms
from strategies import examples

import glyphc
from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_network, read_onnx
from glyphc.ir.evaluate import evaluate
from tests.onnx_as_people_have_it import Array, model_of, onnx_results

# -- what onnx's checker minds and runtimes don't ------------------------------------------------------------


def test_operators_newer_than_the_opset() -> None:
    """As ONNX Runtime takes them."""
    nodes = [node("Squeeze", ["x"], ["s"], axes=[1]), node("LayerNormalization", ["s", "g"], ["y"])]
    model = model_of(nodes, {"x": ["N", 1, 4]}, {"g": randoms(4)}, opset=12)
    x = randoms(3, 1, 4)
    centred = x[:, 0] - x[:, 0].mean(axis=-1, keepdims=True)
    wanted = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * randoms(4)
    found = evaluate(read_onnx(model), {"x": x.astype(np.float64)})["y"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_constants_that_are_not_listed_among_the_inputs() -> None:
    model = model_of([node("Mul", ["x", "c"], ["y"])], {"x": ["N", 4]}, {"c": randoms(4)}, opset=9)
    model.ir_version = 3
    x = randoms(3, 4)
    np.testing.assert_allclose(evaluate(read_onnx(model), {"x": x})["y"], x * randoms(4), rtol=1e-6)


def test_domains_that_are_not_imported() -> None:
    quant = node("Quant", ["x", "s", "z", "b"], ["y"], domain="qonnx.custom_op.general", signed=1)
    model = model_of([quant], {"x": ["N", 4]}, {"s": f32(0.5), "z": f32(0), "b": f32(4)}, opset=11)
    del model.opset_import[1:]
    x = randoms(3, 4)
    wanted = np.clip(np.round(x / 0.5), -8, 7) * 0.5
    np.testing.assert_allclose(evaluate(read_onnx(model), {"x": x})["y"], wanted, atol=1e-6)


def test_operators_that_onnx_has_not() -> None:
    nodes = [node("RequantShift", ["x"], ["h"], "shift"), node("Relu", ["h"], ["y"])]
    with pytest.raises(ModelError, match=r"does not have: RequantShift \(node 'shift'\)"):
        read_onnx(model_of(nodes, {"x": ["N", 4]}, opset=11))


def test_nodes_out_of_order() -> None:
    nodes = [node("Add", ["h", "c"], ["y"], "last"), node("Relu", ["x"], ["h"], "first")]
    model = model_of(nodes, {"x": ["N", 3]}, {"c": f32(1, 2, 3)})
    x = randoms(4, 3)
    np.testing.assert_allclose(evaluate(read_onnx(model), {"x": x})["y"], np.maximum(x, 0) + f32(1, 2, 3))


def test_cycles_are_refused() -> None:
    nodes = [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]
    with pytest.raises(ModelError, match="topologically sorted"):
        read_onnx(model_of(nodes, {"x": ["N", 3]}))


@pytest.mark.parametrize("declared", [None, ["N", 7], "nothing"])
def test_declared_shapes_of_outputs_do_not_matter(declared: list[int | str] | str | None) -> None:
    model = build([node("Relu", ["x"], ["y"])])
    value = (
        onnx.ValueInfoProto(name="y")
        if declared == "nothing"
        else helper.make_tensor_value_info("y", TensorProto.FLOAT, declared)
    )
    model.graph.output[0].CopyFrom(value)
    assert read_onnx(model).outputs[0].type.shape == (4,)


def test_types_that_strict_inference_misses() -> None:
    """An operator of ai.onnx.ml gives a type that onnx does not infer."""
    nodes = [
        node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0]),
        node("MatMul", ["s", "w"], ["m"]),
        node("Exp", ["m"], ["y"]),
    ]
    graph = read_onnx(build(nodes, {"w": W}, shape=(4,)))
    x = randoms(3, 4)
    np.testing.assert_allclose(evaluate(graph, {"x": x})["y"], np.exp((x - 1) * 2 @ W), rtol=1e-6)


def test_imports_that_no_node_uses() -> None:
    model = build([node("Relu", ["x"], ["y"])])
    model.opset_import.append(helper.make_opsetid("some.vendor", 99))
    model.opset_import.append(helper.make_opsetid("", 17))
    assert read_onnx(model).outputs[0].type.shape == (4,)


# -- inputs --------------------------------------------------------------------------------------------------


def test_several_inputs() -> None:
    nodes = [node("MatMul", ["a", "w"], ["h"]), node("Relu", ["b"], ["r"]), node("Add", ["h", "r"], ["y"])]
    model = model_of(nodes, {"a": ["N", 4], "b": ["N", 3], "unused": ["N", 2]}, {"w": W})
    network = read_network(model)
    assert [n.op.name for n in network.graph.inputs] == ["a", "b"]  # type: ignore[attr-defined]
    assert "input 'unused'" in network.notes[0]
    a, b = randoms(5, 4), randoms(5, 3, seed=9)
    expected = onnx_results(model, {"a": a, "b": b, "unused": randoms(5, 2)})["y"]
    np.testing.assert_allclose(evaluate(network.graph, {"a": a, "b": b})["y"], expected, atol=1e-5)


def test_the_open_axis_that_is_called_batch_counts_the_samples() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("ReduceMean", ["h"], ["y"], axes=[0], keepdims=0)]
    model = model_of(nodes, {"x": [6, "batch", 4]}, {"w": W})
    graph = read_onnx(model)
    assert graph.inputs[0].type.shape == (6, 4)
    x = randoms(6, 5, 4)
    found = evaluate(graph, {"x": x.transpose(1, 0, 2)})["y"]
    np.testing.assert_allclose(found, onnx_results(model, {"x": x})["y"], atol=1e-5)


def test_outputs_of_texts_are_left_out_with_what_they_depend_on() -> None:
    """As exporters of data frames have every column for an input, and pass it on."""
    nodes = [
        node("Identity", ["name"], ["passed"]),
        node("Relu", ["x"], ["y"]),
        node("Identity", ["passed"], ["z"]),
    ]
    model = model_of(nodes, {"x": ["N", 4], "name": ["N", 1]}, outputs=("passed", "y", "z"))
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.STRING
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    network = read_network(model)
    assert [n.op.name for n in network.graph.outputs] == ["y"]  # type: ignore[attr-defined]
    assert "output 'passed', 'z'" in network.notes[0] and "texts" in network.notes[0]
    del model.graph.output[1]
    with pytest.raises(ModelError, match=r"input 'name' .* is STRING"):
        read_onnx(model)


def test_columns_without_an_axis_of_their_own() -> None:
    nodes = [
        node("Scaler", ["a"], ["s"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0]),
        node("FeatureVectorizer", ["s", "b"], ["y"], domain="ai.onnx.ml", inputdimensions=[1, 1]),
    ]
    graph = read_onnx(model_of(nodes, {"a": ["N"], "b": ["N"]}))
    a, b = randoms(3), randoms(3, seed=2)
    np.testing.assert_allclose(evaluate(graph, {"a": a, "b": b})["y"], np.stack([2 * a - 2, b], axis=1), atol=1e-6)


def test_samples_say_what_shape_an_input_has_of_which_the_file_says_nothing() -> None:
    model = model_of([node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 4]}, {"w": W})
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="says nothing of its shape"):
        read_onnx(model)
    assert read_network(model, shapes={"x": (4,)}).graph.inputs[0].type.shape == (4,)


def test_a_sequence_of_open_length_is_no_batch() -> None:
    nodes = [node("Relu", ["x"], ["y"])]
    with pytest.raises(ModelError, match=r"axis 1 of input 'x' .* 'sequence'.* calibration samples"):
        read_onnx(model_of(nodes, {"x": [1, "sequence", 4]}))


@pytest.mark.parametrize(
    "shape", [["batch", "sequence", 4], [1, "sequence", 4], [None, None, None], ["sequence", "N", 4]]
)
def test_samples_say_what_a_file_leaves_open(shape: list[int | str | None]) -> None:
    """And axes that are called alike are of one size."""
    nodes = [node("Shape", ["m"], ["s"]), node("Expand", ["one", "s"], ["e"]), node("Mul", ["x", "e"], ["y"])]
    inputs = {"x": shape, "m": shape}
    model = model_of(nodes, inputs, {"one": f32(2.0)})
    both = {"x": (5, 4)} if shape[1] == "sequence" else {"x": (5, 4), "m": (5, 4)}
    network = read_network(model, shapes=both)
    assert {tuple(n.type.shape) for n in network.graph.inputs} == {(5, 4)}
    x = randoms(3, 5, 4)
    np.testing.assert_allclose(evaluate(network.graph, {"x": x, "m": x})["y"], 2 * x, rtol=1e-6)


def test_an_open_length_from_calibration() -> None:
    model = model_of(
        [node("ReduceMean", ["x"], ["h"], axes=[1]), node("Tanh", ["h"], ["y"])], {"x": ["N", "length", 4]}
    )
    x = randoms(32, 6, 4)
    program = glyphc.compile(model, x, 4, insecure_ring=1024)
    assert program.client.inputs[0].shape == (6, 4)


def test_fixed_inputs_beside_an_open_batch() -> None:
    """What is fixed belongs to each sample."""
    model = model_of(
        [node("MatMul", ["x", "a"], ["h"]), node("Add", ["h", "b"], ["y"])], {"x": ["batch", 4], "a": [4, 2], "b": [2]}
    )
    network = read_network(model)
    assert any("one sample" in note for note in network.notes)
    x, a, b = randoms(3, 1, 4), randoms(3, 4, 2), randoms(3, 2)
    found = evaluate(network.graph, {"x": x, "a": a, "b": b})["y"]
    np.testing.assert_allclose(found, x @ a + b[:, None], rtol=1e-5)


# -- one sample ----------------------------------------------------------------------------------------------

ONE: dict[str, tuple[list[NodeProto], Constants, list[int | str], tuple[int, ...]]] = {
    # a batch of 1 that is folded away, and used as if it were any axis
    "folded": (
        [node("Reshape", ["x", "s"], ["h"]), node("MatMul", ["h", "w"], ["m"]), node("Softmax", ["m"], ["y"], axis=0)],
        {"s": i64(3, 4), "w": W},
        [1, 3, 4],
        (3, 4),
    ),
    "no-batch": ([node("MatMul", ["w", "x"], ["y"])], {"w": W.T}, [4, 2], (4, 2)),
    "vector": ([node("MatMul", ["w", "x"], ["y"])], {"w": W.T}, [4], (4,)),
    # runs for one sample only, though the file does not say so
    "open": (
        [node("Reshape", ["x", "s"], ["h"]), node("MatMul", ["h", "w"], ["y"])],
        {"s": i64(1, -1), "w": randoms(12, 2)},
        ["N", 3, 4],
        (3, 4),
    ),
}


@pytest.mark.parametrize("name", ONE)
def test_files_of_one_sample(name: str) -> None:
    nodes, constants, shape, sample = ONE[name]
    model = model_of(nodes, {"x": shape}, constants)
    network = read_network(model)
    assert network.graph.inputs[0].type.shape == sample
    for seed in (1, 2):
        x = randoms(*(1 if isinstance(n, str) else n for n in shape), seed=seed)
        found = evaluate(network.graph, {"x": x.reshape(1, *sample).astype(np.float64)})["y"]
        expected = onnx_results(model, {"x": x})["y"]
        np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)
    assert bool(network.notes) == (name != "folded")


def test_combining_samples_is_no_way_to_say_one_sample() -> None:
    model = build([node("Softmax", ["x"], ["y"], "s", axis=0)])
    with pytest.raises(ModelError, match=r"'s' \(Softmax\): axis=0 is the batch(?s:.*)--sample"):
        read_onnx(model)
    graph = read_onnx(model, one_sample=True)
    np.testing.assert_array_equal(evaluate(graph, {"x": randoms(3, 4)})["y"], np.ones((3, 4)))


# -- the batch moves -----------------------------------------------------------------------------------------


def attention(heads: int, width: int, tokens: int) -> tuple[list[NodeProto], Constants]:
    """Time first, and samples joined with heads, as torch's MultiheadAttention is exported."""
    head = width // heads
    constants: Constants = {
        **{f"w{n}": randoms(width, width, seed=n) / 2 for n in range(4)},
        "heads": i64(tokens, -1, head),
        "back": i64(tokens, -1, width),
        "flat": i64(-1, width),
        "root": np.float32(head**-0.5),
        "zero": i64(0),
    }
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2])]
    for name, n in (("q", 0), ("k", 1), ("v", 2)):
        nodes += [
            node("MatMul", ["t", f"w{n}"], [f"{name}1"]),
            node("Reshape", [f"{name}1", "heads"], [f"{name}2"]),
            node("Transpose", [f"{name}2"], [name], perm=[1, 2, 0] if name == "k" else [1, 0, 2]),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["scores"]),
        node("Mul", ["scores", "root"], ["scaled"]),
        node("Softmax", ["scaled"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["o"]),
        node("Transpose", ["o"], ["o1"], perm=[1, 0, 2]),
        node("Reshape", ["o1", "flat"], ["o2"]),
        node("Gemm", ["o2", "w3"], ["o3"]),
        node("Reshape", ["o3", "back"], ["o4"]),
        node("Add", ["o4", "t"], ["r"]),
        node("ReduceMean", ["r"], ["m"], axes=[0], keepdims=0),
        node("Transpose", ["r"], ["u"], perm=[1, 0, 2]),
    ]
    return nodes, constants


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_attention_with_time_first(batch: int | str) -> None:
    nodes, constants = attention(2, 6, 5)
    model = model_of(nodes, {"x": [batch, 5, 6]}, constants, ("m", "u", "r"))
    samples = batch if isinstance(batch, int) else 4
    x = randoms(samples, 5, 6)
    found, expected = evaluate(read_onnx(model), {"x": x.astype(np.float64)}), onnx_results(model, {"x": x})
    np.testing.assert_allclose(found["m"], expected["m"], atol=1e-5)
    np.testing.assert_allclose(found["u"], expected["u"], atol=1e-5)
    # samples come first in all that goes out
    first = expected["r"][None] if batch == 1 else expected["r"].transpose(1, 0, 2)
    np.testing.assert_allclose(found["r"], first, atol=1e-5)


MIXED: dict[str, list[NodeProto]] = {
    "softmax": [node("Softmax", ["t"], ["y"], axis=1)],
    "mean": [node("ReduceMean", ["t"], ["y"], axes=[1])],
    "matmul-samples": [node("Transpose", ["t"], ["r"], perm=[0, 2, 1]), node("MatMul", ["r", "t"], ["y"])],
    "add-untransposed": [node("Add", ["t", "x"], ["y"])],
    "pad": [node("Pad", ["t", "pads"], ["y"])],
    "constant": [node("Add", ["t", "c"], ["y"])],
    "cumsum": [node("CumSum", ["t", "one"], ["y"])],
    "norm": [node("LayerNormalization", ["t", "s"], ["y"], axis=1)],
    "gather": [node("Gather", ["t", "two"], ["y"], axis=1)],
}


@pytest.mark.parametrize("name", MIXED)
def test_samples_stay_apart_where_they_have_moved_to(name: str) -> None:
    """Behind Transpose(x) axis 1 counts the samples."""
    constants: Constants = {
        **{"c": randoms(3, 4, 1), "one": np.array(1), "s": randoms(3), "two": i64(0, 1), "pads": i64(0, 1, 0, 0, 0, 0)}
    }
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), *MIXED[name]]
    with pytest.raises(ModelError, match=r"#[12]"):
        read_onnx(model_of(nodes, {"x": ["N", 3, 3]}, constants))


class _Moves:
    """A random chain of what moves axes and what works along one of them, with the batch anywhere."""

    def __init__(self, choose: st.DataObject) -> None:
        self.pick = lambda options: choose.draw(st.sampled_from(options))
        self.nodes: list[NodeProto] = []
        self.constants: Constants = {}
        self.value, self.shape = "x", ["N", 2, 3]

    def append(self, op: str, *operands: str, **attributes: object) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(op, [self.value, *operands], [name], name, **attributes))
        self.value = name

    def constant(self, value: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def transpose(self) -> None:
        order = self.pick([(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 1, 0), (2, 0, 1)])
        self.append("Transpose", perm=order)
        self.shape = [self.shape[a] for a in order]

    def matmul(self) -> None:
        if isinstance(self.shape[-1], int):
            out = self.pick([1, 2, 4])
            self.append("MatMul", self.constant(randoms(self.shape[-1], out)))
            self.shape[-1] = out

    def softmax(self) -> None:
        axis = self.pick([a for a in range(3) if isinstance(self.shape[a], int)])
        self.append("Softmax", axis=axis)

    def join(self) -> None:
        """Join two axes, work on rows, and take them apart again."""
        first = self.pick([0, 1])
        before = list(self.shape)
        joined = [-1 if a == first else n for a, n in enumerate(before) if a != first + 1]
        if any(n == "N" for n in joined):
            return
        self.append("Reshape", self.constant(i64(*joined)))
        if first == 0:
            self.append("Tanh")
        self.append("Reshape", self.constant(i64(*(-1 if n == "N" else n for n in before))))

    def shift(self) -> None:
        shape = [1 if n == "N" else n for n in self.shape]
        self.append("Add", self.constant(randoms(*shape)))

    def relu(self) -> None:
        self.append("Relu")


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_ids_of_all_samples_in_a_row(axis: int) -> None:
    """Trees as tensors: comparisons of several samples joined to one axis choose rows of a table and features."""
    nodes = [
        node("Greater", ["x", "t"], ["g"]),
        node("Cast", ["g"], ["i"], to=TensorProto.INT64),
        node("Reshape", ["i", "flat"], ["ids"]),
        node("Gather", ["table", "ids"], ["row"]),
        node("OneHot", ["ids", "two", "values"], ["h"], axis=axis),
        node("Transpose", ["h"], ["code"], perm=[1, 0] if axis == 0 else [0, 1]),
        node("Mul", ["row", "code"], ["m"]),
        node("Reshape", ["m", "back"], ["y"]),
    ]
    constants: Constants = {
        "t": f32(0.1, -0.2, 0.3),
        "flat": i64(-1),
        "table": randoms(2, 2),
        "two": np.array(2),
        "values": f32(-1.0, 2.0),
        "back": i64(-1, 6),
    }
    model = model_of(nodes, {"x": ["N", 3]}, constants)
    x = randoms(4, 3)
    expected = onnx_results(model, {"x": x})["y"]
    np.testing.assert_allclose(evaluate(read_onnx(model), {"x": x.astype(np.float64)})["y"], expected, atol=1e-5)


@examples(60)
@given(st.data())
def test_random_moves_of_the_batch(data: st.DataObject) -> None:
    chain = _Moves(data)
    steps = ["transpose", "transpose", "matmul", "softmax", "join", "shift", "relu"]
    for step in data.draw(st.lists(st.sampled_from(steps), min_size=2, max_size=8)):
        getattr(chain, step)()
    chain.relu()
    model = model_of(chain.nodes, {"x": ["N", 2, 3]}, chain.constants, (chain.value,))
    x = randoms(data.draw(st.sampled_from([1, 2, 5])), 2, 3)
    found = evaluate(read_onnx(model), {"x": x.astype(np.float64)})[chain.value]
    expected = onnx_results(model, {"x": x})[chain.value]
    np.testing.assert_allclose(found, np.moveaxis(expected, chain.shape.index("N"), 0), atol=1e-5)
