"""Accuracy of results against labels or of forecasts against what came, and agreement with onnxruntime.

    python models/evaluate.py RESULTS.npy TRUTH.npy [MODEL.onnx SAMPLES.npy]

RESULTS: scores of shape (samples, classes) where TRUTH holds classes, int64 (samples,); forecasts where it holds
what was to be forecast, float of the same shape. Prints one line per figure.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime


def main(arguments: list[str]) -> None:
    """Compare classes; exits with a message when files do not belong together."""
    if len(arguments) not in (2, 4):
        raise SystemExit(__doc__)
    scores, labels = (np.load(a) for a in arguments[:2])
    if len(scores) > len(labels):
        raise SystemExit(f"{arguments[0]} has {len(scores)} rows, {arguments[1]} only {len(labels)} labels")
    truth = labels[: len(scores)]
    reference = float_results(*arguments[2:], len(scores)) if len(arguments) == 4 else None
    if truth.dtype.kind == "f":
        forecasts(scores, truth, reference)
    else:
        classes(scores, truth, reference)
    if reference is not None:
        largest = np.abs(scores - reference).max()
        print(f"{'largest difference':22} {largest:7.4f}  (float results span {np.ptp(reference):.2f})")


def float_results(model: str, samples: str, count: int) -> np.ndarray:
    """The first output of the network by onnxruntime."""
    session = onnxruntime.InferenceSession(model)
    (first, *_) = session.run(None, {session.get_inputs()[0].name: np.load(samples)[:count]})
    return np.asarray(first)


def classes(scores: np.ndarray, labels: np.ndarray, reference: np.ndarray | None) -> None:
    """Accuracy, and how often the classes are those of the float network."""
    show("accuracy", scores.argmax(axis=1) == labels)
    if reference is not None:
        expected = reference.argmax(axis=1)
        show("accuracy of the float", expected == labels)
        show("same class as float", scores.argmax(axis=1) == expected)


def forecasts(results: np.ndarray, truth: np.ndarray, reference: np.ndarray | None) -> None:
    """Mean absolute percentage errors."""
    for name, forecast in (("error (MAPE)", results), ("error of the float", reference)):
        if forecast is not None:
            print(f"{name:22} {np.mean(np.abs(forecast - truth) / np.abs(truth)):7.3%}")


def show(name: str, hits: np.ndarray) -> None:
    """One line: the share of true entries of a boolean array (samples,)."""
    print(f"{name:22} {np.mean(hits):7.2%}  ({np.sum(hits)} of {len(hits)})")


if __name__ == "__main__":
    main(sys.argv[1:])
