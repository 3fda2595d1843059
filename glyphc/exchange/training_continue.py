"""A run that goes on: more steps for a state that stays encrypted, with another learning rate or more data.

The server keeps its keys, its batches and its state. It gets a longer program, whose first steps are those that it has
done, and new batches if there are any. Ranges are those that the run was begun with, since the state is scaled by them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.backends.errors import BackendError
from glyphc.errors import ArtifactError, DataError, EnvironmentSetupError
from glyphc.files import make_folder
from glyphc.ir.instructions.ckks import MOST_STEPS
from glyphc.progress import Reporter, Silent
from glyphc.train.batches import Batches, Turn
from glyphc.train.bounds import Known, bounded_ranges
from glyphc.train.errors import TrainingError
from glyphc.train.foresee import foresee
from glyphc.train.job import Job, RangeSource, clipped, job_of, norms, samples_of
from glyphc.train.losses import MeanSquaredError, SoftmaxCrossEntropy
from glyphc.train.optimizers import Constant, Schedule
from glyphc.train.plan import Plan
from glyphc.train.planning import plan_of
from glyphc.train.predict import memory_bytes
from glyphc.train.step import State

from .client import SECRET_FILE
from .secret import check_apart
from .training_client import (
    JOB_FILE,
    JobRecord,
    TrainingClientFiles,
    decrypted_state,
    job_of_record,
    original_model,
    program_of,
    removed_after_errors,
    stored_secret,
    write_batch,
    write_job,
)
from .training_files import BATCHES, PROGRAM, Earlier, TrainingProgram

F64 = npt.NDArray[np.floating[Any]]
# Samples and their labels.
Labelled = tuple[npt.ArrayLike, npt.ArrayLike]


@dataclass(frozen=True)
class Continuation:
    """What a user decides. steps: more of them; after: so many of the run, None for all that it has.

    rate: of learning, None for that of the last step before; schedule: counts from here, None for a constant rate.
    replay: the earlier batches come again beside the new ones. seed: of the order of new samples.
    """

    steps: int
    rate: float | None = None
    schedule: Schedule | None = None
    after: int | None = None
    replay: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Longer:
    """A run that goes on, before anything of it is written. numbers: of the new batches; tried: what is known of the
    ranges, for people; engine: that the keys are for; reach: how much of the ranges is going to be used, as a share,
    where that was tried."""

    job: Job
    plan: Plan
    program: TrainingProgram
    steps: int
    numbers: range
    tried: str
    engine: str
    reach: float | None = None


@dataclass(frozen=True)
class Continued:
    """What was written. steps: of the whole run; batches: new ones; clipped: new samples that were scaled down, as in
    training; size: bytes of the server's update."""

    steps: int
    batches: int
    clipped: int
    size: int


