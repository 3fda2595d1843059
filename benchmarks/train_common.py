"""What the training benchmarks share: networks, one run in a mode, and the table of what came out of it."""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.analysis import cost_file
from glyphc.analysis.kernels_cost import for_engine
from glyphc.console import reporter
from glyphc.exchange.training_engines import training_engine
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Const, Dense, Input, Output, Softmax
from glyphc.ir.types import Level
from glyphc.train.job import Job
from glyphc.train.plan import Plan
from glyphc.train.predict import predict
from glyphc.train.whitening import Whitening as Whitening
from glyphc.trainer.loop import TrainingReport, train

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
import datasets

# Data by name: functions that give samples and classes for training and testing.
SPLITS = datasets.SPLITS
F64 = npt.NDArray[np.floating[Any]]
MODES = ("clear", "simulate", "encrypted")
# One class of ten: a sigmoid that starts there has nothing to learn from how rare its class is.
RARE = float(np.log(1 / 9))


def arguments(description: str | None, steps: int, samples: bool = False, **flags: str) -> argparse.Namespace:
    """The command line of every training benchmark. steps: the default; samples: whether fewer can be asked for; flags:
    help by name, of the script's own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, default="encrypted")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--compare", action="store_true", help="run the modes before this one too and compare weights")
    parser.add_argument("--folder", help="keep a checkpoint of every step there")
    parser.add_argument("--resume", action="store_true", help="go on with what the folder has")
    parser.add_argument("--engine", help="what computes: kernels or openfhe, instead of the first that can")
    parser.add_argument("--batch", type=int, help="samples in a step, instead of the benchmark's number")
    parser.add_argument("--insecure-ring", type=int, help="a small ring, to try the script with --batch. NOT SECURE")
    if samples:
        parser.add_argument("--samples", type=int, help="train on the first so many samples alone")
    for name, text in flags.items():
        parser.add_argument("--" + name.replace("_", "-"), action="store_true", help=text)
    return parser.parse_args()


# -- networks --


@dataclass(frozen=True)
class Start:
    """Random weights: normal, of variance gain / inputs, for all layers but the last and for the last; the last bias.

    A small last layer keeps the first errors' direction from being drawn by chance.
    """

    gain: float = 0.5
    last_gain: float = 0.05
    last_bias: float = RARE
    seed: int = 0


def network(
    sizes: Sequence[int],
    fixed: tuple[F64, F64],
    activation: str = "tanh",
    ending: str = "sigmoid",
    start: Start | None = None,
) -> Graph:
    """A frozen dense layer called "fixed", then dense layers "layer1", ... of these sizes.

    sizes: inputs of the first trained layer, ..., outputs. ending: "sigmoid" or "softmax". start: None for zeros.
    """
    graph = Graph(Level.SOURCE, 1)
    value = _dense(graph, graph.add(Input("x", (int(fixed[0].shape[1]),))), "fixed", *fixed)
    random = np.random.default_rng(start.seed) if start is not None else None
    for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        last = i == len(sizes) - 1
        weight, bias = np.zeros((outputs, inputs)), np.zeros(outputs)
        if start is not None and random is not None:
            gain = start.last_gain if last else start.gain
            weight = random.normal(size=weight.shape) * np.sqrt(gain / inputs)
            bias += start.last_bias if last else 0.0
        value = _dense(graph, value, f"layer{i}", weight, bias)
        if not last:
            value = graph.add(Apply((Function(activation),)), (value,))
    value = graph.add(Softmax() if ending == "softmax" else Apply((Function(ending),)), (value,))
    graph.add(Output("y"), (value,))
    return graph


def _dense(graph: Graph, value: Node, name: str, weight: F64, bias: F64) -> Node:
    constants = (graph.add_constant(name, weight), graph.add_constant(f"{name}_bias", bias))
    return graph.add(Dense((Const(constants[0]),), Const(constants[1])), (value,), location=name)


# -- runs --


@dataclass
class Case:
    """A job, test samples and classes, and the accuracies that it is compared with, by what they are of."""

    title: str
    job: Job
    x_test: F64
    y_test: npt.NDArray[np.integer[Any]]
    references: dict[str, float] = field(default_factory=dict)

    def accuracy(self, trained: Graph) -> float:
        """Share of right classes."""
        return accuracy(trained, self.x_test, self.y_test)

    def run(self, given: argparse.Namespace) -> TrainingReport:
        """Train as the command line says, and print the table."""
        job, o = self.job, self.job.options
        size = f"{job.batches.batch} of {len(job.x)} samples"
        print(f"{self.title}: {o.optimizer}; {o.steps} steps of {size}", flush=True)
        modes = MODES[: MODES.index(given.mode) + 1] if given.compare else (given.mode,)
        reports: dict[str, TrainingReport] = {}
        plans: list[Plan] = []
        # the encrypted run first: its peak of memory is then its own
        for mode in reversed(modes):
            folder = given.folder if mode == given.mode else None
            resume = given.resume and folder is not None
            reports[mode] = train(job, mode, folder, resume, reporter(), planned=plans.append, engine=given.engine)
            if mode == given.mode:
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        main = reports[given.mode]
        show("test accuracy before", f"{self.accuracy(job.network):.2%}")
        for mode in modes:
            show(f"test accuracy, {mode}", f"{self.accuracy(reports[mode].network):.2%}")
        for name, value in self.references.items():
            show(f"test accuracy, {name}", f"{value:.2%}")
        for first, second in zip(modes[1:], modes[:-1], strict=True):
            show(f"weights, {first} − {second}", f"{distance(reports[first].network, reports[second].network):.2e}")
        show("largest change of a weight", f"{distance(main.network, job.network):.3f}")
        if main.reach is not None:
            show("range used", f"{main.reach:.0%} in the trial run")
        if main.ranges is not None:
            show("ranges", str(main.ranges))
        if plans:
            engine, _ = training_engine(plans[0].parameters, given.engine)
            show("engine", engine)
            predicted = predict(plans[0], o.steps, for_engine(cost_file.current(), engine))
            size = f"{predicted.memory_bytes / 1e9:.1f} GB"
            show("predicted for an encrypted step", f"{predicted.step_seconds:.1f} s, {size} in all")
        if main.seconds:
            show("seconds for a step", f"{np.median(main.seconds):.1f} (median), {min(main.seconds):.1f} (best)")
        show("peak memory", f"{memory / 1e6:.1f} GB")
        show("security", main.security)
        return main


def accuracy(trained: Graph, x: F64, y: npt.NDArray[np.integer[Any]]) -> float:
    """Share of right classes, of a network with one output for each, or with one for class 1."""
    (inputs,) = (op.name for _, op in trained.of(Input))
    (p,) = evaluate(trained, {inputs: x.astype(np.float64)}).values()
    return float(np.mean((p[:, 0] > 0.5 if p.shape[1] == 1 else p.argmax(axis=1)) == y))


def distance(a: Graph, b: Graph) -> float:
    """Largest difference of two weights."""
    return max(float(np.abs(a.constant(n) - b.constant(n)).max()) for n in a.constants)


def show(name: str, value: str) -> None:
    print(f"  {name:44} {value}", flush=True)
