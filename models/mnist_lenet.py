"""Trains a LeNet on 4,000 MNIST images and writes mnist-lenet.onnx.

After LeCun et al., *Gradient-Based Learning Applied to Document Recognition* (1998): convolution, mean over 2 x 2
windows, nonlinearity, twice, then dense layers. The mean stands before the nonlinearity as in the original, so an
encrypted run computes it together with the convolution, and activates a quarter of the values.
"""

from pathlib import Path

import jax
import numpy as np

import datasets
from export import Dense, GraphWriter, Step, check_classes
from gradient_training import TRAINER, Parameters, convolution, convolve, cross_entropy, dense, fit, mean_pool
from mnist_mlp import augmented

SEED = 0
SIDE = 28
MODEL = Path(__file__).resolve().with_name("mnist-lenet.onnx")


def initial(seed: int) -> Parameters:
    """Random parameters: convolutions of 6 and 16 channels, dense layers of 84 and 10."""
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "conv1": convolution(keys[0], 6, 1, 5, 5),
        "conv2": convolution(keys[1], 16, 6, 5, 5),
        "fc1": dense(keys[2], 256, 84),
        "fc2": dense(keys[3], 84, 10),
    }


def forward(parameters: Parameters, x: jax.Array) -> jax.Array:
    """Logits (samples, 10) of pixels scaled to 0..1, (samples, 784)."""
    x = x.reshape(-1, 1, SIDE, SIDE)
    for name in ("conv1", "conv2"):
        x = jax.nn.relu(mean_pool(convolve(x, parameters[name]), 2))
    x = jax.nn.relu(x.reshape(len(x), -1) @ parameters["fc1"]["weights"] + parameters["fc1"]["bias"])
    return x @ parameters["fc2"]["weights"] + parameters["fc2"]["bias"]


def export(parameters: Parameters, scale: Step, metadata: dict[str, str]) -> None:
    """Write pixels (N, 784), 0..255 -> logits (N, 10)."""
    graph = GraphWriter("pixels")
    graph.step(scale)
    graph.reshape("image", (1, SIDE, SIDE))
    for index in (1, 2):
        graph.conv(f"conv{index}", parameters[f"conv{index}"])
        graph.node("AveragePool", f"pool{index}", kernel_shape=[2, 2], strides=[2, 2])
        graph.node("Relu", f"relu{index}")
    graph.node("Flatten", "flatten", axis=1)
    graph.gemm("fc1", Dense(**parameters["fc1"]))
    graph.node("Relu", "relu3")
    graph.gemm("fc2", Dense(**parameters["fc2"]))
    graph.save(MODEL, (SIDE * SIDE,), "logits", (10,), metadata)


def main() -> None:
    """Train, export, check."""
    split = datasets.mnist()
    datasets.save_split("mnist", split)

    scale = Step("scale", "Div", np.array(255, dtype=np.float32))
    images = augmented(split.x_train)
    labels = np.tile(split.y_train, len(images) // len(split.y_train))
    parameters = fit(
        forward,
        initial(SEED),
        scale.apply(images),
        labels,
        cross_entropy,
        epochs=8,
        batch=64,
        rate=2e-3,
        decay=1e-2,
        seed=SEED,
    )
    expected = np.asarray(forward(parameters, scale.apply(split.x_test)))
    metadata = datasets.about(datasets.MNIST, split, expected, __file__, TRAINER, SEED)
    export(parameters, scale, metadata)
    check_classes(MODEL, split.x_test, split.y_test, expected)


if __name__ == "__main__":
    main()
