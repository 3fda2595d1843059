"""Training and serving without decryption in simulation: what predictions are going to be, before any key is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.backends.base import execute_named
from glyphc.ir.instructions.ckks import LOGITS

from .inference import Inference, outputs
from .job import Job, clipped, samples_of
from .plan import Plan
from .planning import plan_of
from .simulated import Simulated
from .step import State
from .units import HALF_RANGE

F64 = npt.NDArray[np.floating[Any]]

# Of what its noise is drawn from, beside what training encrypts and computes.
_REQUESTS = 2
# Phases wrap beyond half the torus.
_WRAPS = 0.5 / HALF_RANGE


@dataclass(frozen=True, eq=False)
class Served:
    """outputs: of the network, (samples, outputs), as the key holder would decrypt them.

    beyond: how many samples have a value that the run's ranges do not hold, by what it is of: sums that a bootstrap
    reads beyond their range give garbage, logits wrap beyond 1.25 times theirs.
    """

    outputs: F64
    beyond: dict[str, int]


def served(job: Job, x: npt.ArrayLike, plan: Plan | None = None) -> Served:
    """Train in simulation, then predict samples with the state that comes out of it, as a server would.

    plan: of the job, where it is known already. DataError for samples that do not fit, and errors of ``plan_of``.
    """
    plan = plan or plan_of(job)
    steps, runner = job.options.steps, Simulated(job, plan)
    runner.start(None, 0)
    runner.run(range(steps), lambda count: None)
    features = clipped(job.split.features(samples_of(job.network, x)), job.radius)
    inference = Inference(plan, steps)
    limbs, logits = dict(inference.data), []
    for number, messages in enumerate(inference.messages(features)):
        machine = runner.machine(number, _REQUESTS)
        request = {name: machine.encrypt(message, limbs[name]) for name, message in messages.items()}
        answer = execute_named(inference.code, machine, runner.state | request)[LOGITS]
        logits.append(inference.logits(machine.decrypt(answer)))
    found = outputs(job.network, job.loss, np.concatenate(logits)[: len(features)])
    return Served(found, beyond(job, plan, runner.weights(steps), features))


def beyond(job: Job, plan: Plan, weights: dict[str, F64], features: F64) -> dict[str, int]:
    """Samples with a value beyond its range, of what the trained part reads; all of it in the clear."""
    program, batch, last = plan.program, plan.program.batch, len(plan.stages) - 1
    state = State(job.options.steps, program.initial().weights | weights, program.initial().velocity)
    limits = {
        name: (stage, reach * (_WRAPS if at == last else 1.0))
        for at, (stage, (name, reach)) in enumerate(zip(plan.stages, plan.ranges.named(False).items(), strict=False))
    }
    counts = dict.fromkeys(limits, 0)
    for at in range(0, len(features), batch):
        part = features[at : at + batch]
        filled = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]))])
        values = program.values(state, job.named(filled), np.zeros((batch, plan.server.head.units.count)))
        for name, (stage, limit) in limits.items():
            found = stage.by_sample(values[stage.sums.id])[: len(part)]
            counts[name] += int((np.abs(found).max(axis=1) > limit).sum())
    return counts
