"""The key holder watches a run of the server's: one encrypted number of each step, which shows whether it diverges."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path

from glyphc.backends.errors import BackendError
from glyphc.errors import ArtifactError, DataError, EnvironmentSetupError
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingStatisticHeader
from glyphc.train.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy

from .client import SECRET_FILE
from .training_client import JOB_FILE, TrainingClientFiles, stored_secret
from .training_files import check_run, is_abandoned, part_name, statistic_path

# Of a norm at its bound, for the errors of series and noise.
_NOISE = 1.05


@dataclass(frozen=True)
class Watched:
    """Of the batch of step 1, 2, ..., before that step: the root mean square, over its samples, of the norm of the
    loss' gradient by the network's outputs (before a sigmoid or a softmax). bound: what it cannot exceed while ranges
    hold; None where the loss has no bound."""

    step: int
    norm: float
    bound: float | None

    @property
    def possible(self) -> bool:
        """False where values have left what bootstraps compute: training has diverged, whatever the number is."""
        return isfinite(self.norm) and (self.bound is None or self.norm <= _NOISE * self.bound)


def watch(client: Path, folder: Path, passphrase: str | None = None) -> tuple[Watched, ...]:
    """Decrypt what is there of a run, in the order of its steps. folder: "monitor" in the server's, or a copy; what an
    earlier program left there of steps that the run does anew counts as not there.

    DataError where the run gives nothing to watch, or nothing is there yet; ArtifactError for files that are damaged or
    of another run, SecretError for a wrong passphrase.
    """
    files = TrainingClientFiles.load(client / JOB_FILE)
    outline = files.program.outline
    if not outline.statistic:
        raise DataError(
            f"the run of {os.fspath(client)!r} gives nothing to watch; prepare one with --monitor, or ask for "
            "predictions on labelled samples ('glyphc training request')"
        )
    steps = [step for step in range(1, outline.steps + 1) if _is_there(statistic_path(folder, step), files)]
    if not steps:
        raise DataError(
            f"there is no statistic in {os.fspath(folder)!r}; the server writes one after each step, into the folder "
            "'monitor' of its own"
        )
    secret = stored_secret(client / SECRET_FILE, files, passphrase)
    try:
        return tuple(_decrypted(statistic_path(folder, step), step, files, secret) for step in steps)
    except BackendError as e:
        raise EnvironmentSetupError(str(e)) from None


def _is_there(path: Path, files: TrainingClientFiles) -> bool:
    if not path.is_file():
        return False
    with Reader(path, TrainingStatisticHeader) as reader:
        return not is_abandoned(reader, files.program)


def _decrypted(path: Path, step: int, files: TrainingClientFiles, secret: bytes) -> Watched:
    from glyphc.backends.openfhe.residues import ResidueError
    from glyphc.backends.openfhe.training_fresh import stored_client
    from glyphc.backends.openfhe.training_wire import TrainingWire

    parameters, limbs = files.plan.parameters, files.program.outline.statistic
    with Reader(path, TrainingStatisticHeader) as reader:
        check_run(reader, files.program, files.key)
        if reader.header.step != step:
            raise ArtifactError(f"{reader.name} is of step {reader.header.step}, not {step}")
        client = stored_client(parameters, secret)
        wire = TrainingWire.like(parameters.ring, {limbs: client.zero(limbs)})
        reader.expect([(part_name(0), wire.state_size(limbs))])
        reader.verify()
        try:
            message = client.decrypt(wire.read(reader.read(part_name(0)), limbs))
        except ResidueError as e:
            raise reader.damaged(str(e)) from None
    plan = files.plan
    return Watched(step, plan.gradient_norm(message), _bound(plan.program.loss, plan.server.head.units.count))


def _bound(loss: Loss, outputs: int) -> float | None:
    """Of the norm of a sample's gradient: differences of probabilities are at most 1."""
    if isinstance(loss, BinaryCrossEntropy):
        return sqrt(outputs)
    return sqrt(2.0) if isinstance(loss, SoftmaxCrossEntropy) else None
