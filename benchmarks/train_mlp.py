"""Training two layers on encrypted data at 128-bit security: digits, 64-32-10, tanh, from random weights.

    python benchmarks/train_mlp.py [--steps 10] [--mode simulate|clear]

64 samples in a step, each digit against the rest. The first steps are done encrypted and compared with the simulation
of the same steps; --mode clear --steps 400 shows where training leads.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

import numpy as np

from glyphc.console import reporter
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, Const, Dense, Input, Output, Scale
from glyphc.ir.types import Level
from glyphc.train.job import Options, make_job
from glyphc.train.loop import train
from glyphc.train.optimizers import SGD

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
import datasets

HIDDEN, BATCH = 32, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--mode", choices=["encrypted", "simulate", "clear"], default="encrypted")
    arguments = parser.parse_args()
    split = datasets.digits()
    options = Options(SGD(0.5), arguments.steps, BATCH, "binary-cross-entropy", initial="random", reach=8.0)
    job = make_job(network(split.x_train), split.x_train, split.y_train, options)
    every = ["clear", "simulate", "encrypted"]
    modes = every[: every.index(arguments.mode) + 1]
    reports = {mode: train(job, mode, reporter=reporter()) for mode in modes}
    for mode, report in reports.items():
        p = evaluate(report.network, {"x": split.x_test.astype(np.float64)})["y"]
        show(f"{mode}, test accuracy", f"{np.mean(p.argmax(axis=1) == split.y_test):.2%}")
    for first, second in (("simulate", "clear"), ("encrypted", "simulate")):
        if first in reports:
            a, b = (reports[m].network.constants for m in (first, second))
            show(f"{first} - {second}, weights", f"{max(float(np.abs(a[n] - b[n]).max()) for n in a):.2e}")
    start, last = job.network.constants, reports[modes[-1]]
    changes = {n: float(np.abs(last.network.constant(n) - v).max()) for n, v in start.items()}
    show("largest change of a weight", f"{max(changes.values()):.3f}")
    show("seconds for a step", f"{np.median(last.seconds):.1f} (median), {np.min(last.seconds):.1f} (best)")
    show("security", last.security)
    show("peak memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


def network(x: np.ndarray) -> Graph:
    """Standardised pixels, a hidden layer of tanh, ten sigmoids; weights are drawn when training starts."""
    graph = Graph(Level.SOURCE, 1)
    features = int(x.shape[1])
    # a quarter of the deviation: sums of the hidden layer stay where tanh is not flat
    spread = 4 * np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0).astype(np.float64)
    value = graph.add(Input("x", (features,)))
    factor = graph.add_constant("factor", 1 / spread)
    shift = graph.add_constant("shift", -x.mean(axis=0).astype(np.float64) / spread)
    value = graph.add(Scale(Const(factor), Const(shift)), (value,))
    for name, inputs, outputs, function in (("first", features, HIDDEN, "tanh"), ("second", HIDDEN, 10, "sigmoid")):
        weight = graph.add_constant(name, np.zeros((outputs, inputs)))
        bias = graph.add_constant(f"{name}_bias", np.zeros(outputs))
        value = graph.add(Dense((Const(weight),), Const(bias)), (value,), location=name)
        value = graph.add(Apply((Function(function),)), (value,))
    graph.add(Output("y"), (value,))
    return graph


def show(name: str, value: str) -> None:
    print(f"  {name:32} {value}", flush=True)


if __name__ == "__main__":
    main()
