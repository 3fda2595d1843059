"""The encrypted run: the client encrypts batches and initial weights once, the server does the steps."""

from __future__ import annotations

import shutil
import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from glyphc.analysis import cost_file
from glyphc.backends.step_loop import train_steps
from glyphc.errors import EnvironmentSetupError, ParameterError
from glyphc.files import write_atomically
from glyphc.program import INSECURE_WARNING, InsecureWarning
from glyphc.progress import Reporter

from . import predict
from .checkpoint import Checkpoint, RunFolder, pack, unpack
from .errors import TrainingError
from .job import Job
from .plan import Plan
from .predict import batch_bytes, different_batches, disk_bytes, require_memory

F64 = npt.NDArray[np.floating[Any]]
_SECRET = "secret-key.bin"


class Encrypted:
    """Keys, encrypted batches and the encrypted state of a run; see ``loop.Runner``."""

    def __init__(
        self, job: Job, plan: Plan, folder: RunFolder | None, reporter: Reporter, memory: float | None = None
    ) -> None:
        from glyphc.backends.errors import BackendError

        try:
            import glyphc.backends.openfhe.ckks_client  # noqa: F401
        except BackendError as e:
            raise EnvironmentSetupError(str(e)) from None
        if not plan.parameters.secure:
            warnings.warn(INSECURE_WARNING, InsecureWarning, stacklevel=5)
        self.security = plan.parameters.security
        self._job = job
        self._plan = plan
        self._folder = folder
        self._reporter = reporter
        self._client: Any = None
        self._machine: Any = None
        self._batches: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._state: dict[str, Any] = {}
        self._tables = ExitStack()
        check_memory(plan, memory)
        if folder is not None:
            check_disk(plan, folder, different_batches(job.batches, job.options.steps))

    def start(self, checkpoint: Checkpoint | None) -> None:
        from glyphc.backends.errors import BackendError
        from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS
        from glyphc.backends.openfhe.ckks_files import from_bytes
        from glyphc.backends.openfhe.keys import key_tables, release_all_keys

        self._tables.enter_context(key_tables(wait=True))
        self._tables.callback(release_all_keys)
        try:
            keys = self._new_keys() if checkpoint is None else self._old_keys()
            self._machine = OpenFHECKKS(keys)
            if checkpoint is None:
                self._encrypt()
            else:
                self._state = {name: from_bytes(data) for name, data in checkpoint.parts.items()}
        except BackendError as e:
            raise ParameterError(str(e)) from None

    def run(self, steps: range, after: Callable[[int], None]) -> None:
        def stepped(count: int, state: dict[str, Any]) -> None:
            self._state = state
            after(count)

        machine = self._machine
        train_steps(self._plan.server, lambda step: machine, self._batch, self._state, steps, stepped)

    def parts(self) -> dict[str, bytes]:
        from glyphc.backends.openfhe.ckks_files import to_bytes

        return {name: to_bytes(value) for name, value in self._state.items()}

    def weights(self, step: int) -> dict[str, F64]:
        messages = {name: self._client.decrypt(value) for name, value in self._state.items()}
        return self._plan.weights(messages, step)

    def close(self) -> None:
        self._machine = self._client = None
        self._tables.close()

    # -- keys --

    def _new_keys(self) -> Any:
        from glyphc.backends.openfhe.ckks_client import generate_training_keys
        from glyphc.backends.openfhe.ckks_files import save_keys, write

        plan = self._plan
        self._reporter.stage("generate keys", cost_file.current().key_seconds(plan.parameters))
        self._client, keys = generate_training_keys(plan.parameters, plan.server.periods)
        if self._folder is not None:
            self._reporter.stage("write keys", 1.0)
            write(self._folder.client / _SECRET, self._client.secret_bytes(), 0o600)
            save_keys(self._folder.server, keys)
        return keys

    def _old_keys(self) -> Any:
        from glyphc.backends.openfhe.ckks_client import client_from_bytes
        from glyphc.backends.openfhe.ckks_files import load_keys

        assert self._folder is not None
        self._reporter.stage("load keys", 1.0)
        keys = load_keys(self._folder.server, self._plan.parameters)
        try:
            secret = (self._folder.client / _SECRET).read_bytes()
        except OSError as e:
            raise ParameterError(f"cannot read the secret key of this run: {e}") from None
        self._client = client_from_bytes(keys.contexts, secret)
        return keys

    # -- ciphertexts --

    def _encrypt(self) -> None:
        """The state; and the batches, if they are kept in files, so that a resumed run has the same ones."""
        start = self._plan.state(self._job.program.initial())
        self._state = {name: self._encrypted(name, message, limbs) for name, (message, limbs) in start.items()}
        if self._folder is not None:
            needed = different_batches(self._job.batches, self._job.options.steps)
            self._reporter.stage("encrypt", needed)
            for number in range(needed):
                self._new_batch(number)
                self._reporter.advance(1, f"batch {number + 1} of {needed}")

    def _batch(self, step: int) -> dict[str, Any]:
        """The batch's ciphertexts; as many batches as fit are kept in memory."""
        from glyphc.backends.openfhe.ckks_files import from_bytes

        number = self._job.batches.number(step)
        if number not in self._batches:
            while self._batches and (len(self._batches) + 1) * batch_bytes(self._plan) > predict.MOST_BATCH_BYTES:
                self._batches.popitem(last=False)
            path = self._path(number)
            if path is not None and path.is_file():
                self._batches[number] = {name: from_bytes(data) for name, data in unpack(path).items()}
            else:
                self._batches[number] = self._new_batch(number)
        return self._batches[number]

    def _new_batch(self, number: int) -> dict[str, Any]:
        from glyphc.backends.openfhe.ckks_files import to_bytes

        x, y = self._job.batch(number)
        data = self._plan.data(x.reshape(len(x), -1), y)
        batch = {name: self._encrypted(name, message, limbs) for name, (message, limbs) in data.items()}
        path = self._path(number)
        if path is not None:
            write_atomically(path, pack({name: to_bytes(value) for name, value in batch.items()}))
        return batch

    def _path(self, number: int) -> Path | None:
        return None if self._folder is None else self._folder.server / f"batch-{number}.zip"

    def _encrypted(self, name: str, message: F64, limbs: int) -> Any:
        try:
            return self._client.encrypt(message, limbs)
        except ValueError as e:
            raise TrainingError(
                f"{name}: {e}, so it cannot be encrypted; scale the features, or start from smaller weights"
            ) from None


def check_memory(plan: Plan, limit: float | None = None) -> None:
    """Fail before minutes of work rather than be killed by the system in the middle of it. limit: None for what is
    free."""
    if limit is None:
        require_memory(plan, psutil.virtual_memory().available, "available")
    else:
        require_memory(plan, limit, "allowed (--memory)")


def check_disk(plan: Plan, folder: RunFolder, batches: int) -> None:
    """Checkpoints come with the evaluation keys, which are gigabytes; fail before the first one."""
    place = folder.path.absolute().parent
    free = shutil.disk_usage(place).free if place.is_dir() else 0
    needed = disk_bytes(plan, batches)
    if place.is_dir() and not folder.path.exists() and needed > free:
        raise EnvironmentSetupError(
            f"this run keeps keys and data of about {needed / 1e9:.1f} GB in {str(folder.path)!r} until it ends, "
            f"{free / 1e9:.1f} GB are free there; make room, or write the result to another disk"
        )
