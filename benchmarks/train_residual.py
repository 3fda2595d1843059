"""Steps of a network whose layers are skipped by connections, on encrypted digits at 128-bit security: 64-32-32-10.

    python benchmarks/train_residual.py [--steps 2] [--mode clear|simulate|encrypted] [--compare]

A residual block (He et al., "Deep residual learning for image recognition", 2016, section 3.1): the first layer's
activations are added to the sums of the second layer, tanh behind both, each digit against the rest, random weights.
64 samples in a step. The client decorrelates the pixels (glyphc.train.whitening), as in ``train_mlp.py``.
--mode clear --steps 400 is a full run.
"""

from __future__ import annotations

import argparse

import numpy as np
import train_common as common

from glyphc.frontends.from_dsl import parse_glyph
from glyphc.ir.graph import Graph
from glyphc.train.job import Options, make_job
from glyphc.train.optimizers import SGD, Cosine
from glyphc.train.step import with_weights

NETWORK = """
weights he_normal(seed=0)
input x: [64]
h = x -> dense(32) as first -> tanh
s = h -> dense(32) as second
z = (h + s) -> tanh -> dense(10) as digits
p = sigmoid(z)
output p
"""
BATCH, RATE = 64, 3.0
# The schedule's steps, and the share of the rate at its end.
WHOLE, FINAL = 400, 0.3
WHITENING = common.Whitening(ridge=0.7, size=0.9)
START = common.Start(gain=0.5, last_gain=0.05, last_bias=0.0)


def main() -> None:
    given = common.arguments(__doc__, 2)
    case(given).run(given)


def case(given: argparse.Namespace) -> common.Case:
    """The job."""
    split = common.SPLITS["digits"]()
    x, x_test = (v.astype(np.float64) for v in (split.x_train, split.x_test))
    weight, bias = WHITENING.layer(x)
    options = Options(
        SGD(RATE, schedule=Cosine(WHOLE, FINAL)), given.steps, given.batch or BATCH, insecure_ring=given.insecure_ring
    )
    job = make_job(network(), x @ weight.T + bias, split.y_train, options)
    return common.Case("digits 64-32-32-10, skipped", job, x_test @ weight.T + bias, split.y_test)


def network() -> Graph:
    """With layers as small at the start as those of ``train_mlp.py``."""
    graph, random = parse_glyph(NETWORK).graph, np.random.default_rng(START.seed)
    weights = {}
    for name, gain in (("first", START.gain), ("second", START.gain), ("digits", START.last_gain)):
        shape = graph.constant(f"{name}.weight").shape
        weights[f"{name}.weight"] = random.normal(size=shape) * np.sqrt(gain / shape[1])
        weights[f"{name}.bias"] = np.full(shape[0], START.last_bias if name == "digits" else 0.0)
    return with_weights(graph, weights)


if __name__ == "__main__":
    main()
