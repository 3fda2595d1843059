"""The ONNX front end against ONNX Runtime, and its error messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, ArgMax, Dense, Input, Output, Reshape, Scale, Softmax
from glyphc.ir.types import Level

MODELS = Path(__file__).resolve().parents[1] / "models"
node = helper.make_node
Floats = npt.NDArray[np.floating]
Constants = dict[str, npt.NDArray[np.generic]]


def f32(*values: object) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def randoms(*shape: int, seed: int = 1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-2, 2, shape).astype(np.float32)


def i64(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def build(
    nodes: list[NodeProto],
    constants: Constants | None = None,
    shape: tuple[int | str | None, ...] = (4,),
    *,
    outputs: tuple[str, ...] = ("y",),
    batch: int | str | None = "N",
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    more_inputs: tuple[str, ...] = (),
    sample_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> ModelProto:
    """A model with input x (batch, *shape); onnx works out the types of outputs not in ``sample_shapes``."""
    inputs = [helper.make_tensor_value_info(n, dtype, [batch, *shape]) for n in ("x", *more_inputs)]
    graph = helper.make_graph(
        nodes,
        "test",
        inputs,
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    domains = {n.domain for n in nodes} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in sorted(domains))]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(known)
        if sample_shapes or not output.type.HasField("tensor_type"):
            dims = (sample_shapes or {}).get(output.name, shape)
            output.CopyFrom(helper.make_tensor_value_info(output.name, dtype, [batch, *dims]))
    return model


def run_onnxruntime(model: ModelProto, x: Floats) -> dict[str, npt.NDArray[np.generic]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x}), strict=True))


def assert_same(model: ModelProto, x: Floats, atol: float = 1e-5, rtol: float = 1e-5) -> Graph:
    """Read the model, compare its results on x with ONNX Runtime's, and return the graph."""
    graph = read_onnx(model)
    (source,) = graph.of(Input)
    results = evaluate(graph, {source[1].name: x.astype(np.float64)})
    expected = run_onnxruntime(model, x)
    assert list(results) == list(expected)
    for name, value in expected.items():
        assert results[name].shape == value.shape, name
        np.testing.assert_allclose(
            results[name], value.astype(np.float64), atol=atol, rtol=rtol, err_msg=name
        )
    return graph


def ops(graph: Graph) -> list[type]:
    return [type(n.op) for n in graph if not isinstance(n.op, Input | Output)]


# -- supported ops -------------------------------------------------------------------------------------------

W, B = randoms(4, 3, seed=2), randoms(3, seed=3)


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
    assert ops(assert_same(model, randoms(samples, *shape))) == [Reshape]


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
    used = [op.weight.name for _, op in graph.of(Dense)]
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
    assert read_onnx(build(nodes, constants, (2, 2), batch=batch)) == read_onnx(
        build(nodes, constants, (2, 2))
    )


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


# -- random chains -------------------------------------------------------------------------------------------

Draw = Callable[[st.SearchStrategy], object]


