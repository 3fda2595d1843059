"""Encrypted runs of the example networks at 128-bit security, and what they cost beside the bare bootstrap calls.

    python benchmarks/run.py [NETWORK ...] [--batch N] [--output FILE.md]

Each network runs in a process of its own: its peak memory is what is reported. Right after the evaluation, in the
same process
and on the same ciphertexts, the bootstrap calls alone are timed again; "ratio" is evaluation over these bare calls.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = {"digits": 512, "breast-cancer": 171, "mnist": 512}


def measure(name: str, batch: int) -> dict[str, Any]:
    """One network, in this process."""
    import numpy as np
    import onnxruntime

    import glyphc
    from glyphc.approx import cost_file
    from glyphc.approx.estimate import estimate
    from glyphc.backends.base import execute
    from glyphc.backends.openfhe.client import generate_keys
    from glyphc.backends.openfhe.server import OpenFHEMachine
    from glyphc.codec import check_inputs, decode, encode
    from glyphc.ir.instructions import Evaluate, Instruction, Powers

    model = ROOT / "models" / f"{name}-mlp.onnx"
    train, test, labels = (
        np.load(ROOT / "models" / "data" / f"{name}-{p}.npy") for p in ("train", "test", "test-labels")
    )
    clock = [time.perf_counter()]

    def lap() -> float:
        clock.append(time.perf_counter())
        return clock[-1] - clock[-2]

    program = glyphc.compile(model, train, batch)
    out: dict[str, Any] = {"network": name, "compile": lap()}
    batch = program.client.batch
    x, labels = test[:batch], labels[:batch]
    keys, evaluation_keys = generate_keys(program.client.parameters)
    out["keys"] = lap()
    machine = OpenFHEMachine(program.schedule, evaluation_keys)
    machine.prepare()
    out["encode weights"] = lap()
    (port,) = program.client.inputs
    ciphertexts = {port.name: [keys.encrypt(c) for c in encode(port, check_inputs(program.client, x)[port.name])]}
    out["encrypt"] = lap()
    inside = [0.0]

    def observe(instruction: Instruction, seconds: float) -> None:
        if isinstance(instruction, Powers | Evaluate):
            inside[0] += seconds

    kept: list[tuple[Any, Any]] = []
    powers = machine.powers

    def remember(source: Any, slots: int, degree: int) -> Any:
        kept.append((source, (slots, degree)))
        return powers(source, slots, degree)

    machine.powers = remember  # type: ignore[method-assign]
    result = execute(program.schedule, machine, ciphertexts, observe)
    out["evaluate"] = lap()
    (answer,) = program.client.outputs
    y = decode(answer, np.array([keys.decrypt(c) for c in result[answer.name]]), len(x))
    out["decrypt"] = lap()
    evaluates = [i for i in program.schedule.instructions if isinstance(i, Evaluate)]
    for (source, (slots, degree)), instruction in zip(kept, evaluates, strict=True):
        machine.evaluate(powers(source, slots, degree), instruction)
    out["again"] = lap()
    out["bare bootstraps"] = inside[0]
    out["ratio"] = out["evaluate"] / out["bare bootstraps"]
    session = onnxruntime.InferenceSession(str(model))
    (wanted,) = session.run(None, {session.get_inputs()[0].name: x})
    predicted = estimate(program.schedule, cost_file.current())
    p = program.client.parameters
    out |= {
        "samples": len(x),
        "per sample": out["evaluate"] / len(x),
        "bootstraps": sum(isinstance(i, Powers) for i in program.schedule.instructions),
        "agreement": float(np.mean(y.argmax(axis=1) == wanted.argmax(axis=1))),
        "accuracy": float(np.mean(y.argmax(axis=1) == labels)),
        "float accuracy": float(np.mean(wanted.argmax(axis=1) == labels)),
        "predicted": predicted.seconds,
        "predicted memory": predicted.memory_bytes,
        "security": p.security,
        "slots": p.slots,
        "degree": p.degree,
    }
    return out


def peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    columns = [
        ("network", lambda r: f"{r['network']} ({r['samples']})"),
        ("compile s", lambda r: f"{r['compile']:.1f}"),
        ("keys s", lambda r: f"{r['keys']:.1f}"),
        ("encode s", lambda r: f"{r['encode weights']:.1f}"),
        ("encrypt s", lambda r: f"{r['encrypt']:.1f}"),
        ("evaluate s", lambda r: f"{r['evaluate']:.1f}"),
        ("bare bootstraps s", lambda r: f"{r['bare bootstraps']:.1f} ({r['bootstraps']})"),
        ("again s", lambda r: f"{r['again']:.1f}"),
        ("ratio", lambda r: f"{r['ratio']:.3f}"),
        ("ms per sample", lambda r: f"{r['per sample'] * 1e3:.1f}"),
        ("peak GB", lambda r: f"{r['peak'] / 1e9:.2f}"),
        ("predicted s, GB", lambda r: f"{r['predicted']:.1f}, {r['predicted memory'] / 1e9:.1f}"),
        ("same class as float", lambda r: f"{r['agreement']:.2%}"),
        ("accuracy (float)", lambda r: f"{r['accuracy']:.2%} ({r['float accuracy']:.2%})"),
    ]
    lines = ["| " + " | ".join(c for c, _ in columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(f(r) for _, f in columns) + " |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="default: all")
    parser.add_argument("--batch", type=int, help="samples at once (default: %s)" % NETWORKS)  # noqa: UP031
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        result = measure(arguments.child, arguments.batch)
        print(json.dumps(result | {"peak": peak_memory()}))
        return
    rows = []
    for name in arguments.networks or NETWORKS:
        command = [sys.executable, __file__, "--child", name, "--batch", str(arguments.batch or NETWORKS[name])]
        print(f"{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    import os

    text = table(rows) + f"\n\n{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
