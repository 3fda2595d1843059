"""Running a training job in any mode, with checkpoints, progress and an optional look at the loss.

In real use client and server are two machines; here they share a process but not their objects.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from glyphc.errors import GlyphcError
from glyphc.ir.graph import Graph
from glyphc.progress import Reporter, Silent
from glyphc.runtime import Mode
from glyphc.train.job import Job, check_loss
from glyphc.train.plan import Plan
from glyphc.train.planning import checked, plan_of, source_text
from glyphc.train.ranges import Ranges
from glyphc.train.simulated import Simulated
from glyphc.train.step import State

from .checkpoint import Checkpoint, RunFolder

F64 = npt.NDArray[np.floating[Any]]
Monitor = Callable[[int, float], None]


@dataclass
class TrainingReport:
    """network: with the trained weights. seconds: of each step that this run did. losses: of the batches seen, before
    each step, if they were looked at. security: OpenFHE's level, or why there is none. source: of the
    ranges, for people.
    """

    network: Graph
    mode: Mode
    steps: int
    security: str
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    reach: float | None = None
    ranges: Ranges | None = None
    source: str = ""


class Runner(Protocol):
    """One mode: keeps the state, does steps, reads the weights."""

    security: str

    def start(self, parts: Mapping[str, bytes] | None, step: int) -> int:
        """Make everything that the steps need, or load it from a checkpoint's parts after ``step`` steps; returns how
        many are done."""

    def run(self, steps: range, after: Callable[[int], None]) -> list[float] | None:
        """Do the steps; ``after`` is told the number of steps done after every step. Returns the seconds of each where
        whoever did them has something else to do before the first one, such as loading keys."""

    def parts(self) -> dict[str, bytes]:
        """The state, for a checkpoint."""

    def weights(self, step: int) -> dict[str, F64]:
        """Weights after ``step`` steps, by constant name. The client's."""

    def close(self) -> None:
        """Release keys."""


def train(
    job: Job,
    mode: Mode | str = Mode.ENCRYPTED,
    folder: str | Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
    monitor: Monitor | None = None,
    write: Callable[[TrainingReport], None] | None = None,
    planned: Callable[[Plan], None] = lambda plan: None,
    memory: float | None = None,
    engine: str | None = None,
) -> TrainingReport:
    """Train; returns the trained network.

    folder: where checkpoints go after every step; it must not exist, unless ``resume`` continues what is there, with
    the same result as an unbroken run. It is deleted at the end. monitor: told the loss on a step's batch before the
    step, which under encryption takes the client's key. write: puts the result where it belongs; when it raises, the
    folder stays, and ``resume`` gets the same result from it without training again. planned: told the plan of an
    encrypted or simulated run before keys are made. memory: bytes that an encrypted run may
    take, None for what is free. engine: what computes an encrypted run, by default the first that takes it.

    Raises GlyphcError for an engine that cannot be used, TrainingError when training would diverge or leave what
    encryption computes (found out in the clear, beforehand), ArtifactError for unusable folders, EnvironmentSetupError
    when OpenFHE is missing or memory is short.
    """
    try:
        mode = Mode(mode)
    except ValueError:
        raise GlyphcError(f"unknown mode {mode!r}; known: {', '.join(m.value for m in Mode)}") from None
    place = RunFolder(Path(folder)) if folder is not None else None
    run = _Run(job, mode, place, reporter or Silent(), monitor, planned, memory, engine)
    report = run.run(resume)
    if write is not None:
        write(report)
    if run.folder is not None:
        run.folder.delete()
    return report