class _Chain:
    """A random network: every step appends nodes and keeps track of the shape of one sample."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.random = np.random.default_rng(self.pick(range(10_000)))
        self.shape = tuple(self.pick([(), (1,), (3,), (4,), (2, 3), (1, 2), (2, 1, 2)]))
        self.start = self.shape
        self.nodes: list[NodeProto] = []
        self.constants: Constants = {}
        self.outputs = ["x"]
        self.shapes: dict[str, tuple[int, ...]] = {}

    def pick(self, options: object) -> object:
        return self.draw(st.sampled_from(options))

    def value(self, *shape: int, lo: float = -2.0, hi: float = 2.0) -> npt.NDArray[np.float32]:
        return np.asarray(self.random.uniform(lo, hi, shape), dtype=np.float32)

    def constant(self, value: npt.NDArray[np.generic]) -> str:
        """Store a constant in one of the ways in which exporters do."""
        name = f"c{len(self.nodes)}.{len(self.constants)}"
        way = self.pick(["initializer", "initializer", "constant", "identity", "negated"])
        if way == "constant":
            self.nodes.append(node("Constant", [], [name], value=numpy_helper.from_array(value)))
        elif way == "initializer":
            self.constants[name] = value
        else:
            self.constants[f"{name}.raw"] = -value if way == "negated" else value
            self.nodes.append(node("Neg" if way == "negated" else "Identity", [f"{name}.raw"], [name]))
        return name

    def append(
        self,
        op_type: str,
        *operands: str,
        shape: tuple[int, ...] | None = None,
        swap: bool = False,
        **attributes: object,
    ) -> None:
        """Add a node behind the last one. shape: of a sample of its result, if that changes."""
        result = f"v{len(self.outputs)}"
        names = [self.outputs[-1], *operands]
        self.nodes.append(node(op_type, names[::-1] if swap else names, [result], result, **attributes))
        self.outputs.append(result)
        self.shape = self.shapes[result] = self.shape if shape is None else shape

    def gemm(self) -> None:
        if len(self.shape) != 1:
            return self.flatten()
        out, trans = self.pick(range(1, 5)), self.pick([0, 1])
        weight = self.value(*((out, *self.shape) if trans else (*self.shape, out)))
        c_shape = self.pick([None, (), (1,), (out,), (1, out), (1, 1)])
        operands = [self.constant(weight)] + (
            [] if c_shape is None else [self.constant(self.value(*c_shape))]
        )
        attributes = self.pick([{}, {"alpha": 0.5}, {"beta": -2.0}, {"alpha": -1.25, "beta": 0.5}])
        self.append("Gemm", *operands, shape=(out,), transB=trans, **attributes)

    def matmul(self) -> None:
        if len(self.shape) != 1:
            return self.flatten()
        out = self.pick([(), (1,), (2,), (3,)])
        self.append("MatMul", self.constant(self.value(*self.shape, *out)), shape=out)

    def elementwise(self) -> None:
        op_type = self.pick(["Add", "Sub", "Mul", "Div"])
        full = (1, *self.shape)
        axes = self.pick(range(len(full) + 1))
        thin = self.pick([False, True])
        c_shape = [1 if thin and i == 0 else d for i, d in enumerate(full[axes:])]
        value = self.value(*c_shape)
        if op_type == "Div":  # away from zero
            value = np.asarray(np.where(value < 0, value - 0.5, value + 0.5), dtype=np.float32)
        self.append(op_type, self.constant(value), swap=op_type != "Div" and self.pick([False, True]))

    def activation(self) -> None:
        op_type = self.pick(["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Neg", "Identity", "Dropout"])
        self.append(
            op_type, **({"alpha": self.pick([0.0, 0.2, 1.5, -0.5])} if op_type == "LeakyRelu" else {})
        )

    def flatten(self) -> None:
        rank = len(self.shape) + 1
        attributes = self.pick([{}, {"axis": 1}, {"axis": 1 - rank}] if rank > 1 else [{}])
        self.append("Flatten", shape=(int(np.prod(self.shape)),), **attributes)

    def reshape(self) -> None:
        size = int(np.prod(self.shape))
        shapes = [(size,), (1, size), (size, 1), *((2, size // 2) for _ in range(size % 2 == 0))]
        if size == 1:
            shapes.append(())
        new = self.pick(shapes)
        open_axis = self.pick(range(len(new) + 1))  # which axis is written as -1
        target = [-1 if i == open_axis else d for i, d in enumerate((0, *new))]
        self.append("Reshape", self.constant(i64(*target)), shape=new)

    def batchnorm(self) -> None:
        if len(self.shape) != 1:
            return self.flatten()
        parts = [self.value(*self.shape) for _ in range(3)] + [self.value(*self.shape, lo=0.2)]
        self.append("BatchNormalization", *map(self.constant, parts), epsilon=self.pick([1e-5, 0.25]))

    def client(self) -> None:
        if self.shape:
            last = self.pick([-1, len(self.shape)])
            self.append(self.pick(["Softmax", "LogSoftmax"]), axis=last)


@st.composite
def chains(draw: Draw) -> tuple[ModelProto, npt.NDArray[np.float32]]:
    chain = _Chain(draw)
    steps = ["gemm", "gemm", "matmul", "elementwise", "elementwise", "activation", "reshape", "batchnorm"]
    for step in draw(st.lists(st.sampled_from(steps), min_size=1, max_size=6)):
        getattr(chain, step)()
    if chain.pick([False, True]):
        chain.client()
    batch = chain.pick(["N", None, 1, 3])
    samples = batch if isinstance(batch, int) else chain.pick([1, 2, 5])
    model = build(
        chain.nodes,
        chain.constants,
        chain.start,
        # every value in between is an output too, so that a failure shows where the results part
        outputs=tuple(chain.outputs[1:]) or ("x",),
        batch=batch,
        opset=chain.pick([13, 15, 17, 21]),
        sample_shapes=chain.shapes,
    )
    return model, chain.value(samples, *chain.start)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chains())
def test_random_chains(case: tuple[ModelProto, npt.NDArray[np.float32]]) -> None:
    model, x = case
    # ONNX Runtime adds in float32, with errors in proportion to the largest numbers
    peak = max(float(np.abs(v).max()) for v in run_onnxruntime(model, x).values())
    assert_same(model, x, atol=1e-5 * max(1.0, peak))


# -- files that are no models --------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.onnx' does not exist"):
        read_onnx(tmp_path / "nothing.onnx")
    with pytest.raises(ModelError, match="is a directory"):
        read_onnx(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"not a network at all", b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(1000)]
)
def test_garbage(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"garbage\.onnx' is not .*[Ee]xport it again"):
        read_onnx(path)
    with pytest.raises(ModelError, match="the given data is not "):
        read_onnx(data)


@pytest.mark.filterwarnings("ignore:The onnxtxt format is experimental")
@pytest.mark.parametrize("suffix", ["json", "textproto", "onnxtxt"])
def test_garbage_in_the_text_formats(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"garbage.{suffix}"
    path.write_bytes(b"\xff{not a network")
    with pytest.raises(ModelError, match=f"garbage.{suffix}' is not an ONNX file"):
        read_onnx(path)


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_truncated_file(kept: float, tmp_path: Path) -> None:
    data = (MODELS / "digits-mlp.onnx").read_bytes()
    path = tmp_path / "half.onnx"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ModelError, match=r"half\.onnx' is not "):
        read_onnx(path)


def test_invalid_models() -> None:
    unknown_op = build([node("Relu", ["x"], ["y"], "r")])
    unknown_op.graph.node[0].op_type = "Rellu"
    with pytest.raises(ModelError, match=r"not a valid ONNX model: .*Rellu"):
        read_onnx(unknown_op)
    mismatch = build([node("Gemm", ["x", "w"], ["y"], "fc")], {"w": randoms(5, 3)})
    with pytest.raises(ModelError, match=r"not a valid ONNX model: .*between 5 and 4"):
        read_onnx(mismatch)


def test_versions() -> None:
    old = build([node("Relu", ["x"], ["y"])], opset=12)
    with pytest.raises(ModelError, match=r"opset 12.*onnx.version_converter"):
        read_onnx(old)
    new = build([node("Relu", ["x"], ["y"])])
    new.opset_import[0].version = 9999
    with pytest.raises(ModelError, match=r"opset 9999.*update the onnx package"):
        read_onnx(new)
    new.opset_import[0].version = 17
    new.ir_version = 9999
    with pytest.raises(ModelError, match=r"ir_version 9999 is higher.*update the onnx package"):
        read_onnx(new)


# -- inputs and outputs --------------------------------------------------------------------------------------


def test_inputs_that_do_not_fit() -> None:
    relu = [node("Relu", ["x"], ["y"])]
    with pytest.raises(ModelError, match=r"axis 2 of input 'x' .*'width'.*update_model_dims"):
        read_onnx(build(relu, shape=(3, "width")))
    with pytest.raises(ModelError, match=r"axis 1 of input 'x' .*'unknown'"):
        read_onnx(build(relu, shape=(None,)))
    with pytest.raises(ModelError, match=r"has 2 inputs \('x', 'mask'\)"):
        read_onnx(build([node("Add", ["x", "mask"], ["y"])], more_inputs=("mask",)))
    no_input = build([node("Identity", ["c"], ["y"])], {"c": f32(1, 2, 3, 4)})
    del no_input.graph.input[:]
    with pytest.raises(ModelError, match=r"has 0 inputs \(none\)"):
        read_onnx(no_input)
    scalar = build(relu)
    for value in (*scalar.graph.input, *scalar.graph.output):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, []))
    with pytest.raises(ModelError, match=r"'x' .* has no batch axis"):
        read_onnx(scalar)
    sequence = build([node("SequenceAt", ["x", "i"], ["y"])], {"i": np.array(0)})
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 4])
    sequence.graph.input[0].CopyFrom(helper.make_value_info("x", helper.make_sequence_type_proto(kind)))
    with pytest.raises(ModelError, match=r"input 'x' .* is not a tensor"):
        read_onnx(sequence)


@pytest.mark.parametrize(
    "dtype", [TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL, TensorProto.BFLOAT16]
)
def test_input_types(dtype: int) -> None:
    model = build([node("Identity", ["x"], ["y"])], dtype=dtype)
    with pytest.raises(ModelError, match=f"input 'x' .* is {TensorProto.DataType.Name(dtype)}; only FLOAT"):
        read_onnx(model)


def test_outputs_that_do_not_fit() -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Identity", ["c"], ["fixed"])]
    with pytest.raises(ModelError, match=r"output 'fixed' .*does not depend on the input"):
        read_onnx(build(nodes, {"c": f32(1)}, outputs=("y", "fixed")))
    none = build(nodes, {"c": f32(1)})
    del none.graph.output[:]
    with pytest.raises(ModelError, match="has no output"):
        read_onnx(none)
    twice = build(nodes, {"c": f32(1)})
    twice.graph.output.append(twice.graph.output[0])
    with pytest.raises(ModelError, match="output 'y' more than once"):
        read_onnx(twice)


# -- unsupported nodes ---------------------------------------------------------------------------------------


def test_all_unsupported_nodes_are_listed() -> None:
    nodes = [
        node("Gemm", ["x", "w"], ["a"], "good_fc"),
        node("Sinh", ["a"], ["b"], "bad_sinh"),
        node("Mul", ["b", "b"], ["c"], "bad_square"),
        node("Relu", ["c"], ["d"], "good_relu"),
        node("Softmax", ["d"], ["e"], "bad_softmax"),
        node("Add", ["e", "one"], ["f"], "good_add"),
        node("Swish", ["f"], ["g"], "bad_custom", domain="my.ops"),
        node("Gemm", ["g", "w"], ["h"], "bad_transposed", transA=1),
        node("Tanh", ["h"], ["i"], "good_tanh"),
        node("Cosh", ["i"], ["j"]),
        node("Scaler", ["j"], ["y"], "bad_ml", domain="ai.onnx.ml", scale=[1.0], offset=[0.0]),
    ]
    model = build(nodes, {"w": randoms(4, 4), "one": f32(1)}, batch=4)
    with pytest.raises(ModelError) as caught:
        read_onnx(model)
    message = str(caught.value)
    listed = dict(re.findall(r"^  '(\S+)' \((\w+)\): \S", message, re.MULTILINE))
    assert listed == {
        "bad_sinh": "Sinh",
        "bad_square": "Mul",
        "bad_softmax": "Softmax",
        "bad_custom": "Swish",
        "bad_transposed": "Gemm",
        "#9": "Cosh",
        "bad_ml": "Scaler",
    }
    assert "has 7 node(s)" in message
    assert "good_" not in message
    assert message.splitlines()[-1].startswith("Replace them in the network and export it again. Supported")


def test_nodes_behind_an_unsupported_one_are_checked() -> None:
    nodes = [
        node("Conv", ["x", "k"], ["a"], "conv"),
        node("Flatten", ["a"], ["b"], "flat", axis=1),
        node("Gemm", ["b", "w"], ["c"], "fc"),
        node("Add", ["c", "c"], ["d"], "twice"),
        node("Where", ["e", "d", "c"], ["y"], "where"),
    ]
    nodes.insert(4, node("Greater", ["d", "c"], ["e"], "greater"))
    model = build(nodes, {"k": randoms(2, 1, 3, 3), "w": randoms(18, 5)}, (1, 5, 5))
    with pytest.raises(ModelError) as caught:
        read_onnx(model)
    listed = re.findall(r"^  '(\w+)' ", str(caught.value), re.MULTILINE)
    assert listed == ["conv", "twice", "greater", "where"]
    assert "convolutions are not supported yet" in str(caught.value)


def test_nodes_that_only_the_body_of_another_reads_are_listed() -> None:
    body = helper.make_graph(
        [node("Identity", ["outer"], ["r"])],
        "b",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
    )
    nodes = [
        node("Sinh", ["x"], ["outer"], "sinh"),
        node("If", ["yes"], ["y"], "branch", then_branch=body, else_branch=body),
    ]
    with pytest.raises(ModelError, match=r"(?s)'sinh' \(Sinh\).*'branch' \(If\)"):
        read_onnx(build(nodes, {"yes": np.array(True)}))


BN: Constants = {k: f32(1, 1, 1) for k in "sbmv"}
REASONS: dict[str, tuple[list[NodeProto], Constants, tuple[int, ...], str]] = {
    "matmul-two": ([node("MatMul", ["x", "x"], ["y"])], {}, (3, 3), "multiplies two encrypted tensors"),
    "matmul-left": (
        [node("MatMul", ["w", "x"], ["y"])],
        {"w": randoms(2, 3)},
        (4,),
        "left operand is the const",
    ),
    "matmul-deep": ([node("MatMul", ["x", "w"], ["y"])], {"w": W}, (2, 4), "samples must be flat"),
    "matmul-stack": ([node("MatMul", ["x", "w"], ["y"])], {"w": W[None]}, (4,), "samples must be flat"),
    "gemm-transa": ([node("Gemm", ["x", "w"], ["y"], transA=1)], {"w": randoms(3, 2)}, (4,), "transA=1"),
    "gemm-left": (
        [node("Gemm", ["w", "x"], ["y"])],
        {"w": randoms(2, 3)},
        (4,),
        "operand B is computed by the network",
    ),
    "gemm-two": ([node("Gemm", ["x", "x"], ["y"])], {}, (3,), "operand B is computed by the network"),
    "gemm-c": ([node("Gemm", ["x", "w", "x"], ["y"])], {"w": randoms(3, 3)}, (3,), "operand C is computed"),
    "gemm-c-batch": (
        [node("Gemm", ["x", "w", "c"], ["y"])],
        {"w": W, "c": randoms(3, 1)},
        (4,),
        "'c' of shape .3, 1. differs along the batch axis",
    ),
    "add-two": ([node("Add", ["x", "x"], ["y"])], {}, (4,), "adds two encrypted tensors"),
    "add-batch": ([node("Add", ["x", "c"], ["y"])], {"c": randoms(3, 4)}, (4,), "'c'.*along the batch axis"),
    "add-batch-scalars": ([node("Add", ["x", "c"], ["y"])], {"c": randoms(3)}, (), "along the batch axis"),
    "add-axes": ([node("Add", ["c", "x"], ["y"])], {"c": randoms(1, 1, 4)}, (4,), "'c'.*more axes"),
    "add-grow": ([node("Add", ["x", "c"], ["y"])], {"c": randoms(5)}, (1,), "would enlarge"),
    "div-zero": (
        [node("Div", ["x", "c"], ["y"])],
        {"c": f32(1, 0, 2)},
        (3,),
        "constant 'c', which holds a zero",
    ),
    "flatten": ([node("Flatten", ["x"], ["y"], axis=0)], {}, (4,), "axis=0 joins the batch axis"),
    "flatten-2": ([node("Flatten", ["x"], ["y"], axis=2)], {}, (2, 3), "axis=2 joins the batch axis"),
    "flatten-minus": ([node("Flatten", ["x"], ["y"], axis=-1)], {}, (2, 3), "axis=-1 joins the batch axis"),
    "reshape-all": (
        [node("Reshape", ["x", "s"], ["y"])],
        {"s": i64(-1)},
        (2, 3),
        "leave the batch axis alone",
    ),
    "reshape-mix": (
        [node("Reshape", ["x", "s"], ["y"])],
        {"s": i64(-1, 2)},
        (2, 3),
        "by .-1, 2., which does not",
    ),
    "reshape-one": (
        [node("Reshape", ["x", "s"], ["y"])],
        {"s": i64(1, -1)},
        (2, 3),
        "by .1, -1., which does not",
    ),
    "softmax-batch": ([node("Softmax", ["x"], ["y"], axis=0)], {}, (4,), "axis=0 is not the last"),
    "softmax-inner": ([node("Softmax", ["x"], ["y"], axis=1)], {}, (2, 3), "axis=1 is not the last"),
    "softmax-scalars": ([node("Softmax", ["x"], ["y"])], {}, (), "axis=-1 is not the last one of a sample"),
    "argmax-default": ([node("ArgMax", ["x"], ["y"])], {}, (4,), "axis=0 is not the last"),
    "argmax-last": (
        [node("ArgMax", ["x"], ["y"], axis=1, select_last_index=1)],
        {},
        (4,),
        "select_last_index=1",
    ),
    "dropout-mask": (
        [node("Dropout", ["x"], ["d", "mask"]), node("Where", ["mask", "d", "d"], ["y"])],
        {},
        (4,),
        r"\(Dropout\): only its first output",
    ),
    "dropout-training": (
        [node("Dropout", ["x", "r", "t"], ["y"])],
        {"r": np.float32(0.5), "t": np.array(True)},
        (4,),
        "training mode",
    ),
    "batchnorm-deep": (
        [node("BatchNormalization", ["x", *"sbmv"], ["y"])],
        BN,
        (3, 2),
        r"samples have shape \[3, 2\]; only flat",
    ),
    "batchnorm-training": (
        [node("BatchNormalization", ["x", *"sbmv"], ["y", "m2", "v2"], training_mode=1)],
        BN,
        (3,),
        "training mode",
    ),
    "batchnorm-variance": (
        [node("BatchNormalization", ["x", *"sbmv"], ["y"])],
        BN | {"v": f32(1, -1, 1)},
        (3,),
        "constant 'v' holds a variance",
    ),
    "cast-int": ([node("Cast", ["x"], ["y"], to=TensorProto.INT64)], {}, (4,), "casts FLOAT to INT64"),
    "cast-bfloat": (
        [node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)],
        {},
        (4,),
        "casts FLOAT to BFLOAT16",
    ),
    "cast-index": (
        [node("ArgMax", ["x"], ["i"], axis=1), node("Cast", ["i"], ["y"], to=TensorProto.INT8)],
        {},
        (4,),
        "casts INT64 to INT8",
    ),
    "transpose": (
        [node("Transpose", ["x"], ["y"], perm=[0, 2, 1])],
        {},
        (2, 3),
        "supported on constants only",
    ),
    "relu-of-constant": (
        [node("Relu", ["c"], ["d"]), node("Add", ["x", "d"], ["y"])],
        {"c": f32(1)},
        (4,),
        r"\(Relu\): works on constants only",
    ),
    "text": (
        [node("Constant", [], ["c"], value_string=b"abc"), node("Add", ["x", "c"], ["y"])],
        {},
        (4,),
        "constant 'c' holds .*, not real numbers",
    ),
    "run-time-shape": (
        [node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["y"])],
        {},
        (4,),
        r"\(Shape\): sizes computed at run time",
    ),
    "nan": (
        [node("Gemm", ["x", "w"], ["y"])],
        {"w": W * np.float32("nan")},
        (4,),
        "constant 'w' holds NaN or inf",
    ),
    "infinity": (
        [node("Add", ["x", "far"], ["y"])],
        {"far": f32(np.inf)},
        (4,),
        "constant 'far' holds NaN or inf",
    ),
    "empty": ([node("Gemm", ["x", "w"], ["y"])], {"w": randoms(4, 0)}, (4,), "constant 'w' is empty"),
    "infinite-alpha": ([node("LeakyRelu", ["x"], ["y"], alpha=np.inf)], {}, (4,), "attribute alpha is inf"),
    "folded-nan": (
        [node("Div", ["zero", "zero"], ["ratio"]), node("Mul", ["x", "ratio"], ["y"])],
        {"zero": f32(0)},
        (4,),
        "constant 'ratio' holds NaN",
    ),
}


@pytest.mark.parametrize("case", REASONS.values(), ids=REASONS.keys())
def test_reasons(case: tuple[list[NodeProto], Constants, tuple[int, ...], str]) -> None:
    nodes, constants, shape, reason = case
    # batch 3 lets constants and operands clash with the batch axis; for Reshape the batch stays open
    batch = "N" if nodes[-1].op_type == "Reshape" else 3
    model = build(nodes, constants, shape, batch=batch)
    with pytest.raises(ModelError, match=reason):
        read_onnx(model)


def test_training_mode_of_batch_normalization() -> None:
    # opset 13: outputs beyond the first mean training, read or not
    normalize = node("BatchNormalization", ["x", *"sbmv"], ["y", "m2", "v2", "m3", "v3"])
    with pytest.raises(ModelError, match="training mode"):
        read_onnx(build([normalize], BN, (3,), opset=13))


def test_constants_that_overflow_when_combined() -> None:
    nodes = [node("Gemm", ["x", "huge"], ["h"], alpha=1e30), node("Div", ["x", "tiny"], ["d"])]
    constants: Constants = {"huge": np.full((4, 3), 1e300), "tiny": np.array(1e-310)}
    for output, name in (("h", "huge"), ("d", "tiny")):
        model = build(nodes, constants, outputs=(output,), dtype=TensorProto.DOUBLE)
        with pytest.raises(ModelError, match=f"constant '{name}' overflows"):
            read_onnx(model)


@pytest.mark.parametrize(
    ("op_type", "shape", "bad", "constants", "declared"),
    [
        ("Reshape", (6,), i64(-1, -1), {}, (6,)),
        ("Reshape", (6,), i64(-1, -1, 2), {}, (3, 2)),
        ("Reshape", (6,), i64(0, -2, -3), {}, (2, 3)),
        ("Reshape", (6,), i64(0, -1, 4), {}, (2, 3)),
        ("Reshape", (6,), i64(0, 6, 0), {}, (6, 1)),
        ("MatMul", (3,), W, {}, (3,)),
        ("Gemm", (3,), W, {}, (3,)),
        ("BatchNormalization", (3,), f32(1, 2, 3, 4), BN, (3,)),
        ("Add", (3,), f32(1, 2, 3, 4), {}, (3,)),
    ],
)
def test_shapes_that_onnx_cannot_check(
    op_type: str,
    shape: tuple[int, ...],
    bad: npt.NDArray[np.generic],
    constants: Constants,
    declared: tuple[int, ...],
) -> None:
    """Invalid models, but onnx doesn't see it: it does not know what a Reshape by a computed shape gives."""
    constants = {"bad.negative": -bad, "shape.negative": -i64(*np.shape(bad)), **constants}
    nodes = [
        node("Neg", ["shape.negative"], ["shape"]),
        node("Neg", ["bad.negative"], ["bad.flat"]),
        node("Reshape", ["bad.flat", "shape"], ["bad"]),
        node(op_type, ["x", "bad", *(k for k in "bmv" if k in constants)], ["y"], "culprit"),
    ]
    model = build(nodes, constants, shape, sample_shapes={"y": declared})
    with pytest.raises(ModelError, match=rf"has 1 node.*\n  'culprit' \({op_type}\): "):
        read_onnx(model)


