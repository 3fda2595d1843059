"""The server's side: evaluates files of encrypted inputs with a client's evaluation keys. It has no way to decrypt."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glyphc import free_memory
from glyphc.analysis import cost_file
from glyphc.analysis.estimate import instruction_costs
from glyphc.analysis.kernels_cost import for_engine
from glyphc.backends.base import State, execute
from glyphc.backends.errors import BackendError
from glyphc.course import Course
from glyphc.errors import ArtifactError, CheckpointError, EnvironmentSetupError, GlyphcError, ParameterError
from glyphc.files import remove_remnants
from glyphc.ir.client_requests import Request as ClientTask
from glyphc.ir.instructions import ClientRequest, Free, Instruction, Powers, Register, Schedule
from glyphc.progress import RESUMED, Reporter, Silent, keys_counted
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import (
    BINDING,
    CheckpointHeader,
    InputsHeader,
    KeysHeader,
    OutputsHeader,
    QuestionHeader,
)

from .artifacts import ServerProgram, read_seed
from .engines import IntegerEngine, server_engine
from .key_checks import check_form, check_parameters, check_weights
from .parts import Place, chunks_of, input_places, output_places, pass_count, rows
from .requests import Request, Source, check_request
from .trips import AskedError, Trips, Waiting, check_room

# A checkpoint is written when this much work would be lost without it.
CHECKPOINT_SECONDS = 2.0


@dataclass
class EvaluationReport:
    """What an evaluation did. seconds: by stage; resumed: instructions that an earlier attempt had done; waiting: for
    the client, where it asked for something; then there are no outputs yet."""

    samples: int
    passes: int
    digest: str = ""
    resumed: int = 0
    waiting: Waiting | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class Evaluator:
    """A program with one client's evaluation keys, loaded once for any number of requests.

    One in a process at a time: OpenFHE keeps keys in tables of the process. A context manager, which drops the keys.
    """

    def __init__(self, program: ServerProgram, keys: Path, reporter: Reporter | None = None) -> None:
        self.program = program
        self.seconds: dict[str, float] = {}
        self._reporter = reporter or Silent()
        start = time.perf_counter()
        self._tables = ExitStack()
        with Reader(keys, KeysHeader) as reader:
            check_parameters(reader, program)
            check_form(reader, program)
            check_weights(reader, program)
            self.engine_name = reader.header.engine
            self._cost = for_engine(cost_file.current(), self.engine_name)
            self.key = reader.digest
            self.modulus = reader.header.modulus
            free_memory.require_for(program.schedule, self._cost)
            try:
                self._load(reader)
            except BaseException:
                self._tables.close()
                raise
        self.seconds["load keys"] = time.perf_counter() - start

    def close(self) -> None:
        """Drop the keys; the evaluator is of no use afterwards."""
        self.engine.clear()
        self._tables.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, reader: Reader[KeysHeader]) -> None:
        try:
            from glyphc.backends.openfhe.keys import key_tables
            from glyphc.backends.openfhe.residues import ResidueError
        except BackendError as e:
            raise EnvironmentSetupError(str(e)) from None
        self.engine = server_engine(self.program.schedule, self.engine_name)
        try:
            self._tables.enter_context(key_tables())
        except BackendError as e:
            raise EnvironmentSetupError(str(e)) from None
        names = self.engine.part_names()
        # a set: there may be over a hundred thousand
        known = {*names, BINDING}
        wrong = next((n for n in names if n not in reader.parts), None) or next(
            (n for n in reader.parts if n not in known), None
        )
        if wrong is not None:
            raise reader.damaged(f"part {wrong} is missing, or does not belong there")
        reader.verify()
        try:
            self.engine.warm_up(lambda name: self._reporter.stage(name, 1.0))
            self._reporter.stage("load keys", len(names))
            modulus = self.engine.load(
                read_seed(reader.header.seed, reader), reader.read, keys_counted(self._reporter, len(names))
            )
        except ResidueError as e:
            raise reader.damaged(str(e)) from None
        except BackendError as e:
            raise ParameterError(str(e)) from None
        if modulus != self.modulus:
            raise reader.damaged("its keys are for another modulus than this installation of OpenFHE chooses")

    def evaluate(
        self,
        inputs: Path,
        output: Path,
        checkpoint: Path | None = None,
        flooding_bits: int = 0,
        reporter: Reporter | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        question: Path | None = None,
        answer: Path | None = None,
    ) -> EvaluationReport:
        """Evaluate a file of encrypted inputs to one of encrypted outputs.

        checkpoint: where to keep what is done; a file that is there from an attempt that was cut short is gone on with
        (ArtifactError if it is of another request), and removed at the end. flooding_bits: add noise of
        2^flooding_bits times the predicted deviation to outputs, and re-randomise them; 0 does neither. question: of a
        program that asks its client, where to ask it; answer: what it said to the question that is there. Such a
        program takes a checkpoint, too, and several calls (``EvaluationReport.waiting``).
        """
        request = check_request(inputs, self.program, self.key, self.modulus)
        run = _Evaluation(self, request, checkpoint, flooding_bits, reporter or self._reporter, checkpoint_seconds)
        if isinstance(self.engine, IntegerEngine):
            run.integers(self.engine, question, answer)
        return run.run(output)

    def evaluate_pass(
        self, request: Request, number: int, source: Source, flooding_bits: int = 0
    ) -> tuple[int, list[tuple[str, bytes]]]:
        """One pass by itself: the bits of the modulus, and the parts of the file of encrypted outputs that hold it."""
        run = _Evaluation(self, request, None, flooding_bits, self._reporter, CHECKPOINT_SECONDS)
        run.pass_number = number
        if isinstance(self.engine, IntegerEngine):
            run.integers(self.engine, None, None)
        run.evaluate_pass(source)
        return run.bits, run.finished

    # -- what an evaluation uses --

    def predicted(self, schedule: Schedule) -> dict[int, float]:
        """Seconds of the instructions of a schedule of the program's, by ``id``."""
        costs = instruction_costs(schedule, self._cost)
        return {id(i): seconds for i, seconds in zip(schedule.instructions, costs, strict=True)}


