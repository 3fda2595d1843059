"""Which plan an encrypted job takes."""

from __future__ import annotations

from .job import Job
from .mlp_plan import MLPPlan, make_mlp_plan, trained_layers
from .plan import Plan, make_plan
from .step import weight_slots

TrainingPlan = Plan | MLPPlan


def plan_of(job: Job) -> TrainingPlan:
    """How the job is trained under encryption; TrainingError when that is not possible."""
    o = job.options
    last = job.loss.attachment(job.network, job.network.outputs[0])
    slots = {slot.name: slot for slot in weight_slots(job.network, last, o.frozen)}
    make = make_plan if len(trained_layers(job.network, slots)) == 1 else make_mlp_plan
    return make(job.network, job.loss, o.optimizer, job.batches.batch, o.reach, o.frozen, o.insecure_ring)
