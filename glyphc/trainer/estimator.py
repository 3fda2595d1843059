"""Estimators of scikit-learn that train on encrypted data: linear ones and networks, classifiers and regressors.

They need scikit-learn (``pip install 'glyphc[sklearn]'``) and pass its ``check_estimator``. Prediction is in the clear;
``network_`` is a graph that ``glyphc.compile`` takes for encrypted prediction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from glyphc.errors import GlyphcError
from glyphc.ir.evaluate import evaluate, evaluate_all
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Const, Output, Scale
from glyphc.progress import Reporter
from glyphc.train.errors import TrainingError
from glyphc.train.job import Options, RangeSource, make_job
from glyphc.train.linear_models import dense_network
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD, parse_schedule
from glyphc.train.weighting import repeated

from .loop import TrainingReport, train

F64 = npt.NDArray[np.floating[Any]]


class EstimatorError(TrainingError, ValueError):
    """What the library would not train, as scikit-learn expects to be told: a ValueError."""


@dataclass(eq=False, repr=False)
class _Estimator(BaseEstimator):  # type: ignore[misc]
    """What all have in common. mode: "encrypted", "simulate" or "clear". batch: samples in a step, None for all.

    standardise: by the training data's means and standard deviations, on the client. ranges, trial_data, margin, clip:
    where the ranges of bootstraps come from, see ``glyphc.train.job``; trial_data: samples and labels for "sample".
    whiten: the ridge of whitening, see there. sample_weight of ``fit``: see ``weighting``. warm_start: ``fit`` begins
    with the weights of the last one. The other parameters are those of ``glyphc train``.

    After ``fit``: ``network_``, ``report_``, ``n_features_in_``, and ``feature_names_in_`` where the data had names.
    """

    mode: str = "encrypted"
    steps: int = 30
    batch: int | None = None
    learning_rate: float = 0.5
    schedule: str = "constant"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    logit_range: float | None = None
    standardise: bool = True
    random_state: int | np.random.RandomState | None = 0
    insecure_ring: int | None = None
    reporter: Reporter | None = None
    ranges: str = "trial"
    trial_data: tuple[npt.ArrayLike, npt.ArrayLike] | None = None
    margin: float | None = None
    clip: float | None = None
    whiten: float | None = None
    warm_start: bool = False

    def _layers(self) -> tuple[tuple[int, ...], str]:
        """Units of hidden layers, and their activation."""
        return (), ""

    def _seed(self) -> int:
        given = self.random_state
        return given if isinstance(given, int) else int(check_random_state(given or 0).randint(2**31 - 1))

    def _learn(
        self, x: F64, targets: F64, weights: F64, outputs: int, ending: str, loss: str, on: Graph | None
    ) -> Graph:
        """The trained network. targets: classes or values; on: whose weights it starts from, None for new ones."""
        hidden, activation = self._layers()
        if not weights.any():
            raise EstimatorError("all samples weigh nothing; there is nothing to train on")
        with _value_errors():
            # means and deviations are those of the samples as often as they stand there
            rows = repeated(weights)
            x, targets = x[rows], targets[rows]
            network = on or dense_network(x, hidden, outputs, activation, ending, self.standardise)
            optimizer = SGD(
                self.learning_rate, self.momentum, self.nesterov, self.weight_decay, parse_schedule(self.schedule)
            )
            options = Options(
                optimizer,
                self.steps,
                None if self.batch is None else min(self.batch, len(x)),
                loss,
                initial="random" if hidden and on is None else "model",
                seed=self._seed(),
                reach=self.logit_range,
                insecure_ring=self.insecure_ring,
                source=RangeSource(self.ranges),
                margin=self.margin,
                clip=self.clip,
                whiten=self.whiten,
            )
            trial = None if self.trial_data is None else self._trial(*self.trial_data)
            job = make_job(network, x, targets, options, trial)
            self.report_: TrainingReport = train(job, self.mode, reporter=self.reporter)
        return self.report_.network

    def _trial(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[F64, F64]:
        raise NotImplementedError

    def _checked(self, x: Any) -> F64:
        """Samples to predict; NotFittedError before ``fit``, ValueError for NaN and for other features than then."""
        check_is_fitted(self, "network_")
        return np.asarray(validate_data(self, x, reset=False, dtype=np.float64))


@contextmanager
def _value_errors() -> Iterator[None]:
    try:
        yield
    except GlyphcError as e:
        raise e if isinstance(e, ValueError) else EstimatorError(str(e)) from e


@dataclass(eq=False, repr=False)
class _Classifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """``classes_`` after ``fit``. With more than two classes, each is told from the rest."""

    class_weight: dict[Any, float] | str | None = None

    def fit(self, x: Any, y: Any, sample_weight: npt.ArrayLike | None = None) -> Any:
        """Train on samples of shape (samples, features) and labels of any kind, shape (samples,)."""
        warm = self.warm_start and hasattr(self, "network_")
        return self._fit(x, y, None, sample_weight, warm)

    def partial_fit(
        self, x: Any, y: Any, classes: npt.ArrayLike | None = None, sample_weight: npt.ArrayLike | None = None
    ) -> Any:
        """Go on for ``steps`` more steps, on these samples. classes: all that there will be, for the first call."""
        return self._fit(x, y, classes, sample_weight, hasattr(self, "network_"))

    def _fit(self, x: Any, y: Any, classes: Any, sample_weight: Any, goes_on: bool) -> Any:
        samples, labels = validate_data(self, x, y, reset=not goes_on, dtype=np.float64)
        check_classification_targets(labels)
        if not goes_on:
            self.classes_ = np.unique(labels if classes is None else classes)
        if len(self.classes_) < 2:
            raise EstimatorError("the labels have one class only; a classifier needs two")
        known = np.isin(labels, self.classes_)
        if not known.all():
            raise EstimatorError(f"label {labels[~known][0]} is none of the classes {self.classes_}")
        weights = _check_sample_weight(sample_weight, samples, dtype=np.float64, ensure_non_negative=True)
        if self.class_weight is not None:
            present = np.unique(labels)
            factors = compute_class_weight(self.class_weight, classes=present, y=labels)
            weights = weights * factors[np.searchsorted(present, labels)]
        started: Graph | None = getattr(self, "network_", None) if goes_on else None
        count, indices = len(self.classes_), np.searchsorted(self.classes_, labels)
        self.network_ = self._learn(
            samples,
            indices,
            weights,
            1 if count == 2 else count,
            "sigmoid",
            "binary-cross-entropy",
            started,
        )
        self._weights()
        return self

    def _weights(self) -> None:
        pass

    def _trial(self, x: Any, y: Any) -> tuple[F64, F64]:
        return np.asarray(x, dtype=np.float64), np.searchsorted(self.classes_, np.asarray(y)).astype(np.float64)

    def decision_function(self, x: Any) -> F64:
        """Logits, shape (samples,) for two classes, else (samples, classes); in the clear."""
        samples, network = self._checked(x), self.network_
        logits = LOSSES["binary-cross-entropy"].attachment(network, network.outputs[0])
        found: F64 = evaluate_all(network, {"x": samples})[logits.id]
        return found[:, 0] if len(self.classes_) == 2 else found

    def predict_proba(self, x: Any) -> F64:
        """Probabilities of the classes, shape (samples, classes); in the clear."""
        samples = self._checked(x)
        p = evaluate(self.network_, {"x": samples})["y"]
        return np.asarray(np.hstack([1 - p, p]) if len(self.classes_) == 2 else p / p.sum(axis=1, keepdims=True))

    def predict(self, x: Any) -> npt.NDArray[Any]:
        """The most probable class of each sample."""
        found = self.decision_function(x)
        best = (found > 0).astype(int) if found.ndim == 1 else found.argmax(axis=1)
        return np.asarray(self.classes_[best])


@dataclass(eq=False, repr=False)
class EncryptedLogisticRegression(_Classifier):
    """Logistic regression by gradient descent, on encrypted data by default.

    class_weight: factors by class, or "balanced". After ``fit``: ``coef_`` (outputs, features) and ``intercept_``
    (outputs,) of standardised features, ``classes_``. Parameters and all else: see ``_Estimator``.
    """

    def _weights(self) -> None:
        self.coef_, self.intercept_ = self.network_.constant("weight"), self.network_.constant("bias")


@dataclass(eq=False, repr=False)
class EncryptedMLPClassifier(_Classifier):
    """A network with hidden layers, from random weights. hidden_layer_sizes, activation: of these."""

    hidden_layer_sizes: tuple[int, ...] = (16,)
    activation: str = "tanh"
    steps: int = 60
    learning_rate: float = 1.0

    def _layers(self) -> tuple[tuple[int, ...], str]:
        return tuple(self.hidden_layer_sizes), self.activation


@dataclass(eq=False, repr=False)
class _Regressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """Least squares on targets that the client standardises, too; ``network_`` gives them in their own units."""

    def fit(self, x: Any, y: Any, sample_weight: npt.ArrayLike | None = None) -> Any:
        """Train on samples of shape (samples, features) and numbers of shape (samples,)."""
        return self._fit(x, y, sample_weight, self.warm_start and hasattr(self, "network_"))

    def partial_fit(self, x: Any, y: Any, sample_weight: npt.ArrayLike | None = None) -> Any:
        """Go on for ``steps`` more steps, on these samples."""
        return self._fit(x, y, sample_weight, hasattr(self, "network_"))

    def _fit(self, x: Any, y: Any, sample_weight: Any, goes_on: bool) -> Any:
        samples, targets = validate_data(self, x, y, reset=not goes_on, dtype=np.float64, y_numeric=True)
        targets = column_or_1d(targets, dtype=np.float64)
        weights = _check_sample_weight(sample_weight, samples, dtype=np.float64, ensure_non_negative=True)
        if not goes_on and weights.any():
            self._shift = float(np.average(targets, weights=weights))
            self._scale = float(np.sqrt(np.average((targets - self._shift) ** 2, weights=weights))) or 1.0
        inner: Graph | None = getattr(self, "_inner", None) if goes_on else None
        scaled = (targets - self._shift) / self._scale
        self._inner = self._learn(samples, scaled, weights, 1, "", "mean-squared-error", inner)
        self.network_ = _in_units(self._inner, self._scale, self._shift)
        self._weights()
        return self

    def _weights(self) -> None:
        pass

    def _trial(self, x: Any, y: Any) -> tuple[F64, F64]:
        return np.asarray(x, dtype=np.float64), (np.asarray(y, dtype=np.float64) - self._shift) / self._scale

    def predict(self, x: Any) -> F64:
        """Numbers of shape (samples,); in the clear."""
        samples = self._checked(x)
        return np.asarray(evaluate(self.network_, {"x": samples})["y"][:, 0])


@dataclass(eq=False, repr=False)
class EncryptedLinearRegression(_Regressor):
    """Linear regression by gradient descent. After ``fit``: ``coef_`` (features,) and ``intercept_`` of standardised
    features and targets."""

    learning_rate: float = 0.1

    def _weights(self) -> None:
        self.coef_, self.intercept_ = self._inner.constant("weight")[0], float(self._inner.constant("bias")[0])


@dataclass(eq=False, repr=False)
class EncryptedMLPRegressor(_Regressor):
    """A network with hidden layers, from random weights. hidden_layer_sizes, activation: of these."""

    hidden_layer_sizes: tuple[int, ...] = (16,)
    activation: str = "tanh"
    steps: int = 60
    learning_rate: float = 0.1

    def _layers(self) -> tuple[tuple[int, ...], str]:
        return tuple(self.hidden_layer_sizes), self.activation


def _in_units(network: Graph, scale: float, shift: float) -> Graph:
    """The network with its results times ``scale``, plus ``shift``."""
    new = Graph(network.level, network.batch)
    for name, value in network.constants.items():
        new.add_constant(name, value)
    for node in network:
        operands = tuple(new.node(i) for i in node.operands)
        if isinstance(node.op, Output):
            names = (new.add_constant("unit", np.array([scale])), new.add_constant("mean", np.array([shift])))
            operands = (new.add(Scale(Const(names[0]), Const(names[1])), operands, location="units"),)
        new.add(node.op, operands, None, node.location)
    return new
