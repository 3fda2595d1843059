"""Reproducible training of scikit-learn's MLPClassifier, and its weights as plain arrays."""

import warnings

import numpy as np
import numpy.typing as npt
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from export import Dense

TRAINER = f"scikit-learn {sklearn.__version__} MLPClassifier"


def fit(classifier: MLPClassifier, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> None:
    """Train ``classifier`` on preprocessed x (samples, features) and class indices y (samples,)."""
    # One BLAS thread: the order of floating-point sums must not depend on the number of cores.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # The number of epochs is a choice of each script, so reaching it is no failure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(x, y)


def dense_layers(classifier: MLPClassifier) -> list[Dense]:
    """Weights (inputs, outputs) and biases (outputs,) of each layer, one output per class."""
    layers = [
        Dense(np.asarray(w, dtype=np.float32), np.asarray(b, dtype=np.float32))
        for w, b in zip(classifier.coefs_, classifier.intercepts_, strict=True)
    ]
    if classifier.out_activation_ == "logistic":
        # Two classes are trained with one output z and p(class 1) = sigmoid(z). The logits
        # (-z/2, z/2) give the same probabilities under softmax, and halving is exact in binary.
        weights, bias = layers[-1]
        layers[-1] = Dense(np.hstack([-weights / 2, weights / 2]), np.hstack([-bias / 2, bias / 2]))
    return layers
