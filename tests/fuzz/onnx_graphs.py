"""Random small ONNX models from a grammar of the operators that glyphc reads, some of them with hostile numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from glyphc.frontends.onnx_slices import check_slices

from .mutate import integer, real

Shape = tuple[int, ...]
# Shapes of hostile models may ask for more: these numbers are written out.
_MOST_NUMBERS = 1 << 12
_UNARY = (
    *("Abs", "Acos", "Asin", "Atan", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "Gelu", "HardSwish", "Identity"),
    *("Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign"),
    *("Sqrt", "Tan", "Tanh", "Dropout", "Size", "Shape"),
)
_SHAPED = {
    "Elu": 1,
    "LeakyRelu": 1,
    "Celu": 1,
    "ThresholdedRelu": 1,
    "Selu": 2,
    "HardSigmoid": 2,
    "Shrink": 0,
    "Swish": 1,
}
_BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Greater", "Less", "Equal", "PRelu", "Mod", "And", "Or")
_REDUCE = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
    "ReduceSumSquare",
)
_ALONG = ("Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin")


class Graphs:
    """Grows one model. Values are known by name with the shape that onnx infers for them, batch included."""

    def __init__(self, random: Random) -> None:
        self.random = random
        # how often a number is replaced by a hostile one: not at all in a good half of the models
        self.hostile = random.choice((0.0, 0.0, 0.0, 0.05, 0.3))
        self.opset = random.choice((13, 17, 18, 20, 21))
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        batch = random.choice(("N", "N", "N", 1, 2))
        shape = tuple(random.choice((1, 2, 3, 4)) for _ in range(random.choice((1, 1, 2, 3, 3))))
        self.batch: str | int = batch
        self.shape = shape
        self.values: dict[str, Shape] = {"x": (0, *shape)}

    # -- numbers --

    def int(self, usual: int) -> int:
        return integer(self.random) if self.random.random() < self.hostile else usual

    def float(self, usual: float) -> float:
        return real(self.random) if self.random.random() < self.hostile else usual

    def small(self, lo: int, hi: int) -> int:
        return self.int(self.random.randint(lo, hi))

    def constant(self, value: np.ndarray) -> str:
        if value.size and self.random.random() < self.hostile:
            value = value.copy()
            flat = value.reshape(-1)
            at = self.random.randrange(value.size)
            with np.errstate(all="ignore"):
                number = np.array(real(self.random)) if value.dtype.kind == "f" else np.array(integer(self.random))
                flat[at] = number.astype(value.dtype)
        if self.random.random() < self.hostile / 4:
            value = value.reshape(-1)[: self.random.randint(0, 3)]
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array([self.int(v) for v in values], dtype=np.int64))

    def normal(self, *shape: int) -> str:
        if min(shape, default=1) < 1 or math.prod(shape) > _MOST_NUMBERS:
            shape = ()
        draws = [self.random.gauss(0, 0.7) for _ in range(math.prod(shape))]
        return self.constant(np.array(draws, dtype=np.float32).reshape(shape))

    # -- growing --

    def value(self) -> tuple[str, Shape]:
        """Mostly the newest one."""
        names = list(self.values)
        name = names[-1] if self.random.random() < 0.8 else self.random.choice(names)
        return name, self.values[name]

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: object) -> None:
        names = [f"v{len(self.values)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        try:
            model = self.model(names)
            check_slices(model)
            known = onnx.shape_inference.infer_shapes(model).graph.output
            shapes = [tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in known]
        except Exception:
            shapes = [self.values.get(inputs[0], (0,))] * outputs
        for name, shape in zip(names, shapes, strict=True):
            self.values[name] = shape

    def model(self, outputs: list[str]) -> ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.batch, *self.shape])
        graph = helper.make_graph(
            self.nodes, "fuzz", [x], [onnx.ValueInfoProto(name=o) for o in outputs], self.constants
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def step(self) -> None:
        self.random.choice(_STEPS)(self)

    # -- kinds of nodes --

    def unary(self) -> None:
        x, _ = self.value()
        self.add(self.random.choice(_UNARY), [x])

    def shaped(self) -> None:
        x, _ = self.value()
        op = self.random.choice(list(_SHAPED))
        names = ("alpha", "gamma" if op == "Selu" else "beta")[: _SHAPED[op]]
        self.add(op, [x], **{n: self.float(self.random.uniform(0.1, 2)) for n in names})

    def clip(self) -> None:
        x, _ = self.value()
        lo, hi = (self.constant(np.array(self.float(v), dtype=np.float32)) for v in (-1.0, 2.0))
        self.add("Clip", [x, lo, hi])

    def binary(self) -> None:
        x, shape = self.value()
        op = self.random.choice(_BINARY)
        other = [n for n, s in self.values.items() if s == shape and n != x]
        if other and self.random.random() < 0.5:
            y = self.random.choice(other)
        else:
            y = self.normal(*self.random.choice(((), shape[1:], shape[-1:], (1, *shape[1:]))))
        self.add(op, [x, y] if self.random.random() < 0.8 else [y, x])

    def dense(self) -> None:
        x, shape = self.value()
        if len(shape) != 2 and self.random.random() < 0.9:
            self.add("Flatten", [x], axis=self.int(1))
            x, shape = self.value()
        width, units = (shape or (1,))[-1] or 1, self.random.randint(1, 5)
        if self.random.random() < 0.5:
            self.add("MatMul", [x, self.normal(min(width, 64), units)])
        else:
            weight = self.normal(units, min(width, 64))
            extra = {"alpha": self.float(1.0), "beta": self.float(1.0), "transB": self.int(1), "transA": self.int(0)}
            self.add("Gemm", [x, weight, self.normal(units)], **extra)

    def image(self) -> None:
        x, shape = self.value()
        rank = max(1, len(shape) - 2)
        channels = shape[1] if len(shape) > 1 and 0 < shape[1] < 64 else 1
        kernel = [self.small(1, 2) for _ in range(rank)]
        attributes: dict[str, object] = {}
        if self.random.random() < 0.5:
            attributes["strides"] = [self.small(1, 2) for _ in range(rank)]
        if self.random.random() < 0.5:
            attributes["pads"] = [self.small(0, 1) for _ in range(2 * rank)]
        if self.random.random() < 0.3:
            attributes["dilations"] = [self.small(1, 2) for _ in range(rank)]
        if self.random.random() < 0.2:
            attributes = {"auto_pad": self.random.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))}
        match self.random.randrange(8):
            case 0 | 1:
                sizes = [k if 0 < k < 9 else 1 for k in kernel]
                weight = self.normal(self.random.randint(1, 3), channels, *sizes)
                self.add("Conv", [x, weight], group=self.int(1), **attributes)
            case 2:
                sizes = [k if 0 < k < 9 else 1 for k in kernel]
                weight = self.normal(channels, self.random.randint(1, 3), *sizes)
                if self.random.random() < 0.3:
                    attributes["output_padding"] = [self.small(0, 1) for _ in range(rank)]
                self.add("ConvTranspose", [x, weight], **attributes)
            case 3:
                self.add("MaxPool", [x], kernel_shape=kernel, ceil_mode=self.int(0), **attributes)
            case 4:
                self.add("AveragePool", [x], kernel_shape=kernel, count_include_pad=self.int(0), **attributes)
            case 5:
                self.add(self.random.choice(("GlobalAveragePool", "GlobalMaxPool")), [x])
            case 6:
                parts = [self.normal(channels) for _ in range(3)]
                spread = self.constant(np.full(channels, self.float(0.5), dtype=np.float32))
                self.add("BatchNormalization", [x, *parts, spread], epsilon=self.float(1e-5))
            case _:
                self.add("InstanceNormalization", [x, self.normal(channels), self.normal(channels)])

    def moved(self) -> None:
        x, shape = self.value()
        rank = max(1, len(shape))
        size = int(np.prod(shape[1:], dtype=np.int64)) or 1
        axis = self.random.randint(1, rank - 1) if rank > 1 else 0
        along = shape[axis] if axis < len(shape) else 1
        match self.random.randrange(18):
            case 0:
                target = self.random.choice(((0, -1), (-1, size), (0, size, 1), (0, 1, size)))
                self.add("Reshape", [x, self.ints(*target)])
            case 1:
                order = [0, *self.random.sample(range(1, rank), rank - 1)]
                self.add("Transpose", [x], perm=[self.int(p) for p in order])
            case 2:
                self.add("Slice", [x, self.ints(0), self.ints(max(1, along - 1)), self.ints(axis), self.ints(1)])
            case 3:
                self.add("Gather", [x, self.ints(self.random.randrange(max(1, along)))], axis=self.int(axis))
            case 4:
                pads = [self.small(0, 1) * (i % rank > 0) for i in range(2 * rank)]
                self.add("Pad", [x, self.ints(*pads)], mode=self.random.choice(("constant", "edge", "reflect", "wrap")))
            case 5:
                self.add("Tile", [x, self.ints(*(1 if i == 0 else self.random.randint(1, 2) for i in range(rank)))])
            case 6:
                self.add("Expand", [x, self.ints(1, *(n or 1 for n in shape[1:]))])
            case 7:
                self.add("Concat", [x, x if self.random.random() < 0.5 else self.value()[0]], axis=self.int(axis))
            case 8:
                self.add("Split", [x, self.ints(1, max(0, along - 1))], 2, axis=self.int(axis))
            case 9:
                self.add("Unsqueeze", [x, self.ints(self.random.randint(1, rank))])
            case 10:
                self.add("Squeeze", [x, self.ints(axis)])
            case 11:
                self.add("Flatten", [x], axis=self.int(1))
            case 12:
                self.add(self.random.choice(("DepthToSpace", "SpaceToDepth")), [x], blocksize=self.small(1, 2))
            case 13:
                scales = self.constant(
                    np.array([self.float(1.0), *(self.float(2.0) for _ in range(rank - 1))], np.float32)
                )
                self.add("Resize", [x, "", scales], mode=self.random.choice(("nearest", "nearest", "linear")))
            case 14:
                self.add("Trilu", [x], upper=self.int(1))
            case 15:
                self.add(
                    "GatherND", [x, self.constant(np.array([[self.int(0)]], dtype=np.int64))], batch_dims=self.int(1)
                )
            case 16:
                self.add("CenterCropPad", [x, self.ints(max(1, along - 1))], axes=[self.int(axis)])
            case _:
                self.add("ReverseSequence", [x, self.ints(1)], batch_axis=self.int(0), time_axis=self.int(1))

    def combined(self) -> None:
        x, shape = self.value()
        rank = max(2, len(shape))
        axis = self.int(self.random.randint(1, rank - 1))
        match self.random.randrange(6):
            case 0 | 1:
                op, keepdims = self.random.choice(_REDUCE), self.int(self.random.randint(0, 1))
                if self.opset >= 18 or op == "ReduceSum":
                    self.add(op, [x, self.ints(axis)], keepdims=keepdims)
                else:
                    self.add(op, [x], axes=[axis], keepdims=keepdims)
            case 2:
                self.add(self.random.choice(_ALONG), [x], axis=axis)
            case 3:
                self.add("CumSum", [x, self.constant(np.array(axis % rank, np.int64))], reverse=self.int(0))
            case 4:
                self.add("TopK", [x, self.ints(1)], 2, axis=axis, largest=self.int(1))
            case _:
                last = (shape or (1,))[-1] or 1
                self.add("LayerNormalization", [x, self.normal(min(last, 64))], axis=self.int(-1))

    def grid(self) -> None:
        x, _ = self.value()
        scale = self.constant(np.array(self.float(0.25), dtype=np.float32))
        zero = self.constant(np.array(self.random.randint(0, 9), dtype=np.uint8))
        self.add("QuantizeLinear", [x, scale, zero])
        if self.random.random() < 0.9:
            self.add("DequantizeLinear", [self.value()[0], scale, zero])


_STEPS: tuple[Callable[[Graphs], None], ...] = (
    *(Graphs.unary, Graphs.shaped, Graphs.clip, Graphs.binary, Graphs.binary, Graphs.dense, Graphs.dense),
    *(Graphs.image, Graphs.image, Graphs.moved, Graphs.moved, Graphs.moved, Graphs.combined, Graphs.combined),
    Graphs.grid,
)


def random_model(random: Random, hostile: bool = True) -> ModelProto:
    """A model of one to six nodes."""
    graphs = Graphs(random)
    graphs.hostile *= hostile
    for _ in range(random.choice((1, 1, 2, 2, 3, 4, 6))):
        graphs.step()
    names = list(graphs.values)
    model = graphs.model(list(dict.fromkeys([names[-1], *random.sample(names[1:], random.random() < 0.15)])))
    try:
        check_slices(model)
        known = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
        for output, found in zip(model.graph.output, known, strict=True):
            output.CopyFrom(found)
    except Exception:  # a hostile model goes on as it is
        pass
    for output in model.graph.output:
        if not output.type.HasField("tensor_type"):
            rank = max(1, len(graphs.values.get(output.name, ())))
            output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [None] * rank))
        if not output.type.tensor_type.HasField("shape"):
            output.type.tensor_type.shape.dim.add()
    if graphs.hostile and random.random() < 0.3:
        _disturb(random, model)
    return model


def _disturb(random: Random, model: ModelProto) -> None:
    """A change to the file's structure."""
    graph = model.graph
    match random.randrange(6):
        case 0 if graph.node:
            node = random.choice(graph.node)
            node.op_type = random.choice(graph.node).op_type
        case 1:
            dims = graph.input[0].type.tensor_type.shape.dim
            random.choice(dims).dim_value = integer(random)
        case 2 if graph.node:
            del graph.node[random.randrange(len(graph.node))]
        case 3:
            graph.input[0].type.tensor_type.elem_type = random.randrange(25)
        case 4 if graph.initializer:
            random.choice(graph.initializer).data_type = random.randrange(25)
        case _:
            node = random.choice(graph.node)
            if node.input:
                node.input[random.randrange(len(node.input))] = random.choice(("", "x", "c0", "v1_0"))
