"""Numbers in slots and bootstraps side by side, at small and large batches: predicted, and run encrypted.

    python benchmarks/strategies.py [NETWORK] [--batches N ...] [--record FOLDER] [--output FILE.md]

What ``--strategy auto`` takes is marked. Samples are the held-out ones, repeated with a little noise where there are
too few of them. Each run is a process of its own (``glyphc compare``); with --record, what is known is not run again.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glyphc.analysis import cost_file
from glyphc.comparison import Choice, Comparison, Result
from glyphc.comparison_run import ACCURACY, Scorer, Task, compare
from glyphc.measure import this_machine
from glyphc.sources import read_model

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("auto", "slots", "glyph")
# Of the noise on repeated samples, as a share of the inputs' range.
NOISE = 2.0**-8
STAGES = ("generate keys", "encode weights", "encrypt", "evaluate", "decrypt")


@dataclass(frozen=True)
class Found:
    """Of one batch."""

    batch: int
    samples: int
    floats: float
    taken: str
    results: tuple[Result, ...]


def samples(network: str, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Held-out samples and their labels, as many as asked for."""
    name = network.rpartition("-")[0]
    x, labels = (np.load(ROOT / "models" / "data" / f"{name}-{part}.npy") for part in ("test", "test-labels"))
    rows = np.arange(count) % len(x)
    noise = np.random.default_rng(0).normal(0, NOISE * np.ptp(x), (count, *x.shape[1:]))
    noise[: len(x)] = 0
    return np.clip(x[rows] + noise, x.min(), x.max()).astype(x.dtype), labels[rows]


def measure(network: str, batch: int, share: float, ring: int | None, record: Path | None, seconds: float) -> Found:
    """All ways at one batch. share: of it that is run. ring: a small one, which is insecure, to try the script."""
    graph = read_model(ROOT / "models" / f"{network}.onnx").graph
    train = np.load(ROOT / "models" / "data" / f"{network.rpartition('-')[0]}-train.npy")
    x, labels = samples(network, round(share * batch))
    options: dict[str, Any] = {"batch": batch, "insecure_ring": ring}
    task = Task(graph, train, x, labels, cost_file.current(), options=options, seconds=seconds)
    if record:
        record.mkdir(parents=True, exist_ok=True)
    path = record / f"{network}-{len(x)}-of-{batch}.json" if record else None
    scorer = Scorer(graph, x, labels)
    start = Comparison(f"{network} {batch} {ring}", network, batch, scorer.scores(scorer.truth), this_machine().text)
    if path and path.exists():
        start = Comparison.load(path)

    def keep(found: Comparison) -> None:
        if path:
            found.save(path)

    found = compare(task, [Choice(way) for way in WAYS], start, keep, say=print)
    results = {r.choice.strategy: r for r in found.results}
    same = next((way for way in WAYS[1:] if results[way].predicted == results["auto"].predicted), "another program")
    return Found(batch, len(x), dict(start.floats)[ACCURACY], same, tuple(results[way] for way in WAYS[1:]))


def table(found: list[Found]) -> str:
    """As Markdown: wall seconds, measured, with predictions in brackets; CPU seconds of evaluation behind a stroke."""
    head = ["samples", "way", "keys s", "encrypt s", "evaluate s (predicted) / CPU s", "decrypt s", "ms per sample"]
    head += ["upload MB", "keys MB", "peak GB (predicted)", "accuracy (float)", "rms error"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for each in found:
        for r in each.results:
            way = f"**{r.choice}**, taken by auto" if r.choice.strategy == each.taken else str(r.choice)
            count = str(each.batch) if each.samples == each.batch else f"{each.samples} of {each.batch}"
            lines.append("| " + " | ".join([count, way, *cells(each, r)]) + " |")
    return "\n".join(lines)


def cells(each: Found, r: Result) -> list[str]:
    """Of one row."""
    if r.predicted is None:
        return [str(r.outcome), r.reason]
    p, m = r.predicted, r.measured
    scores = dict(r.scores)
    accuracy = f"{100 * scores[ACCURACY]:.2f}% ({100 * each.floats:.2f}%)"
    sizes = [f"{p.upload_bytes / 1e6:.0f}", f"{p.key_bytes / 1e6:,.0f}"]
    if m is None:
        evaluate = f"({p.evaluate_seconds:.1f}) {r.outcome}: {r.reason}"
        return [
            "",
            f"({p.client_seconds:.1f})",
            evaluate,
            "",
            "",
            *sizes,
            f"({p.memory_bytes / 1e9:.1f})",
            accuracy,
            "",
        ]
    keys, encode, encrypt, evaluate_seconds, decrypt = (m.stage(name) for name in STAGES)
    return [
        f"{keys + encode:.1f}",
        f"{encrypt:.1f} ({p.client_seconds:.1f})",
        f"{evaluate_seconds:.1f} ({p.evaluate_seconds:.1f}) / {m.cpu_seconds:.1f}",
        f"{decrypt:.1f}",
        f"{(encrypt + evaluate_seconds + decrypt) / each.samples * 1e3:.1f}",
        *sizes,
        f"{m.memory_bytes / 1e9:.1f} ({p.memory_bytes / 1e9:.1f})",
        accuracy,
        f"{m.error:.1e}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network", nargs="?", default="digits-mlp", help="a name in models/ (default: digits-mlp)")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 512, 16384], help="samples at once")
    parser.add_argument(
        "--share", type=float, default=1.0, help="run so much of each batch; chunks that hold no sample take no time"
    )
    parser.add_argument("--seconds", type=float, default=900.0, help="what is predicted to take longer is not run")
    parser.add_argument("--ring", type=int, help="a small, insecure ring")
    parser.add_argument("--record", type=Path, help="keep what was found in this folder, and go on from there")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    a = parser.parse_args()
    found = [measure(a.network, batch, a.share, a.ring, a.record, a.seconds) for batch in a.batches]
    security = next(r.security for each in found for r in each.results if r.security)
    load = os.getloadavg()[0]
    text = (
        f"{table(found)}\n\n{this_machine().text}; {security}; load at the end {load:.1f}; upload and keys as predicted"
    )
    print(text)
    if a.output:
        a.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
