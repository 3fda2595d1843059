"""The plan of an encrypted job."""

from __future__ import annotations

from .foresee import trial_ranges
from .job import Job
from .plan import Plan, make_plan
from .stages import find_stages


def plan_of(job: Job) -> Plan:
    """How the job is trained under encryption; TrainingError when that is not possible.

    Without a given range, a trial run in the clear finds what every bootstrap has to compute.
    """
    o, head, frozen = job.options, job.split.head, job.split.frozen
    ranges = job.ranges or o.reach
    if ranges is None:
        ranges = trial_ranges(job, find_stages(head, job.loss, frozen))
    return make_plan(head, job.loss, o.optimizer, job.batches.batch, ranges, frozen, o.insecure_ring)
