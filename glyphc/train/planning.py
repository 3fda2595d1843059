"""The plan of an encrypted job, and where its ranges come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from glyphc.ir.ops import Input

from .bounds import Known, bounded_ranges
from .errors import TrainingError
from .foresee import foresee, trial_ranges
from .job import Job, Keeper, RangeSource
from .losses import SoftmaxCrossEntropy
from .plan import Plan, plan_step
from .ranges import Ranges
from .stages import Stage, find_stages


def plan_of(job: Job) -> Plan:
    """How the job is trained under encryption; TrainingError when that is not possible.

    Without a given range, what ``job.options.source`` says finds what every bootstrap has to compute.
    """
    stages = find_stages(job.program)
    first = stages[0].values
    read = first if stages[0].patches is None else job.program.graph.operands(first)[0]
    if not isinstance(read.op, Input) and job.options.keep_on is Keeper.SERVER:
        raise TrainingError(
            f"the server cannot keep what lies before {read}: it computes dense layers with one activation between two "
            "of them, and a convolution that reads the samples; let the client keep the others (--keep-on client)"
        )
    if not isinstance(read.op, Input) or (stages[0].errors is None and job.options.keep_on is Keeper.CLIENT):
        raise TrainingError(f"what lies before {stages[0].values} cannot be computed apart; use --mode clear")
    ranges = job.ranges or job.options.reach
    if ranges is None:
        ranges = found_ranges(job, stages).with_margin(job.margin)
    optimizer = job.options.optimizer
    program, ring = replace(job.program, optimizer=optimizer.first), job.options.insecure_ring
    plan = plan_step(program, ranges, ring, watched=job.options.monitor)
    if optimizer != optimizer.first:  # a run that goes on has the layouts and units that it was begun with
        plan = plan.going_on(optimizer)
    _check_frames(plan, job.options.steps)
    return plan


def _check_frames(plan: Plan, steps: int) -> None:
    """TrainingError where momentum or weight decay cannot be kept for all steps: not only when they are done."""
    frames = {frame for layer in plan.server.layers for frame in (layer.trained.weight, layer.trained.bias)}
    for frame in frames:
        for step in range(steps):
            frame.push(step)


def found_ranges(job: Job, stages: tuple[Stage, ...]) -> Ranges:
    """What was seen or follows, without a margin. Only a trial runs anything in the clear, and on what it may."""
    if job.options.source is RangeSource.BOUNDS:
        if stages[0].patches is not None or stages[0].errors is None:
            raise TrainingError(
                "no bounds follow for a convolution that is trained, nor with frozen layers on the server; use ranges "
                "from a trial or from public samples (--trial-data)"
            )
        known = Known(job.widest, float(np.abs(job.y).max(initial=0)))
        start = job.program.initial()
        return bounded_ranges(job.loss, job.options.optimizer, stages, start, job.options.steps, known)
    return trial_ranges(job.rehearsal, stages)


def checked(job: Job, plan: Plan) -> float | None:
    """How much of the plan's ranges a run is going to use, as a share, found out beforehand; None where nothing is run.

    TrainingError when it would leave them, or diverge.
    """
    if job.options.source is not RangeSource.BOUNDS:
        return foresee(job, plan).reach
    softmax = isinstance(job.loss, SoftmaxCrossEntropy)
    if job.ranges is not None and not plan.ranges.holds(found_ranges(job, plan.stages), softmax):
        raise TrainingError(
            "so many steps could leave the ranges that this run was begun with; use as many as then, or start anew"
        )
    return None


def source_text(job: Job) -> str:
    """Where the ranges of a job's plan come from, for people."""
    if job.options.reach is not None:
        return "given"
    if job.options.keep_on is Keeper.SERVER and job.ranges is not None:
        return "a trial run of the server's on samples of its own"
    wider = f"and {job.margin - 1:.0%} more ({np.log2(job.margin):.1f} bits)"
    if job.options.source is RangeSource.BOUNDS:
        norm = f"{job.widest:.3g}"
        return f"what network and optimizer can reach on samples of norm {norm}, {wider}; nothing was run in the clear"
    if job.trial is not None:
        return f"a trial run in the clear on {len(job.trial.x)} other samples, {wider}"
    return f"a trial run in the clear, {wider}"
