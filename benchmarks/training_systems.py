"""A few training steps as the survey's systems do them, encrypted, side by side, beside the same steps in the clear.

    python benchmarks/training_systems.py [--steps 2] [--batch 32] [--hidden 32] [--rows NAMES] [--gates BITS]
        [--long 400] [--ring N] [--output FILE.md]

Digits, 64-32-10 with a sigmoid between both layers, a quadratic loss of one-hot rows; and, by gates, XOR with 2-2-1
sigmoids, a sample in a step. ``off`` in the table says whether integers are the same bit for bit. With --long, as many
steps of the definitions in the clear show what their precision is good for: accuracy on held-out samples.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import train_common as common

from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, Const, Dense, Input, Output
from glyphc.ir.types import Level
from glyphc.measure import this_machine
from glyphc.runtime import Mode
from glyphc.survey.comparison import Row, Task, compare_training, markdown, parse_rows
from glyphc.survey.system import carry_out
from glyphc.train.job import Options
from glyphc.train.optimizers import SGD
from glyphc.train.step import with_weights

ROWS = "hesamifard,nandakumar,onoufriou"
RATE, XOR_RATE = 1.0, 2.0


def network(widths: tuple[int, ...], last: str = "") -> Graph:
    """Dense layers with sigmoids between them, from random weights."""
    random = np.random.default_rng(2)
    graph = Graph(Level.SOURCE, 1)
    value = graph.add(Input("x", widths[:1]))
    sizes = list(pairwise(widths))
    for at, (inputs, outputs) in enumerate(sizes):
        w = graph.add_constant(f"w{at}", random.normal(size=(outputs, inputs)) / np.sqrt(inputs))
        b = graph.add_constant(f"b{at}", np.zeros(outputs))
        value = graph.add(Dense((Const(w),), Const(b)), (value,), location=f"layer{at}")
        if at + 1 < len(sizes) or last:
            value = graph.add(Apply((Function("sigmoid" if at + 1 < len(sizes) else last),)), (value,))
    graph.add(Output("y"), (value,))
    return graph


def digits(given: argparse.Namespace) -> tuple[Task, npt.NDArray[Any], npt.NDArray[Any]]:
    """The task, held-out samples and their classes."""
    split = common.SPLITS["digits"]()
    x, x_test = split.x_train / 16.0, split.x_test / 16.0
    options = Options(SGD(RATE), given.steps, given.batch, "mean-squared-error", insecure_ring=given.ring)
    made = network((x.shape[1], given.hidden, 10))
    return Task(made, x, np.eye(10)[split.y_train], options, given.seconds), x_test, split.y_test


def xor(given: argparse.Namespace) -> Task:
    x = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = np.array([[0.0], [1.0], [1.0], [0.0]])
    options = Options(SGD(XOR_RATE), given.steps, 1, "mean-squared-error", insecure_ring=given.ring)
    return Task(network((2, 2, 1), "sigmoid"), x, y, options, given.seconds)


def in_the_clear(task: Task, rows: list[Row], steps: int, x: npt.NDArray[Any], labels: npt.NDArray[Any]) -> str:
    """Accuracy on held-out samples after many steps of the definitions, which encrypted ones would be bit for bit."""
    many = replace(task, options=replace(task.options, steps=steps))
    held_out = replace(many, x=x, y=np.eye(10)[labels])
    job = many.job()
    state = job.program.initial()
    for step in range(steps):
        features, y = job.batch(job.batches.number(step))
        state, _ = job.program.run(state, job.named(features), y)
    found = [f"floats {held_out.scores(with_weights(job.network, state.weights)).accuracy:.2%}"]
    for row in rows:
        system = many.system(row)
        weights = system.weights(carry_out(system, Mode.CLEAR).state)
        accuracy = held_out.scores(with_weights(system.job.network, weights)).accuracy
        found.append(f"{row} {accuracy:.2%}")
    return f"in the clear, {steps} steps by the definitions, {len(x)} held-out samples: {', '.join(found)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="samples of digits in a step")
    parser.add_argument("--hidden", type=int, default=32, help="hidden units")
    parser.add_argument("--rows", default=ROWS, help=f"strategies, as of 'glyphc compare --train' (default: {ROWS})")
    parser.add_argument("--gates", type=int, default=6, help="bits of t-BMPNet's words; 0 leaves it out")
    parser.add_argument("--long", type=int, default=0, help="steps of the definitions in the clear")
    parser.add_argument("--seconds", type=float, default=1800.0, help="what is predicted to take longer is not run")
    parser.add_argument("--ring", type=int, help="a small, insecure ring")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    given = parser.parse_args()
    task, x, labels = digits(given)
    rows = list(parse_rows(given.rows))
    parts = [f"digits 64-{given.hidden}-10", markdown(task, *compare_training(task, rows, print))]
    if given.gates:
        small = xor(given)
        found = compare_training(small, [Row("tbmpnet", given.gates)], print)
        parts += ["XOR 2-2-1, a sample in a step", markdown(small, *found)]
    if given.long:
        parts.append(in_the_clear(task, rows, given.long, x, labels))
    parts.append(f"{this_machine().text}; load at the end {os.getloadavg()[0]:.1f}")
    text = "\n\n".join(parts)
    print(text)
    if given.output:
        given.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
