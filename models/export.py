"""Writes networks as ONNX and checks the written files in ONNX Runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
BATCH = "N"

# Both sides compute in float32 and differ only in the order of their sums.
PROBABILITY_TOLERANCE = 1e-4
OUTPUT_TOLERANCE = 1e-5

FloatArray = npt.NDArray[np.float32]


class Dense(NamedTuple):
    """A fully connected layer: weights (inputs, outputs), bias (outputs,)."""

    weights: FloatArray
    bias: FloatArray


@dataclass(frozen=True)
class Step:
    """Elementwise preprocessing of the raw input by a constant, a scalar () or one value per feature.

    Training and export share it, so that the network sees the same numbers in both.
    """

    name: str
    op: Literal["Add", "Sub", "Mul", "Div"]
    value: FloatArray

    def apply(self, x: FloatArray) -> FloatArray:
        """The step on x (samples, features), in float32 as the exported node computes it."""
        functions = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
        result: FloatArray = functions[self.op](x, self.value)
        return result


def preprocess(steps: Sequence[Step], x: FloatArray) -> FloatArray:
    """Apply all steps in order to raw x (samples, features)."""
    for step in steps:
        x = step.apply(x)
    return x


class GraphWriter:
    """A chain of named nodes: each one consumes what the one before it produced."""

    def __init__(self, input_name: str) -> None:
        self.input = input_name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.last = input_name

    def constant(self, name: str, value: FloatArray) -> str:
        """Store a float32 initializer and return its name."""
        # Gemm weights may arrive as transposed views; the file holds them in row-major order.
        array = np.asarray(value, dtype=np.float32, order="C")
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, name: str, *more: str, **attributes: int | Sequence[int]) -> None:
        """Append a node whose first input is the current end of the chain, followed by constants or other values."""
        output = f"{name}_out"
        node = helper.make_node(op, [self.last, *more], [output], name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        self.last = output

    def step(self, step: Step) -> None:
        """Append a preprocessing step."""
        self.node(step.op, step.name, self.constant(f"{step.name}.value", step.value))

    def reshape(self, name: str, sample: Sequence[int]) -> None:
        """Append a Reshape of every sample to a shape."""
        self.initializers.append(numpy_helper.from_array(np.array([0, *sample], dtype=np.int64), f"{name}.shape"))
        self.node("Reshape", name, f"{name}.shape")

    def conv(self, name: str, layer: Mapping[str, FloatArray], **attributes: int | Sequence[int]) -> None:
        """Append a Conv with weights (outputs, inputs, *kernel) and bias (outputs,)."""
        constants = (self.constant(f"{name}.{role}", layer[role]) for role in ("weights", "bias"))
        self.node("Conv", name, *constants, **attributes)

    def gemm(self, name: str, layer: Dense) -> None:
        """Append a Gemm with weights (inputs, outputs)."""
        weight, bias = self.constant(f"{name}.weight", layer.weights), self.constant(f"{name}.bias", layer.bias)
        self.node("Gemm", name, weight, bias)

    def rename_last(self, output: str) -> None:
        """Give the end of the chain its public name."""
        self.nodes[-1].output[0] = output
        self.last = output

    def save(
        self,
        path: Path,
        sample: Sequence[int],
        output: str,
        result: Sequence[int],
        metadata: Mapping[str, str],
    ) -> None:
        """Write the network from an input (N, *sample) to the chain's end, under the name ``output``: (N, *result)."""
        self.rename_last(output)
        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                path.stem,
                [helper.make_tensor_value_info(self.input, TensorProto.FLOAT, [BATCH, *sample])],
                [helper.make_tensor_value_info(output, TensorProto.FLOAT, [BATCH, *result])],
                self.initializers,
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="glyphc-models",
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def export_mlp(
    path: Path,
    layers: Sequence[Dense],
    *,
    activation: Literal["Relu", "Tanh"],
    preprocessing: Sequence[Step],
    metadata: Mapping[str, str],
    input_name: str,
    dense: Literal["Gemm", "GemmTransB", "MatMulAdd"] = "Gemm",
    flatten: bool = False,
    softmax: bool = False,
) -> None:
    """Write raw input (N, inputs) float32 -> logits (N, classes), or probabilities with ``softmax``.

    ``activation`` follows every layer but the last. ``dense`` chooses among the forms in which
    common exporters write a fully connected layer: Gemm with weights (inputs, outputs), Gemm with
    transB and weights (outputs, inputs), or MatMul followed by Add.
    """
    graph = GraphWriter(input_name)
    if flatten:
        graph.node("Flatten", "flatten", axis=1)
    for step in preprocessing:
        graph.step(step)
    for index, (weights, bias) in enumerate(layers, start=1):
        name = f"fc{index}"
        stored = weights.T if dense == "GemmTransB" else weights
        weight_name = graph.constant(f"{name}.weight", stored)
        bias_name = graph.constant(f"{name}.bias", bias)
        if dense == "MatMulAdd":
            graph.node("MatMul", f"{name}_matmul", weight_name)
            graph.node("Add", f"{name}_add", bias_name)
        elif dense == "GemmTransB":
            graph.node("Gemm", name, weight_name, bias_name, transB=1)
        else:
            graph.node("Gemm", name, weight_name, bias_name)
        if index < len(layers):
            graph.node(activation, f"{activation.lower()}{index}")
    output = "logits"
    if softmax:
        graph.rename_last(output)
        graph.node("Softmax", "softmax", axis=1)
        output = "probabilities"
    inputs, classes = layers[0].weights.shape[0], layers[-1].weights.shape[1]
    graph.save(path, (inputs,), output, (classes,), metadata)


