"""The ONNX front end against ONNX Runtime: what it reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx_models import MODELS, B, Constants, W, assert_same, build, f32, i64, node, ops, randoms

from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.ops import Apply, ArgMax, Dense, Reshape, Scale, Softmax
from glyphc.ir.types import Level

# -- supported ops -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize(
    ("attributes", "c"),
    [
        ({}, B),
        ({}, None),
        ({"transB": 1}, B),
        ({"transB": 1, "alpha": 0.5}, None),
        ({"alpha": -1.5, "beta": 0.25}, B),
        ({"beta": 3.0}, np.float32(0.75)),
        ({}, B[None, :]),
        ({"beta": 2.0}, f32(0.5)),
        ({}, f32([0.5])),
        ({"transA": 0, "beta": 0.0}, B),
    ],
)
def test_gemm(attributes: dict[str, float], c: npt.NDArray[np.float32] | None, opset: int) -> None:
    weight = W.T if attributes.get("transB") else W
    constants: Constants = {"w": weight} | ({} if c is None else {"c": np.asarray(c)})
    model = build([node("Gemm", ["x", *constants], ["y"], "fc", **attributes)], constants, opset=opset)
    graph = assert_same(model, randoms(5, 4))
    assert ops(graph) == [Dense]
    assert graph.constant("w").shape == (3, 4)
    assert graph.constant("w").dtype == np.float64


Case = tuple[list[NodeProto], Constants, tuple[int, ...]]
CASES: dict[str, Case] = {
    "matmul": ([node("MatMul", ["x", "w"], ["y"])], {"w": W}, (4,)),
    "matmul-add": (
        [node("MatMul", ["x", "w"], ["h"]), node("Add", ["b", "h"], ["y"])],
        {"w": W, "b": B},
        (4,),
    ),
    "matmul-vector": ([node("MatMul", ["x", "w"], ["y"])], {"w": randoms(4)}, (4,)),
    "matmul-vector-add": (
        [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])],
        {"w": randoms(4), "b": np.float32(0.5)},
        (4,),
    ),
    "scalar-samples": ([node("Mul", ["x", "c"], ["y"])], {"c": f32(3)}, ()),
    "neg": ([node("Neg", ["x"], ["y"])], {}, (2, 3)),
    "relu": ([node("Relu", ["x"], ["y"])], {}, (4,)),
    "sigmoid": ([node("Sigmoid", ["x"], ["y"])], {}, (2, 2)),
    "tanh": ([node("Tanh", ["x"], ["y"])], {}, (4,)),
    "leaky": ([node("LeakyRelu", ["x"], ["y"])], {}, (4,)),
    "leaky-alpha": ([node("LeakyRelu", ["x"], ["y"], alpha=0.3)], {}, (4,)),
    "flatten": ([node("Flatten", ["x"], ["y"])], {}, (2, 3)),
    "flatten-1": ([node("Flatten", ["x"], ["y"], axis=1)], {}, (2, 3, 2)),
    "flatten-negative": ([node("Flatten", ["x"], ["y"], axis=-2)], {}, (2, 3)),
    "flatten-ones": ([node("Flatten", ["x"], ["y"], axis=3)], {}, (1, 1, 6)),
    "flatten-scalars": ([node("Flatten", ["x"], ["y"])], {}, ()),
    "identity": ([node("Identity", ["x"], ["y"])], {}, (4,)),
    "dropout": ([node("Dropout", ["x"], ["y"])], {}, (4,)),
    "dropout-ratio": ([node("Dropout", ["x", "r"], ["y", "mask"])], {"r": np.float32(0.9)}, (4,)),
    "dropout-mode": (
        [node("Dropout", ["x", "r", "m"], ["y"], seed=3)],
        {"r": np.float32(0.9), "m": np.array(False)},
        (4,),
    ),
    "cast": (
        [
            node("Cast", ["x"], ["h"], to=TensorProto.DOUBLE),
            node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
        ],
        {},
        (4,),
    ),
    "batchnorm": (
        [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])],
        {"s": randoms(4, seed=5), "b": randoms(4, seed=6), "m": randoms(4, seed=7), "v": f32(0.1, 1, 2, 0)},
        (4,),
    ),
    "batchnorm-epsilon": (
        [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=0.5, momentum=0.1)],
        {"s": randoms(4, seed=5), "b": randoms(4, seed=6), "m": randoms(4, seed=7), "v": f32(0.1, 1, 2, 0)},
        (4,),
    ),
    "softmax": ([node("Softmax", ["x"], ["y"])], {}, (4,)),
    "softmax-axis": ([node("Softmax", ["x"], ["y"], axis=2)], {}, (2, 3)),
    "log-softmax": ([node("LogSoftmax", ["x"], ["y"], axis=1)], {}, (4,)),
    "argmax": ([node("ArgMax", ["x"], ["y"], axis=1)], {}, (4,)),
    "argmax-no-keepdims": ([node("ArgMax", ["x"], ["y"], axis=-1, keepdims=0)], {}, (2, 3)),
    "argmax-first": ([node("ArgMax", ["x"], ["y"], axis=1, keepdims=0, select_last_index=0)], {}, (1,)),
    "argmax-cast": (
        [
            node("ArgMax", ["x"], ["i"], axis=1),
            node("Cast", ["i"], ["j"], to=TensorProto.INT32),
            node("Cast", ["j"], ["y"], to=TensorProto.FLOAT),
        ],
        {},
        (4,),
    ),
    "client-chain": (
        [
            node("Softmax", ["x"], ["p"]),
            node("Identity", ["p"], ["q"]),
            node("Reshape", ["q", "shape"], ["r"]),
            node("Flatten", ["r"], ["s"]),
            node("Softmax", ["s"], ["t"], axis=-1),
            node("ArgMax", ["t"], ["y"], axis=1, keepdims=0),
        ],
        {"shape": i64(0, 3, 2)},
        (2, 3),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(("opset", "batch"), [(13, "N"), (17, None), (21, 3)])
def test_op(case: Case, opset: int, batch: int | str | None) -> None:
    nodes, constants, shape = case
    assert_same(build(nodes, constants, shape, opset=opset, batch=batch), randoms(3, *shape))


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("constant_first", [False, True], ids=["right", "left"])
@pytest.mark.parametrize(
    ("shape", "constant_shape"),
    [
        ((3,), ()),
        ((3,), (1,)),
        ((3,), (3,)),
        ((3,), (1, 3)),
        ((2, 3), (3,)),
        ((2, 3), (2, 1)),
        ((2, 3), (2, 3)),
        ((2, 3), (1, 1, 3)),
        ((2, 3), (1, 2, 1)),
        ((), ()),
        ((), (1,)),
    ],
    ids=str,
)
def test_elementwise(
    op_type: str, constant_first: bool, shape: tuple[int, ...], constant_shape: tuple[int, ...]
) -> None:
    c = np.asarray(randoms(*constant_shape, seed=9))
    model = build([node(op_type, ["c", "x"] if constant_first else ["x", "c"], ["y"])], {"c": c}, shape)
    expected = [Apply, Scale] if op_type == "Div" and constant_first else [Scale]
    assert ops(assert_same(model, randoms(5, *shape))) == expected


@pytest.mark.parametrize(
    ("shape", "batch", "target", "allowzero"),
    [
        ((2, 3), "N", (0, -1), 0),
        ((2, 3), "N", (-1, 6), 0),
        ((2, 3), "N", (0, 0, 3), 0),
        ((2, 3), "N", (0, 3, -1), 0),
        ((2, 3), "N", (-1, 2, 1, 3), 0),
        ((2, 3), "N", (-1, 0, 3, 1), 0),
        ((2, 3), "N", (-1, 3, 2), 1),
        ((2, 3), 1, (1, -1), 0),
        ((2, 3), 1, (1, 6), 1),
        ((2, 3), 4, (4, -1), 0),
        ((2, 3), 4, (-1, 3, 2), 0),
        ((1,), "N", (-1,), 0),
        ((1,), "N", (0,), 0),
    ],
)
def test_reshape(shape: tuple[int, ...], batch: int | str, target: tuple[int, ...], allowzero: int) -> None:
    reshape = node("Reshape", ["x", "shape"], ["y"], allowzero=allowzero)
    samples = batch if isinstance(batch, int) else 5
    model = build([reshape], {"shape": i64(*target)}, shape, batch=batch)
    graph = assert_same(model, randoms(samples, *shape))
    assert ops(graph) == ([Reshape] if graph.outputs[0].type.shape != shape else [])


# -- constants -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Constant", [], ["c"], value=numpy_helper.from_array(f32(1, 2, 3, 4)))],
        [node("Constant", [], ["c"], value_float=1.5)],
        [node("Constant", [], ["c"], value_floats=[1.5, 2, -3, 0.5])],
        [node("Identity", ["a"], ["c"])],
        [node("Neg", ["a"], ["c"])],
        [
            node("Constant", [], ["i"], value_ints=[1, 2, 3, 4]),
            node("Cast", ["i"], ["c"], to=TensorProto.FLOAT),
        ],
        [node("Constant", [], ["s"], value_ints=[1, 4]), node("Reshape", ["a", "s"], ["c"])],
        [node("Constant", [], ["k"], value_ints=[0]), node("Unsqueeze", ["a", "k"], ["c"])],
        [node("Unsqueeze", ["a", "zero"], ["u"]), node("Squeeze", ["u"], ["c"])],
        [node("Unsqueeze", ["a", "zero"], ["u"]), node("Squeeze", ["u", "zero"], ["c"])],
        *([node(op, ["a", "d"], ["c"])] for op in ("Add", "Sub", "Mul", "Div")),
        [node("Add", ["a", "d"], ["e"]), node("Identity", ["e"], ["f"]), node("Mul", ["f", "f"], ["c"])],
    ],
)
def test_constant_expressions(nodes: list[NodeProto]) -> None:
    constants: Constants = {"a": f32(3, -1, 0.5, 2), "d": f32(2, 4, -1, 8), "zero": i64(0)}
    graph = assert_same(build([*nodes, node("Sub", ["x", "c"], ["y"])], constants), randoms(3, 4))
    assert ops(graph) == [Scale]


def test_transposed_weight_in_a_constant_node() -> None:
    nodes = [
        node("Constant", [], ["w"], value=numpy_helper.from_array(np.ascontiguousarray(W.T))),
        node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        node("MatMul", ["x", "wt"], ["y"]),
    ]
    assert ops(assert_same(build(nodes), randoms(3, 4))) == [Dense]


def test_names_and_locations() -> None:
    nodes = [
        node("Identity", ["x"], ["unused"], "dead"),
        node("Gemm", ["x", "layer.weight", "layer.bias"], ["h"], "/net/fc"),
        node("Relu", ["h"], ["r"]),
        node("Sub", ["r", "onnx::Sub_7"], ["y"], "shifted"),
    ]
    constants: Constants = {"layer.weight": W, "layer.bias": B, "onnx::Sub_7": B}
    graph = read_onnx(build(nodes, constants))
    assert (graph.level, graph.batch) == (Level.SOURCE, 1)
    assert [n.location for n in graph][1:-1] == ["/net/fc", "#2", "shifted"]
    assert [n.type.shape for n in graph] == [(4,), (3,), (3,), (3,), (3,)]
    np.testing.assert_array_equal(graph.constant("layer.weight"), W.T)
    np.testing.assert_array_equal(graph.constant("layer.bias"), B)
    np.testing.assert_array_equal(graph.constant("onnx::Sub_7"), -B)


def test_shared_weights_are_stored_once() -> None:
    square = randoms(4, 4)
    first = node("Gemm", ["x", "w"], ["h"], "fc1")
    same = node("Gemm", ["h", "w"], ["g"], "fc2")
    transposed = node("Gemm", ["g", "w"], ["y"], "fc3", transB=1)
    graph = assert_same(build([first, same, transposed], {"w": square}), randoms(3, 4))
    used = [op.weights[0].name for _, op in graph.of(Dense)]
    assert used[0] == used[1] == "w"
    assert used[2] != "w"


@pytest.mark.parametrize("dtype", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_other_float_types(dtype: int) -> None:
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    constants: Constants = {"w": W.astype(kind), "b": B.astype(kind)}
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])]
    tolerance = 1e-2 if dtype == TensorProto.FLOAT16 else 1e-12
    assert_same(build(nodes, constants, dtype=dtype), randoms(3, 4).astype(kind), tolerance, tolerance)


# -- whole models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "breast-cancer", "mnist"])
def test_example_networks(name: str) -> None:
    path, data = MODELS / f"{name}-mlp.onnx", MODELS / "data" / f"{name}-test.npy"
    if data.exists():
        x = np.load(data)[:200]
    else:  # the MNIST images are not in the repository
        assert name == "mnist"
        x = np.random.default_rng(0).integers(0, 256, (50, 784)).astype(np.float32)
    graph = assert_same(onnx.load(path), x, atol=1e-4)
    assert graph == read_onnx(path)
    assert sum(kind is Apply for kind in ops(graph)) == {"digits": 2, "breast-cancer": 1, "mnist": 2}[name]


def test_several_outputs() -> None:
    nodes = [
        node("Gemm", ["x", "w"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"]),
        node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    model = build(nodes, {"w": W}, outputs=("label", "logits", "probabilities", "x"))
    graph = assert_same(model, randoms(6, 4))
    assert ops(graph) == [Dense, Softmax, ArgMax]


def test_dead_nodes_do_not_matter() -> None:
    nodes = [
        node("Elu", ["x"], ["dead"]),
        node("Softmax", ["x"], ["dead2"]),
        node("Relu", ["dead2"], ["dead3"]),
        node("Relu", ["x"], ["y"]),
    ]
    assert ops(assert_same(build(nodes), randoms(3, 4))) == [Apply]


def test_initializers_listed_as_inputs() -> None:
    model = build([node("Gemm", ["x", "w", "b"], ["y"])], {"w": W, "b": B})
    model.ir_version = 3
    for name, value in (("w", W), ("b", B)):
        model.graph.input.insert(0, helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
    graph = read_onnx(model)
    x = randoms(3, 4)
    np.testing.assert_allclose(evaluate(graph, {"x": x})["y"], x @ W + B, atol=1e-5)


@pytest.mark.parametrize("batch", [0, -1, 1, 7, None])
def test_the_batch_of_the_file_does_not_matter(batch: int | None) -> None:
    nodes = [node("Reshape", ["x", "shape"], ["h"]), node("Gemm", ["h", "w"], ["y"])]
    constants: Constants = {"shape": i64(-1, 4), "w": W}
    assert read_onnx(build(nodes, constants, (2, 2), batch=batch)) == read_onnx(build(nodes, constants, (2, 2)))


def test_every_kind_of_source(tmp_path: Path) -> None:
    model = build([node("Gemm", ["x", "w", "b"], ["y"])], {"w": W, "b": B})
    before = model.SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(before)
    expected = read_onnx(model)
    assert model.SerializeToString() == before
    for source in (path, str(path), before):
        assert read_onnx(source) == expected


def external(tmp_path: Path) -> tuple[Path, ModelProto]:
    model = build([node("MatMul", ["x", "big"], ["y"])], {"big": randoms(40, 30)}, (40,))
    path = tmp_path / "model.onnx"
    copy = onnx.load_model_from_string(model.SerializeToString())
    onnx.save(copy, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path, model


def test_external_data(tmp_path: Path) -> None:
    path, model = external(tmp_path)
    assert path.stat().st_size < 1000
    assert read_onnx(path) == read_onnx(model)


def test_missing_external_data(tmp_path: Path) -> None:
    path, _ = external(tmp_path)
    unloaded = onnx.load(path, load_external_data=False)
    for source in (unloaded, path.read_bytes()):
        with pytest.raises(ModelError, match=r"'big'.*give the path of the .onnx file"):
            read_onnx(source)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx' keeps weights in other files, which cannot be read"):
        read_onnx(path)
