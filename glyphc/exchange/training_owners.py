"""Owners of data: they encrypt batches under a key holder's public key, from a specification without secret and model.

Neither owners nor the server can read what an owner encrypts; the key holder could, if it got the batches.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glyphc.backends.errors import BackendError
from glyphc.errors import ArtifactError, DataError, EnvironmentSetupError
from glyphc.files import make_folder
from glyphc.ir.errors import IRError
from glyphc.ir.parameters import Parameters
from glyphc.ir.text import record_text
from glyphc.ir.typed_json import TypedJSON
from glyphc.progress import Reporter, Silent
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import OwnerSpecHeader, TrainingBatchHeader
from glyphc.train.batches import Batches
from glyphc.train.job import clipped, norms
from glyphc.train.losses import LOSSES

from .artifacts import read_parameters, read_seed
from .client import require_secure
from .placement import Placement, placements, sources_of
from .training_files import TrainingProgram, check_parameters, part_name

if TYPE_CHECKING:
    from glyphc.train.plan import Plan

F64 = npt.NDArray[np.floating[Any]]

_JSON = TypedJSON()
_PUBLIC, _OWNERS = "public-key", "owners"
_MOST_SAMPLES = 1 << 24


@dataclass(frozen=True)
class OwnerSpec:
    """batch: samples of each; batches: of the whole run. features, outputs: of a sample, and of its labels. loss: what
    labels are for; clip: norm that samples are scaled down to, which all owners know. data: names and limbs."""

    batch: int
    batches: int
    features: int
    outputs: int
    loss: str
    clip: float
    data: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Contribution:
    """numbers: of the batches that were encrypted; clipped: samples that were scaled down; size: bytes written."""

    numbers: range
    samples: int
    clipped: int
    size: int


def write_spec(
    path: Path, plan: Plan, program: TrainingProgram, key: str, clip: float, public: bytes, seed: bytes
) -> None:
    """The key holder's part. public, seed: the two halves of the public key, see ``training_public``."""
    outline, step = program.outline, plan.program
    targets = plan.server.head.units.count
    features = plan.stages[0].weight.shape[1]
    places = placements(
        lambda x, y: {name: message for name, (message, _) in plan.data(x, y).items()}, step.batch, features, targets
    )
    spec = OwnerSpec(step.batch, outline.batches, features, targets, step.loss.name, clip, outline.data)
    with Writer(path, OwnerSpecHeader(program.fingerprint, key, record_text(plan.parameters), seed.hex())) as writer:
        writer.add(_OWNERS, _JSON.text(spec, OwnerSpec).encode())
        writer.add(_PUBLIC, public)
        for at, (name, _) in enumerate(outline.data):
            writer.add(part_name(at), places[name].to_bytes())


