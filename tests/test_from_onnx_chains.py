"""Random chains of ONNX operators against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, numpy_helper
from onnx_models import Constants, assert_same, build, i64, node, run_onnxruntime
from strategies import drawn

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
