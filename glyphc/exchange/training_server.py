"""The server's side of training: it executes a training program on encrypted batches and states, and knows no more.

It has neither a model nor a plan, and no way to decrypt. See ``training_files`` for what its folder holds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glyphc.backends.step_loop import train_steps
from glyphc.errors import ArtifactError, CheckpointError, GlyphcError
from glyphc.files import make_folder
from glyphc.ir.instructions.ckks import STATISTIC
from glyphc.progress import Reporter, Silent
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import TrainingBatchHeader, TrainingKeysHeader, TrainingStateHeader, TrainingStatisticHeader

from .artifacts import read_seed
from .training_engines import Machine, Wire, check_form
from .training_files import (
    CHECKPOINT,
    INITIAL,
    KEYS,
    MONITOR,
    PROGRAM,
    TRAINED,
    ProgramFile,
    batch_path,
    check_keys,
    check_run,
    part_name,
    statistic_path,
)
from .training_kept import check_kept, kept_weights
from .training_machine import Stored, check_memory, load_machine, read_state, refusals


@dataclass
class ServerReport:
    """steps: done in all; first: those that were done before. output: the file with the state. seconds: of each."""

    steps: int
    first: int
    output: Path
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class State:
    """A file with a state that may be gone on from."""

    path: Path
    step: int


def run_training(
    folder: Path,
    steps: int | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
    after: Callable[[int], None] = lambda count: None,
    engine: str | None = None,
    make: Make | None = None,
) -> ServerReport:
    """Train from what a client has put into the server's folder, up to ``steps`` steps in all, by default all.

    resume: go on from the checkpoint if there is one, to the same bits as an unbroken run; without it, one that is
    there is an error. The last state is written to "trained.state", an earlier one stays as the checkpoint. after: told
    the number of steps done whenever a state was written. engine: that the keys must be for. make: of the run,
    by default one that computes in this process.

    ArtifactError, before anything is computed, for files that are damaged, missing or of different runs; ParameterError
    when OpenFHE refuses the program; EnvironmentSetupError when OpenFHE is missing or memory is short.
    """
    reporter = reporter or Silent()
    with ProgramFile(folder / PROGRAM) as program:
        if steps is not None and not 1 <= steps <= program.outline.steps:
            raise GlyphcError(f"the program has {program.outline.steps} steps, not {steps}")
        run = (make or TrainingRun)(folder, program, steps or program.outline.steps, reporter, after, engine)
        try:
            return run.run(resume)
        finally:
            reporter.done()
            run.close()


def steps_done(folder: Path) -> int:
    """By the newest state in the server's folder; ArtifactError where there is none."""
    for name in (TRAINED, CHECKPOINT, INITIAL):
        if (folder / name).exists():
            with Reader(folder / name, TrainingStateHeader) as reader:
                return reader.header.step
    raise ArtifactError(f"{os.fspath(folder)!r} has no state; prepare the run anew")


