"""Handwritten digits, recognised without being seen: where the time goes, and which digits are doubtful.

    python docs/tutorials/images.py [--mode simulate] [--samples 64] [--output images.png]

Compiles the perceptron of models/ on 8x8 images and runs it on held-out ones. The picture shows the results beside the
images, and the predicted seconds of every step. Encrypted it takes half a minute and 4 GB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import glyphc
from glyphc.diagnostics import predicted

MODELS = Path(__file__).resolve().parents[2] / "models"


def main() -> None:
    """Compile, run, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=["encrypted", "simulate", "clear"], default="encrypted")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--output", default="images.png")
    options = parser.parse_args()

    x = np.load(MODELS / "data" / "digits-test.npy")[: options.samples]
    labels = np.load(MODELS / "data" / "digits-test-labels.npy")[: options.samples]
    calibration = np.load(MODELS / "data" / "digits-train.npy")
    program = glyphc.compile(MODELS / "digits-mlp.onnx", calibration=calibration, batch=options.samples)
    logits = program.run(x, mode=options.mode)
    digits = logits.argmax(axis=1)
    # Between the best and the second best: what an error would have to bridge.
    margins = np.diff(np.sort(logits, axis=1)[:, -2:], axis=1)[:, 0]
    right = (digits == labels).mean()
    print(f"{options.mode}: {right:.1%} of {len(x)} right; the closest decision by {margins.min():.2f}")

    figure = plt.figure(figsize=(9, 4.5), layout="constrained")
    left, right = figure.subfigures(1, 2)
    for axes, row in zip(left.subplots(4, 4).flat, np.argsort(margins), strict=False):
        axes.imshow(x[row].reshape(8, 8), cmap="Greys")
        axes.set_title(
            f"{digits[row]} (by {margins[row]:.1f})", fontsize=8, color="black" if digits[row] == labels[row] else "red"
        )
        axes.axis("off")
    left.suptitle("the most doubtful")
    # Seconds by node of the graph that the server executes; steps that take no time to speak of are left out.
    seconds = predicted(program).node_seconds
    steps = [(f"%{n.id} {n.op.mnemonic}", seconds[n.id]) for n in program.graph if seconds.get(n.id, 0) > 0.01]
    axes = right.subplots()
    axes.barh(*zip(*steps, strict=True))
    axes.invert_yaxis()
    axes.set(xlabel="seconds predicted")
    figure.savefig(options.output, dpi=120)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
