"""Trains the 30-16-2 tanh network on scikit-learn's breast cancer data; writes breast-cancer-mlp.onnx."""

from pathlib import Path

import numpy as np
from sklearn.neural_network import MLPClassifier

import datasets
from export import Step, check_export, export_mlp, preprocess
from training import TRAINER, dense_layers, fit

SEED = 0
MODEL = Path(__file__).resolve().with_name("breast-cancer-mlp.onnx")


def main() -> None:
    """Train, export, check."""
    split = datasets.breast_cancer()
    datasets.save_split("breast-cancer", split)

    # The features range from thousandths to thousands: each is standardised by its training mean
    # and standard deviation, summed in float64 and stored as the float32 that the network uses.
    x_train = split.x_train.astype(np.float64)
    steps = [
        Step("centre", "Sub", x_train.mean(axis=0).astype(np.float32)),
        Step("standardise", "Div", x_train.std(axis=0).astype(np.float32)),
    ]
    # The weight decay comes from 5-fold cross-validation within the training part.
    classifier = MLPClassifier(
        hidden_layer_sizes=(16,),
        activation="tanh",
        alpha=1.0,
        batch_size=32,
        max_iter=200,
        random_state=SEED,
    )
    fit(classifier, preprocess(steps, split.x_train), split.y_train)

    expected = classifier.predict_proba(preprocess(steps, split.x_test))
    metadata = datasets.about(datasets.BREAST_CANCER, split, expected, __file__, TRAINER, SEED)
    export_mlp(
        MODEL,
        dense_layers(classifier),
        activation="Tanh",
        preprocessing=steps,
        metadata=metadata,
        input_name="features",
        dense="MatMulAdd",
        softmax=True,
    )
    check_export(MODEL, split.x_test, split.y_test, expected, softmax=True)


if __name__ == "__main__":
    main()
