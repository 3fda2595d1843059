"""Frozen layers that are the server's: an offer to train what comes behind them, and a client that accepts it.

Whoever has the model (the server) plans the training on public samples of its own and writes two files: the offer, with
the network's structure, the weights that training starts from and the ranges, but without the weights of the frozen
layers; and these, for the server's folder. The client makes the same plan of the offer, keys, and encrypted batches of
its samples as they are; where the frozen weights belong, it encrypts zeros, to which the server adds them
(``training_kept``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import ArtifactError, DataError, GlyphcError, ParameterError
from glyphc.ir.errors import IRError
from glyphc.ir.graph import Graph
from glyphc.ir.instructions.text import CKKS
from glyphc.ir.text import parse, to_text
from glyphc.ir.verify import verify
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import TrainingBackboneHeader, TrainingOfferHeader
from glyphc.train.batches import Batches
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job, Keeper, job_of, samples_of
from glyphc.train.losses import LOSSES, MeanSquaredError
from glyphc.train.plan import Plan
from glyphc.train.step import with_weights

from .code_parts import encoded, sha256
from .training_client import RECORD_JSON, JobRecord, job_of_record, program_of
from .training_files import TrainingProgram, part_name
from .training_kept import REQUESTS, requests_part

F64 = npt.NDArray[np.floating[Any]]

_NETWORK, _JOB = "network", "job"


@dataclass(frozen=True)
class Offered:
    """layers: frozen ones that the server keeps, by the names of their weights; values: how many weights these have."""

    layers: tuple[str, ...]
    values: int


def write_offer(job: Job, plan: Plan, offer: Path, backbone: Path) -> Offered:
    """The server's part. job: of samples that a client has, with frozen layers on the server.

    TrainingError where no layer is frozen before those that are trained.
    """
    assert job.options.keep_on is Keeper.SERVER
    program, kept = program_of(job, plan), kept_weights(plan)
    if not kept:
        raise TrainingError("no layer is frozen before those that are trained, so the server has none to keep")
    record = JobRecord(
        replace(job.options, clip=job.radius),
        job.loss.name,
        job.batches.samples,
        job.batches.batch,
        plan.ranges,
        float(np.abs(job.rehearsal.y).max(initial=0)),
    )
    write_backbone(backbone, job, plan, program)
    try:
        with Writer(offer, TrainingOfferHeader(program.fingerprint)) as writer:
            # of no use to anybody: what clients encrypt in their places is zero
            hidden = with_weights(job.network, {name: np.ones(shape) for name, shape in kept.items()})
            writer.add(_NETWORK, to_text(hidden).encode())
            writer.add(_JOB, RECORD_JSON.text(record, JobRecord).encode())
    except BaseException:
        backbone.unlink()
        raise
    return Offered(tuple(kept), sum(int(np.prod(shape)) for shape in kept.values()))


def write_backbone(path: Path, job: Job, plan: Plan, program: TrainingProgram) -> None:
    """The weights of the layers that the server keeps, of a job that has them, and what requests may ask for."""
    passes = (plan.server.inference(step) for step in range(program.outline.steps + 1))
    codes = [sha256(encoded(code, CKKS)) for code in passes]
    messages = plan.state(job.program.initial())
    with Writer(path, TrainingBackboneHeader(program.fingerprint), secret=True) as writer:
        for at, name in enumerate(plan.server.kept_names):
            writer.add(part_name(at), np.asarray(messages[name][0], dtype="<f8").tobytes())
        writer.add(REQUESTS, requests_part(codes))


def kept_weights(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Constants of the layers before the first trained one, with their shapes."""
    kept = (s for s in plan.stages if s.errors is None)
    return {slot.name: slot.shape for stage in kept for slot in (stage.weight, stage.bias)}


def accepted(path: Path, x: npt.ArrayLike, labels: npt.ArrayLike, insecure: bool = False) -> tuple[Job, str]:
    """A client's job on an offer: its samples, as many as the offer is for, and their labels; and the fingerprint of
    the program that the offer is of.

    ArtifactError for a damaged file, DataError for samples or labels that do not fit, ParameterError for a ring that
    protects nothing, unless insecure.
    """
    with Reader(path, TrainingOfferHeader) as reader:
        reader.verify()
        try:
            network: Graph = parse(reader.read(_NETWORK).decode())
            verify(network)
            record: JobRecord = RECORD_JSON.read(reader.read(_JOB).decode(), JobRecord)
            job_of_record(network, record)
        except (IRError, UnicodeDecodeError, ValueError, KeyError, GlyphcError) as e:
            raise e if isinstance(e, ArtifactError) else reader.damaged(f"it is unreadable ({e})") from None
        program = reader.header.program
    if record.options.insecure_ring is not None and not insecure:
        raise ParameterError(
            f"the offer's ring of {record.options.insecure_ring} protects nothing: it is for tests only. If a test is "
            "what you want, say so with --insecure"
        )
    samples, loss = samples_of(network, x), LOSSES[record.loss]
    y = loss.targets(labels, loss.attachment(network, network.outputs[0]).type.size)
    if not len(samples) == len(y) == record.samples:
        raise DataError(f"the offer is for {record.samples} samples; given are {len(samples)}, and {len(y)} labels")
    # ranges hold for targets of the trial's magnitudes; those of classes have no others
    if isinstance(loss, MeanSquaredError) and not (largest := float(np.abs(y).max())) <= record.target:
        raise DataError(
            f"a label has a magnitude of {largest:.6g}, and the offer is for labels of up to {record.target:.6g}; "
            "scale them as the offer's server does, or ask for an offer with --trial-labels like yours"
        )
    batches = Batches(record.samples, record.batch, record.options.seed, shuffle=record.options.shuffle)
    return job_of(network, loss, record.options, batches, samples, y, record.ranges), program
