"""The ONNX front end against ONNX Runtime: what it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx_models import (
    MODELS,
    B,
    Constants,
    W,
    assert_same,
    build,
    f32,
    i64,
    node,
    ops,
    randoms,
    run_onnxruntime,
)
from strategies import drawn

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
        operands = [self.constant(weight)] + ([] if c_shape is None else [self.constant(self.value(*c_shape))])
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
        self.append(op_type, **({"alpha": self.pick([0.0, 0.2, 1.5, -0.5])} if op_type == "LeakyRelu" else {}))

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


@settings(max_examples=drawn(250), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chains())
def test_random_chains(case: tuple[ModelProto, npt.NDArray[np.float32]]) -> None:
    model, x = case
    # ONNX Runtime adds in float32, with errors in proportion to the largest numbers
    peak = max(float(np.abs(v).max()) for v in run_onnxruntime(model, x).values())
    assert_same(model, x, atol=1e-5 * max(1.0, peak))
