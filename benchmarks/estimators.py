"""Estimators and pipelines for field.py: 32 as a new user tries them, boosted trees, all that skl2onnx converts.

Each is fitted on the data set that it is made for (breast cancer or iris, diabetes), with its defaults but for what
makes it finish, and converted as ``glyphc.compile`` converts it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import datasets
from sklearn.model_selection import train_test_split

from glyphc.errors import EnvironmentSetupError, GlyphcError
from glyphc.frontends.from_python import exported

Array = npt.NDArray[Any]
_SETS: dict[str, Callable[..., Any]] = {
    "cancer": datasets.load_breast_cancer,
    "iris": datasets.load_iris,
    "diabetes": datasets.load_diabetes,
}


@dataclass(frozen=True, eq=False)
class Fitted:
    """model: in ONNX, or why there is none; train, test: samples."""

    name: str
    model: Any
    train: Array
    test: Array


def _fitted(name: str, make: Callable[[], Any], data: str) -> Fitted | None:
    """None where a library is not installed."""
    x, y = _SETS[data](return_X_y=True)
    train, test, wanted, _ = train_test_split(x.astype(np.float32), y, random_state=0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Fitted(name, exported(make().fit(train, wanted), train).model, train, test)
    except (ImportError, EnvironmentSetupError):
        return None
    except GlyphcError as e:  # no converter
        return Fitted(name, e, train, test)
    except Exception as e:  # estimators that want other data, or parameters: whatever they raise
        return Fitted(name, GlyphcError(f"cannot be fitted: {' '.join(str(e).split())[:100]}"), train, test)


def tried() -> Iterator[tuple[str, Callable[[], Any], str]]:
    """The 32, with the data set of each."""
    from sklearn import discriminant_analysis, ensemble, linear_model, naive_bayes, neighbors, neural_network, svm, tree
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.impute import SimpleImputer
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline as chain
    from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, PowerTransformer
    from sklearn.preprocessing import StandardScaler as Scale

    logistic = linear_model.LogisticRegression
    yield "LogisticRegression", lambda: chain(Scale(), logistic()), "cancer"
    yield "LogisticRegression, 3 classes", lambda: logistic(max_iter=1000), "iris"
    yield "LinearRegression", linear_model.LinearRegression, "diabetes"
    yield "Ridge", linear_model.Ridge, "diabetes"
    yield "Lasso", linear_model.Lasso, "diabetes"
    yield "PoissonRegressor", linear_model.PoissonRegressor, "diabetes"
    yield "SGDClassifier", lambda: chain(Scale(), linear_model.SGDClassifier(random_state=0)), "cancer"
    yield "Perceptron", lambda: chain(Scale(), linear_model.Perceptron()), "cancer"
    yield "RidgeClassifier", lambda: chain(Scale(), linear_model.RidgeClassifier()), "cancer"
    yield "LinearSVC", lambda: chain(Scale(), svm.LinearSVC()), "cancer"
    yield "SVC", lambda: chain(Scale(), svm.SVC()), "cancer"
    yield "SVC, probabilities", lambda: chain(Scale(), svm.SVC(probability=True, random_state=0)), "iris"
    yield "SVR", lambda: chain(Scale(), svm.SVR()), "diabetes"
    yield "MLPClassifier", lambda: chain(Scale(), neural_network.MLPClassifier(max_iter=500, random_state=0)), "cancer"
    yield "MLPRegressor", lambda: chain(Scale(), neural_network.MLPRegressor(max_iter=500, random_state=0)), "diabetes"
    yield "GaussianNB", naive_bayes.GaussianNB, "iris"
    yield "LinearDiscriminantAnalysis", discriminant_analysis.LinearDiscriminantAnalysis, "iris"
    yield "QuadraticDiscriminantAnalysis", discriminant_analysis.QuadraticDiscriminantAnalysis, "iris"
    yield "KNeighborsClassifier", neighbors.KNeighborsClassifier, "iris"
    yield "KMeans", lambda: KMeans(3, random_state=0), "iris"
    yield "DecisionTreeClassifier", lambda: tree.DecisionTreeClassifier(random_state=0), "cancer"
    yield "DecisionTreeRegressor", lambda: tree.DecisionTreeRegressor(random_state=0), "diabetes"
    yield "RandomForestClassifier", lambda: ensemble.RandomForestClassifier(random_state=0), "cancer"
    yield "RandomForestRegressor", lambda: ensemble.RandomForestRegressor(20, random_state=0), "diabetes"
    yield "ExtraTreesClassifier", lambda: ensemble.ExtraTreesClassifier(50, random_state=0), "iris"
    yield "GradientBoostingClassifier", lambda: ensemble.GradientBoostingClassifier(random_state=0), "cancer"
    yield "GradientBoostingRegressor", lambda: ensemble.GradientBoostingRegressor(random_state=0), "diabetes"
    yield "OneVsRestClassifier", lambda: OneVsRestClassifier(chain(Scale(), logistic())), "iris"
    yield "PCA, LogisticRegression", lambda: chain(Scale(), PCA(8), logistic()), "cancer"
    yield "PolynomialFeatures, Ridge", lambda: chain(Scale(), PolynomialFeatures(2), linear_model.Ridge()), "diabetes"
    yield "PowerTransformer, LogisticRegression", lambda: chain(PowerTransformer(), logistic()), "cancer"
    imputed = lambda: chain(SimpleImputer(), MinMaxScaler(), neural_network.MLPClassifier(max_iter=500, random_state=0))  # noqa: E731
    yield "SimpleImputer, MinMaxScaler, MLPClassifier", imputed, "iris"


def boosted() -> Iterator[tuple[str, Callable[[], Any], str]]:
    """XGBoost and LightGBM with their defaults, where they are installed."""

    def xgboost(name: str) -> Any:
        import xgboost

        return getattr(xgboost, name)()

    def lightgbm(name: str) -> Any:
        import lightgbm

        return getattr(lightgbm, name)(verbose=-1)

    for kind, data in (("Classifier", "cancer"), ("Regressor", "diabetes")):
        yield f"XGB{kind}", lambda kind=kind: xgboost(f"XGB{kind}"), data  # type: ignore[misc]
        yield f"LGBM{kind}", lambda kind=kind: lightgbm(f"LGBM{kind}"), data  # type: ignore[misc]


def converted() -> Iterator[tuple[str, Callable[[], Any], str]]:
    """All that skl2onnx converts, behind a scaler."""
    from skl2onnx import supported_converters
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils import all_estimators

    known = {name.removeprefix("Sklearn") for name in supported_converters()}
    for kind, data in (("classifier", "iris"), ("regressor", "diabetes"), ("transformer", "iris"), ("cluster", "iris")):
        for name, make in all_estimators(type_filter=kind):
            if name in known or name.removesuffix("Classifier") in known:
                yield name, lambda make=make: make_pipeline(StandardScaler(), make()), data  # type: ignore[misc]


def fitted(kinds: Iterator[tuple[str, Callable[[], Any], str]], wanted: Callable[[str], bool]) -> Iterator[Fitted]:
    """Those of the wanted names, one at a time."""
    for name, make, data in kinds:
        if wanted(name):
            found = _fitted(name, make, data)
            if found is not None:
                yield found
