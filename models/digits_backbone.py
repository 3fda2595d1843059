"""Trains a convolutional network on scikit-learn's 8 x 8 digits drawn at 28 x 28, and writes digits-backbone.onnx.

A backbone for transfer learning: what it knows comes from the 1,797 digits of the UCI set alone, other writers' than
MNIST's and other pixels. They are enlarged, turned, sheared, bent and sharpened to look like MNIST's images. The
written file ends at the 32 features; the layer that classified the digits is left out.

That MNIST's images are a target has shaped the distortions (more of them, judged by how well MNIST's classes could be
told by the features); no MNIST image has been trained on.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from sklearn.datasets import load_digits

import datasets
from export import Dense, FloatArray, GraphWriter, Step, check_forecast
from gradient_training import TRAINER, Parameters, convolution, convolve, cross_entropy, dense, fit, mean_pool

SEED = 0
SIDE, SMALL_SIDE = 28, 8
COPIES = 30
FEATURES = 32
CHANNELS = (16, 32)
MODEL = Path(__file__).resolve().with_name("digits-backbone.onnx")


def drawn(image: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """An image (8, 8), 0..16, as one of (28, 28), 0..1: distorted at random, its centre of mass in the middle."""
    ink = image / 16
    turn, shear = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(-0.3, 0.3)
    height = 20 / SMALL_SIDE * rng.uniform(0.85, 1.1)
    width = height * rng.uniform(0.65, 1.2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = np.diag([1 / height, 1 / width]) @ rotation @ np.array([[1, 0], [shear, 1]])
    bend = np.array([ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 4) for _ in range(2)])
    bend *= rng.uniform(0, 2) / bend.std()
    middle = (SIDE - 1) / 2 + rng.uniform(-1, 1, size=2)
    places = np.mgrid[:SIDE, :SIDE] + bend - middle[:, None, None]
    weights = np.arange(SMALL_SIDE)
    mass = np.array([ink.sum(axis=1) @ weights, ink.sum(axis=0) @ weights]) / ink.sum()
    sampled = ndimage.map_coordinates(ink, np.tensordot(matrix, places, 1) + mass[:, None, None], order=3)
    return np.clip((sampled - rng.uniform(0.15, 0.55)) * rng.uniform(2, 6), 0, 1)


def drawings(images: npt.NDArray[np.float64], copies: int, seed: int) -> FloatArray:
    """``copies`` distortions of all images (samples, 64), whole copies stacked: (copies * samples, 784), 0..1."""
    rng = np.random.default_rng(seed)
    small = images.reshape(-1, SMALL_SIDE, SMALL_SIDE)
    stacked = np.array([drawn(image, rng).astype(np.float32) for _ in range(copies) for image in small])
    return stacked.reshape(len(stacked), -1)


def initial(seed: int) -> Parameters:
    """Random parameters: two convolutions, the features, and the classes that the file leaves out."""
    keys = jax.random.split(jax.random.key(seed), 4)
    first, second = CHANNELS
    return {
        "conv1": convolution(keys[0], first, 1, 5, 5),
        "conv2": convolution(keys[1], second, first, 5, 5),
        "features": dense(keys[2], 16 * second, FEATURES),
        "classes": dense(keys[3], FEATURES, 10),
    }


def features(parameters: Parameters, x: jax.Array) -> jax.Array:
    """Features (samples, 32) of pixels scaled to 0..1, (samples, 784)."""
    x = x.reshape(-1, 1, SIDE, SIDE)
    for name in ("conv1", "conv2"):
        x = jax.nn.relu(mean_pool(convolve(x, parameters[name]), 2))
    layer = parameters["features"]
    return jnp.tanh(x.reshape(len(x), -1) @ layer["weights"] + layer["bias"])


def forward(parameters: Parameters, x: jax.Array) -> jax.Array:
    """Logits (samples, 10)."""
    return features(parameters, x) @ parameters["classes"]["weights"] + parameters["classes"]["bias"]


def export(parameters: Parameters, scale: Step, metadata: dict[str, str]) -> None:
    """Write pixels (N, 784), 0..255 -> features (N, 32)."""
    graph = GraphWriter("pixels")
    graph.step(scale)
    graph.reshape("image", (1, SIDE, SIDE))
    for index in (1, 2):
        graph.conv(f"conv{index}", parameters[f"conv{index}"])
        graph.node("AveragePool", f"pool{index}", kernel_shape=[2, 2], strides=[2, 2])
        graph.node("Relu", f"relu{index}")
    graph.node("Flatten", "flatten", axis=1)
    graph.gemm("features", Dense(**parameters["features"]))
    graph.node("Tanh", "tanh")
    graph.save(MODEL, (SIDE * SIDE,), "values", (FEATURES,), metadata)


def main() -> None:
    """Train, export, check."""
    digits, labels = load_digits(return_X_y=True)
    images = drawings(digits, COPIES, SEED)
    parameters = fit(
        forward,
        initial(SEED),
        images,
        np.tile(labels, COPIES),
        cross_entropy,
        epochs=12,
        batch=128,
        rate=3e-3,
        decay=3e-2,
        seed=SEED,
    )
    split = datasets.mnist()
    scale = Step("scale", "Div", np.array(255, dtype=np.float32))
    pixels = scale.apply(split.x_test)
    transferred = float(np.mean(np.asarray(forward(parameters, pixels)).argmax(axis=1) == split.y_test))
    print(f"MNIST test accuracy of the digits' own classifier: {transferred:.4f}")
    metadata = {
        "data_source": "Optical Recognition of Handwritten Digits (UCI), as in sklearn.datasets.load_digits",
        "data_license": "CC BY 4.0",
        "train_size": str(len(digits)),
        "mnist_test_accuracy_of_own_classifier": f"{transferred:.4f}",
        "script": Path(__file__).name,
        "trainer": TRAINER,
        "seed": str(SEED),
    }
    export(parameters, scale, metadata)
    check_forecast(MODEL, split.x_test, np.asarray(features(parameters, pixels)))


if __name__ == "__main__":
    main()
