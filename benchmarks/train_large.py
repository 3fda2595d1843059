"""Steps of a larger network on encrypted MNIST images at 128-bit security: 784-128-32-10, from random weights.

    python benchmarks/train_large.py [--steps 1] [--mode clear|simulate|encrypted] [--compare]
        [--samples 640] [--folder FOLDER [--resume]]

64 images in a step, tanh between the layers, each digit against the rest. Pixels are centred and divided by one number.
--mode clear --steps 630 is ten epochs of the 4,000 images: what training leads to. Each batch is encrypted once, so
--samples 640 takes ten of them on the disk however many steps there are.
"""

from __future__ import annotations

import argparse

import numpy as np
import train_common as common

from glyphc.train.job import Options, make_job
from glyphc.train.optimizers import SGD, Cosine

SIZES, BATCH, RATE = (784, 128, 32, 10), 64, 1.0
# Root mean square of the pixels: the first layer's sums stay where tanh is not flat.
SIZE = 0.3
START = common.Start(gain=1.0, last_gain=0.3)
# Steps of the run that the learning rate's schedule is for, and the least share of the rate at its end.
WHOLE, FINAL = 630, 0.05


def main() -> None:
    given = common.arguments(__doc__, 1, samples=True)
    case(given).run(given)


def case(given: argparse.Namespace) -> common.Case:
    """The job."""
    split = common.SPLITS["mnist"]()
    x, x_test = (v.astype(np.float64) for v in (split.x_train[: given.samples], split.x_test))
    mean = x.mean(axis=0)
    factor = SIZE / np.sqrt(((x - mean) ** 2).mean())
    fixed = (factor * np.eye(SIZES[0]), -factor * mean)
    optimizer = SGD(RATE, schedule=Cosine(WHOLE, FINAL))
    options = Options(
        optimizer, given.steps, given.batch or BATCH, frozen=("fixed",), insecure_ring=given.insecure_ring
    )
    job = make_job(common.network(SIZES, fixed, start=START), x, split.y_train[: given.samples], options)
    return common.Case("MNIST 784-128-32-10", job, x_test, split.y_test)


if __name__ == "__main__":
    main()
