"""The run in the clear that a system is planned by: on the client's own samples, or on others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.train.errors import TrainingError
from glyphc.train.job import Job, RangeSource, check_loss
from glyphc.train.step import State

F64 = npt.NDArray[np.floating[Any]]


def in_the_clear(job: Job) -> Iterator[tuple[State, dict[int, F64]]]:
    """Of each step of a job, the state before it and values of all nodes; TrainingError when training diverges."""
    state, first = job.program.initial(), 0.0
    for step in range(job.options.steps):
        x, y = job.batch(job.batches.number(step))
        values = job.program.values(state, job.named(x), y)
        yield state, values
        state, loss = job.program.after(state, values)
        # batches of a few samples have losses of all sizes, whatever the weights are
        first = max(first, loss) if step < job.batches.per_epoch else first
        check_loss(step, loss, first)


def require_trial(job: Job, name: str) -> Job:
    """The job that is run in the clear; TrainingError where ranges are to come from bounds, or from nowhere."""
    if job.options.source is RangeSource.BOUNDS:
        raise TrainingError(
            f"the strategy {name!r} is planned by a run in the clear, on its own samples or on a few others: use "
            "--ranges trial, or sample with --trial-data"
        )
    if job.options.reach is not None:
        raise TrainingError(f"the strategy {name!r} has no range of logits to give; leave --logit-range out")
    return job.rehearsal