def contribute(
    spec: Path,
    x: npt.ArrayLike,
    labels: npt.ArrayLike,
    output: Path,
    first: int = 0,
    seed: int = 0,
    reporter: Reporter | None = None,
    insecure: bool = False,
) -> Contribution:
    """Encrypt samples as the batches ``first``, ... into a new folder, for the server's folder of batches.

    The last batch is filled up with the first samples. DataError for data that do not fit the specification, or more
    batches than it has; ArtifactError for a damaged specification or a folder that exists; ParameterError for
    parameters that do not give 128-bit security, unless insecure. seed: of the order.
    """
    reporter = reporter or Silent()
    if output.exists():
        raise ArtifactError(f"{os.fspath(output)!r} exists already; use a new folder, or remove it yourself")
    with Reader(spec, OwnerSpecHeader) as reader:
        reader.verify()
        parameters, known, places = _read(reader)
        if not insecure:
            require_secure(parameters)
        samples, targets = _data(known, x, labels)
        batches = Batches(len(samples), min(known.batch, len(samples)), seed)
        numbers = range(first, first + -(-len(samples) // known.batch))
        if first < 0 or numbers.stop > known.batches:
            raise DataError(
                f"{len(samples)} samples are batches {first} to {numbers.stop - 1} of {known.batch}; the run has "
                f"batches 0 to {known.batches - 1}"
            )
        within = clipped(samples, known.clip)
        try:
            from glyphc.backends.openfhe.residues import ResidueError
            from glyphc.backends.openfhe.training_public import PublicEncryptor

            encryptor = PublicEncryptor(parameters, reader.read(_PUBLIC), read_seed(reader.header.seed, reader))
        except BackendError as e:
            raise EnvironmentSetupError(str(e)) from None
        except ResidueError as e:
            raise reader.damaged(str(e)) from None
        make_folder(output, 0o777)
        reporter.stage("encrypt", len(numbers))
        for at, number in enumerate(numbers):
            rows = np.resize(batches.rows(at % batches.per_epoch), known.batch)
            sources = sources_of(within[rows], targets[rows])
            header = TrainingBatchHeader(reader.header.program, reader.header.key, number, "")
            with Writer(output / f"{number:06d}.batch", header) as writer:
                for part, ((name, limbs), place) in enumerate(zip(known.data, places, strict=True)):
                    try:
                        writer.add(
                            part_name(part),
                            encryptor.write(
                                np.asarray(place.message(parameters.ring, sources), dtype=np.float64), limbs
                            ),
                        )
                    except ValueError as e:
                        raise DataError(f"{name}: {e}, so it cannot be encrypted; scale the samples") from None
            reporter.advance(1, f"batch {number}")
    size = sum(p.stat().st_size for p in output.iterdir())
    return Contribution(numbers, len(samples), int((norms(samples) > known.clip).sum()), size)


def spec_parameters(spec: Path) -> Parameters:
    """The parameters of a specification, of which nothing else is read."""
    with Reader(spec, OwnerSpecHeader) as reader:
        return read_parameters(reader.header.parameters, reader)


def spec_digest(spec: Path) -> str:
    """What owners compare with the key holder: nothing else shows that the public key in the file is the holder's."""
    with Reader(spec, OwnerSpecHeader) as reader:
        return reader.digest


def _read(reader: Reader[OwnerSpecHeader]) -> tuple[Parameters, OwnerSpec, list[Placement]]:
    parameters = read_parameters(reader.header.parameters, reader)
    try:
        check_parameters(parameters)
        spec: OwnerSpec = _JSON.read(reader.read(_OWNERS).decode(errors="replace"), OwnerSpec)
        sizes = (spec.batch, spec.batches, spec.features, spec.outputs)
        if any(not 1 <= n <= _MOST_SAMPLES for n in sizes) or spec.loss not in LOSSES or not spec.clip > 0:
            raise IRError("its sizes, its loss or its norm are out of range")
        if any(not 1 <= limbs <= parameters.linear_limbs for _, limbs in spec.data):
            raise IRError("a ciphertext has no limbs, or too many")
        count = spec.batch * (spec.features + spec.outputs) + 1
        parts = [reader.read(part_name(at)) for at in range(len(spec.data))]
        return parameters, spec, [Placement.from_bytes(data, parameters.ring, count) for data in parts]
    except (IRError, ValueError) as e:
        raise reader.damaged(f"what it says is unreadable ({e})") from None


def _data(spec: OwnerSpec, x: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[F64, F64]:
    samples = np.asarray(x)
    if samples.dtype.kind not in "fiub" or samples.reshape(len(samples), -1).shape[1:] != (spec.features,):
        raise DataError(f"samples are numbers of shape (samples, {spec.features}), not {list(samples.shape)}")
    if not len(samples) or not np.isfinite(samples).all():
        raise DataError("there are no samples, or they have NaN or infinity; repair them")
    targets = LOSSES[spec.loss].targets(labels, spec.outputs)
    if len(targets) != len(samples):
        raise DataError(f"{len(samples)} samples, but {len(targets)} labels")
    return samples.reshape(len(samples), -1).astype(np.float64), targets