def check_export(
    path: Path,
    x_test: FloatArray,
    y_test: npt.NDArray[np.int64],
    expected: npt.NDArray[np.floating],
    *,
    softmax: bool = False,
) -> None:
    """Compare ONNX Runtime on the written file with the trainer, and print a summary.

    ``expected`` holds the trainer's class probabilities (samples, classes) for raw ``x_test``
    (samples, features). ``softmax`` says that the file itself ends in a Softmax. Ends the program
    with an error when the classes, the accuracy or the probabilities disagree.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    output = session.run(None, {session.get_inputs()[0].name: x_test})[0].astype(np.float64)
    if softmax:
        probabilities = output
    else:
        exponentials = np.exp(output - output.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)

    correct = int(np.sum(output.argmax(axis=1) == y_test))
    expected_correct = int(np.sum(expected.argmax(axis=1) == y_test))
    different = int(np.sum(output.argmax(axis=1) != expected.argmax(axis=1)))
    error = float(np.abs(probabilities - expected).max())
    print(f"{path.name}: {path.stat().st_size} bytes")
    print(f"  ONNX Runtime test accuracy {correct}/{len(y_test)} = {correct / len(y_test):.4f}")
    print(f"  scikit-learn test accuracy {expected_correct}/{len(y_test)}")
    print(f"  largest difference of a class probability {error:.1e}")
    if correct != expected_correct or different or not error <= PROBABILITY_TOLERANCE:
        raise SystemExit(f"{path.name} disagrees with the trained model on {different} test samples")


def check_classes(
    path: Path, x_test: FloatArray, y_test: npt.NDArray[np.int64], expected: npt.NDArray[np.floating]
) -> None:
    """Compare the scores (samples, classes) of ONNX Runtime on the written file with the trainer's; print a summary.

    Ends the program with an error when a class differs, or a score by more than OUTPUT_TOLERANCE of their span.
    """
    output = check_forecast(path, x_test, expected)
    correct = int(np.sum(output.argmax(axis=1) == y_test))
    different = int(np.sum(output.argmax(axis=1) != expected.argmax(axis=1)))
    print(f"  ONNX Runtime test accuracy {correct}/{len(y_test)} = {correct / len(y_test):.4f}")
    if different:
        raise SystemExit(f"{path.name} disagrees with the trained model on {different} test samples")


def check_forecast(path: Path, x_test: FloatArray, expected: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Results of ONNX Runtime on the written file; the program ends with an error if they differ from ``expected``."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    output = session.run(None, {session.get_inputs()[0].name: x_test})[0].astype(np.float64)
    error = float(np.abs(output - expected).max() / np.ptp(expected))
    print(f"{path.name}: {path.stat().st_size} bytes")
    print(f"  largest difference of a result from the trainer's: {error:.1e} of their span")
    if not error <= OUTPUT_TOLERANCE:
        raise SystemExit(f"{path.name} disagrees with the trained model")
    return output
