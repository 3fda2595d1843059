"""Steps of a convolutional network on encrypted MNIST images at 128-bit security, its convolution trained, too.

    python benchmarks/train_convolution.py [--steps 2] [--mode clear|simulate|encrypted] [--compare]

A convolution of 4 maps of 5 x 5 (as the first layer of LeCun et al., "Handwritten digit recognition with a
back-propagation network", 1989) with means over 3 x 3 pixels, whose 64 places a map fill powers of two, 256-32-10
behind it, tanh between the layers, each digit against the rest: 8,658 weights, random at the start. 32 images in a
step. Pixels are centred and divided by one number.
--mode clear --steps 1250 is ten epochs of the 4,000 images: what training leads to. --frozen keeps the convolution's
weights (in all modes; the client then computes it), for comparison.
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
input x: [1, 28, 28]
h = x -> conv(4, 5) as convolution -> avg_pool(3) -> tanh -> flatten -> dense(32) as hidden -> tanh
z = h -> dense(10) as digits
p = sigmoid(z)
output p
"""
BATCH, RATE = 32, 1.0
# Root mean square of the pixels: the convolution's sums stay where tanh is not flat.
SIZE = 0.6
START = common.Start(gain=1.0, last_gain=0.3)
# Steps of the run that the learning rate's schedule is for, and the least share of the rate at its end.
WHOLE, FINAL = 1250, 0.05


def main() -> None:
    given = common.arguments(__doc__, 2, frozen="keep the convolution's weights")
    case(given).run(given)


def case(given: argparse.Namespace) -> common.Case:
    """The job."""
    split = common.SPLITS["mnist"]()
    x, x_test = (v.astype(np.float64).reshape(len(v), 1, 28, 28) for v in (split.x_train, split.x_test))
    mean = x.mean(axis=0)
    factor = SIZE / np.sqrt(((x - mean) ** 2).mean())
    options = Options(
        SGD(RATE, schedule=Cosine(WHOLE, FINAL)),
        given.steps,
        given.batch or BATCH,
        insecure_ring=given.insecure_ring,
        convolutions=not given.frozen,
    )
    job = make_job(network(), factor * (x - mean), split.y_train, options)
    return common.Case("MNIST conv 4@5x5, 256-32-10", job, factor * (x_test - mean), split.y_test)


def network() -> Graph:
    """With a small last layer, whose sigmoids begin at how rare a digit is."""
    graph = parse_glyph(NETWORK).graph
    last, random = graph.constant("digits.weight"), np.random.default_rng(START.seed)
    weight = random.normal(size=last.shape) * np.sqrt(START.last_gain / last.shape[1])
    return with_weights(graph, {"digits.weight": weight, "digits.bias": np.full(len(last), START.last_bias)})


if __name__ == "__main__":
    main()
