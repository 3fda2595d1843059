"""Trains the 64-32-16-10 ReLU network on scikit-learn's digits and writes digits-mlp.onnx."""

from pathlib import Path

import numpy as np
from sklearn.neural_network import MLPClassifier

import datasets
from export import Step, check_export, export_mlp, preprocess
from training import TRAINER, dense_layers, fit

SEED = 0
MODEL = Path(__file__).resolve().with_name("digits-mlp.onnx")


def main() -> None:
    """Train, export, check."""
    split = datasets.digits()
    datasets.save_split("digits", split)

    # Pixels 0..16 become 0..1; 1/16 is exact, so multiplying loses nothing.
    steps = [Step("scale", "Mul", np.array(1 / 16, dtype=np.float32))]
    # Learning rate and weight decay come from 5-fold cross-validation within the training part.
    classifier = MLPClassifier(
        hidden_layer_sizes=(32, 16),
        alpha=1e-2,
        learning_rate_init=3e-3,
        batch_size=32,
        max_iter=120,
        random_state=SEED,
    )
    fit(classifier, preprocess(steps, split.x_train), split.y_train)

    expected = classifier.predict_proba(preprocess(steps, split.x_test))
    metadata = datasets.about(datasets.DIGITS, split, expected, __file__, TRAINER, SEED)
    export_mlp(
        MODEL,
        dense_layers(classifier),
        activation="Relu",
        preprocessing=steps,
        metadata=metadata,
        input_name="pixels",
        dense="GemmTransB",
    )
    check_export(MODEL, split.x_test, split.y_test, expected)


if __name__ == "__main__":
    main()
