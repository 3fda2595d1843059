"""Encrypted runs of the example networks at 128-bit security, and what they cost beside the bare bootstrap calls.

    python benchmarks/run.py [NETWORK ...] [--batch N] [--output FILE.md]

Each network runs in a process of its own on held-out samples: its peak memory is what is reported. "ratio" is the whole
evaluation over the bootstrap calls in it; what was predicted stands in brackets.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Samples in a batch. The data are those of the name's first word.
NETWORKS = {
    "digits-mlp": 512,
    "breast-cancer-mlp": 171,
    "mnist-mlp": 512,
    "mnist-lenet": 128,
    "digits-resnet": 128,
    # as many images as the ciphertexts of its cheapest layout hold: more take more of them
    "shapes-resnet": 56,
    "elnino-cnn": 151,
}


@dataclass(frozen=True)
class Result:
    """Of one network; seconds, bytes. agreement: share of samples of the float network's class, or, of a forecast, how
    many percentage points the mean absolute error differs by; quality and float_quality: accuracies, or errors."""

    network: str
    samples: int
    compile: float
    keys: float
    encode: float
    encrypt: float
    evaluate: float
    predicted: float
    bootstraps: int
    bootstrap_seconds: float
    fill: float
    degrees: str
    memory: float
    predicted_memory: float
    agreement: float
    quality: float
    float_quality: float
    forecast: bool
    security: str


def measure(name: str, batch: int, ring: int | None = None) -> Result:
    """One network, in this process. ring: a small one, which is insecure, to try the script."""
    import numpy as np
    import onnxruntime

    import glyphc
    from glyphc.diagnostics import predicted
    from glyphc.ir.instructions import Powers
    from glyphc.ir.ops import Bootstrap
    from glyphc.runtime import run

    def data(part: str) -> np.ndarray:
        return np.load(ROOT / "models" / "data" / f"{name.rpartition('-')[0]}-{part}.npy")

    model = ROOT / "models" / f"{name}.onnx"
    start = time.perf_counter()
    program = glyphc.compile(model, data("train"), batch, insecure_ring=ring, strategy="glyph")
    compiled = time.perf_counter() - start
    estimate = predicted(program)
    print(f"{name}: {estimate.seconds:.0f} s of evaluation predicted", file=sys.stderr, flush=True)
    x = data("test")[: program.client.batch]
    forecast = name.startswith("elnino")
    truth = data("test-targets" if forecast else "test-labels")[: len(x)]
    report = run(program, x)
    (y,) = report.outputs.values()
    session = onnxruntime.InferenceSession(str(model))
    (wanted,) = session.run(None, {session.get_inputs()[0].name: x})
    if forecast:
        quality, float_quality = (float(np.mean(np.abs(v - truth) / np.abs(truth))) for v in (y, wanted))
        agreement = quality - float_quality
    else:
        quality, float_quality = (float(np.mean(v.argmax(axis=1) == truth)) for v in (y, wanted))
        agreement = float(np.mean(y.argmax(axis=1) == wanted.argmax(axis=1)))
    bootstraps = [op for _, op in program.graph.of(Bootstrap)]
    count = sum(isinstance(i, Powers) for i in program.schedule.instructions)
    values = {n.operands: n.type.size for n, _ in program.graph.of(Bootstrap)}
    return Result(
        network=name,
        samples=len(x),
        compile=compiled,
        keys=report.seconds["generate keys"],
        encode=report.seconds["encode weights"],
        encrypt=report.seconds["encrypt"],
        evaluate=report.seconds["evaluate"],
        predicted=estimate.seconds,
        bootstraps=count,
        bootstrap_seconds=report.bootstrap_seconds,
        fill=sum(values.values()) * len(x) / (count * 2 * program.client.parameters.slots),
        degrees=", ".join(str(d) for d in sorted({op.series.degree for op in bootstraps})),
        memory=report.peak_memory,
        predicted_memory=estimate.memory_bytes,
        agreement=agreement,
        quality=quality,
        float_quality=float_quality,
        forecast=forecast,
        security=report.security,
    )


def agreement(r: Result) -> str:
    return f"{100 * r.agreement:+.2f} points" if r.forecast else f"{r.agreement:.2%}"


COLUMNS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("network (samples)", lambda r: f"{r.network} ({r.samples})"),
    ("compile s", lambda r: f"{r.compile:.1f}"),
    ("keys s", lambda r: f"{r.keys:.1f}"),
    ("encode s", lambda r: f"{r.encode:.1f}"),
    ("encrypt s", lambda r: f"{r.encrypt:.1f}"),
    ("evaluate s (predicted)", lambda r: f"{r.evaluate:.1f} ({r.predicted:.1f})"),
    ("bootstraps, full, degree", lambda r: f"{r.bootstraps}, {r.fill:.0%}, {r.degrees}"),
    ("ratio", lambda r: f"{r.evaluate / r.bootstrap_seconds:.3f}"),
    ("ms per sample", lambda r: f"{r.evaluate / r.samples * 1e3:.1f}"),
    ("peak GB (predicted)", lambda r: f"{r.memory / 1e9:.2f} ({r.predicted_memory / 1e9:.1f})"),
    ("same class as float", agreement),
    ("accuracy or MAPE (float)", lambda r: f"{r.quality:.2%} ({r.float_quality:.2%})"),
)


def table(results: list[Result]) -> str:
    """The results as Markdown."""
    lines = ["| " + " | ".join(c for c, _ in COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(text(r) for _, text in COLUMNS) + " |" for r in results]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="default: all")
    batches = ", ".join(f"{name} {batch}" for name, batch in NETWORKS.items())
    parser.add_argument("--batch", type=int, help=f"samples at once (default: {batches})")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(asdict(measure(arguments.child, arguments.batch))))
        return
    results = []
    for name in arguments.networks or NETWORKS:
        command = [sys.executable, __file__, "--child", name, "--batch", str(arguments.batch or NETWORKS[name])]
        print(f"{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results.append(Result(**json.loads(done.stdout.splitlines()[-1])))
        print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    security = ", ".join(sorted({r.security for r in results}))
    note = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {security}"
    text = f"{table(results)}\n\n{note}"
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
