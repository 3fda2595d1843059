"""A run in the clear before the encrypted one: nothing should be found out only hours later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import TrainingError
from .job import Job, check_loss
from .plan import Plan, seen
from .ranges import Ranges
from .stages import Stage
from .step import State

F64 = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Forecast:
    """reach: the largest magnitude that a bootstrap saw, as a share of what it computes."""

    reach: float


def foresee(job: Job, plan: Plan, start: State | None = None) -> Forecast:
    """Train in the clear on the client. TrainingError when it diverges or leaves what encryption computes.

    On the samples of the job's trial if it has some: then its own data are not trained on. start: where to begin, by
    default with the job's own weights.
    """
    worst = _Reach("", 0.0, 1.0, 0)
    for step, values in _steps(job.rehearsal, start):
        found = plan.reaches(values).items()
        worst = max([worst, *(_Reach(what, v, limit, step) for what, (v, limit) in found)], key=lambda r: r.share)
    if worst.share > 1:
        raise TrainingError(
            f"before step {worst.step}, {worst.what} would reach {worst.value:.3g} in magnitude; encrypted training "
            f"was to compute them up to {worst.limit:g}. {_advice(worst, job)} a smaller learning rate, "
            "weight decay, or fewer steps; outliers in the data may be the cause too"
        )
    return Forecast(worst.share)


def trial_ranges(job: Job, stages: tuple[Stage, ...]) -> Ranges:
    """The largest magnitudes that a run in the clear sees."""
    ranges: Ranges | None = None
    for _, values in _steps(job):
        found = seen(stages, values)
        ranges = found if ranges is None else ranges.widened(found)
    assert ranges is not None
    return ranges


def _steps(job: Job, start: State | None = None) -> Iterator[tuple[int, dict[int, F64]]]:
    """Step, and values of all its nodes; TrainingError when training diverges."""
    state, first = start or job.program.initial(), 0.0
    for step in range(state.step, job.options.steps):
        x, y = job.batch(job.batches.number(step))
        values = job.program.values(state, job.named(x), y)
        yield step, values
        state, loss = job.program.after(state, values)
        first = first or loss
        check_loss(step, loss, first)


def _advice(worst: _Reach, job: Job) -> str:
    if job.ranges is not None:
        return "It was begun with these ranges; use as many steps as then, or start anew, with"
    given = job.options.reach
    if given is None or "exponentials" in worst.what:
        return "Leave --logit-range out, or use"
    return f"Use --logit-range {_round_up(1.1 * worst.share * given):g}, or"


@dataclass(frozen=True)
class _Reach:
    what: str
    value: float
    limit: float
    step: int

    @property
    def share(self) -> float:
        return self.value / self.limit


def _round_up(x: float) -> float:
    """To the next of 1, 2, 4, ... or one and a half times that."""
    power = 2.0 ** np.floor(np.log2(x))
    return float(next(c * power for c in (1.0, 1.5, 2.0) if c * power >= x))