class _Evaluation:
    def __init__(
        self,
        evaluator: Evaluator,
        request: Request,
        checkpoint: Path | None,
        flooding_bits: int,
        reporter: Reporter,
        checkpoint_seconds: float,
    ) -> None:
        self.evaluator = evaluator
        self.request = request
        self.path = checkpoint
        self.flooding_bits = flooding_bits
        self.reporter = reporter
        self.interval = checkpoint_seconds
        self.schedule = evaluator.program.schedule
        self.client = self.schedule.client
        self.noise = evaluator.program.noise
        self.finished: list[tuple[str, bytes]] = []
        self.pass_number = 0
        self.state = State()
        self.passes = pass_count(self.client, request.samples)
        self.report = EvaluationReport(request.samples, self.passes)
        self.bits = evaluator.engine.output_bits(min(self.noise.values()))
        self.predicted: dict[int, float] = {}
        self.trips: Trips | None = None

    def integers(self, engine: IntegerEngine, question: Path | None, answer: Path | None) -> None:
        """Have the machine ask the client. GlyphcError where noise was asked for that there is no room for, or there is
        no place for questions."""
        program = self.evaluator.program
        if self.flooding_bits:
            check_room([*self.noise.values(), *program.shown], self.flooding_bits)
        if not self.client.requests:
            return
        if self.path is None or question is None:
            raise GlyphcError("a program that asks its client takes a checkpoint and a file for questions")
        self.trips = Trips(engine, question, answer, self.flooding_bits, program.shown)
        engine.machine.answer = self._ask

    def run(self, output: Path) -> EvaluationReport:
        start = time.perf_counter()
        try:
            self._run(output)
        except AskedError:
            assert self.trips is not None
            trips = len(self.client.requests)
            number = self.pass_number * trips + self._trip() + 1
            self.report.waiting = Waiting(self.trips.question, number, self.passes * trips)
            return self.report
        finally:
            self.report.seconds["evaluate"] = time.perf_counter() - start
        for path in (self.path, None if self.trips is None else self.trips.question):
            if path is not None:
                path.unlink(missing_ok=True)
        return self.report

    def _run(self, output: Path) -> None:
        self._resume()
        header = OutputsHeader(
            self.request.program,
            self.request.key,
            self.request.digest,
            self.request.samples,
            self.bits,
            self.flooding_bits,
        )
        with Reader(self.request.inputs, InputsHeader) as reader, Writer(output, header) as writer:
            if reader.digest != self.request.digest:
                raise ArtifactError(f"{reader.name} was replaced while it was in use")
            try:
                while self.pass_number < self.passes:
                    self.evaluate_pass(reader)
            finally:
                self.reporter.done()
            for name, data in self.finished:
                writer.add(name, data)
        self.report.digest = writer.digest

    # -- the client --

    def _trip(self) -> int:
        """Which of the program's requests is next."""
        done = self._schedule(self.pass_number).instructions[: self.state.done]
        return sum(isinstance(i, ClientRequest) for i in done)

    def _ask(self, sources: Sequence[Any], request: ClientTask) -> Sequence[Any]:
        """What the client makes of ciphertexts; AskedError where it is still to be heard."""
        assert self.trips is not None
        r = self.request
        header = QuestionHeader(r.program, r.key, r.digest, self.pass_number, self._trip(), self.flooding_bits)
        return self.trips.ask(header, request, sources, self.save)

    def evaluate_pass(self, source: Source) -> None:
        """One pass from where ``state`` stands; its outputs are reduced and kept."""
        number = self.pass_number
        self.reporter.note(f" (pass {number + 1} of {self.passes})" if self.passes > 1 else "")
        schedule = self._schedule(number)
        instructions = schedule.instructions
        self.predicted = self.evaluator.predicted(schedule)
        self.reporter.stage("evaluate", sum(self.predicted.values()))
        for instruction in instructions[: self.state.done]:
            self.reporter.advance(self.predicted[id(instruction)], RESUMED)
        # what layers are called, the server does not know
        watch = _Watch(self, Course.of(instructions), set(_live_powers(instructions[: self.state.done])))
        inputs = {
            port.name: _Ciphertexts(self, source, [p for p in self._inputs(number) if p.port == port])
            for port in self.client.inputs
        }
        outputs = execute(instructions, self.evaluator.engine.machine, inputs, watch.observe, self.state)
        self._finish(outputs)
        self.pass_number, self.state = number + 1, State()
        if self.path is not None and self.pass_number < self.passes:
            self.save()

    def _samples(self, number: int) -> int:
        """Of a pass."""
        return len(range(self.request.samples)[rows(self.client, self.request.samples, number)])

    def _schedule(self, number: int) -> Schedule:
        """What a pass takes: of the last one, only the chunks that hold samples."""
        return self.evaluator.program.partial(self._samples(number))

    def _inputs(self, number: int) -> Iterator[Place]:
        return input_places(self.client, self.request.samples, number)

    def _finish(self, outputs: dict[str, list[Any]]) -> None:
        samples = self._samples(self.pass_number)
        for place in output_places(self.client, self.request.samples, self.pass_number):
            name = place.port.name
            parts = min(place.port.layout.parts, place.port.layout.features)
            chunk, part = divmod(place.number, place.port.layout.parts)
            per_chunk = len(outputs[name]) // chunks_of(self.client, place.port, samples)
            assert parts <= per_chunk
            flood = self.noise[name] * 2.0**self.flooding_bits if self.flooding_bits else 0.0
            ciphertext = outputs[name][chunk * per_chunk + part]
            data = self.evaluator.engine.write_output(ciphertext, place, self.bits, flood)
            self.finished.append((place.name, data))

    # -- checkpoints --

    def save(self) -> None:
        """Write what is done: reduced outputs of finished passes, live ciphertexts of this one."""
        assert self.path is not None
        header = CheckpointHeader(
            self.request.program,
            self.request.key,
            self.request.digest,
            self.flooding_bits,
            self.pass_number,
            self.state.done,
        )
        engine = self.evaluator.engine
        with Writer(self.path, header) as writer:
            for name, data in self.finished:
                writer.add(f"finished/{name}", data)
            for register, ciphertext in self.state.registers.items():
                writer.add(f"live/{register}", engine.write_live(ciphertext, register))
            for port, output in enumerate(self.client.outputs):
                for at, ciphertext in enumerate(self.state.outputs.get(output.name, [])):
                    writer.add(f"stored/{port}/{at}", engine.write_live(ciphertext, None))

    def _resume(self) -> None:
        if self.path is None:
            return
        remove_remnants(self.path)
        if not self.path.exists():
            return
        try:
            self._read_checkpoint(self.path)
        except (ArtifactError, ValueError, IndexError) as e:
            raise CheckpointError(f"{e}; remove it to begin anew") from None

    def _read_checkpoint(self, path: Path) -> None:
        engine = self.evaluator.engine
        with Reader(path, CheckpointHeader) as reader:
            header = reader.header
            if (header.program, header.key, header.request, header.flooding_bits) != (
                self.request.program,
                self.request.key,
                self.request.digest,
                self.flooding_bits,
            ):
                raise ArtifactError(f"{reader.name} is the checkpoint of another evaluation")
            if not 0 <= header.pass_number < self.passes:
                raise reader.damaged("it does not fit the program")
            if not 0 <= header.instructions <= len(self._schedule(header.pass_number).instructions):
                raise reader.damaged("it does not fit the program")
            state = State(header.instructions)
            for name in reader.parts:
                kind, _, rest = name.partition("/")
                data = reader.read(name)
                if kind == "finished":
                    self.finished.append((rest, data))
                elif kind == "live":
                    state.registers[int(rest)] = engine.read_live(data, int(rest))
                else:
                    port = self.client.outputs[int(rest.split("/")[0])]
                    state.outputs.setdefault(port.name, []).append(engine.read_live(data, None))
        self.pass_number, self.state = header.pass_number, state
        self.report.resumed = header.pass_number * len(self.schedule.instructions) + header.instructions


