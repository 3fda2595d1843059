"""Glyph's own training in the form of the other systems, for comparisons: everything by the server, with bootstraps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.analysis import cost_file
from glyphc.analysis.kernels_cost import for_engine
from glyphc.exchange.training_engines import training_engine
from glyphc.knowledge import TRAINING, Knowledge
from glyphc.progress import Reporter
from glyphc.train.job import Job
from glyphc.train.planning import checked, plan_of
from glyphc.train.predict import different_batches, predict
from glyphc.train.simulated import Simulated
from glyphc.train.ways.layers import STATE_LIMBS
from glyphc.trainer.encrypted import Encrypted

from .system import Forecast, Runner, State, System

F64 = npt.NDArray[np.floating[Any]]


class Glyph(System):
    """Plain steps alone, so that the definition is a step of the job's program."""

    name = "glyph"
    exact: ClassVar[bool] = False

    def __init__(self, job: Job) -> None:
        self.job = job
        self.plan = plan_of(job)
        checked(job, self.plan)

    @property
    def security(self) -> str:
        return self.plan.parameters.security

    @property
    def knowledge(self) -> Knowledge:
        return TRAINING

    @property
    def notes(self) -> tuple[str, ...]:
        return (
            f"ranges: {self.plan.ranges}; {self.plan.precision}",
            "files of both sides; seconds of a step hold their share of what it takes to load keys",
        )

    @cached_property
    def forecast(self) -> Forecast:
        steps, server = self.job.options.steps, self.plan.server
        batches = different_batches(self.job.batches, steps)
        engine, _ = training_engine(self.plan.parameters)
        found = predict(self.plan, steps, for_engine(cost_file.current(), engine), batches)
        ring = self.plan.parameters.ring
        # of a fresh ciphertext one element is sent, the other is expanded from a seed
        return Forecast(
            found.step_seconds,
            found.encrypt_seconds / steps,
            0,
            0.0,
            0.0,
            found.batch_bytes / 2,
            8.0 * ring * STATE_LIMBS * len(server.state_names),
            found.key_bytes,
            found.memory_bytes,
            found.machine,
        )

    def initial(self) -> State:
        return self.job.program.initial().weights

    def defined(self, state: State, number: int) -> State:
        x, y = self.job.batch(self.job.batches.number(number))
        start = replace(self.job.program.initial(), step=number, weights=dict(state))
        return self.job.program.run(start, self.job.named(x), y)[0].weights

    def weights(self, state: State) -> dict[str, F64]:
        return dict(state)

    def simulated(self) -> AbstractContextManager[Runner]:
        return self._steps(Simulated(self.job, self.plan))

    def encrypted(self, reporter: Reporter) -> AbstractContextManager[Runner]:
        return self._steps(Encrypted(self.job, self.plan, None, reporter))

    @contextmanager
    def _steps(self, made: Simulated | Encrypted) -> Iterator[Runner]:
        try:
            made.start(None, 0)
            yield _Steps(made, self.job.options.steps)
        finally:
            made.close()


class _Steps:
    """A run of glyph's, which is done in one."""

    trips = 0
    client_seconds = 0.0

    def __init__(self, run: Simulated | Encrypted, steps: int) -> None:
        self._run, self._steps, self._done = run, steps, 0

    def start(self, state: State) -> None:
        """It has encrypted its weights already."""

    def step(self, number: int) -> None:
        if not self._done:
            self._run.run(range(self._steps), lambda count: None)
            self._done = self._steps

    def state(self) -> State:
        return self._run.weights(self._done)
