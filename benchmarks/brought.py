"""What people bring, encrypted: a random forest, an LSTM, a Transformer's encoder layer, a network of two inputs.

    python benchmarks/brought.py [NETWORK ...] [--plan] [--batch N] [--steps N] [--ring N] [--output FILE.md]

The networks are trained here (``brought_networks.py``); one batch of test samples each is encrypted, by the engine that
``glyphc run`` would take, and compared with the simulation and with ONNX Runtime. Each runs in a process of its own, so
its peak memory is what is reported. Parameters are those of 128-bit security, unless --ring asks for a small insecure
ring. --plan: compile, predict and simulate only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from brought_networks import NETWORKS, Brought, Samples
from engines import CpuSeconds, processor
from field import by_onnxruntime

Results = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Result:
    """One network. predicted: wall seconds of evaluation, and bytes of memory; deviations: rms difference as a share of
    the outputs' range, encrypted to simulated, encrypted to float, simulated to float; agreement: share of samples of
    the float network's class (of forecasts: NaN); right: of the true class, by float and by the last one that ran."""

    network: str
    samples: int
    bootstraps: int
    predicted_seconds: float
    predicted_memory: float
    compile_seconds: float
    wall: float
    cpu: float
    encrypt: float
    keys: float
    memory: float
    deviations: tuple[float, ...]
    agreement: float
    right: tuple[float, float]
    engine: str
    security: str


def measure(name: str, arguments: argparse.Namespace) -> Result:
    """One network, in this process."""
    import glyphc
    from glyphc.diagnostics import predicted
    from glyphc.runtime import run

    network = NETWORKS[name](steps=arguments.steps)
    batch = arguments.batch or network.batch
    began = time.perf_counter()
    program = glyphc.compile(network.model, network.calibration, batch, insecure_ring=arguments.ring, strategy="glyph")
    compiled = time.perf_counter() - began
    x = _first(network.test, batch)
    floats = _scores(_floats(network, x))
    cost = predicted(program)
    simulated = _scores(run(program, x, "simulate").outputs)
    found, cpu, report = simulated, CpuSeconds(), None
    if not arguments.plan:
        report = run(program, x, reporter=cpu)
        found = _scores(report.outputs)
    seconds = report.seconds if report else {}
    pairs = ((found, simulated), (found, floats), (simulated, floats))
    return Result(
        network=name,
        samples=len(floats),
        bootstraps=cost.bootstraps,
        predicted_seconds=cost.seconds,
        predicted_memory=cost.memory_bytes,
        compile_seconds=compiled,
        wall=seconds.get("evaluate", 0.0),
        cpu=report.cpu_seconds if report else 0.0,
        encrypt=seconds.get("encrypt", 0.0),
        keys=seconds.get("generate keys", 0.0),
        memory=report.peak_memory if report else 0,
        deviations=tuple(float(np.sqrt(np.mean((a - b) ** 2)) / np.ptp(floats)) for a, b in pairs),
        agreement=_share(found.argmax(axis=1), floats.argmax(axis=1), floats),
        right=tuple(_share(s.argmax(axis=1), network.y[: len(s)].reshape(-1), floats) for s in (floats, found)),  # type: ignore[arg-type]
        engine=report.engine if report else "none",
        security=program.client.parameters.security,
    )


def _first(x: Samples, count: int) -> Samples:
    return {n: v[:count] for n, v in x.items()} if isinstance(x, dict) else x[:count]


def _floats(network: Brought, x: Samples) -> Results:
    if hasattr(network.model, "predict_proba"):
        return {"probabilities": network.model.predict_proba(x)}
    return by_onnxruntime(network.model, x)


def _scores(outputs: Results) -> npt.NDArray[np.float64]:
    """The output that is no label, (samples, scores)."""
    (scores,) = (v for n, v in outputs.items() if "label" not in n)
    return np.asarray(scores, dtype=np.float64).reshape(len(scores), -1)


def _share(a: npt.NDArray[Any], b: npt.NDArray[Any], floats: npt.NDArray[Any]) -> float:
    return float(np.mean(a == b)) if floats.shape[1] > 1 else float("nan")


def table(results: list[Result]) -> str:
    """The results as Markdown."""
    head = ["network (samples)", "bootstraps", "compile s", "keys s", "encrypt s", "evaluate s (CPU)", "predicted s"]
    head += ["peak GB", "predicted GB", "encrypted - simulated", "encrypted - float", "simulated - float"]
    head += ["same class as float", "accuracy, float", "accuracy, encrypted", "engine"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for r in results:
        cells = [f"{r.network} ({r.samples})", str(r.bootstraps), f"{r.compile_seconds:.0f}", f"{r.keys:.1f}"]
        cells += [f"{r.encrypt:.1f}", f"{r.wall:.1f} ({r.cpu:.1f})", f"{r.predicted_seconds:.1f}"]
        cells += [f"{r.memory / 1e9:.2f}", f"{r.predicted_memory / 1e9:.2f}", *(f"{d:.2%}" for d in r.deviations)]
        cells += [f"{v:.2%}" for v in (r.agreement, *r.right)]
        lines.append("| " + " | ".join(["" if c == "nan%" else c for c in cells] + [r.engine]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure all networks that are asked for, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help=f"of {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--plan", action="store_true", help="do not encrypt: compile, predict and simulate")
    parser.add_argument("--batch", type=int, help="samples at once (default: each network's own)")
    parser.add_argument("--steps", type=int, default=400, help="training steps")
    parser.add_argument("--ring", type=int, help="a small, insecure ring")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = set(arguments.networks) - set(NETWORKS)
    if unknown:
        parser.error(f"unknown network(s) {', '.join(sorted(unknown))}; known: {', '.join(NETWORKS)}")
    if arguments.child:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            print(json.dumps(asdict(measure(arguments.networks[0], arguments))))
        return
    results = []
    for name in arguments.networks:
        options = [a for a in sys.argv[1:] if a not in arguments.networks]
        command = [sys.executable, __file__, name, "--child", *options]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results.append(Result(**json.loads(done.stdout.splitlines()[-1])))
        print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    text = f"{table(results)}\n\n{processor()}; {results[0].security}"
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
