"""A round trip over HTTP as two machines would do it: sizes and seconds of every step, at 128-bit.

    python benchmarks/service.py --batch 1
    python benchmarks/service.py --batch 512 --json result.json

Client and server are processes with folders of their own; nothing is shared but the connection. Needs the development
environment (the network and its data from models/, glyphc[service]).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from glyphc.exchange.client import load_account
from glyphc.service.client import Client

MODELS = Path(__file__).resolve().parents[1] / "models"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Step:
    """One step: who does it, seconds, what goes over the network or to disk (bytes, 0 for nothing), peak memory."""

    name: str
    who: str
    seconds: float
    size: int = 0
    peak: int = 0


def glyphc(*arguments: object, **variables: str) -> tuple[float, int, str]:
    """Run a command; its seconds, peak memory in bytes, and output."""
    measure = (
        "import resource, subprocess, sys;"
        "code = subprocess.run(sys.argv[1:]).returncode;"
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024); sys.exit(code)"
    )
    command = [sys.executable, "-c", measure, sys.executable, "-m", "glyphc", *map(str, arguments)]
    start = time.perf_counter()
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | variables)
    return time.perf_counter() - start, int(result.stdout.rpartition("peak ")[2]), result.stdout


def serve(server: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """Start the service; its process and address."""
    folders = ("--programs", server / "programs", "--data", server / "data", "--tokens", server / "tokens")
    command = [sys.executable, "-m", "glyphc", "serve", *map(str, folders), "--listen", "127.0.0.1:0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"serving on (\S+)", line)
        if found:
            return process, found[1]
    raise SystemExit("the service did not start")


def timed(steps: list[Step], name: str, who: str, action: Callable[[], _T], size: Callable[[], int] = lambda: 0) -> _T:
    start = time.perf_counter()
    result = action()
    steps.append(Step(name, who, time.perf_counter() - start, size()))
    return result


def round_trip(folder: Path, batch: int, *options: object) -> tuple[list[Step], float]:
    """All steps, and the share of samples of the same class as the float network's labels."""
    server, client = folder / "server", folder / "client"
    (server / "programs").mkdir(parents=True)
    data = MODELS / "data"
    calibration = ("--calibration", data / "digits-train.npy")
    model = ("compile", MODELS / "digits-mlp.onnx", *calibration, "--batch", batch, *options)
    steps = []
    seconds, peak, _ = glyphc(*model, "-o", folder / "digits.glyphc")
    glyphc("split", folder / "digits.glyphc", "--server", server / "programs" / "digits.server")
    steps.append(Step("compile", "model owner", seconds, (server / "programs" / "digits.server").stat().st_size, peak))
    _, _, output = glyphc("token", "alice", "--tokens", server / "tokens")
    token = output.split()[0]
    small = ["--insecure"] if options else []
    process, url = serve(server, *small)
    x, labels = (np.load(data / f"digits-test{part}.npy")[:batch] for part in ("", "-labels"))
    try:
        spec, upload = client / "digits.spec", client / "upload" / "evaluation.keys"
        client.mkdir()
        seconds, _, _ = glyphc("spec", "digits", "--url", url, "-o", spec, GLYPHC_TOKEN=token)
        steps.append(Step("fetch specification", "client", seconds, spec.stat().st_size))
        seconds, peak, _ = glyphc("keygen", spec, "--client", client / "secret", "--server", upload.parent, *small)
        steps.append(Step("make keys", "client", seconds, upload.stat().st_size, peak))
        inputs, outputs = client / "inputs", client / "outputs"
        with Client(url, token) as service:
            timed(steps, "upload keys", "network", lambda: service.upload_keys(upload), lambda: upload.stat().st_size)
            account = timed(steps, "load secret", "client", lambda: load_account(client / "secret"))
            timed(steps, "encrypt", "client", lambda: account.encrypt(x, inputs), lambda: inputs.stat().st_size)
            for name in ("evaluate", "evaluate again"):
                if name != "evaluate":
                    account.encrypt(x, inputs)
                job = timed(steps, "submit", "network", lambda: service.submit(inputs), lambda: inputs.stat().st_size)
                timed(steps, name, "server", lambda job=job: service.wait(job.id))  # type: ignore[misc]
                timed(
                    steps,
                    "fetch outputs",
                    "network",
                    lambda job=job: service.fetch(job.id, outputs),  # type: ignore[misc]
                    lambda: outputs.stat().st_size,
                )
            found = timed(steps, "decrypt", "client", lambda: account.decrypt(outputs, job.request))
        (logits,) = found.values()
        return steps, float(np.mean(logits.argmax(axis=1) == labels))
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps, accuracy = round_trip(Path(folder), arguments.batch)
    print("| step | who | seconds | bytes | peak GB |\n| --- | --- | --- | --- | --- |")
    for s in steps:
        size, peak = f"{s.size:,}" if s.size else "", f"{s.peak / 1e9:.2f}" if s.peak else ""
        print(f"| {s.name} | {s.who} | {s.seconds:.2f} | {size} | {peak} |")
    print(f"\n{arguments.batch} samples, accuracy {accuracy:.2%}, {os.cpu_count()} cores")
    if arguments.json:
        tree = {"steps": [asdict(s) for s in steps], "accuracy": accuracy, "batch": arguments.batch}
        arguments.json.write_text(json.dumps(tree, indent=1) + "\n")


if __name__ == "__main__":
    main()
