"""Trained encrypted, then served without decrypting: digits 64-32-10 at 128-bit security, by client and server.

    python benchmarks/train_serve.py [--steps 12] [--samples 512] [--plan] [--folder FOLDER] [--output FILE.md]

The job is that of train_mlp.py. Every command is a process of its own, with its own peak of memory and its own CPU
seconds: the client prepares, the server trains, the client encrypts held-out samples as a request, the server
classifies them with weights that are still encrypted, and the client decrypts the predictions. Nothing is decrypted
before. Only then the weights are, too ('finish'): what they give in the clear on the same samples is what was to come
out. --plan: say what that is going to take, and what the simulation gives, without encryption. --ring: a small,
insecure ring.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import train_common as common
import train_mlp
from engines import processor

from glyphc.analysis import cost_file
from glyphc.analysis.kernels_cost import for_engine
from glyphc.exchange.training_client import program_of
from glyphc.exchange.training_engines import training_engine
from glyphc.exchange.training_room import folder_bytes
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Input
from glyphc.sources import read_model
from glyphc.train.inference import Inference
from glyphc.train.job import Job, make_job
from glyphc.train.planning import plan_of
from glyphc.train.predict import Prediction, different_batches, pass_seconds, predict
from glyphc.train.serving import served

F64 = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Forecast:
    """Of a run on this machine. pass_seconds: of one pass of a request; upload: bytes for the server."""

    run: Prediction
    pass_seconds: float
    passes: int
    upload: float


@dataclass(frozen=True)
class Done:
    """A command. wall, cpu: seconds; memory: bytes at its peak; output: what it said."""

    wall: float
    cpu: float
    memory: int
    output: str


def made(a: argparse.Namespace, folder: Path) -> tuple[Job, F64, npt.NDArray[np.integer[Any]]]:
    """The job of the commands, held-out samples and their classes; writes the model and all samples into the folder."""
    given = argparse.Namespace(steps=a.steps, batch=a.batch, insecure_ring=a.ring)
    case = train_mlp.case(given)
    model = folder / "model.onnx"
    model.write_bytes(to_onnx(case.job.network).SerializeToString())
    split = common.SPLITS["digits"]()
    x_test, y_test = case.x_test[: a.samples], case.y_test[: a.samples]
    arrays = {"x": case.job.x, "y": split.y_train, "x-test": x_test, "y-test": y_test}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    # as the command reads it, in single precision
    job = make_job(read_model(os.fspath(model)).graph, case.job.x, split.y_train, case.job.options)
    return job, x_test, y_test


def forecast(job: Job, samples: int) -> Forecast:
    """What the commands are going to say, and the passes of the request."""
    plan, steps = plan_of(job), job.options.steps
    engine, _ = training_engine(plan.parameters)
    cost = for_engine(cost_file.current(), engine)
    inference = Inference(plan, steps)
    return Forecast(
        predict(plan, steps, cost, different_batches(job.batches, steps)),
        pass_seconds(inference, cost),
        -(-samples // inference.batch),
        folder_bytes(program_of(job, plan), engine),
    )


def glyphc(*arguments: object) -> Done:
    """A command as a process of its own."""
    command = [sys.executable, "-m", "glyphc", "training", *map(str, arguments)]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=sys.stderr)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    print(output, end="", flush=True)
    return Done(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, output)


def encrypted(job: Job, folder: Path, samples: int) -> tuple[dict[str, Done], F64, Graph]:
    """All commands one after another: each, the decrypted predictions, and the network that is decrypted at the end."""
    o = job.options
    client, server = ("--client", folder / "client"), ("--server", folder / "server")
    data = ("--data", folder / "x.npy", "--labels", folder / "y.npy")
    chosen = ("--steps", o.steps, "--batch", job.batches.batch, "--freeze", ",".join(o.frozen))
    rate = ("--learning-rate", o.optimizer.learning_rate, "--schedule", o.optimizer.schedule)
    ring = () if o.insecure_ring is None else ("--insecure-ring", o.insecure_ring)
    request, answer = folder / "held-out.request", folder / "held-out.answer"
    both = (*client, "--request", request, "--answer", answer)
    done = {
        "prepare": glyphc("prepare", folder / "model.onnx", *data, *chosen, *rate, *ring, *client, *server),
        "run": glyphc("run", *server),
        "request": glyphc("request", *client, "--data", folder / "x-test.npy", "-o", request),
        "infer": glyphc("infer", *server, "--request", request, "-o", answer),
        "predict": glyphc("predict", *both, "--labels", folder / "y-test.npy", "-o", folder / "predicted.npy"),
    }
    predicted = np.load(folder / "predicted.npy")
    assert len(predicted) == samples
    done["finish"] = glyphc("finish", *client, *server, "-o", folder / "trained.onnx")
    return done, predicted, read_model(os.fspath(folder / "trained.onnx")).graph


def table(done: dict[str, Done], steps: int, found: Forecast) -> str:
    """The commands as Markdown; predictions of this machine in brackets."""
    run = found.run
    seconds = {
        "prepare": run.key_seconds + run.encrypt_seconds,
        "run": steps * run.step_seconds,
        "infer": found.passes * found.pass_seconds,
    }
    lines = ["| command | wall s (predicted) | CPU s | peak GB (predicted) |", "|" + " --- |" * 4]
    for name, each in done.items():
        wall = f"{each.wall:.1f}" + (f" ({seconds[name]:.1f})" if name in seconds else "")
        memory = f"{each.memory / 1e9:.2f}" + (f" ({run.memory_bytes / 1e9:.1f})" if name in ("run", "infer") else "")
        lines.append(f"| {name} | {wall} | {each.cpu:.1f} | {memory} |")
    return "\n".join(lines)


def measured(a: argparse.Namespace, folder: Path) -> str:
    """Everything, as text."""
    job, x, y = made(a, folder)
    found = forecast(job, len(x))
    run = found.run
    head = f"digits 64-{train_mlp.HIDDEN}-10, {a.steps} steps of {job.batches.batch}, {len(x)} held-out samples"
    said = [
        f"{head}: predicted {run.step_seconds:.1f} s a step with {run.bootstraps} bootstraps, {run.seconds:.0f} s for "
        f"all with keys and encryption, {found.passes} passes of {found.pass_seconds:.1f} s; "
        f"{run.memory_bytes / 1e9:.1f} GB of memory, {found.upload / 1e9:.2f} GB to upload"
    ]
    print(said[0], flush=True)
    result, security = None, "nothing was encrypted (--plan)"
    if not a.plan:
        result = encrypted(job, folder, len(x))
        security = "128-bit security" if a.ring is None else f"ring {a.ring}, NOT SECURE"
    simulated = served(job, x)
    said.append(f"beyond the ranges in simulation: {sum(simulated.beyond.values())} of {len(x)} samples")
    scores = {"simulated": right(simulated.outputs, y)}
    if result is not None:
        done, predicted, network = result
        (inputs,) = (op.name for _, op in network.of(Input))
        (decrypted,) = evaluate(network, {inputs: x}).values()
        said += ["", table(done, a.steps, found), ""]
        scores |= {"decrypted weights": common.accuracy(network, x, y)}
        scores |= {"**encrypted weights**": right(predicted, y)}
        far = np.abs(predicted - simulated.outputs).max()
        said.append(f"encrypted beside simulated: outputs within {far:.1e}")
        far, agree = np.abs(predicted - decrypted).max(), np.mean(predicted.argmax(axis=1) == decrypted.argmax(axis=1))
        said.append(f"encrypted beside decrypted weights: outputs within {far:.1e}, same class {agree:.2%}")
    said.append("accuracy: " + ", ".join(f"{name} {score:.2%}" for name, score in scores.items()))
    return "\n".join([*said, f"{processor()}; {security}; load at the end {os.getloadavg()[0]:.1f}"])


def right(outputs: F64, y: npt.NDArray[np.integer[Any]]) -> float:
    """Share of right classes."""
    return float(np.mean(outputs.argmax(axis=1) == y))


def script(about: str | None, samples: int, batch: str, plan: str, work: Callable[[Any, Path], str]) -> None:
    """The command line here and of ``train_backbone``. samples: to serve; batch, plan: help; work: gives text."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="encrypted steps (default: 12)")
    parser.add_argument("--samples", type=int, default=samples, help=f"held-out samples to serve (default: {samples})")
    parser.add_argument("--batch", type=int, help=f"samples in a step (default: {batch})")
    parser.add_argument("--plan", action="store_true", help=f"do not encrypt: {plan}")
    parser.add_argument("--ring", type=int, help="a small, insecure ring")
    parser.add_argument("--folder", type=Path, help="keep all files there (default: a temporary folder)")
    parser.add_argument("--output", type=Path, help="also write what was found to this file")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        text = work(a, folder)
    print(text)
    if a.output:
        a.output.write_text(text + "\n")


def main() -> None:
    script(__doc__, 512, "64", "predict and simulate", measured)


if __name__ == "__main__":
    main()
