"""SIGKILL at random points of every command of a training run, as processes: the same weights afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from glyphc.exchange.client import SECRET_FILE
from glyphc.exchange.training_files import PROGRAM, TRAINED
from glyphc.frontends.from_onnx import read_onnx
from glyphc.trainer.loop import train
from tests.commands import command
from tests.commands import succeeding as glyphc
from tests.roles import environment
from tests.training_runs import OPTIONS, TOLERANCE, job, samples, state, write_inputs

# Kills of each command before it is left alone.
KILLS = 2


class Killer:
    """Runs commands; each is killed at a random share of the CPU seconds that it takes when nothing disturbs it."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.killed = 0

    def __call__(self, *arguments: object, seconds: float) -> bool:
        """Whether the command was killed: it may be faster than that. seconds: of CPU, that it takes as a whole."""
        at = self.random.uniform(0.3, 0.95) * seconds
        run = command(*arguments)
        with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            watched = psutil.Process(process.pid)
            while process.poll() is None:
                try:
                    used = watched.cpu_times()
                except psutil.NoSuchProcess:
                    break
                if used.user + used.system > at:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.005)
            errors = process.communicate()[1]
        assert process.returncode in (0, -signal.SIGKILL), errors
        self.killed += process.returncode != 0
        return process.returncode != 0


def cpu_seconds(*arguments: object) -> float:
    """Of a command that is left alone."""
    before = os.times()
    subprocess.run(command(*arguments), capture_output=True, env=environment(), check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_every_role_survives_a_kill(seed: int, tmp_path: Path) -> None:
    killer = Killer(seed)
    inputs = write_inputs(tmp_path)
    np.save(tmp_path / "held-out.npy", samples()[0][:10])
    once = (("--client", tmp_path / "once" / "client"), ("--server", tmp_path / "once" / "server"))
    client, server = (("--client", tmp_path / "client"), ("--server", tmp_path / "server"))

    def commands(client: tuple[object, ...], server: tuple[object, ...], to: Path) -> dict[str, tuple[object, ...]]:
        both = (*client, "--request", to / "request", "--answer", to / "answer")
        return {
            "prepare": ("training", "prepare", *inputs, *OPTIONS, *client, *server),
            "run": ("training", "run", *server, "--resume"),
            "request": ("training", "request", *client, "--data", tmp_path / "held-out.npy", "-o", to / "request"),
            "infer": ("training", "infer", *server, "--request", to / "request", "-o", to / "answer"),
            "predict": ("training", "predict", *both, "--samples", 10, "-o", to / "predicted.npy"),
            "finish": ("training", "finish", *client, *server, "-o", to / "trained.onnx"),
        }

    (tmp_path / "once").mkdir()
    takes = {name: cpu_seconds(*command) for name, command in commands(*once, tmp_path / "once").items()}
    here = commands(client, server, tmp_path)
    for _ in range(KILLS):  # keys and batches: what is left is no run, and is made anew
        killed = killer(*here["prepare"], seconds=takes["prepare"])
        # the secret is written last of all
        assert killed or (tmp_path / "client" / SECRET_FILE).exists()
        if not (tmp_path / "server" / PROGRAM).exists():
            assert not (tmp_path / "client" / SECRET_FILE).exists()
            assert "cannot read" in glyphc(*here["run"], code=2).stderr
        for name in ("client", "server"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
    glyphc(*here["prepare"])
    # a server that nothing disturbs, for its bits
    shutil.copytree(tmp_path / "server", tmp_path / "calm")
    glyphc("training", "run", "--server", tmp_path / "calm")
    for name in ("run", "request", "infer", "predict", "finish"):
        for _ in range(KILLS):
            if name == "run" and (tmp_path / "server" / TRAINED).exists():
                break
            killer(*here[name], seconds=takes[name])
        if name != "run" or not (tmp_path / "server" / TRAINED).exists():
            glyphc(*here[name])
    assert state(tmp_path / "server" / TRAINED) == state(tmp_path / "calm" / TRAINED)
    assert killer.killed >= KILLS
    simulated, found = train(job(), "simulate").network, read_onnx(tmp_path / "trained.onnx")
    for name in ("weight", "bias"):
        assert np.abs(found.constant(name) - simulated.constant(name)).max() < TOLERANCE
    calm = np.load(tmp_path / "once" / "predicted.npy")
    np.testing.assert_allclose(np.load(tmp_path / "predicted.npy"), calm, atol=5e-3)
    left = [p.name for p in tmp_path.rglob(".*") if p.is_file() and p.parent == tmp_path / "server"]
    assert left == []
