"""Trains a small residual network on scikit-learn's digits and writes digits-resnet.onnx.

Two residual blocks (``residual``): 8 channels on 8 x 8 positions, then 16 on 4 x 4. No layer has more than 512 values.
"""

from pathlib import Path

import jax
import numpy as np

import datasets
import residual
from export import FloatArray, GraphWriter, Step, check_classes
from gradient_training import TRAINER, Parameters, cross_entropy, fit

SEED = 0
SIDE = 8
CHANNELS = (8, 16)
MODEL = Path(__file__).resolve().with_name("digits-resnet.onnx")


def initial(seed: int) -> Parameters:
    """Random parameters."""
    return residual.initial(list(jax.random.split(jax.random.key(seed), 8)), 1, CHANNELS, 10)


def forward(parameters: Parameters, x: jax.Array) -> jax.Array:
    """Logits (samples, 10) of pixels scaled to 0..1, (samples, 64)."""
    return residual.forward(parameters, x.reshape(-1, 1, SIDE, SIDE))


def export(parameters: Parameters, scale: Step, metadata: dict[str, str]) -> None:
    """Write pixels (N, 64), 0..16 -> logits (N, 10)."""
    graph = GraphWriter("pixels")
    graph.step(scale)
    graph.reshape("image", (1, SIDE, SIDE))
    residual.write(graph, parameters)
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
    metadata = datasets.about(datasets.DIGITS, split, expected, __file__, TRAINER, SEED)
    export(parameters, scale, metadata)
    check_classes(MODEL, split.x_test, split.y_test, expected)


if __name__ == "__main__":
    main()
