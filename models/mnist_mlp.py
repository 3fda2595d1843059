"""Trains the 784-128-32-10 ReLU network on 4,000 MNIST images and writes mnist-mlp.onnx."""

from pathlib import Path

import numpy as np
from scipy import ndimage
from sklearn.neural_network import MLPClassifier

import datasets
from export import FloatArray, Step, check_export, export_mlp, preprocess
from training import TRAINER, dense_layers, fit

SEED = 0
SIDE = 28
DISTORTED_COPIES = 18
MODEL = Path(__file__).resolve().with_name("mnist-mlp.onnx")


def shifted(images: FloatArray) -> FloatArray:
    """Each image (samples, 784) moved by -1, 0 and 1 pixel in both axes: (9 * samples, 784)."""
    padded = np.pad(images.reshape(-1, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)))
    return np.concatenate(
        [
            padded[:, row : row + SIDE, column : column + SIDE].reshape(-1, SIDE * SIDE)
            for row in range(3)
            for column in range(3)
        ]
    )


def distorted(images: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Each image (samples, 784) turned up to 12 degrees, zoomed up to 12 %, moved up to 1.5 pixels."""
    centre = np.full(2, (SIDE - 1) / 2)
    result = np.empty_like(images)
    for index, image in enumerate(images):
        angle = np.deg2rad(rng.uniform(-12, 12))
        zoom = 1 + rng.uniform(-0.12, 0.12)
        move = rng.uniform(-1.5, 1.5, size=2)
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
        # affine_transform maps output coordinates to input ones; this keeps the turn about the centre.
        offset = centre - matrix @ (centre + move)
        turned = ndimage.affine_transform(image.reshape(SIDE, SIDE), matrix, offset=offset, order=1)
        result[index] = turned.reshape(-1)
    return result


def augmented(images: FloatArray) -> FloatArray:
    """All shifts and DISTORTED_COPIES distortions of images (samples, 784), whole copies stacked."""
    rng = np.random.default_rng(SEED)
    return np.concatenate([shifted(images), *(distorted(images, rng) for _ in range(DISTORTED_COPIES))])


def main() -> None:
    """Train, export, check."""
    split = datasets.mnist()
    datasets.save_split("mnist", split)

    steps = [Step("scale", "Div", np.array(255, dtype=np.float32))]
    # Weight decay, epochs and augmentation come from cross-validation within the training part.
    classifier = MLPClassifier(
        hidden_layer_sizes=(128, 32),
        alpha=0.1,
        batch_size=128,
        max_iter=20,
        random_state=SEED,
    )
    # With 4,000 images only, distorted copies are worth two to three points of accuracy.
    images = augmented(split.x_train)
    fit(classifier, preprocess(steps, images), np.tile(split.y_train, len(images) // len(split.y_train)))

    expected = classifier.predict_proba(preprocess(steps, split.x_test))
    metadata = datasets.about(datasets.MNIST, split, expected, __file__, TRAINER, SEED)
    export_mlp(
        MODEL,
        dense_layers(classifier),
        activation="Relu",
        preprocessing=steps,
        metadata=metadata,
        input_name="pixels",
        flatten=True,
    )
    check_export(MODEL, split.x_test, split.y_test, expected)


if __name__ == "__main__":
    main()
