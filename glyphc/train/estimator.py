"""Estimators in the style of scikit-learn. They need nothing of it, but work in its pipelines and searches."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import DataError
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.progress import Reporter

from .errors import TrainingError
from .job import Options, make_job
from .linear_models import linear_model
from .loop import TrainingReport, train
from .optimizers import SGD, parse_schedule

F64 = npt.NDArray[np.floating[Any]]


class EncryptedLogisticRegression:
    """Logistic regression by gradient descent, on encrypted data by default.

    With more than two classes, each is told from the rest. mode: "encrypted", "simulate" or "clear". batch: samples in
    a step, None for all of them. standardise: by the training data's means and standard deviations, on the client. The
    other parameters are those of ``glyphc train``.

    After ``fit``: ``classes_``, ``coef_`` (outputs, features) and ``intercept_`` (outputs,) of standardised features,
    ``network_`` (a graph: compile it to predict encrypted), ``report_``.
    """

    def __init__(
        self,
        mode: str = "encrypted",
        steps: int = 30,
        batch: int | None = None,
        learning_rate: float = 0.5,
        schedule: str = "constant",
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        logit_range: float | None = None,
        standardise: bool = True,
        random_state: int = 0,
        insecure_ring: int | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.mode = mode
        self.steps = steps
        self.batch = batch
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self.logit_range = logit_range
        self.standardise = standardise
        self.random_state = random_state
        self.insecure_ring = insecure_ring
        self.reporter = reporter

    # -- what scikit-learn asks of estimators --

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> EncryptedLogisticRegression:
        """Change constructor arguments; TrainingError for unknown ones."""
        unknown = sorted(set(parameters) - set(self.get_params()))
        if unknown:
            raise TrainingError(f"{type(self).__name__} has no parameter {unknown[0]!r}")
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags(), input_tags=InputTags())

    # -- training and prediction --

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> EncryptedLogisticRegression:
        """Train on samples of shape (samples, features) and labels of any kind, shape (samples,)."""
        samples, labels = _matrix(x), np.asarray(y)
        if labels.shape != (len(samples),):
            raise DataError(f"labels must be of shape ({len(samples)},), not {list(labels.shape)}")
        self.classes_, indices = np.unique(labels, return_inverse=True)
        count = len(self.classes_)
        if count < 2:
            raise DataError("the labels have one class only; a classifier needs two")
        network = linear_model(samples, 1 if count == 2 else count, "sigmoid", self.standardise)
        optimizer = SGD(
            self.learning_rate, self.momentum, self.nesterov, self.weight_decay, parse_schedule(self.schedule)
        )
        options = Options(
            optimizer,
            self.steps,
            self.batch,
            seed=self.random_state,
            reach=self.logit_range,
            insecure_ring=self.insecure_ring,
        )
        job = make_job(network, samples, indices, options)
        self.report_: TrainingReport = train(job, self.mode, reporter=self.reporter)
        self.network_: Graph = self.report_.network
        self.coef_ = self.network_.constant("weight")
        self.intercept_ = self.network_.constant("bias")
        self.n_features_in_ = samples.shape[1]
        return self

    def predict_proba(self, x: npt.ArrayLike) -> F64:
        """Probabilities of the classes, shape (samples, classes); in the clear."""
        if not hasattr(self, "network_"):
            raise TrainingError(f"this {type(self).__name__} is not fitted yet; call fit first")
        samples = _matrix(x)
        if samples.shape[1] != self.n_features_in_:
            raise DataError(f"the data have {samples.shape[1]} features, training had {self.n_features_in_}")
        p = evaluate(self.network_, {"x": samples})["y"]
        return np.asarray(np.hstack([1 - p, p]) if len(self.classes_) == 2 else p / p.sum(axis=1, keepdims=True))

    def predict(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """The most probable class of each sample."""
        best = self.predict_proba(x).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def score(self, x: npt.ArrayLike, y: npt.ArrayLike) -> float:
        """Accuracy."""
        return float(np.mean(self.predict(x) == np.asarray(y)))


def _matrix(x: npt.ArrayLike) -> F64:
    samples = np.asarray(x)
    if samples.ndim != 2 or samples.dtype.kind not in "fiub" or not len(samples):
        raise DataError(f"samples must be numbers of shape (samples, features), not {list(samples.shape)}")
    return samples.astype(np.float64)
