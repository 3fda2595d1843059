"""Estimators that train on encrypted data: what scikit-learn asks of any, modes, weights and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.utils.estimator_checks import check_estimator

from glyphc.train.weighting import repetitions
from glyphc.trainer.estimator import (
    EncryptedLinearRegression,
    EncryptedLogisticRegression,
    EncryptedMLPClassifier,
    EncryptedMLPRegressor,
)

ALL = (
    EncryptedLogisticRegression,
    EncryptedLinearRegression,
    pytest.param(EncryptedMLPClassifier, marks=pytest.mark.slow),
    pytest.param(EncryptedMLPRegressor, marks=pytest.mark.slow),
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ALL)
def test_scikit_learns_own_checks(kind: Any) -> None:
    """All of the installed version's, without an exception."""
    found = check_estimator(kind(mode="clear"), on_fail=None, on_skip=None)
    assert len(found) > 50
    assert [c["check_name"] for c in found if c["status"] != "passed"] == []


def cancer() -> tuple[pd.DataFrame, pd.Series]:
    data = load_breast_cancer(as_frame=True)
    return data.data.iloc[:200], data.target.iloc[:200]


def test_missing_numbers_and_other_columns_are_refused() -> None:
    x, y = cancer()
    model = EncryptedLogisticRegression("clear", 10)
    with pytest.raises(NotFittedError):
        model.predict(x)
    model.fit(x, y)
    assert list(model.feature_names_in_) == list(x.columns)
    holed = x.copy()
    holed.iloc[3, 2] = np.nan
    for method in (model.predict, model.predict_proba, model.decision_function):
        with pytest.raises(ValueError, match="NaN"):
            method(holed)
        with pytest.raises(ValueError, match="same order"):
            method(x[x.columns[::-1]])
    with pytest.raises(ValueError, match="one class only"):
        model.fit(x, np.ones(len(x)))
    with pytest.raises(ValueError, match="diverges"):
        EncryptedLinearRegression("clear", learning_rate=50.0).fit(x, y)
    assert repr(EncryptedLogisticRegression("clear", 10)) == "EncryptedLogisticRegression(mode='clear', steps=10)"


@given(arrays.arrays(np.float64, st.integers(1, 30), elements=st.integers(0, 6) | st.floats(0, 8, width=16)))
def test_weights_become_repetitions(weights: np.ndarray[Any, Any]) -> None:
    """To within one in four times the samples; integers with a small sum exactly."""
    if not weights.any():
        return
    found = repetitions(weights)
    assert 0 < found.sum() <= 4 * len(weights)
    shares = found / found.sum() - weights / weights.sum()
    assert np.abs(shares).max() <= 1.0 / (4 * len(weights)) + 1e-12
    if np.array_equal(weights, np.rint(weights)) and weights.sum() <= 4 * len(weights):
        np.testing.assert_allclose(shares, 0, atol=1e-12)


def test_weights_of_samples_and_classes() -> None:
    x, y = cancer()
    weights = 1 + (np.arange(len(y)) % 3)
    one = EncryptedLogisticRegression("clear", 10).fit(x, y, weights)
    other = EncryptedLogisticRegression("clear", 10).fit(x.loc[np.repeat(y.index, weights)], np.repeat(y, weights))
    np.testing.assert_allclose(one.coef_, other.coef_, atol=1e-12)
    scaled = (x - x.mean()) / x.std()
    heavy, plain = (
        EncryptedLogisticRegression("clear", 10, standardise=False, class_weight=chosen).fit(scaled, y)
        for chosen in ({0: 1, 1: 3}, None)
    )
    assert heavy.predict_proba(scaled)[:, 1].mean() > plain.predict_proba(scaled)[:, 1].mean() + 0.01


def test_training_goes_on() -> None:
    """Twice ten steps are twenty: by warm_start, and by partial_fit, which knows classes that come later."""
    x, y = cancer()
    whole = EncryptedLogisticRegression("clear", 20).fit(x, y).coef_
    warm = EncryptedLogisticRegression("clear", 10, warm_start=True).fit(x, y).fit(x, y)
    parts = EncryptedLogisticRegression("clear", 10).partial_fit(x, y, classes=[0, 1]).partial_fit(x, y)
    np.testing.assert_allclose(warm.coef_, whole, atol=1e-12)
    np.testing.assert_allclose(parts.coef_, whole, atol=1e-12)
    again = EncryptedLogisticRegression("clear", 10).fit(x, y).fit(x, y)
    assert np.abs(again.coef_ - whole).max() > 1e-3
    first = EncryptedLogisticRegression("clear", 1).partial_fit(x[y == 0], y[y == 0], classes=[0, 1])
    assert set(first.partial_fit(x[y == 1], y[y == 1]).classes_) == {0, 1}
    with pytest.raises(ValueError, match="label 7 is none of the classes"):
        first.partial_fit(x, np.full(len(x), 7))


def test_they_learn_what_the_library_learns() -> None:
    x, y = cancer()
    reference = LogisticRegression(max_iter=5000).fit((x - x.mean()) / x.std(), y)
    for kind in (EncryptedLogisticRegression, EncryptedMLPClassifier):
        model = kind(mode="simulate", insecure_ring=4096, batch=64).fit(x, y)
        assert model.score(x, y) > reference.score((x - x.mean()) / x.std(), y) - 0.03
        assert ((model.decision_function(x) > 0) == (model.predict_proba(x)[:, 1] > 0.5)).all()
    data = load_diabetes()
    linear = EncryptedLinearRegression("simulate", 40, 64, insecure_ring=4096).fit(data.data, data.target)
    best = LinearRegression().fit(data.data, data.target).score(data.data, data.target)
    assert linear.score(data.data, data.target) > best - 0.03


def test_ranges_of_estimators() -> None:
    x, y = cancer()
    few = (x.iloc[:30].to_numpy(), y.iloc[:30].to_numpy())
    sampled = EncryptedLogisticRegression("simulate", 5, 32, ranges="sample", trial_data=few, insecure_ring=2048).fit(
        x, y
    )
    assert "30 other samples" in sampled.report_.source
    bounded = EncryptedLogisticRegression("simulate", 5, 32, 0.1, ranges="bounds", clip=4.0, insecure_ring=2048).fit(
        x, y
    )
    assert "nothing was run in the clear" in bounded.report_.source