class _Run:
    def __init__(
        self,
        job: Job,
        mode: Mode,
        folder: RunFolder | None,
        reporter: Reporter,
        monitor: Monitor | None,
        planned: Callable[[Plan], None],
        memory: float | None,
        engine: str | None,
    ) -> None:
        self.job = job
        self.mode = mode
        self.folder = folder
        self.reporter = reporter
        self.monitor = monitor
        self.planned = planned
        self.memory, self.engine = memory, engine
        self.report = TrainingReport(job.network, mode, job.options.steps, f"none ({mode.value} mode, no encryption)")
        self._last = 0.0

    def run(self, resume: bool) -> TrainingReport:
        checkpoint = None
        if self.folder is not None and resume:
            checkpoint = self.folder.load(self.job.fingerprint(), self.mode.value)
            # what is encrypted has the scales that go with these
            self.job = replace(self.job, ranges=checkpoint.ranges)
        elif resume:
            raise GlyphcError("only a run with a folder of checkpoints can be resumed")
        runner = self._runner()
        try:
            done = self._start(runner, checkpoint)
            self.report.security = runner.security
            steps = range(done, self.job.options.steps)
            if self.mode is not Mode.ENCRYPTED:  # the server's side tells of its own steps
                self.reporter.stage("train", len(steps))
            self._look(runner, done)
            self._last = time.perf_counter()
            measured = runner.run(steps, lambda count: self._after(runner, count))
            if measured is not None:
                self.report.seconds = measured
            self.report.network = self.job.whole(runner.weights(self.job.options.steps))
        finally:
            self.reporter.done()
            runner.close()
        return self.report

    def _start(self, runner: Runner, checkpoint: Checkpoint | None) -> int:
        """How many steps are done. A run that did not come to its first checkpoint leaves nothing."""
        if checkpoint is not None:
            return runner.start(checkpoint.parts, checkpoint.step)
        if self.folder is not None:
            self.folder.create()
        try:
            done = runner.start(None, 0)
            self._save(runner, 0)
        except BaseException:
            if self.folder is not None:
                self.folder.delete()
            raise
        return done

    def _runner(self) -> Runner:
        if self.mode is Mode.CLEAR:
            return _Clear(self.job)
        plan = plan_of(self.job)
        self.report.ranges, self.report.source = plan.ranges, source_text(self.job)
        if self.job.ranges is not None or self.job.options.reach is not None:
            self.report.reach = checked(self.job, plan)
        self.planned(plan)
        if self.mode is Mode.SIMULATE:
            return Simulated(self.job, plan, self.engine)
        from .encrypted import Encrypted

        return Encrypted(self.job, plan, self.folder, self.reporter, self.memory, self.engine)

    def _after(self, runner: Runner, count: int) -> None:
        now = time.perf_counter()
        self.report.seconds.append(now - self._last)
        self._save(runner, count)
        if self.mode is not Mode.ENCRYPTED:
            self.reporter.advance(1, f"step {count} of {self.job.options.steps}")
        self._look(runner, count)
        self._last = now = time.perf_counter()

    def _save(self, runner: Runner, step: int) -> None:
        if self.folder is not None:
            self.folder.save(
                Checkpoint(self.job.fingerprint(), self.mode.value, step, runner.parts(), self.report.ranges)
            )

    def _look(self, runner: Runner, step: int) -> None:
        """The loss before step ``step``, for those who want to know it."""
        if self.monitor is None:
            return
        x, y = self.job.batch(self.job.batches.number(step))
        state = State(step, runner.weights(step), self.job.program.initial().velocity)
        _, loss = self.job.program.run(state, self.job.named(x), y)
        self.report.losses.append(loss)
        self.monitor(step, loss)


class _Clear:
    """The step program in the reference evaluator."""

    security = "none (clear mode, no encryption)"

    def __init__(self, job: Job) -> None:
        self._job = job
        self._state = job.program.initial()
        self._first: float | None = None

    def start(self, parts: Mapping[str, bytes] | None, step: int) -> int:
        if parts is not None:
            saved, start = {n: np.frombuffer(data) for n, data in parts.items()}, self._job.program.initial()
            weights: dict[str, F64] = {n: saved["weight:" + n].reshape(v.shape) for n, v in start.weights.items()}
            velocity: dict[str, F64] = {n: saved["velocity:" + n].reshape(v.shape) for n, v in start.velocity.items()}
            self._state = State(step, weights, velocity)
        return step

    def run(self, steps: range, after: Callable[[int], None]) -> None:
        job = self._job
        for step in steps:
            x, y = job.batch(job.batches.number(step))
            self._state, loss = job.program.run(self._state, job.named(x), y)
            self._first = loss if self._first is None else self._first
            check_loss(step, loss, self._first)
            after(step + 1)

    def parts(self) -> dict[str, bytes]:
        named = {"weight:" + n: v for n, v in self._state.weights.items()}
        named |= {"velocity:" + n: v for n, v in self._state.velocity.items()}
        return {name: np.ascontiguousarray(value, dtype=np.float64).tobytes() for name, value in named.items()}

    def weights(self, step: int) -> dict[str, F64]:
        return dict(self._state.weights)

    def close(self) -> None:
        pass
