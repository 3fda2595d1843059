"""Polynomials in place of the functions between trained layers, before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.graph import Rewriter
from glyphc.ir.ops import Apply, Dense
from glyphc.substitution import replacing
from glyphc.train.job import Job, job_of
from glyphc.train.stages import find_stages
from glyphc.ways.strategies import Replacement

from .trial import in_the_clear

F64 = npt.NDArray[np.floating[Any]]


def with_polynomials(job: Job, degree: int) -> Job:
    """The same job on the network with polynomials of a degree between trained layers.

    They are fitted to what a run in the clear sees: that of the job with its functions as they are. What ends the
    network stays. TrainingError where that run diverges, or the network is no chain of layers.
    """
    rehearsal = job.rehearsal
    stages = find_stages(rehearsal.program)
    if len(stages) < 2:
        return job
    seen: list[list[F64]] = [[] for _ in stages[1:]]
    for _, values in in_the_clear(rehearsal):
        for found, stage in zip(seen, stages, strict=False):
            z = values[stage.sums.id]
            found.append(np.array([z.min(), z.max()]))
    arguments = {stage.weight.name: np.concatenate(found) for stage, found in zip(stages, seen, strict=False)}
    old = job.network
    rewriter = Rewriter(old)
    for node in old:
        before = old.operands(node)[0] if node.operands else None
        read = before.op.constant_names() if before is not None and isinstance(before.op, Dense) else ()
        weight = next((name for name in read if name in arguments), None)
        if weight is None or not isinstance(node.op, Apply):
            rewriter.keep(node)
            continue
        function = replacing(node, node.op, Replacement.POLYNOMIAL, degree, arguments[weight])
        new = rewriter.new.add(Apply((function,)), rewriter.operands(node), node.type, node.location)
        rewriter.replace(node, new)
    options = replace(job.options, initial="model")
    return job_of(rewriter.new, job.loss, options, job.batches, job.x, job.y, job.ranges, job.trial)
