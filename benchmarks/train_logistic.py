"""Logistic regression on encrypted data at 128-bit security: breast cancer, 30-1, from zero weights.

    python benchmarks/train_logistic.py [--steps 20] [--mode clear|simulate|encrypted] [--compare]

All 398 training samples in every step; 171 test samples. The client standardises the measurements and decorrelates them
(glyphc.train.whitening). Rate and ridge come from a cross-validation within the training samples.
"""

from __future__ import annotations

import argparse

import numpy as np
import train_common as common
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from glyphc.train.job import Options, make_job
from glyphc.train.optimizers import SGD

RATE = 0.5
WHITENING = common.Whitening(ridge=1.0)


def main() -> None:
    given = common.arguments(__doc__, 20)
    case(given).run(given)


def case(given: argparse.Namespace) -> common.Case:
    """The job, with scikit-learn's regression on standardised measurements as reference."""
    split = common.SPLITS["breast-cancer"]()
    x, x_test = (v.astype(np.float64) for v in (split.x_train, split.x_test))
    deviations = x.std(axis=0)
    weight, bias = WHITENING.layer(x / deviations)
    options = Options(SGD(RATE), given.steps, given.batch, frozen=("fixed",), insecure_ring=given.insecure_ring)
    job = make_job(common.network((30, 1), (weight / deviations, bias)), x, split.y_train, options)
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)).fit(x, split.y_train)
    score = float(reference.score(x_test, split.y_test))
    title = "breast cancer, logistic regression"
    return common.Case(title, job, x_test, split.y_test, {"scikit-learn's LogisticRegression": score})


if __name__ == "__main__":
    main()
