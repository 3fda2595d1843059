"""The plan of an encrypted job."""

from __future__ import annotations

from glyphc.ir.ops import Input

from .errors import TrainingError
from .foresee import trial_ranges
from .job import Job
from .plan import Plan, plan_step
from .stages import find_stages


def plan_of(job: Job) -> Plan:
    """How the job is trained under encryption; TrainingError when that is not possible.

    Without a given range, a trial run in the clear finds what every bootstrap has to compute.
    """
    stages = find_stages(job.program)
    if not isinstance(stages[0].values.op, Input):
        raise TrainingError(f"what lies before {stages[0].values} cannot be computed apart; use --mode clear")
    ranges = job.ranges or job.options.reach
    if ranges is None:
        ranges = trial_ranges(job, stages)
    return plan_step(job.program, ranges, job.options.insecure_ring)