class _Watch:
    """Reports progress, and writes a checkpoint where enough was done and everything that is live can be written.

    The powers of a bootstrap are hundreds of megabytes and opaque: no checkpoint while they are alive.
    """

    def __init__(self, run: _Evaluation, course: Course, powers: set[Register]) -> None:
        self._run = run
        self._course = course
        self._powers = powers
        self._unsaved = 0.0

    def observe(self, instruction: Instruction, seconds: float) -> None:
        self._run.reporter.advance(self._run.predicted[id(instruction)], self._course.text(instruction))
        self._unsaved += seconds
        if isinstance(instruction, Powers):
            self._powers.add(instruction.target)
        elif isinstance(instruction, Free):
            self._powers.difference_update(instruction.registers)
        if self._run.path is not None and not self._powers and self._unsaved >= self._run.interval:
            self._run.save()
            self._unsaved = 0.0


class _Ciphertexts(Sequence[Any]):
    """Input ciphertexts, read when they are needed."""

    def __init__(self, run: _Evaluation, source: Source, places: list[Place]) -> None:
        self._run, self._source, self._places = run, source, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: Any) -> Any:
        from glyphc.backends.openfhe.residues import ResidueError

        name = self._places[number].name
        try:
            return self._run.evaluator.engine.read_input(self._source.read(name), self._run.request.seed, name)
        except ResidueError as e:
            raise self._source.damaged(f"part {name}: {e}") from None


def _live_powers(instructions: Sequence[Instruction]) -> Iterator[Register]:
    dead = {r for i in instructions if isinstance(i, Free) for r in i.registers}
    return (i.target for i in instructions if isinstance(i, Powers) and i.target not in dead)