def go_on(
    client: Path,
    update: Path,
    how: Continuation,
    data: Labelled | None = None,
    trial: Labelled | None = None,
    state: Path | None = None,
    passphrase: str | None = None,
    reporter: Reporter | None = None,
    planned: Callable[[Longer], None] = lambda longer: None,
) -> Continued:
    """Write what the server needs to go on into a new folder, whose files belong into the server's; the client's job
    becomes that of the longer run. An interruption leaves the client's folder as it was.

    data: to train on from here, None for the batches that the server has. Whether the ranges hold is found out by a run
    in the clear on ``trial`` or else ``data``, for a run with ranges from bounds by these unless there is a trial. It
    begins at ``state``, the server's file, which is decrypted for it; or else it is the whole run from its start.

    TrainingError where ranges would be left, or nothing is there to try; DataError for samples that do not fit;
    ArtifactError for a folder that exists, or files of another run; SecretError for a wrong passphrase.
    """
    check_apart(client, update)
    reporter = reporter or Silent()
    files = TrainingClientFiles.load(client / JOB_FILE)
    if files.program.outline.kept:
        raise TrainingError(
            "a run with frozen layers on the server does not go on: only the server could find out whether its ranges "
            "hold, and 'offer' has no form for that yet; ask for an offer of more steps"
        )
    after = files.program.outline.steps if how.after is None else how.after
    new = None if data is None else _New.of(files, data, how.seed)
    start = None
    if state is not None:
        start = files.plan.state_at(decrypted_state(client, files, state, after, passphrase), after)
    record = _record(files, how, after, new)
    longer = _longer(files, record, how.steps, trial or data if _tries(files, trial) else None, start)
    planned(longer)
    if update.exists():
        raise ArtifactError(f"{os.fspath(update)!r} exists already; use a new folder, or remove it yourself")
    model = original_model(client)
    with removed_after_errors([update / PROGRAM, update / BATCHES]):
        make_folder(update, 0o777)
        if new is not None and longer.numbers:
            _write_batches(client, update, files, longer, new, passphrase, reporter)
        # a folder that is not complete has no program
        longer.program.save(update / PROGRAM, int(memory_bytes(longer.plan, record.engine)))
        write_job(client / JOB_FILE, longer.program, files.key, files.job.network, record, model)
    size = sum(p.stat().st_size for p in update.rglob("*") if p.is_file())
    return Continued(longer.program.outline.steps, len(longer.numbers), 0 if new is None else new.clipped, size)


@dataclass(frozen=True, eq=False)
class _New:
    """New samples: what the trained part reads of them, and targets; batches: their order."""

    features: F64
    targets: F64
    batches: Batches
    clipped: int

    @staticmethod
    def of(files: TrainingClientFiles, data: Labelled, seed: int) -> _New:
        job, size = files.job, files.record.batch
        x, y = _read(job, data)
        largest = float(np.abs(y).max())
        if isinstance(job.loss, MeanSquaredError) and _bounded(files) and largest > files.record.target:
            raise DataError(
                f"a target of {largest:g} is beyond {files.record.target:g}, which the ranges are bounds for"
            )
        whole = job.split.features(x)
        radius = job.options.clip
        moved = 0 if radius is None else int((norms(whole) > radius).sum())
        return _New(clipped(whole, radius), y, Batches(len(x), min(size, len(x)), seed), moved)

    def batch(self, number: int, size: int) -> tuple[F64, F64]:
        """Filled up with its own samples where there are too few."""
        rows = np.resize(self.batches.rows(number), size)
        return self.features[rows], self.targets[rows]


def _read(job: Job, data: Labelled) -> tuple[F64, F64]:
    x = samples_of(job.network, data[0])
    y = job.loss.targets(data[1], job.loss.attachment(job.network, job.network.outputs[0]).type.size)
    if len(y) != len(x):
        raise DataError(f"{len(x)} samples, but {len(y)} labels")
    return x, y


def _bounded(files: TrainingClientFiles) -> bool:
    return files.job.options.source is RangeSource.BOUNDS


def _tries(files: TrainingClientFiles, trial: Labelled | None) -> bool:
    """Whether anything is run in the clear."""
    return trial is not None or not _bounded(files)


def _record(files: TrainingClientFiles, how: Continuation, after: int, new: _New | None) -> JobRecord:
    """What the client keeps of the longer run."""
    run, old = files.program.outline, files.record
    if not 1 <= after <= run.steps:
        raise TrainingError(f"the run has {run.steps} steps, so it cannot go on after {after}")
    if not 1 <= how.steps <= MOST_STEPS - after:
        raise TrainingError(f"a run goes on for 1 to {MOST_STEPS - after} more steps, not {how.steps}")
    if how.replay and new is None:
        raise TrainingError("without new data, the earlier batches come again in any case")
    optimizer, turns = old.options.optimizer, tuple(turn for turn in old.turns if turn.step < after)
    before = Batches(old.samples, old.batch, old.options.seed, turns, old.options.shuffle)
    if new is not None:
        first, count = run.batches, new.batches.per_epoch
        turns += (Turn(after, 0, first + count, first) if how.replay else Turn(after, first, count, first),)
    elif any(before.number(step) >= run.batches for step in range(after, after + how.steps)):
        turns += (Turn(after, 0, run.batches, 0),)  # of an epoch that was not encrypted to its end
    rate = optimizer.rate(after - 1) if how.rate is None else how.rate
    optimizer = optimizer.followed(after, rate, how.schedule or Constant())
    options = replace(old.options, optimizer=optimizer, steps=after + how.steps)
    shared = tuple(replace(e, steps=min(e.steps, after)) for e in old.earlier)
    return replace(
        old, options=options, turns=turns, earlier=(*shared, Earlier(files.program.fingerprint, after, run.batches))
    )


