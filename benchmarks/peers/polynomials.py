"""The network of a case for systems without bootstraps: polynomials stand in place of its ReLUs. NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DEGREE = 2
# Share of the scores' range; what is farther from the same network in the clear is no approximation of it.
WRONG = 0.05


def least_squares(values: Any) -> list[float]:
    """Of ReLU, at values that reach it."""
    fit = np.polynomial.Polynomial.fit(values.ravel(), np.maximum(values, 0).ravel(), DEGREE).convert()
    return [float(c) for c in fit.coef]


class Case:
    """layers: weights and bias of each; polynomials: coefficients between them, from the constant one on, which ``fit``
    finds for what reaches a ReLU on the training samples, without retraining. x, labels: held-out samples; scores,
    clear: what this network finds for them, without encryption, and the classes."""

    words = f"ReLU replaced by polynomials of degree {DEGREE}"

    def __init__(self, path: Path, fit: Callable[[Any], list[float]] = least_squares) -> None:
        with np.load(path) as archive:
            case: dict[str, Any] = {name: archive[name] for name in archive.files}
        self.layers = [(case[f"w{i}"].astype(np.float64), case[f"b{i}"].astype(np.float64)) for i in range(3)]
        self.x, self.labels = case["x_test"], case["y_test"]
        self.polynomials: list[list[float]] = []
        value, clear = (case[name].astype(np.float64) for name in ("x_train", "x_test"))
        for number, (weights, bias) in enumerate(self.layers):
            value, clear = value @ weights.T + bias, clear @ weights.T + bias
            if number < len(self.layers) - 1:
                self.polynomials.append(fit(value))
                polynomial = np.polynomial.Polynomial(self.polynomials[-1])
                value, clear = polynomial(value), polynomial(clear)
        self.scores = clear

    @property
    def clear(self) -> Any:
        return self.scores.argmax(axis=1)

    def judge(self, found: Any, scores: Any) -> None:
        """Set the shares of a ``Measured`` from decrypted scores of the first samples; SystemExit for wrong ones."""
        wanted, got = self.scores[: len(scores)], np.asarray(scores).argmax(axis=1)
        error = float(np.abs(scores - wanted).max() / np.ptp(self.scores))
        if not error < WRONG:
            raise SystemExit(f"{found.system} computes another network: scores are off by {error:.1%} of their range")
        found.clear = float(np.mean(self.clear == self.labels))
        found.correct = float(np.mean(got == self.labels[: len(got)]))
        found.agreement = float(np.mean(got == self.clear[: len(got)]))
