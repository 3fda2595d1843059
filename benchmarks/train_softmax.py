"""Softmax regression on encrypted digits at 128-bit security: 64-10, from zero weights.

    python benchmarks/train_softmax.py [--against-the-rest] [--steps 8] [--mode clear|simulate|encrypted] [--compare]

1,437 samples for training and 360 for testing (80 %, every class with its share). The client decorrelates the pixels
(glyphc.train.whitening): in few steps and with logits of at most 6, plain pixels lead to 91 % only. A step sees 719
samples, so two steps are an epoch. --against-the-rest: ten logistic regressions at once, all samples in every step.

Rate and ridge come from a cross-validation within the training samples.
"""

from __future__ import annotations

import argparse

import train_common as common
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from glyphc.train.job import Options, make_job
from glyphc.train.optimizers import SGD

TEST, SPLIT_SEED = 360, 0
WHITENING = common.Whitening(ridge=0.7, size=0.65)


def main() -> None:
    given = common.arguments(__doc__, 8, against_the_rest="binary cross-entropy, all samples in every step")
    case(given).run(given)


def case(given: argparse.Namespace) -> common.Case:
    """The job, with scikit-learn's regression on the same features as reference."""
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=TEST, stratify=y, random_state=SPLIT_SEED)
    fixed = WHITENING.layer(x)
    softmax = not given.against_the_rest
    rate, batch = (2.0, 719) if softmax else (4.0, None)
    options = Options(
        SGD(rate), given.steps, given.batch or batch, frozen=("fixed",), insecure_ring=given.insecure_ring
    )
    job = make_job(common.network((64, 10), fixed, ending="softmax" if softmax else "sigmoid"), x, y, options)
    weight, bias = fixed
    reference = LogisticRegression(max_iter=5000).fit(x @ weight.T + bias, y)
    score = float(reference.score(x_test @ weight.T + bias, y_test))
    title = f"digits 64-10, {'softmax' if softmax else 'one against the rest'}"
    return common.Case(title, job, x_test, y_test, {"scikit-learn's LogisticRegression": score})


if __name__ == "__main__":
    main()
