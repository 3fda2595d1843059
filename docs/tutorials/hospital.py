"""A hospital asks a server about tumours, and the server sees ciphertexts only.

    python docs/tutorials/hospital.py [--mode simulate] [--output hospital.png]

Trains a perceptron with scikit-learn, compiles it as it is, shows what an encrypted run will cost before it happens,
runs it on held-out patients, and draws encrypted beside clear results. Encrypted it takes half a minute and 4 GB.
"""

from __future__ import annotations

import argparse

import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import glyphc
from glyphc.diagnostics import summary


def main() -> None:
    """Train, compile, run, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=["encrypted", "simulate", "clear"], default="encrypted")
    parser.add_argument("--output", default="hospital.png")
    options = parser.parse_args()

    table, tumour = load_breast_cancer(return_X_y=True, as_frame=True)
    x_train, x_test, y_train, y_test = train_test_split(table, tumour, test_size=0.3, random_state=0, stratify=tumour)
    model = make_pipeline(StandardScaler(), MLPClassifier((16,), "tanh", alpha=1.0, max_iter=500, random_state=0))
    model.fit(x_train, y_train)

    # Calibration samples set the ranges of hidden values: those that the model was trained on, never those of patients.
    program = glyphc.compile(model, calibration=x_train, batch=len(x_test))
    print(summary(program))

    encrypted = program.predict_proba(x_test, mode=options.mode)
    clear = model.predict_proba(x_test)
    same = (encrypted.argmax(axis=1) == clear.argmax(axis=1)).mean()
    print(f"{options.mode}: the same class as in the clear for {same:.1%} of {len(x_test)} patients,")
    right = (program.classes_[encrypted.argmax(axis=1)] == y_test).mean()
    print(f"right for {right:.1%}; {model.score(x_test, y_test):.1%} in the clear")

    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="lightgrey", zorder=0)
    for kind, name in enumerate(("malignant", "benign")):
        rows = y_test.to_numpy() == kind
        axes.scatter(clear[rows, 1], encrypted[rows, 1], s=12, label=name)
    axes.set(xlabel="probability of benign, in the clear", ylabel=f"the same, {options.mode}", aspect="equal")
    axes.legend()
    figure.savefig(options.output, dpi=120)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
