"""A training run that is killed again and again, for ``load.py``: 'glyphc training run', resumed until it is done."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from glyphc.exchange.training_client import prepare
from glyphc.exchange.training_files import TRAINED
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingStateHeader
from glyphc.train.job import Options, make_job
from glyphc.train.linear_models import linear_model
from glyphc.train.optimizers import SGD

STEPS, SAMPLES, RATE = 30, 64, 0.5


class Trainer:
    """Rounds of one prepared run, each on a copy of its files. done: told of each whether its bits are those of a run
    that nothing disturbs."""

    def __init__(
        self, folder: Path, x: np.ndarray, classes: np.ndarray, ring: int, done: Callable[[bool], None]
    ) -> None:
        options = Options(SGD(RATE), STEPS, SAMPLES, insecure_ring=ring)
        wide = x[:SAMPLES].astype(np.float64)
        job = make_job(linear_model(wide, 1, "sigmoid"), wide, (classes[:SAMPLES] == 1).astype(np.int64), options)
        self._prepared, self._copy = folder / "server", folder / "copy"
        prepare(job, folder / "client", self._prepared)
        self._log, self._done = open(folder / "log", "a"), done  # noqa: SIM115
        self._process: subprocess.Popen[str] | None = None
        self._stopped, self._cut = threading.Event(), threading.Event()
        self._expected = self._round()
        if not self._expected:
            raise RuntimeError(f"training fails by itself: {(folder / 'log').read_text()[-1000:]}")
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    def _go(self) -> None:
        while not self._stopped.is_set():
            found = self._round()
            if not self._cut.is_set():
                self._done(found == self._expected)

    def _round(self) -> dict[str, bytes]:
        """Parts of the trained state; none when the run fails of itself, or is cut short."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._prepared, self._copy)
        command = [sys.executable, "-m", "glyphc", "training", "run", "--resume", "--server", str(self._copy)]
        while not (self._copy / TRAINED).exists():
            self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, text=True)
            if self._process.wait() > 0 or self._cut.is_set():
                return {}
        with Reader(self._copy / TRAINED, TrainingStateHeader) as reader:
            reader.verify()
            return {name: reader.read(name) for name in reader.parts}

    @property
    def pid(self) -> int | None:
        """Of the process that trains; None between two."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def stop(self, seconds: float = 0.0) -> bool:
        """After the round that has begun; one that takes longer is cut short, and False. May be called twice."""
        self._stopped.set()
        self._thread.join(seconds)
        whole = not self._thread.is_alive()
        self._cut.set()
        while self._thread.is_alive():
            if self._process is not None:
                self._process.kill()
            self._thread.join(1.0)
        self._log.close()
        return whole
