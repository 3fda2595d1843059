"""A small network on words of encrypted bits, weights encrypted as well, at 128-bit (strategy tbmpnet).

    python benchmarks/gates.py [--bits 8] [--toy] [--output FILE.md]

The network is 2-2-1 with a sigmoid behind each layer, as in t-BMPNet's example: XOR of two numbers in [0, 1]. Each gate
is one bootstrap of OpenFHE's BinFHE, one after another. The result is compared with the program in the clear.
"""

from __future__ import annotations

import argparse
import resource
import warnings
from pathlib import Path

import numpy as np

from glyphc.analysis import cost_file
from glyphc.analysis.estimate import estimate
from glyphc.analysis.word_cost import gates_of
from glyphc.compiler import compile
from glyphc.console import reporter
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Const, Dense, Input, Output
from glyphc.ir.types import Level
from glyphc.measure import this_machine
from glyphc.runtime import run

RESULTS = Path(__file__).resolve().parent / "results"


def network() -> Graph:
    """2-2-1, a sigmoid behind each layer."""
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (2,)), location="x")

    def layer(x: Node, name: str, weights: list[list[float]], bias: list[float]) -> Node:
        w, b = (Const(graph.add_constant(name, np.array(v))) for v in (weights, bias))
        dense = graph.add(Dense((w,), b), (x,), location=name)
        return graph.add(Apply((Function("sigmoid"),)), (dense,), location=f"{name}.sigmoid")

    hidden = layer(x, "fc1", [[6.0, -6.0], [-6.0, 6.0]], [-3.0, -3.0])
    graph.add(Output("y"), (layer(hidden, "fc2", [[8.0, 8.0]], [-4.0]),), location="y")
    return graph


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--toy", action="store_true", help="toy keys, which protect nothing")
    parser.add_argument("--output", type=Path, default=RESULTS / "gates.md")
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    samples = np.random.default_rng(0).uniform(0, 1, (200, 2))
    program = compile(
        network(),
        samples,
        strategy="tbmpnet",
        word_bits=a.bits,
        encrypt_weights="all",
        insecure_ring=1024 if a.toy else None,
    )
    predicted = estimate(program.schedule, cost_file.current())
    x = np.array([[1.0, 0.25]])
    report = run(program, x, reporter=reporter())
    exact = np.array_equal(report.outputs["y"], run(program, x, "clear").outputs["y"])
    seconds = report.seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    gates = gates_of(program.schedule)
    lines = [
        "| network | gates | evaluate s (predicted) / CPU s | CPU ms a gate | keys s | peak GB (predicted) | result |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| 2-2-1, words of {a.bits} bits, encrypted weights | {gates:,} | {seconds['evaluate']:.1f} "
        f"({predicted.seconds:.1f}) / {report.cpu_seconds:.1f} | {1e3 * report.cpu_seconds / gates:.1f} | "
        f"{seconds['generate keys']:.1f} | {peak:.2f} ({predicted.memory_bytes / 1e9:.2f}) | "
        f"{'bit for bit' if exact else 'WRONG'} |",
        "",
        f"{this_machine().text}; {'toy keys: PROTECTS NOTHING' if a.toy else 'STD128'}; one sample.",
    ]
    text = "\n".join(lines)
    print(text)
    if not a.toy:
        a.output.write_text(text + "\n")
    if not exact:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
