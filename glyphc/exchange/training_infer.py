"""The server's side of prediction with trained weights: encrypted samples, encrypted weights, encrypted logits.

It executes a request's instructions, checked as hostile, with a run's evaluation keys and a state that it trained.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glyphc.backends.base import execute_named
from glyphc.errors import ArtifactError
from glyphc.ir.instructions.ckks import LOGITS
from glyphc.progress import Reporter, Silent
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import (
    TrainingAnswerHeader,
    TrainingKeysHeader,
    TrainingRequestHeader,
    TrainingStateHeader,
)

from .artifacts import read_seed
from .training_files import CHECKPOINT, INITIAL, KEYS, PROGRAM, TRAINED, ProgramFile, check_keys, check_run, part_name
from .training_kept import check_kept, check_request, kept_weights
from .training_machine import check_memory, load_machine, read_state, refusals
from .training_requests import expected_parts, read_request, sample_part, sample_stream


@dataclass
class InferReport:
    """passes: forward passes done. seconds: of each."""

    passes: int
    output: Path
    seconds: list[float] = field(default_factory=list)


def infer(
    folder: Path, request: Path, output: Path, state: Path | None = None, reporter: Reporter | None = None
) -> InferReport:
    """Answer a request from what a server's folder has. state: by default the file in it that is after as many steps.

    ArtifactError, before anything is computed, for files that are damaged or of different runs, or where the weights
    after the request's steps are not there; ParameterError and EnvironmentSetupError as of ``run_training``. Nothing is
    written in these cases.
    """
    reporter = reporter or Silent()
    with (
        ProgramFile(folder / PROGRAM) as program,
        Reader(folder / KEYS, TrainingKeysHeader) as keys,
        Reader(request, TrainingRequestHeader) as reader,
    ):
        check_keys(keys, program)
        outline, code = read_request(reader, program, keys.digest)
        source = state or _state_after(folder, program, keys.digest, reader.header.step)
        check_kept(folder, program)
        check_request(folder, program, reader.header.step, outline.code, reader.name)
        check_memory(program)
        reader.verify()
        keys.verify()
        tables, machine, wire = load_machine(keys, program, reporter)
        with tables:
            expected_parts(outline, {limbs: wire.fresh_size(limbs) for _, limbs in outline.data}, reader)
            weights, step = read_state(source, program, keys.digest, wire)
            if step != reader.header.step:
                raise ArtifactError(f"{str(source)!r} has the weights after {step} steps, not {reader.header.step}")
            weights |= kept_weights(folder, program, machine, weights)
            report = InferReport(outline.passes, output)
            reporter.stage("infer", outline.passes)
            header = TrainingAnswerHeader(program.fingerprint, keys.digest, step, reader.digest)
            with Writer(output, header) as writer:
                for number in range(outline.passes):
                    start = time.perf_counter()
                    with refusals():
                        samples = _samples(reader, outline.data, number, wire)
                        answer = execute_named(code, machine, {**weights, **samples})[LOGITS]
                    writer.add(part_name(number), wire.write(answer, 1))
                    report.seconds.append(time.perf_counter() - start)
                    reporter.advance(1, f"pass {number + 1} of {outline.passes}")
    return report


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