def test_broken_constants() -> None:
    short = build([node("Gemm", ["x", "w"], ["y"])], {"w": W})
    short.graph.initializer[0].raw_data = short.graph.initializer[0].raw_data[:-8]
    strange = build([node("Gemm", ["x", "w"], ["y"])], {"w": W})
    strange.graph.initializer[0].data_type = 121
    for model in (short, strange):
        with pytest.raises(ModelError, match=r"constant 'w' has data that don't fit|not a valid ONNX model"):
            read_onnx(model)


@pytest.mark.parametrize(
    ("nodes", "constants", "listed"),
    [
        # what follows from an error is not another one
        (
            [node("Exp", ["c"], ["d"], "exp"), node("Add", ["x", "d"], ["y"], "add")],
            {"c": randoms(3, 4)},
            ["exp"],
        ),
        (
            [
                node("Transpose", ["x"], ["t"], "transpose", perm=[1, 0]),
                node("Add", ["t", "c"], ["u"], "add"),
                node("Transpose", ["u"], ["y"], "back", perm=[1, 0]),
            ],
            {"c": randoms(4, 1)},
            ["transpose", "back"],
        ),
        (
            [
                node("IsNaN", ["x"], ["b"], "isnan"),
                node("Cast", ["b"], ["y"], "cast", to=TensorProto.FLOAT),
            ],
            {"c": f32(1)},
            ["isnan"],
        ),
    ],
)
def test_exactly_these_are_listed(nodes: list[NodeProto], constants: Constants, listed: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        read_onnx(build(nodes, constants, batch=3))
    assert re.findall(r"^  '(\w+)' ", str(caught.value), re.MULTILINE) == listed


def test_attributes_of_a_future_opset(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build([node("Gemm", ["x", "w"], ["y"], "fc", squared=1)], {"w": W})
    with pytest.raises(ModelError, match=r"not a valid ONNX model: .*squared"):
        read_onnx(model)
    monkeypatch.setattr(onnx.checker, "check_model", lambda model: None)
    with pytest.raises(ModelError, match=r"'fc' \(Gemm\): attribute\(s\) squared are not supported"):
        read_onnx(model)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "ArgMax"])
