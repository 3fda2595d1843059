"""Models as Python objects: estimators, tables with named columns, labels of their own type, scores."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

import glyphc
from glyphc.errors import CalibrationError, DataError, GlyphcError, ModelError

X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])
TABLE = pd.DataFrame(X, columns=["sepal length", "sepal width", "petal length", "petal width"])


def compiled(model: Any, x: Any, **options: Any) -> glyphc.Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return glyphc.compile(model, x, 4, insecure_ring=1024, **options)


@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (LogisticRegression(max_iter=200), NAMES[Y]),
        (make_pipeline(StandardScaler(), LogisticRegression()), 10 * Y - 3),
        (DecisionTreeClassifier(max_depth=3, random_state=0), NAMES[Y]),
        (OneVsRestClassifier(LogisticRegression(max_iter=200)), 7 - Y),
        (make_pipeline(StandardScaler(), MLPClassifier((6,), max_iter=400, random_state=0)), NAMES[Y]),
    ],
    ids=["texts", "pipeline", "tree", "one-vs-rest", "network"],
)
def test_labels_have_their_own_type(estimator: Any, y: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X, y)
    program = compiled(estimator, X)
    found = program.predict(X, mode="clear")
    assert found.dtype.kind == np.asarray(y).dtype.kind and found.shape == y.shape
    assert np.array_equal(program.classes_, estimator.classes_)
    assert np.mean(found == estimator.predict(X)) > 0.97
    assert abs(program.score(X, y, mode="clear") - estimator.score(X, y)) < 0.03
    assert np.abs(program.predict_proba(X, mode="clear") - estimator.predict_proba(X)).max() < 0.05
    again = glyphc.Program.from_bytes(program.to_bytes())
    assert np.array_equal(again.predict(X[:8], mode="simulate"), estimator.predict(X[:8]))


def test_a_logistic_regression_takes_no_bootstrap() -> None:
    """Sigmoids of opposite scores are a softmax, and what adds up to 1 needs no normalising: the client does it."""
    x, y = load_breast_cancer(return_X_y=True)
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    program = compiled(estimator, x)
    assert not any(n.op.mnemonic == "bootstrap" for n in program.graph)
    assert np.abs(program.predict_proba(x, mode="simulate") - estimator.predict_proba(x)).max() < 0.02


@pytest.mark.parametrize("make", [GaussianNB, QuadraticDiscriminantAnalysis])
def test_likelihoods(make: Any) -> None:
    """Squares of very different reach, and a softmax that is written out: it is the client's, and one bootstrap is
    enough. Classes that are close to each other are still told apart."""
    train, test, wanted, _ = train_test_split(X, Y, random_state=0)
    estimator = make().fit(train, wanted)
    program = compiled(estimator, train)
    assert max(n.type.size for n in program.graph if n.op.mnemonic == "bootstrap") <= 12
    assert np.array_equal(program.predict(test, mode="simulate"), estimator.predict(test))
    found, true = program.predict_proba(test, mode="simulate"), estimator.predict_proba(test)
    assert np.sqrt(np.mean((found - true) ** 2)) < 0.02


def test_regressors() -> None:
    x, y = load_diabetes(return_X_y=True)
    estimator = LinearRegression().fit(x, y)
    program = compiled(estimator, x)
    found = program.predict(x, mode="clear")
    assert found.shape == y.shape
    assert np.abs(found - estimator.predict(x)).max() < 0.01 * np.ptp(y)
    assert abs(program.score(x, y, mode="clear") - estimator.score(x, y)) < 0.01
    with pytest.raises(AttributeError, match="classes"):
        program.predict_proba(x, mode="clear")
    with pytest.raises(AttributeError, match="label"):
        _ = program.classes_


# -- tables --


@pytest.fixture(scope="module")
def tree() -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_depth=3, random_state=0).fit(TABLE, NAMES[Y])


@pytest.fixture(scope="module")
def program(tree: DecisionTreeClassifier) -> glyphc.Program:
    return compiled(tree, TABLE)


def test_columns_are_put_in_order(program: glyphc.Program, tree: DecisionTreeClassifier) -> None:
    shuffled = TABLE[reversed(TABLE.columns)].assign(more=1.0)
    wanted = tree.predict(TABLE)
    assert np.array_equal(program.predict(shuffled, mode="clear"), wanted)
    assert np.array_equal(program.predict(X, mode="clear"), wanted)
    assert np.array_equal(compiled(tree, shuffled).predict(TABLE, mode="clear"), wanted)


def test_wrong_tables(program: glyphc.Program, tree: DecisionTreeClassifier) -> None:
    with pytest.raises(DataError, match=r"without column.*'petal width'"):
        program.run(TABLE.drop(columns="petal width"), mode="clear")
    with pytest.raises(DataError, match=r"'sepal width'.*no numbers"):
        program.run(TABLE.assign(**{"sepal width": "wide"}), mode="clear")
    with pytest.raises(DataError, match="more than one column 'a'"):
        program.run(pd.DataFrame(X, columns=["a", "a", "b", "c"]), mode="clear")
    with pytest.raises(DataError, match="without column"):
        compiled(tree, TABLE.drop(columns="sepal length"))


def test_columns_chosen_by_name() -> None:
    """Such a pipeline takes an input for each column."""
    prepare = ColumnTransformer([("a", MinMaxScaler(), ["petal width", "sepal length"])], remainder="drop")
    estimator = make_pipeline(prepare, LogisticRegression()).fit(TABLE, Y)
    used = TABLE[["sepal length", "petal width"]]
    program = compiled(estimator, used)
    assert np.mean(program.predict(TABLE, mode="clear") == estimator.predict(TABLE)) > 0.97


# -- what is no model --


@pytest.mark.parametrize("model", [3, None, [1.0, 2.0], RandomForestClassifier, object()])
def test_what_is_no_model(model: Any) -> None:
    with pytest.raises(TypeError, match=r"glyphc\.compile takes the path of"):
        glyphc.compile(model, X)


def test_an_estimator_that_is_not_fitted() -> None:
    with pytest.raises(ModelError, match="RandomForestClassifier is not fitted"):
        glyphc.compile(RandomForestClassifier(), X)


def test_an_estimator_that_has_no_converter() -> None:
    class Own(LogisticRegression):  # type: ignore[misc]
        pass

    with pytest.raises(ModelError, match="skl2onnx cannot convert the Own"):
        glyphc.compile(Own().fit(X, Y), X)


def test_examples_are_for_modules(tree: DecisionTreeClassifier) -> None:
    with pytest.raises(GlyphcError, match=r"torch\.nn\.Module"):
        glyphc.compile(tree, TABLE, examples=(1,))


def test_an_estimator_needs_calibration(tree: DecisionTreeClassifier) -> None:
    with pytest.raises(CalibrationError, match="calibration"):
        glyphc.compile(tree)


def test_torch_encoder_layers() -> None:
    """Of which PyTorch has a fast form for inference that its exporter does not know."""
    torch = pytest.importorskip("torch", exc_type=ImportError)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.nn.Flatten())
    x = np.random.default_rng(0).normal(size=(32, 3, 8)).astype(np.float32)
    program = compiled(module, x)
    with torch.no_grad():
        wanted = module.eval()(torch.tensor(x)).numpy()
    assert np.sqrt(np.mean((np.asarray(program.run(x, mode="clear")) - wanted) ** 2)) < 0.02 * np.ptp(wanted)


@pytest.mark.parametrize("name", ["XGBClassifier", "LGBMClassifier"])
def test_boosted_trees(name: str) -> None:
    pytest.importorskip("onnxmltools", exc_type=ImportError)
    library = pytest.importorskip("xgboost" if name.startswith("XGB") else "lightgbm", exc_type=ImportError)
    x, y = load_iris(return_X_y=True)
    estimator = make_pipeline(StandardScaler(), getattr(library, name)(n_estimators=3, max_depth=2)).fit(x, y)
    program = compiled(estimator, x)
    assert np.mean(program.predict(x, mode="simulate") == estimator.predict(x)) > 0.97


def test_torch_modules() -> None:
    torch = pytest.importorskip("torch", exc_type=ImportError)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    program = compiled(module, X)
    with torch.no_grad():
        wanted = module(torch.tensor(X, dtype=torch.float32)).numpy()
    assert np.abs(np.asarray(program.run(X, mode="clear")) - wanted).max() < 0.02 * np.ptp(wanted)
