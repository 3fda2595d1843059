"""Workers of a Dask cluster on this machine against one process: the same bits, seconds, and what was predicted.

    python benchmarks/cluster.py [--batch 512] [--passes 8] [--workers 1 2] [--ring 1024] [--output F.md] [--plot F.svg]

Workers here share the processors, so two of them are as fast as one with twice the threads at best; the plot is of
workers with processors of their own, as 'glyphc plan' predicts them, with the points that were measured here on it.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import glyphc
from glyphc.analysis import cost_file
from glyphc.analysis.estimate import estimate
from glyphc.analysis.kernels_cost import for_engine
from glyphc.backends.engine import best_engine
from glyphc.cluster.forecast import Load, forecast
from glyphc.measure import this_machine
from glyphc.storage.container import Reader
from glyphc.storage.headers import OutputsHeader

MODELS = Path(__file__).resolve().parents[1] / "models"
RATES = {"1 Gbit/s": 1.25e8, "10 Gbit/s": 1.25e9, "no network": math.inf}


@dataclass(frozen=True)
class Point:
    """workers: 0 for the command without a cluster. digest: of the outputs."""

    workers: int
    seconds: float
    predicted: float
    digest: str


def command(*arguments: object) -> float:
    """Seconds of a command as a user gives it."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "glyphc", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(folder: Path, batch: int, passes: int, workers: list[int], ring: int | None) -> tuple[Load, list[Point]]:
    """Compile, encrypt, and evaluate by each number of workers."""
    data = MODELS / "data"
    x = np.load(data / "digits-test.npy")
    x = np.resize(x, (batch * passes, *x.shape[1:]))
    program = glyphc.compile(
        MODELS / "digits-mlp.onnx", calibration=np.load(data / "digits-train.npy"), batch=batch, insecure_ring=ring
    )
    program.save(folder / "digits.glyphc")
    np.save(folder / "x.npy", x)
    small = ["--insecure"] if ring else []
    server = folder / "server"
    command("keygen", folder / "digits.glyphc", "--client", folder / "client", "--server", server, *small)
    command("encrypt", "--client", folder / "client", "--input", folder / "x.npy", "--output", folder / "in")
    engine = best_engine(program.schedule.parameters)[0].name
    load = Load.of(estimate(program.schedule, for_engine(cost_file.current(), engine)), batch, len(x), math.inf, engine)
    points = []
    for count in (0, *workers):
        output = folder / f"out-{count}"
        cluster = ["--cluster", f"local:{count}"] if count else []
        seconds = command("eval", "--server", server, "--input", folder / "in", "--output", output, *cluster)
        # they share the processors, and kernels use all that they are given
        shared = replace(load, pass_seconds=load.pass_seconds * max(1, count))
        with Reader(output, OutputsHeader) as reader:
            digest = hashlib.sha256(b"".join(reader.read(name) for name in reader.parts)).hexdigest()
        points.append(Point(count, seconds, forecast(shared, max(1, count)).seconds, digest))
    return load, points


def plot(path: Path, load: Load, points: list[Point]) -> None:
    """How many times as fast as one worker so many are, on networks of different speed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = sorted({round(10 ** (k / 20)) for k in range(61)})
    many = replace(load, passes=1000)
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name, rate in RATES.items():
        found = [forecast(replace(many, rate=rate), count).speed_up for count in counts]
        axes.plot(counts, found, label=f"predicted, {name}")
    alone = next(p.seconds for p in points if p.workers == 1)
    for number, point in enumerate(p for p in points if p.workers):
        label = None if number else "measured: processes that share one machine"
        axes.plot([point.workers], [alone / point.seconds], "ko", label=label)
    axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="times as fast as one")
    axes.set_title(f"{many.passes:,} passes of {load.pass_seconds:.1f} s, keys of {load.file_bytes / 1e9:.1f} GB")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def table(points: list[Point], batch: int, passes: int, ring: int | None) -> str:
    """As Markdown."""
    lines = ["| processes | seconds, all in | predicted | the same bits |", "| --- | --- | --- | --- |"]
    for p in points:
        name = f"cluster of {p.workers}" if p.workers else "one, no cluster"
        same = "yes" if p.digest == points[0].digest else "NO"
        lines.append(f"| {name} | {p.seconds:.1f} | {p.predicted:.1f} | {same} |")
    machine, security = this_machine(), f"ring {ring}, NOT SECURE" if ring else "128-bit security"
    about = f"digits-mlp, {passes} passes of {batch} samples, {security}; {machine.cores} cores of {machine.processor}"
    return "\n".join([*lines, "", about])


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512, help="samples in a pass")
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ring", type=int, help="a small, insecure ring")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--plot", type=Path, help="write the plot to this file (.svg or .png)")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        load, points = measure(Path(folder), o.batch, o.passes, o.workers, o.ring)
    text = table(points, o.batch, o.passes, o.ring)
    print(text)
    if o.output:
        o.output.write_text(text + "\n")
    if o.plot:
        plot(o.plot, load, points)
    sys.exit(any(p.digest != points[0].digest for p in points))


if __name__ == "__main__":
    main()
