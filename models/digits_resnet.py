"""Trains a small residual network on scikit-learn's digits and writes digits-resnet.onnx.

Two residual blocks after He et al., *Deep Residual Learning for Image Recognition* (2016): 8 channels on 8 x 8
positions, then 16 on 4 x 4, where the shortcut is a convolution of one position with stride 2. No layer has more than
512 values.
"""

from pathlib import Path

import jax
import numpy as np

import datasets
from export import Dense, FloatArray, GraphWriter, Step, check_classes
from gradient_training import TRAINER, Parameters, convolution, convolve, cross_entropy, dense, fit

SEED = 0
SIDE = 8
CHANNELS = (8, 16)
PADDING = [(1, 1), (1, 1)]
MODEL = Path(__file__).resolve().with_name("digits-resnet.onnx")


def initial(seed: int) -> Parameters:
    """Random parameters."""
    keys = iter(jax.random.split(jax.random.key(seed), 8))
    first, second = CHANNELS
    return {
        "stem": convolution(next(keys), first, 1, 3, 3),
        "block1.conv1": convolution(next(keys), first, first, 3, 3),
        "block1.conv2": convolution(next(keys), first, first, 3, 3),
        "block2.conv1": convolution(next(keys), second, first, 3, 3),
        "block2.conv2": convolution(next(keys), second, second, 3, 3),
        "block2.shortcut": convolution(next(keys), second, first, 1, 1),
        "classes": dense(next(keys), second, 10),
    }


def forward(parameters: Parameters, x: jax.Array) -> jax.Array:
    """Logits (samples, 10) of pixels scaled to 0..1, (samples, 64)."""

    def conv(x: jax.Array, name: str, stride: int = 1) -> jax.Array:
        padding = PADDING if name != "block2.shortcut" else "VALID"
        return convolve(x, parameters[name], window_strides=(stride, stride), padding=padding)

    x = jax.nn.relu(conv(x.reshape(-1, 1, SIDE, SIDE), "stem"))
    x = jax.nn.relu(conv(jax.nn.relu(conv(x, "block1.conv1")), "block1.conv2") + x)
    deep = conv(jax.nn.relu(conv(x, "block2.conv1", stride=2)), "block2.conv2")
    x = jax.nn.relu(deep + conv(x, "block2.shortcut", stride=2))
    return x.mean(axis=(2, 3)) @ parameters["classes"]["weights"] + parameters["classes"]["bias"]


def export(parameters: Parameters, scale: Step, metadata: dict[str, str]) -> None:
    """Write pixels (N, 64), 0..16 -> logits (N, 10)."""
    graph = GraphWriter("pixels")
    graph.step(scale)
    graph.reshape("image", (1, SIDE, SIDE))
    padded = {"pads": [1, 1, 1, 1]}

    def conv(name: str, **attributes: int | list[int]) -> None:
        graph.conv(name, parameters[name], **attributes)

    conv("stem", **padded)
    graph.node("Relu", "stem.relu")
    entry = graph.last
    for block, strides in (("block1", [1, 1]), ("block2", [2, 2])):
        shortcut = entry
        if f"{block}.shortcut" in parameters:
            conv(f"{block}.shortcut", strides=strides)
            shortcut, graph.last = graph.last, entry
        conv(f"{block}.conv1", strides=strides, **padded)
        graph.node("Relu", f"{block}.relu1")
        conv(f"{block}.conv2", **padded)
        graph.node("Add", f"{block}.add", shortcut)
        graph.node("Relu", f"{block}.relu2")
        entry = graph.last
    graph.node("GlobalAveragePool", "mean")
    graph.node("Flatten", "flatten", axis=1)
    graph.gemm("classes", Dense(**parameters["classes"]))
    graph.save(MODEL, (SIDE * SIDE,), "logits", (10,), metadata)


def shifted(images: FloatArray) -> FloatArray:
    """Each image (samples, 64) as it is, and moved by one pixel up, down, left and right: (5 * samples, 64)."""
    padded = np.pad(images.reshape(-1, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)))
    moves = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    return np.concatenate([padded[:, y : y + SIDE, x : x + SIDE].reshape(-1, SIDE * SIDE) for y, x in moves])


def main() -> None:
    """Train, export, check."""
    split = datasets.digits()
    datasets.save_split("digits", split)

    scale = Step("scale", "Mul", np.array(1 / 16, dtype=np.float32))
    images = shifted(split.x_train)
    parameters = fit(
        forward,
        initial(SEED),
        scale.apply(images),
        np.tile(split.y_train, len(images) // len(split.y_train)),
        cross_entropy,
        epochs=40,
        batch=32,
        rate=3e-3,
        decay=1e-2,
        seed=SEED,
    )
    expected = np.asarray(forward(parameters, scale.apply(split.x_test)))
    accuracy = float(np.mean(expected.argmax(axis=1) == split.y_test))
    metadata = {
        "data_source": "Optical Recognition of Handwritten Digits (UCI), as in sklearn.datasets.load_digits",
        "data_license": "CC BY 4.0",
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
