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
    state, reach, first = job.program.initial(), 0.0, 0.0
    for step in range(job.options.steps):
        number = job.batches.number(step)
        x, y = batches[number]
        for what, (largest, limit) in plan.reaches(state.weights, features[number], y).items():
            reach = max(reach, largest / limit)
            if largest > limit:
                wanted = _round_up(1.25 * largest / limit * job.options.reach)
                raise TrainingError(
                    f"before step {step}, {what} reach {largest:.3g} in magnitude; encrypted training was to compute "
                    f"them up to {limit:g}. Use --logit-range {wanted:g}, or a smaller learning rate, weight decay, or "
                    "fewer steps; outliers in the data may be the cause too"
                )
        state, loss = job.program.run(state, job.named(x), y)
        first = first or loss
        check_loss(step, loss, first)
    return Forecast(reach, state)


def _round_up(x: float) -> float:
    """To the next of 1, 2, 4, ... or one and a half times that."""
    power = 2.0 ** np.floor(np.log2(x))
    return float(next(c * power for c in (1.0, 1.5, 2.0) if c * power >= x))
