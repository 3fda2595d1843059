"""What a worker does for training: one task of a step, from files that are here and from what other tasks gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from glyphc.backends.base import execute_named
from glyphc.errors import GlyphcError
from glyphc.exchange.training_engines import Wire
from glyphc.exchange.training_files import ProgramFile, check_keys, check_run
from glyphc.exchange.training_machine import Stored, load_machine, refusals
from glyphc.progress import Written
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingBatchHeader, TrainingKeysHeader, TrainingStateHeader

from . import worker
from .step_tasks import Task, divide, live_limbs
from .worker import Outcome

# Outcome, what went wrong, and ciphertexts by name.
Given = tuple[str, str, dict[str, bytes]]


class _Trainer:
    """A training program with its keys."""

    def __init__(self, program: Path, keys: Path) -> None:
        self.program = ProgramFile(program)
        try:
            with Reader(keys, TrainingKeysHeader) as reader:
                check_keys(reader, self.program)
                self.key = reader.digest
                self._tables, self.machine, self.wire = load_machine(reader, self.program, Written())
        except BaseException:
            self.program.close()
            raise
        self._code = -1
        self._tasks: tuple[Task, ...] = ()
        self._limbs: dict[str, int] = {}

    def task(self, step: int, number: int) -> tuple[Task, Mapping[str, int]]:
        """And limbs of all that tasks of this step store."""
        outline, parameters = self.program.outline, self.program.parameters
        if self._code != outline.step_codes[step]:
            code = self.program.code(step)
            live = live_limbs(code, outline.limbs, parameters.decoded_limbs - 1, parameters.slot_levels)
            self._tasks, self._limbs, self._code = divide(code), live | outline.limbs, outline.step_codes[step]
        return self._tasks[number], self._limbs

    def close(self) -> None:
        self._tables.close()
        self.program.close()


class _Inputs(Mapping[str, Any]):
    """Live values of other tasks, and what the step loads."""

    def __init__(
        self, live: Mapping[str, bytes], limbs: Mapping[str, int], wire: Wire, *stored: Mapping[str, Any]
    ) -> None:
        self._live, self._limbs, self._wire, self._stored = live, limbs, wire, stored

    def __getitem__(self, name: str) -> Any:
        if name in self._live:
            return self._wire.read(self._live[name], self._limbs[name])
        return next(stored[name] for stored in self._stored if name in stored)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._live, **{name: None for stored in self._stored for name in stored}})

    def __len__(self) -> int:
        return len(list(iter(self)))


def train(
    program: str, keys: str, batch: str, state: str, step: int, number: int, before: list[Given]
) -> tuple[str, str, dict[str, bytes]]:
    """A task of a step. program, keys, batch, state: digests of files that are here; before: what the tasks gave that
    it comes after."""
    for outcome, error, _ in before:
        if outcome != Outcome.DONE.value:
            return outcome, error, {}
    with worker.LOCK:
        paths = worker.known(program, keys, batch, state)
        if paths is None:
            return Outcome.MISSING.value, "", {}
        try:
            trainer = worker.loaded(program, keys, _Trainer)
            task, limbs = trainer.task(step, number)
            outline, wire = trainer.program.outline, trainer.wire
            live = {name: data for _, _, given in before for name, data in given.items()}
            with (
                Reader(paths[2], TrainingBatchHeader) as data,
                Reader(paths[3], TrainingStateHeader) as weights,
                refusals(),
            ):
                if (data.digest, weights.digest) != (batch, state):
                    # replaced meanwhile
                    return Outcome.MISSING.value, "", {}
                check_run(data, trainer.program, trainer.key)
                check_run(weights, trainer.program, trainer.key)
                stored = Stored(weights, outline.state, wire), Stored(data, outline.data, wire)
                found = execute_named(task.code, trainer.machine, _Inputs(live, limbs, wire, *stored))
                return Outcome.DONE.value, "", {name: wire.write(value, limbs[name]) for name, value in found.items()}
        except (OSError, GlyphcError) as e:
            return Outcome.FAILED.value, str(e), {}
