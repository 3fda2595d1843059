"""A laboratory trains a classifier on a server that sees neither its samples nor labels, gradients or weights.

    python docs/tutorials/training.py [--mode simulate] [--steps 12] [--output training.png]

Logistic regression on breast cancer data by gradient descent, and the same steps in the clear beside it. Encrypted, a
step takes some fifteen seconds.
"""

from __future__ import annotations

import argparse

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from glyphc.console import reporter
from glyphc.trainer.estimator import EncryptedLogisticRegression


def main() -> None:
    """Train both ways, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=["encrypted", "simulate", "clear"], default="encrypted")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", default="training.png")
    options = parser.parse_args()

    table, tumour = load_breast_cancer(return_X_y=True, as_frame=True)
    x_train, x_test, y_train, y_test = train_test_split(table, tumour, test_size=0.3, random_state=0, stratify=tumour)
    settings = {"steps": options.steps, "learning_rate": 1.0, "random_state": 0}
    trained = EncryptedLogisticRegression(mode=options.mode, reporter=reporter(), **settings).fit(x_train, y_train)
    clear = EncryptedLogisticRegression(mode="clear", **settings).fit(x_train, y_train)
    scale = StandardScaler().fit(x_train)
    library = LogisticRegression(max_iter=1000).fit(scale.transform(x_train), y_train)
    print(f"{options.mode}: {trained.score(x_test, y_test):.2%} of held-out patients right after {options.steps} steps")
    print(f"the same steps in the clear: {clear.score(x_test, y_test):.2%}; scikit-learn, converged:", end=" ")
    print(f"{library.score(scale.transform(x_test), y_test):.2%}")

    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    rows = np.arange(table.shape[1])
    axes.barh(rows - 0.2, clear.coef_.ravel(), 0.4, label="in the clear")
    axes.barh(rows + 0.2, trained.coef_.ravel(), 0.4, label=options.mode)
    axes.set_yticks(rows, table.columns, fontsize=7)
    axes.set(xlabel="weight of the standardised feature")
    axes.legend()
    figure.savefig(options.output, dpi=120)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
