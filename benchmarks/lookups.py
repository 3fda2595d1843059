"""Tables that bootstraps look up, at 128-bit security: how far they are from the function, and what a look-up takes.

    python benchmarks/lookups.py [--bits 6] [--values 10000] [--ring N] [--output FILE.md]

A network of one function (ReLU of the difference of two inputs) is compiled, encrypted and compared with the function
itself: random values, and the boundaries between entries of the table. Errors are in steps of the table.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import glyphc
from glyphc.analysis import cost_file
from glyphc.diagnostics import predicted
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, Bootstrap, Const, Dense, Input, Output
from glyphc.ir.series import Lookup
from glyphc.ir.types import Level
from glyphc.runtime import run

RESULTS = Path(__file__).resolve().parent / "results"


def network() -> Graph:
    """One number through a ReLU."""
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (1,)), location="x")
    one, zero = (Const(graph.add_constant(name, value)) for name, value in (("w", np.ones((1, 1))), ("b", np.zeros(1))))
    y = graph.add(Apply((Function("relu"),)), (graph.add(Dense((one,), zero), (x,), location="in"),), location="relu")
    graph.add(Output("y"), (y,), location="y")
    return graph


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", type=int, default=6)
    parser.add_argument("--values", type=int, default=10_000)
    parser.add_argument("--ring", type=int, help="a small, insecure ring, to try the script")
    parser.add_argument("--output", type=Path, default=RESULTS / "lookups.md")
    a = parser.parse_args()
    random = np.random.default_rng(0)
    calibration = random.uniform(-1, 1, (2000, 1))
    options = {"strategy": "nandakumar", "trips": 0, "table_bits": a.bits, "insecure_ring": a.ring, "tolerance": 3.0}
    program = glyphc.compile(network(), calibration, a.values, **options)
    ((node, op),) = program.graph.of(Bootstrap)
    assert isinstance(op.series, Lookup)
    (source,) = program.graph.operands(node)
    fixed, last = source.type.fixed, (1 << a.bits) - 1
    assert fixed is not None
    # entries and what lies half way between them, over all that the table holds
    boundaries = np.linspace(fixed.real_lo, fixed.real_hi, 2 * last + 1)[1:-1]
    x = np.concatenate([boundaries, random.uniform(fixed.real_lo, fixed.real_hi, a.values - len(boundaries))])
    began = time.perf_counter()
    report = run(program, x[:, None])
    wall = time.perf_counter() - began
    simulated = run(program, x[:, None], "simulate").outputs["y"]
    found, wanted = report.outputs["y"][:, 0], np.maximum(x, 0.0)
    step = fixed.real_hi / last
    errors = (found - wanted) / step
    off = np.sqrt(np.mean((found - simulated[:, 0]) ** 2)) / step
    said = predicted(program, cost_file.current(), report.engine)
    head = (
        "| bits | degree | values | largest error | rms | off simulation | evaluate s (predicted) / CPU s | "
        "wall s, keys and all | peak GB (predicted) |"
    )
    row = (
        f"| {a.bits} | {op.series.degree} | {len(x):,}, {len(boundaries)} of them boundaries | "
        f"{np.abs(errors).max():.2f} steps | {np.sqrt(np.mean(errors**2)):.3f} steps | {off:.4f} steps | "
        f"{report.seconds['evaluate']:.1f} ({said.seconds:.1f}) / {report.cpu_seconds:.1f} | {wall:.0f} | "
        f"{report.peak_memory / 1e9:.2f} ({said.memory_bytes / 1e9:.2f}) |"
    )
    text = "\n".join([head, "|" + " --- |" * (head.count(" | ") + 1), row])
    print(text)
    a.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
