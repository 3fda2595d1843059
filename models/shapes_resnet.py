"""Trains a small residual network on drawn colour images of 32 x 32 pixels and writes shapes-resnet.onnx.

The form of the networks for CIFAR-10 in He et al., *Deep Residual Learning for Image Recognition* (2016), section 4.2:
a stem and three stages of twice as many channels as the one before, which halve rows and columns, a mean of all
positions and a dense layer; here with one block of two convolutions in each stage, and shortcuts of one position.
"""

from pathlib import Path

import jax
import numpy as np

import datasets
import shapes
from export import Dense, GraphWriter, Step, check_classes
from gradient_training import TRAINER, Parameters, convolution, convolve, cross_entropy, dense, fit

SEED = 0
CHANNELS = (4, 8, 16)
PADDING = [(1, 1), (1, 1)]
MODEL = Path(__file__).resolve().with_name("shapes-resnet.onnx")


def initial(seed: int) -> Parameters:
    """Random parameters."""
    keys = iter(jax.random.split(jax.random.key(seed), 16))
    parameters, before = {"stem": convolution(next(keys), CHANNELS[0], 3, 3, 3)}, CHANNELS[0]
    for number, channels in enumerate(CHANNELS, 1):
        parameters[f"block{number}.conv1"] = convolution(next(keys), channels, before, 3, 3)
        parameters[f"block{number}.conv2"] = convolution(next(keys), channels, channels, 3, 3)
        if channels != before:
            parameters[f"block{number}.shortcut"] = convolution(next(keys), channels, before, 1, 1)
        before = channels
    parameters["classes"] = dense(next(keys), before, len(shapes.CLASSES))
    return parameters


def forward(parameters: Parameters, x: jax.Array) -> jax.Array:
    """Logits (samples, classes) of images with grey levels scaled to 0..1, (samples, 3, 32, 32)."""

    def conv(x: jax.Array, name: str, stride: int = 1) -> jax.Array:
        padding = "VALID" if name.endswith("shortcut") else PADDING
        return convolve(x, parameters[name], window_strides=(stride, stride), padding=padding)

    x = jax.nn.relu(conv(x, "stem"))
    for number in range(1, len(CHANNELS) + 1):
        name = f"block{number}"
        stride = 2 if f"{name}.shortcut" in parameters else 1
        deep = conv(jax.nn.relu(conv(x, f"{name}.conv1", stride)), f"{name}.conv2")
        x = jax.nn.relu(deep + (conv(x, f"{name}.shortcut", stride) if stride > 1 else x))
    return x.mean(axis=(2, 3)) @ parameters["classes"]["weights"] + parameters["classes"]["bias"]


def export(parameters: Parameters, scale: Step, metadata: dict[str, str]) -> None:
    """Write images (N, 3, 32, 32), 0..255 -> logits (N, classes)."""
    graph = GraphWriter("image")
    graph.step(scale)
    padded = {"pads": [1, 1, 1, 1]}
    graph.conv("stem", parameters["stem"], **padded)
    graph.node("Relu", "stem.relu")
    entry = graph.last
    for number in range(1, len(CHANNELS) + 1):
        name = f"block{number}"
        shortcut, strides = entry, [1, 1]
        if f"{name}.shortcut" in parameters:
            strides = [2, 2]
            graph.conv(f"{name}.shortcut", parameters[f"{name}.shortcut"], strides=strides)
            shortcut, graph.last = graph.last, entry
        graph.conv(f"{name}.conv1", parameters[f"{name}.conv1"], strides=strides, **padded)
        graph.node("Relu", f"{name}.relu1")
        graph.conv(f"{name}.conv2", parameters[f"{name}.conv2"], **padded)
        graph.node("Add", f"{name}.add", shortcut)
        graph.node("Relu", f"{name}.relu2")
        entry = graph.last
    graph.node("GlobalAveragePool", "mean")
    graph.node("Flatten", "flatten", axis=1)
    graph.gemm("classes", Dense(**parameters["classes"]))
    graph.save(MODEL, (3, shapes.SIDE, shapes.SIDE), "logits", (len(shapes.CLASSES),), metadata)


def main() -> None:
    """Train, export, check."""
    split = datasets.shapes()
    datasets.save_split("shapes", split)

    scale = Step("scale", "Div", np.array(255, dtype=np.float32))
    parameters = fit(
        forward,
        initial(SEED),
        scale.apply(split.x_train),
        split.y_train,
        cross_entropy,
        epochs=40,
        batch=32,
        rate=6e-3,
        decay=1e-2,
        seed=SEED,
    )
    expected = np.asarray(forward(parameters, scale.apply(split.x_test)))
    accuracy = float(np.mean(expected.argmax(axis=1) == split.y_test))
    metadata = {
        "data_source": "drawn by shapes.py",
        "data_license": "that of this repository",
        "train_size": str(len(split.x_train)),
        "test_size": str(len(split.x_test)),
        "float_test_accuracy": f"{accuracy:.4f}",
        "script": Path(__file__).name,
        "trainer": TRAINER,
        "seed": str(SEED),
        "split_seed": str(datasets.SPLIT_SEED),
    }
    export(parameters, scale, metadata)
    check_classes(MODEL, split.x_test, split.y_test, expected)


if __name__ == "__main__":
    main()
