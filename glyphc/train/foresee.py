"""A run in the clear before the encrypted one: nothing should be found out only hours later."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glyphc.ir.graph import Node

from .errors import TrainingError
from .job import Job, check_loss
from .step import State


@dataclass(frozen=True)
class Forecast:
    """reach: the largest magnitude of a logit on the training data. state: after the last step."""

    reach: float
    state: State


def foresee(job: Job) -> Forecast:
    """Train in the clear on the client. TrainingError when it diverges or leaves what encryption computes."""
    last = job.loss.attachment(job.network, job.network.outputs[0])
    features = {number: job.features(job.batch(number)[0]) for number in range(job.batches.per_epoch)}
    state, reach, first = job.program.initial(), 0.0, 0.0
    for step in range(job.options.steps):
        number = job.batches.number(step)
        x, y = job.batch(number)
        reach = max(reach, _reach(last, state, features[number]))
        if reach > job.options.reach:
            raise TrainingError(
                f"before step {step}, logits reach {reach:.3g} in magnitude; encrypted training was to compute them up "
                f"to {job.options.reach:g}. Use --logit-range {_round_up(1.25 * reach):g}, or a smaller learning rate, "
                "weight decay, or fewer steps; outliers in the data may be the cause too"
            )
        state, loss = job.program.run(state, job.named(x), y)
        first = first or loss
        check_loss(step, loss, first)
    return Forecast(reach, state)


def _reach(last: Node, state: State, features: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> float:
    weight, bias = (state.weights[name] for name in last.op.constant_names())
    return float(np.abs(features @ weight.T + bias).max())


def _round_up(x: float) -> float:
    """To the next of 1, 2, 4, ... or one and a half times that."""
    power = 2.0 ** np.floor(np.log2(x))
    return float(next(c * power for c in (1.0, 1.5, 2.0) if c * power >= x))
