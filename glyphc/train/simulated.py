"""The simulated run: what an encrypted one computes, with its predicted errors, on plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.backends.engine import best_engine
from glyphc.backends.step_loop import train_steps
from glyphc.ir.instructions.ckks import STATISTIC

from .job import Job
from .plan import Plan

F64 = npt.NDArray[np.floating[Any]]


class Simulated:
    """The encrypted run's instructions on plain numbers with the predicted errors; see ``glyphc.trainer.loop.Runner``.

    state: what stands in the server's ciphertexts, by name; statistics: the messages that the client may watch, of the
    steps done here. engine: which one would bootstrap, by default the first
    that takes the run.
    """

    security = "none (simulate mode, no encryption)"

    def __init__(self, job: Job, plan: Plan, engine: str | None = None) -> None:
        self._job = job
        self._plan = plan
        self._engine = engine or best_engine(plan.parameters, here=False)[0].name
        self.state: dict[str, F64] = {}
        self.statistics: list[F64] = []

    def start(self, parts: Mapping[str, bytes] | None, step: int) -> int:
        if parts is not None:
            self.state = {name: np.frombuffer(data) for name, data in parts.items()}
            return step
        machine = self.machine(0)
        start = self._plan.state(self._job.program.initial())
        self.state = {name: machine.encrypt(message, limbs) for name, (message, limbs) in start.items()}
        return 0

    def run(self, steps: range, after: Callable[[int], None]) -> None:
        def stepped(count: int, state: dict[str, Any]) -> None:
            if STATISTIC in state:
                self.statistics.append(state.pop(STATISTIC))
            self.state = state
            after(count)

        train_steps(self._plan.server, self.machine, self._batch, self.state, steps, stepped)

    def machine(self, step: int, kind: int = 0) -> Any:
        """kind: 0 for what the server computes, others for what is encrypted."""
        from glyphc.backends.ckks_clear import SimulatedCKKS

        # noise that depends on the step alone: a resumed run sees the same
        return SimulatedCKKS(self._plan.parameters, (self._job.options.seed, kind, step), self._engine)

    def _batch(self, step: int) -> dict[str, Any]:
        number = self._job.batches.number(step)
        x, y = self._job.batch(number)
        machine = self.machine(number, 1)
        data = self._plan.data(x.reshape(len(x), -1), y)
        return {name: machine.encrypt(message, limbs) for name, (message, limbs) in data.items()}

    def parts(self) -> dict[str, bytes]:
        return {name: value.tobytes() for name, value in self.state.items()}

    def weights(self, step: int) -> dict[str, F64]:
        return self._plan.weights(self.state, step)

    def close(self) -> None:
        pass
