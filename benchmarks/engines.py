"""Both engines side by side: the same program, one engine after the other, CPU and wall seconds of every stage.

    python benchmarks/engines.py [NETWORK ...] [--batch N] [--threads N ...] [--ring N] [--output FILE.md]

Each run is a process of its own, so its peak memory is what is reported. The parameters are those of 128-bit security,
unless --ring asks for a small insecure ring. Says which processor it was, and how wide its vectors are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("openfhe", "kernels")
STAGES = ("generate keys", "encode weights", "encrypt", "evaluate")


@dataclass(frozen=True)
class Result:
    """One run. wall, cpu: seconds by stage; encryption counts as evaluation's CPU time. agreement: share of samples of
    the clear run's class; deviation: rms difference to it, as a share of the outputs' range; simulated: that of a
    simulated run. predicted: wall seconds of evaluation, by the cost model of the engine."""

    network: str
    engine: str
    samples: int
    threads: int
    wall: dict[str, float]
    cpu: dict[str, float]
    bootstrap_seconds: float
    memory: float
    agreement: float
    deviation: float
    simulated: float
    predicted: float
    security: str


class CpuSeconds:
    """A reporter (``glyphc.progress.Reporter``) that keeps the CPU seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage: str | None = None
        self._since = 0.0

    def stage(self, name: str, total: float) -> None:
        self.done()
        self._stage, self._since = name, time.process_time()

    def advance(self, amount: float, what: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def done(self) -> None:
        if self._stage is not None:
            spent = time.process_time() - self._since
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + spent
        self._stage = None


def measure(network: str, engine: str, batch: int, ring: int | None) -> Result:
    """One network on one engine, in this process."""
    import numpy as np

    import glyphc
    from glyphc.diagnostics import predicted
    from glyphc.runtime import run

    def data(part: str) -> np.ndarray:
        return np.load(ROOT / "models" / "data" / f"{network.rpartition('-')[0]}-{part}.npy")

    program = glyphc.compile(
        ROOT / "models" / f"{network}.onnx", data("train"), batch, insecure_ring=ring, strategy="glyph"
    )
    x = data("test")[: program.client.batch]
    cpu = CpuSeconds()
    report = run(program, x, reporter=cpu, engine=engine)
    (found,) = report.outputs.values()
    clear, simulated = (np.asarray(program.run(x, mode=m)) for m in ("clear", "simulate"))
    return Result(
        network=network,
        engine=engine,
        samples=len(x),
        threads=int(os.environ["OMP_NUM_THREADS"]),
        wall={stage: report.seconds.get(stage, 0.0) for stage in STAGES},
        cpu={stage: cpu.seconds.get(stage, 0.0) for stage in STAGES},
        bootstrap_seconds=report.bootstrap_seconds,
        memory=report.peak_memory,
        agreement=float(np.mean(found.argmax(axis=1) == clear.argmax(axis=1))),
        deviation=float(np.sqrt(np.mean((found - clear) ** 2)) / np.ptp(clear)),
        simulated=float(np.sqrt(np.mean((simulated - clear) ** 2)) / np.ptp(clear)),
        predicted=predicted(program, engine=engine).seconds,
        security=report.security,
    )


def processor() -> str:
    """Its name, its cores, and the widest vectors that the kernels can use."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = named.get("flags", "").split()
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return f"{named.get('model name', 'unknown processor')}, {os.cpu_count()} cores, {vectors}"


def table(results: list[Result]) -> str:
    """The results as Markdown: wall seconds, and CPU seconds behind a stroke."""
    head = ["network (samples)", "engine", "threads", *STAGES, "predicted", "bootstraps", "ms per sample", "peak GB"]
    head += ["same class", "rms error", "simulated"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for r in results:
        stages = [f"{r.wall[s]:.2f} / {r.cpu[s]:.2f}" for s in STAGES]
        cells = [f"{r.network} ({r.samples})", r.engine, str(r.threads), *stages]
        cells += [f"{r.predicted:.1f}", f"{r.bootstrap_seconds:.2f}"]
        cells += [f"{r.wall['evaluate'] / r.samples * 1e3:.1f}", f"{r.memory / 1e9:.2f}", f"{r.agreement:.2%}"]
        lines.append("| " + " | ".join([*cells, f"{r.deviation:.1e}", f"{r.simulated:.1e}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["digits-mlp"], help="names in models/ (default: digits-mlp)")
    parser.add_argument("--batch", type=int, default=512, help="samples at once")
    parser.add_argument("--threads", type=int, nargs="*", default=[os.cpu_count()], help="numbers of threads to run on")
    parser.add_argument("--engines", nargs="*", default=ENGINES, choices=ENGINES)
    parser.add_argument("--ring", type=int, help="a small, insecure ring")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(asdict(measure(*arguments.child, arguments.batch, arguments.ring))))
        return
    results = []
    for network in arguments.networks:
        for threads in arguments.threads:
            for engine in arguments.engines:
                command = [sys.executable, __file__, "--child", network, engine, "--batch", str(arguments.batch)]
                command += ["--ring", str(arguments.ring)] if arguments.ring else []
                environment = os.environ | {"OMP_NUM_THREADS": str(threads), "GLYPHC_THREADS": str(threads)}
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                results.append(Result(**json.loads(done.stdout.splitlines()[-1])))
                print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    text = f"{table(results)}\n\n{processor()}; seconds: wall / CPU; {results[0].security}"
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
