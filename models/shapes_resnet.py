"""Trains a small residual network on drawn colour images of 32 x 32 pixels and writes shapes-resnet.onnx.

The form of the networks for CIFAR-10 in He et al. (``residual``), section 4.2: a stem and three stages of twice as many
channels as the one before; here with one block in each stage.
"""

from pathlib import Path

import jax
import numpy as np

import datasets
import residual
import shapes
from export import GraphWriter, Step, check_classes
from gradient_training import TRAINER, Parameters, cross_entropy, fit

SEED = 0
CHANNELS = (4, 8, 16)
MODEL = Path(__file__).resolve().with_name("shapes-resnet.onnx")


def initial(seed: int) -> Parameters:
    """Random parameters."""
    return residual.initial(list(jax.random.split(jax.random.key(seed), 16)), 3, CHANNELS, len(shapes.CLASSES))


def forward(parameters: Parameters, x: jax.Array) -> jax.Array:
    """Logits (samples, classes) of images with grey levels scaled to 0..1, (samples, 3, 32, 32)."""
    return residual.forward(parameters, x)


def export(parameters: Parameters, scale: Step, metadata: dict[str, str]) -> None:
    """Write images (N, 3, 32, 32), 0..255 -> logits (N, classes)."""
    graph = GraphWriter("image")
    graph.step(scale)
    residual.write(graph, parameters)
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
    metadata = datasets.about(datasets.SHAPES, split, expected, __file__, TRAINER, SEED)
    export(parameters, scale, metadata)
    check_classes(MODEL, split.x_test, split.y_test, expected)


if __name__ == "__main__":
    main()