def _longer(
    files: TrainingClientFiles, record: JobRecord, steps: int, trial: Labelled | None, start: State | None
) -> Longer:
    """The longer run; TrainingError unless its ranges hold."""
    job = job_of_record(files.job.network, record)
    plan = plan_of(job)
    program, run = program_of(job, plan, record.earlier), files.program.outline
    assert (program.outline.state, program.outline.data) == (run.state, run.data)
    assert program.parameters == files.program.parameters
    numbers = range(run.batches, program.outline.batches)
    began = "from its start" if start is None else f"from its state after {start.step} steps"
    if trial is None and job.options.source is not RangeSource.BOUNDS:
        raise TrainingError(
            "the ranges of this run come from a trial, and there is nothing to try the steps to come on: give samples "
            "for it (--trial-data), best with the state (--state)"
        )
    if trial is None:
        _check_bounds(job, plan, record, start)
        return Longer(job, plan, program, steps, numbers, f"bounds of the run {began} hold", record.engine)
    x, y = _read(job, trial)
    batches = Batches(len(x), min(record.batch, len(x)), record.options.seed, shuffle=record.options.shuffle)
    options = replace(record.options, source=RangeSource.TRIAL)
    reach = foresee(job_of(job.network, job.loss, options, batches, x, y, plan.ranges), plan, start).reach
    tried = f"a run in the clear on {len(x)} samples, {began}"
    return Longer(job, plan, program, steps, numbers, tried, record.engine, reach)


def _check_bounds(job: Job, plan: Plan, record: JobRecord, start: State | None) -> None:
    known = Known(job.widest, record.target)
    options = job.options
    found = bounded_ranges(
        job.loss, options.optimizer, plan.stages, start or job.program.initial(), options.steps, known
    )
    if not plan.ranges.holds(found, isinstance(job.loss, SoftmaxCrossEntropy)):
        raise TrainingError(
            f"so many steps could leave the ranges that this run was begun with: they could reach {found}, and hold "
            f"{plan.ranges}. Use fewer steps or a smaller learning rate, or let the state say how large its weights "
            "are (--state); runs that are to go on are begun with a larger --margin"
        )


def _write_batches(
    client: Path,
    update: Path,
    files: TrainingClientFiles,
    longer: Longer,
    new: _New,
    passphrase: str | None,
    reporter: Reporter,
) -> None:
    secret = stored_secret(client / SECRET_FILE, files, passphrase)
    try:
        from glyphc.backends.openfhe.training_fresh import FreshCiphertexts, stored_client

        fresh = FreshCiphertexts(stored_client(files.plan.parameters, secret), files.plan.parameters.ring)
    except BackendError as e:
        raise EnvironmentSetupError(str(e)) from None
    (update / BATCHES).mkdir()
    reporter.stage("encrypt", len(longer.numbers))
    for at, number in enumerate(longer.numbers):
        x, y = new.batch(at, files.record.batch)
        write_batch(update, number, longer.plan, longer.program, files.key, fresh, x, y)
        reporter.advance(1, f"batch {at + 1} of {len(longer.numbers)}")
