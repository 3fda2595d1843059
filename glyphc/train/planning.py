"""The plan of an encrypted job."""

from __future__ import annotations

from .job import Job
from .plan import Plan, make_plan

TrainingPlan = Plan


def plan_of(job: Job) -> Plan:
    """How the job is trained under encryption; TrainingError when that is not possible."""
    o = job.options
    frozen = job.split.frozen
    return make_plan(job.split.head, job.loss, o.optimizer, job.batches.batch, o.reach, frozen, o.insecure_ring)
