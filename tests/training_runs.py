"""A small training run by client and server, for the tests of both: the job, its files, and what changes them."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from click.testing import CliRunner, Result
from onnx import numpy_helper

from glyphc.cli import main
from glyphc.frontends.to_onnx import to_onnx
from glyphc.storage.container import MANIFEST, Reader
from glyphc.storage.headers import (
    TrainingStateHeader,
)
from glyphc.train.job import Job, Options, make_job
from glyphc.train.linear_models import linear_model
from glyphc.train.optimizers import SGD

RING = 1024
STEPS = 5
# Of weights, against simulation: another draw of the same noise.
TOLERANCE = 1e-4
OPTIONS = ("--steps", STEPS, "--batch", 24, "--learning-rate", 0.5, "--momentum", 0.5, "--insecure-ring", RING)


def samples() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    x = random.normal(2.0, 3.0, size=(60, 4))
    return x, (x @ np.arange(1, 5) + random.normal(size=60) > 20).astype(np.int64)


def job() -> Job:
    x, y = samples()
    options = Options(SGD(0.5, 0.5), STEPS, 24, insecure_ring=RING)
    return make_job(linear_model(x, 1, "sigmoid"), x, y, options)


def invoke(*arguments: object, code: int = 0, **changes: str) -> Result:
    """A command in this process."""
    result = CliRunner().invoke(main, [str(a) for a in arguments], env=changes)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result


def write_inputs(folder: Path) -> tuple[object, ...]:
    """A model and its data; the options that name them."""
    x, y = samples()
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    (folder / "model.onnx").write_bytes(to_onnx(linear_model(x, 1, "sigmoid")).SerializeToString())
    return (folder / "model.onnx", "--data", folder / "x.npy", "--labels", folder / "y.npy")


def weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def prepared_run(folder: Path) -> Path:
    """A run by the command, with the folders "client" and "server"."""
    inputs = write_inputs(folder)
    folders = ("--client", folder / "client", "--server", folder / "server")
    result = invoke("training", "prepare", *inputs, *OPTIONS, *folders)
    assert "NOT SECURE" in result.stderr and "NOT SECURE" in result.stdout
    return folder


def copied(prepared: Path, folder: Path) -> Path:
    """A copy of a run, to be changed."""
    for name in ("client", "server"):
        shutil.copytree(prepared / name, folder / name)
    return folder


def state(path: Path) -> dict[str, bytes]:
    with Reader(path, TrainingStateHeader) as reader:
        return {name: reader.read(name) for name in reader.parts}


def changed(path: Path, **header: object) -> None:
    """Make a file's header say something else."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    manifest = json.loads(entries[MANIFEST])
    manifest["header"].update(header)
    entries[MANIFEST] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as new:
        for name, content in entries.items():
            new.writestr(name, content)


def flip(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)


def make_job_of_steps(steps: int) -> Job:
    x, y = samples()
    return make_job(linear_model(x, 1, "sigmoid"), x, y, Options(SGD(0.5, 0.5), steps, 24, insecure_ring=RING))
