"""The server's side of prediction with trained weights: encrypted samples, encrypted weights, encrypted logits.

It executes a request's instructions, checked as hostile, with a run's evaluation keys and a state that it trained.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from glyphc.backends.base import execute_named
from glyphc.errors import ArtifactError
from glyphc.ir.instructions.ckks import LOGITS, Code
from glyphc.progress import Reporter, Silent
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import (
    TrainingAnswerHeader,
    TrainingKeysHeader,
    TrainingRequestHeader,
    TrainingStateHeader,
)

from .artifacts import read_seed
from .training_engines import Machine, Wire
from .training_files import CHECKPOINT, INITIAL, KEYS, PROGRAM, TRAINED, ProgramFile, check_keys, check_run, part_name
from .training_kept import check_kept, check_request, kept_weights
from .training_machine import check_memory, load_machine, read_state, refusals
from .training_requests import (
    RequestOutline,
    expected_parts,
    possible_sizes,
    read_request,
    sample_part,
    sample_stream,
)


@dataclass
class InferReport:
    """passes: forward passes done. digest: of the answer. seconds: of each pass."""

    passes: int
    output: Path
    digest: str = ""
    seconds: list[float] = field(default_factory=list)


def infer(
    folder: Path, request: Path, output: Path, state: Path | None = None, reporter: Reporter | None = None
) -> InferReport:
    """Answer a request from what a server's folder has; see :meth:`Answerer.answer`."""
    with Answerer(folder) as answerer:
        return answerer.answer(request, output, state, reporter)


class Answerer:
    """The program and keys of a training server's folder, for as many requests as come. A context manager."""

    def __init__(self, folder: Path) -> None:
        """ArtifactError for files that are damaged or of different runs. Keys are loaded for the first request."""
        self._folder = folder
        self._open = ExitStack()
        self._machine: tuple[Machine, Wire] | None = None
        with ExitStack() as opened:
            self.program = opened.enter_context(ProgramFile(folder / PROGRAM))
            self._keys = opened.enter_context(Reader(folder / KEYS, TrainingKeysHeader))
            check_keys(self._keys, self.program)
            self._open = opened.pop_all()

    @property
    def key(self) -> str:
        """The digest of the evaluation keys."""
        return self._keys.digest

    def check(self, request: Path, label: str | None = None) -> RequestOutline:
        """What a request asks for; ArtifactError for one that is damaged or of another run, lacks parts or has others,
        or asks for weights that are not there. label: what errors call it."""
        with Reader(request, TrainingRequestHeader, label) as reader:
            outline, _ = self._read(reader)
            _state_after(self._folder, self.program, self.key, reader.header.step)
            expected_parts(outline, partial(possible_sizes, self.program.parameters), reader)
            reader.verify()
            return outline

    def answer(
        self, request: Path, output: Path, state: Path | None = None, reporter: Reporter | None = None
    ) -> InferReport:
        """Predict on a request's samples. state: by default the file in the folder that is after as many steps.

        ArtifactError, before anything is computed, for files that are damaged or of different runs, or where the
        weights after the request's steps are not there; ParameterError and EnvironmentSetupError as of
        ``run_training``. Nothing is written in these cases.
        """
        reporter = reporter or Silent()
        folder, program = self._folder, self.program
        with Reader(request, TrainingRequestHeader) as reader:
            outline, code = self._read(reader)
            source = state or _state_after(folder, program, self.key, reader.header.step)
            reader.verify()
            machine, wire = self._loaded(reporter)
            expected_parts(outline, lambda limbs: (wire.fresh_size(limbs),), reader)
            weights, step = read_state(source, program, self.key, wire)
            if step != reader.header.step:
                raise ArtifactError(f"{str(source)!r} has the weights after {step} steps, not {reader.header.step}")
            weights |= kept_weights(folder, program, machine, weights)
            report = InferReport(outline.passes, output)
            reporter.stage("infer", outline.passes)
            header = TrainingAnswerHeader(program.fingerprint, self.key, step, reader.digest)
            with Writer(output, header) as writer:
                for number in range(outline.passes):
                    start = time.perf_counter()
                    with refusals():
                        samples = _samples(reader, outline.data, number, wire)
                        answer = execute_named(code, machine, {**weights, **samples})[LOGITS]
                    writer.add(part_name(number), wire.write(answer, 1))
                    report.seconds.append(time.perf_counter() - start)
                    reporter.advance(1, f"pass {number + 1} of {outline.passes}")
            report.digest = writer.digest
        return report

    def _read(self, reader: Reader[TrainingRequestHeader]) -> tuple[RequestOutline, Code]:
        outline, code = read_request(reader, self.program, self.key)
        check_kept(self._folder, self.program)
        check_request(self._folder, self.program, reader.header.step, outline.code, reader.name)
        return outline, code

    def _loaded(self, reporter: Reporter) -> tuple[Machine, Wire]:
        if self._machine is None:
            check_memory(self.program, self._keys.header.engine)
            self._keys.verify()
            tables, machine, wire = load_machine(self._keys, self.program, reporter)
            self._open.push(tables)
            self._machine = machine, wire
        return self._machine

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Answerer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _samples(reader: Reader[TrainingRequestHeader], data: Any, number: int, wire: Any) -> dict[str, Any]:
    from glyphc.backends.openfhe.residues import ResidueError, Uniform

    seed = read_seed(reader.header.seed, reader)
    try:
        return {
            name: wire.read_fresh(reader.read(sample_part(number, at)), limbs, Uniform(seed, sample_stream(number, at)))
            for at, (name, limbs) in enumerate(data)
        }
    except ResidueError as e:
        raise reader.damaged(str(e)) from None


def _state_after(folder: Path, program: ProgramFile, key: str, step: int) -> Path:
    """The file with the weights after so many steps."""
    there = []
    for path in (folder / TRAINED, folder / CHECKPOINT, folder / INITIAL):
        if path.exists():
            with Reader(path, TrainingStateHeader) as reader:
                check_run(reader, program, key)
                there.append(reader.header.step)
                if reader.header.step == step:
                    return path
    raise ArtifactError(
        f"there are no weights after {step} steps in {str(folder)!r}, but after {', '.join(map(str, there)) or 'none'}"
    )
