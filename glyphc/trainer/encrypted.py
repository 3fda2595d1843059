"""The encrypted run in one process: what client and server do as roles, one after the other, by the same files."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import ArtifactError
from glyphc.exchange.training_backbone import write_backbone
from glyphc.exchange.training_client import (
    JOB_FILE,
    TrainingClientFiles,
    decrypted_state,
    program_of,
    write_run,
)
from glyphc.exchange.training_engines import training_engine
from glyphc.exchange.training_files import BACKBONE, CHECKPOINT, INITIAL, TRAINED
from glyphc.exchange.training_server import run_training, steps_done
from glyphc.program import INSECURE_WARNING, InsecureWarning
from glyphc.progress import Reporter
from glyphc.train.job import Job
from glyphc.train.plan import Plan
from glyphc.train.predict import require_memory

from .checkpoint import RunFolder

F64 = npt.NDArray[np.floating[Any]]


class Encrypted:
    """The files of both sides, temporary ones where no folder is given; see ``loop.Runner``."""

    def __init__(
        self,
        job: Job,
        plan: Plan,
        folder: RunFolder | None,
        reporter: Reporter,
        memory: float | None = None,
        engine: str | None = None,
    ) -> None:
        """engine: what computes, by default the first that takes the run; a run that goes on has its own."""
        if not plan.parameters.secure:
            warnings.warn(INSECURE_WARNING, InsecureWarning, stacklevel=5)
        self.security = plan.parameters.security
        self._job, self._plan, self._reporter = job, plan, reporter
        self._folder = folder
        self._temporary = ExitStack()
        self._files: TrainingClientFiles | None = None
        self._asked = engine
        self._engine, _ = training_engine(plan.parameters, engine)
        # rather than be killed by the system in the middle of minutes of work
        require_memory(plan, self._engine, memory, here=True)

    def start(self, parts: Mapping[str, bytes] | None, step: int) -> int:
        if self._folder is None:
            self._folder = RunFolder(Path(self._temporary.enter_context(tempfile.TemporaryDirectory())) / "run")
            self._folder.create()
        client, server = self._folder.client, self._folder.server
        if parts is None:
            program = program_of(self._job, self._plan)
            write_run(self._job, self._plan, program, client, server, None, self._engine, self._reporter)
            if program.outline.kept:
                write_backbone(server / BACKBONE, self._job, self._plan, program)
        self._files = TrainingClientFiles.load(client / JOB_FILE)
        if self._asked not in (None, self._files.record.engine):
            raise ArtifactError(
                f"this run was begun for the engine {self._files.record.engine!r}, not for {self._asked!r}; leave "
                "--engine out"
            )
        planned, wanted = self._files.program.outline.steps, self._job.options.steps
        if planned != wanted:
            raise ArtifactError(
                f"this run was begun for {planned} steps, not {wanted}; resume it with that number, or go on with its "
                f"folders by 'glyphc training continue --client {client}' and 'glyphc training run --server {server}'"
            )
        return steps_done(server)

    def run(self, steps: range, after: Callable[[int], None]) -> list[float]:
        assert self._folder is not None
        if not steps:
            return []
        return run_training(self._folder.server, resume=True, reporter=self._reporter, after=after).seconds

    def parts(self) -> dict[str, bytes]:
        """Nothing: the state is in the server's folder."""
        return {}

    def weights(self, step: int) -> dict[str, F64]:
        assert self._folder is not None
        assert self._files is not None
        name = TRAINED if step == self._job.options.steps else CHECKPOINT if step else INITIAL
        messages = decrypted_state(self._folder.client, self._files, self._folder.server / name, step, None)
        return self._plan.weights(messages, step)

    def close(self) -> None:
        self._temporary.close()