class TrainingRun:
    """Of a folder, up to so many steps; other arguments as of :func:`run_training`."""

    def __init__(
        self,
        folder: Path,
        program: ProgramFile,
        steps: int,
        reporter: Reporter,
        after: Callable[[int], None],
        engine: str | None,
    ) -> None:
        self._engine = engine
        self.folder, self.program, self.steps, self.reporter, self.after = folder, program, steps, reporter, after
        self._tables = ExitStack()
        self._machine: Machine
        self._wire: Wire
        self._readers: dict[int, Reader[TrainingBatchHeader]] = {}
        self._zeros: dict[str, Any] = {}
        self._last = 0.0

    def run(self, resume: bool) -> ServerReport:
        with Reader(self.folder / KEYS, TrainingKeysHeader) as keys:
            check_keys(keys, self.program)
            check_form(keys, self.program.parameters, self._engine)
            self.key = keys.digest
            start = self._start(resume)
            check_kept(self.folder, self.program)
            self._check_room(keys.header.engine)
            self._check(keys, start)
            self._load(keys, start)
        self._remove_remnants()
        self.report = ServerReport(self.steps, start.step, self.folder / TRAINED)
        self.reporter.stage("train", self.steps - start.step)
        self._last = time.perf_counter()
        self._train(start)
        return self.report

    def _load(self, keys: Reader[TrainingKeysHeader], start: State) -> None:
        """What computes, from keys that are verified."""
        self._tables, self._machine, self._wire = load_machine(keys, self.program, self.reporter)
        self._check_sizes(start)

    def _train(self, start: State) -> None:
        """All steps, each of which is saved."""
        with refusals():
            train_steps(
                self.program,
                lambda step: self._machine,
                self._batch,
                self._read_state(start),
                range(start.step, self.steps),
                self._after,
            )

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._tables.close()

    # -- checks, before anything is computed --

    def _check_room(self, engine: str) -> None:
        check_memory(self.program, engine)

    def _start(self, resume: bool) -> State:
        """The state to begin with; its file is checked. What an earlier program trained is where this one goes on."""
        begin, path = self.folder / INITIAL, self.folder / CHECKPOINT
        if (self.folder / TRAINED).exists():
            begin = self.folder / TRAINED
            if self._step(begin) >= self.program.outline.steps:
                raise ArtifactError(f"there is a trained state already: {os.fspath(begin)!r}")
        # one that is not ahead was left by a run that ended
        ahead = path.exists() and (begin.name != TRAINED or self._step(path) > self._step(begin))
        if ahead and not resume:
            raise CheckpointError(
                f"{os.fspath(path)!r} exists: an earlier run was interrupted. Go on with it (--resume), or delete it"
            )
        state = self._checked(path if ahead else begin)
        if state.step >= self.steps:
            raise CheckpointError(
                f"{os.fspath(state.path)!r} has {state.step} steps already; {self.steps} are asked for"
            )
        return state

    def _step(self, path: Path) -> int:
        """After how many steps a state is, of a file that belongs to this run."""
        with Reader(path, TrainingStateHeader) as reader:
            check_run(reader, self.program, self.key)
            return reader.header.step

    def _checked(self, path: Path) -> State:
        with Reader(path, TrainingStateHeader) as reader:
            check_run(reader, self.program, self.key)
            if reader.header.step >= self.program.outline.steps or (path.name == INITIAL) != (reader.header.step == 0):
                raise reader.damaged(f"it is the state after {reader.header.step} steps")
            reader.verify()
            return State(path, reader.header.step)

    def _check(self, keys: Reader[TrainingKeysHeader], start: State) -> None:
        """All hashes of what the steps to come need; gigabytes are read."""
        needed = self._needed(start)
        self.reporter.stage("check files", len(needed) + 1.0)
        keys.verify()
        self.reporter.advance(1, "keys")
        for number in needed:
            reader = self._open(number)
            reader.verify()
            self.reporter.advance(1, f"batch {number + 1}")

    def _check_sizes(self, start: State) -> None:
        """What could only be known with OpenFHE's moduli."""
        outline = self.program.outline
        for number in self._needed(start):
            batch = self._open(number)
            size = self._wire.fresh_size if batch.header.seed else self._wire.state_size
            batch.expect([(part_name(i), size(limbs)) for i, (_, limbs) in enumerate(outline.data)])
        with Reader(start.path, TrainingStateHeader) as reader:
            reader.expect([(part_name(i), self._wire.state_size(limbs)) for i, (_, limbs) in enumerate(outline.state)])

    def _needed(self, start: State) -> list[int]:
        """Batches of the steps to come."""
        return sorted(set(self.program.outline.step_batches[start.step : self.steps]))

    # -- loading --

    def _open(self, number: int) -> Reader[TrainingBatchHeader]:
        if number not in self._readers:
            for reader in self._readers.values():  # one at a time: there may be more than a process can open
                reader.close()
            self._readers.clear()
            reader = Reader(batch_path(self.folder, number), TrainingBatchHeader)
            self._readers[number] = reader
            check_run(reader, self.program, self.key)
            if reader.header.seed:
                read_seed(reader.header.seed, reader)
            if reader.header.number != number:
                raise ArtifactError(f"{reader.name} holds batch {reader.header.number}, not {number}")
        return self._readers[number]

    def _batch(self, step: int) -> Mapping[str, Any]:
        return Stored(self._open(self.program.outline.step_batches[step]), self.program.outline.data, self._wire)

    def _read_state(self, start: State) -> dict[str, Any]:
        state, step = read_state(start.path, self.program, self.key, self._wire)
        if step != start.step:
            raise ArtifactError(f"{os.fspath(start.path)!r} was replaced while it was in use")
        self._zeros = {name: state[name] for name in self.program.outline.kept}
        return state | kept_weights(self.folder, self.program, self._machine, state)

    # -- saving --

    def _after(self, count: int, state: dict[str, Any]) -> None:
        if STATISTIC in state:
            self._watch(count, state.pop(STATISTIC))
        named = self.program.outline.state
        self._save(count, (self._wire.write(self._zeros.get(name, state[name]), limbs) for name, limbs in named))

    def _save(self, count: int, parts: Iterable[bytes]) -> None:
        """The state after so many steps, from its ciphertexts in their order."""
        last = count == self.program.outline.steps
        path = self.folder / (TRAINED if last else CHECKPOINT)
        with Writer(path, TrainingStateHeader(self.program.fingerprint, self.key, count)) as writer:
            for i, data in enumerate(parts):
                writer.add(part_name(i), data)
        if last:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        self.report.output = path
        self.report.seconds.append(time.perf_counter() - self._last)
        self.reporter.advance(1, f"step {count} of {self.steps}")
        self.after(count)
        self._last = time.perf_counter()

    def _watch(self, count: int, statistic: Any) -> None:
        """Before the state is written: a run that is killed between the two writes it again."""
        folder = self.folder / MONITOR
        make_folder(folder, 0o777)
        header = TrainingStatisticHeader(self.program.fingerprint, self.key, count)
        with Writer(statistic_path(folder, count), header) as writer:
            writer.add(part_name(0), self._wire.write(statistic, self.program.outline.statistic))

    def _remove_remnants(self) -> None:
        """What a killed run was writing."""
        for pattern in (f".{CHECKPOINT}*.part", f".{TRAINED}*.part", f"{MONITOR}/.*.part"):
            for remnant in self.folder.glob(pattern):
                remnant.unlink(missing_ok=True)


Make = Callable[[Path, ProgramFile, int, Reporter, Callable[[int], None], str | None], TrainingRun]