@pytest.mark.parametrize("also_output", [False, True])
def test_client_ops_inside_the_network(op_type: str, also_output: bool) -> None:
    nodes = [
        node(op_type, ["x"], ["p"], "inner", axis=1),
        node("Identity", ["p"], ["q"]),
        node("Cast", ["q"], ["r"], to=TensorProto.FLOAT),
        node("Neg", ["r"], ["y"], "after"),
    ]
    model = build(nodes, outputs=("p", "y") if also_output else ("y",))
    with pytest.raises(
        ModelError, match=r"'inner' .*inside the network; it is only supported at the output"
    ) as e:
        read_onnx(model)
    assert "'after'" not in str(e.value)


def test_functions_of_the_model_itself() -> None:
    model = build([node("Twice", ["x"], ["y"], "call", domain="local")])
    body = [node("Add", ["a", "a"], ["b"])]
    model.functions.append(
        helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    with pytest.raises(ModelError, match=r"'call' .Twice.: ops of domain 'local'.*inline_local_functions"):
        read_onnx(model)


def test_sparse_constants() -> None:
    values = numpy_helper.from_array(f32(1, 2), "c")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(i64(0, 2), "c.indices"), [4])
    model = build([node("Add", ["x", "d"], ["y"])], {"d": f32(1, 2, 3, 4)})
    del model.graph.initializer[:]
    model.graph.sparse_initializer.append(sparse)
    model.graph.node[0].input[1] = "c"
    with pytest.raises(ModelError, match="constant 'c' is sparse"):
        read_onnx(model)
