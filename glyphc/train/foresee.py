"""A run in the clear before the encrypted one: nothing should be found out only hours later."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import TrainingError
from .job import Job, check_loss
from .planning import TrainingPlan
from .step import State


@dataclass(frozen=True)
class Forecast:
    """reach: the largest magnitude that a bootstrap saw, as a share of what it computes. state: after the last step."""

    reach: float
    state: State


def foresee(job: Job, plan: TrainingPlan) -> Forecast:
    """Train in the clear on the client. TrainingError when it diverges or leaves what encryption computes."""
    batches = [job.batch(number) for number in range(job.batches.per_epoch)]
    features = [job.features(x, plan.layer) for x, _ in batches]
    state, worst, first = job.program.initial(), _Reach("", 0.0, 1.0, 0), 0.0
    for step in range(job.options.steps):
        number = job.batches.number(step)
        x, y = batches[number]
        found = plan.reaches(state.weights, features[number], y).items()
        worst = max([worst, *(_Reach(what, v, limit, step) for what, (v, limit) in found)], key=lambda r: r.share)
        state, loss = job.program.run(state, job.named(x), y)
        first = first or loss
        check_loss(step, loss, first)
    if worst.share > 1:
        raise TrainingError(
            f"before step {worst.step}, {worst.what} would reach {worst.value:.3g} in magnitude; encrypted training "
            f"was to compute them up to {worst.limit:g}. Use --logit-range "
            f"{_round_up(1.1 * worst.share * job.options.reach):g}, or a smaller learning rate, weight decay, or fewer "
            "steps; outliers in the data may be the cause too"
        )
    return Forecast(worst.share, state)


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
