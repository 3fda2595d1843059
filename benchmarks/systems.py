"""The systems of the survey on one network and its data, side by side: compiled, predicted, and run encrypted.

    python benchmarks/systems.py [NETWORK] [--rows ROWS] [--record FILE.json] [--output FILE.md]

NETWORK is the name of one in models/. Retrained rows train on the network's training samples alone; the held-out ones
are only run. What stands in the record is not run again; the table is made of nothing but the record, which keeps rows
in the order in which they were worked out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from glyphc.analysis import cost_file
from glyphc.comparison import Comparison, digest, parse_choices
from glyphc.comparison_report import markdown
from glyphc.comparison_run import Scorer, Task, compare
from glyphc.console import reporter
from glyphc.ir.text import to_text
from glyphc.sources import read_model
from glyphc.train.retraining import Data

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ROWS = "ghimes+retrained,cryptonets+retrained,hesamifard+retrained,nandakumar,nandakumar-server,onoufriou+retrained,"
ROWS += "onoufriou:7,glyph,tbmpnet"


def data(network: str) -> tuple[np.ndarray[Any, Any], ...]:
    """Training samples and their labels, held-out samples and theirs."""
    sys.path.insert(0, str(ROOT / "models"))
    import datasets

    split = datasets.SPLITS[network.rpartition("-")[0]]()
    return split.x_train, split.y_train, split.x_test, split.y_test


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network", nargs="?", default="digits-mlp", help="a name in models/ (default: digits-mlp)")
    parser.add_argument("--rows", default=ROWS, help="as of 'glyphc compare --strategies'")
    parser.add_argument("--seconds", type=float, default=600.0, help="what is predicted to take longer is not run")
    parser.add_argument("--ring", type=int, help="a small, insecure ring, to try the script")
    parser.add_argument("--record", type=Path, default=RESULTS / "systems.json")
    parser.add_argument("--output", type=Path, default=RESULTS / "systems.md")
    a = parser.parse_args()
    train, train_labels, x, labels = data(a.network)
    graph = read_model(ROOT / "models" / f"{a.network}.onnx").graph
    options: dict[str, Any] = {"batch": len(x), "insecure_ring": a.ring}
    retraining = Data(train, train_labels)
    task = Task(graph, train, x, labels, cost_file.current(), retraining, options, seconds=a.seconds)
    subject = digest(to_text(graph).encode(), (train, x, labels, train_labels), repr(options))
    scorer = Scorer(graph, x, labels)
    start = Comparison(subject, f"{a.network}.onnx", len(x), scorer.scores(scorer.truth), task.cost.machine.text)
    if a.record.exists():
        start = Comparison.load(a.record)
        if start.subject != subject:
            raise SystemExit(f"{a.record} is of other data or another network")
    found = compare(task, parse_choices(a.rows, True), start, lambda now: now.save(a.record), reporter(), print)
    a.output.write_text(markdown(found) + "\n")
    print(f"wrote {a.output}")


if __name__ == "__main__":
    main()
