"""Accuracy of results against labels, and agreement with onnxruntime on the same samples.

    python models/evaluate.py LOGITS.npy LABELS.npy [MODEL.onnx SAMPLES.npy]

LOGITS: scores of shape (samples, classes). LABELS: int64 (samples,). Prints one line per figure.
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
    labels, classes = labels[: len(scores)], scores.argmax(axis=1)
    show("accuracy", classes == labels)
    if len(arguments) == 4:
        session = onnxruntime.InferenceSession(arguments[2])
        samples = np.load(arguments[3])[: len(scores)]
        (reference, *_) = session.run(None, {session.get_inputs()[0].name: samples})
        expected = reference.argmax(axis=1)
        show("accuracy of the float", expected == labels)
        show("same class as float", classes == expected)
        largest = np.abs(scores - reference).max()
        print(f"{'largest difference':22} {largest:7.4f}  (float scores span {np.ptp(reference):.2f})")


def show(name: str, hits: np.ndarray) -> None:
    """One line: the share of true entries of a boolean array (samples,)."""
    print(f"{name:22} {np.mean(hits):7.2%}  ({np.sum(hits)} of {len(hits)})")


if __name__ == "__main__":
    main(sys.argv[1:])
