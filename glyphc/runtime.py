"""Running a program in one process: keys, encryption, evaluation, decryption, with progress and a report.

In real use the two roles are two machines; here they share a process but not their objects: the server's part gets
evaluation keys and ciphertexts only.
"""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glyphc import free_memory, overruns, plausible, promises
from glyphc.analysis import cost_file
from glyphc.analysis.estimate import estimate, instruction_costs
from glyphc.analysis.kernels_cost import for_engine
from glyphc.approximate import with_series
from glyphc.backends.engine import Engine, Session, best_engine
from glyphc.backends.engine import engine as find_engine
from glyphc.backends.errors import BackendError
from glyphc.backends.processes import ended_processes_seconds
from glyphc.codec import Encoded, check_inputs, encode, with_labels
from glyphc.course import Course
from glyphc.errors import EnvironmentSetupError, GlyphcError, OverrunWarning, ParameterError
from glyphc.ir.accuracy import Loss
from glyphc.ir.evaluate import evaluate_all
from glyphc.ir.instructions import ClientRequest, Evaluate, Instruction, Load, Powers
from glyphc.ir.instructions.partial import for_samples
from glyphc.ir.integer_parameters import IntegerParameters, ProgramParameters
from glyphc.ir.ops import Output
from glyphc.ir.parameters import Parameters
from glyphc.ir.word_parameters import WordParameters
from glyphc.knowledge import Knowledge, of_program
from glyphc.overruns import Overrun, message
from glyphc.progress import Reporter, Silent
from glyphc.slow import check_patience

if TYPE_CHECKING:
    from glyphc.program import Program

F64 = npt.NDArray[np.floating[Any]]


class Mode(Enum):
    """How a program is evaluated."""

    ENCRYPTED = "encrypted"  # real cryptography
    SIMULATE = "simulate"  # the same instructions on plaintext, with the predicted approximation and noise
    CLEAR = "clear"  # the quantized graph: the definition of what the program computes


@dataclass
class RunReport:
    """What a run did. seconds: by stage, in order; peak_memory: of the process so far, in bytes.

    overruns: hidden values that left their ranges, by layer and sample; in encryption, worked out beside it, from the
    samples, without noise. lost: samples, from and to, of passes that are lost as a whole, or would be under
    encryption (numbers in slots, see ``glyphc.plausible``). promised: what every output was to lose, by the accuracy
    line of its compilation; losses: what it lost on these samples, beside the float network, empty where there is
    none. timeline: of every instruction, in the order they ran: its number in the schedule, when it began (seconds from
    the first one's beginning) and how long it took. cpu_seconds: of evaluation, on all cores. learns: who learns what,
    of an encrypted run. engine: what executed it, by name; and why not another one that would come first.
    """

    outputs: dict[str, npt.NDArray[Any]]
    mode: Mode
    samples: int
    passes: int
    seconds: dict[str, float] = field(default_factory=dict)
    bootstrap_seconds: float = 0.0
    node_seconds: dict[int, float] = field(default_factory=dict)
    timeline: list[tuple[int, float, float]] = field(default_factory=list)
    peak_memory: int = 0
    security: str = ""
    overruns: tuple[Overrun, ...] = ()
    lost: tuple[tuple[int, int], ...] = ()
    promised: tuple[Loss, ...] = ()
    losses: tuple[Loss, ...] = ()
    engine: str = ""
    engine_reason: str = ""
    cpu_seconds: float = 0.0
    learns: Knowledge | None = None


def run(
    program: Program,
    x: Any,
    mode: Mode | str = Mode.ENCRYPTED,
    reporter: Reporter | None = None,
    engine: str | None = None,
    allow_slow: bool = False,
) -> RunReport:
    """Evaluate samples, shape (samples, *input shape), or a mapping of them by input name.

    More samples than the program's batch are done in several passes. engine: what encrypts, by name (``glyphc
    engines``); by default the first one that takes the program. allow_slow: whether encrypted samples may take more
    than ten minutes where gates or look-ups do it; ParameterError, with the hours, where they may not. Raises DataError
    for unusable samples, before any key is made; EnvironmentSetupError when the engine cannot be used here; GlyphcError
    for an unknown engine or an unusable file of the cost model. Warns (OverrunWarning) of hidden values that leave
    their ranges.
    """
    try:
        mode = Mode(mode)
    except ValueError:
        raise GlyphcError(f"unknown mode {mode!r}; known: {', '.join(m.value for m in Mode)}") from None
    chosen, reason = _engine(mode, engine, program)
    program.require_weights()
    samples = check_inputs(program.client, x)
    runner = _Runner(program, samples, mode, chosen, reporter or Silent())
    if mode is Mode.ENCRYPTED:
        runner.check_patience(allow_slow)
    runner.report.engine, runner.report.engine_reason = chosen.name, reason
    runner.run()
    report = runner.report
    report.outputs = with_labels({op.name: op.labels for _, op in program.graph.of(Output)}, report.outputs)
    if report.overruns or report.lost:
        warnings.warn(message(report.overruns, report.samples, report.lost), OverrunWarning, stacklevel=3)
    return report


def _engine(mode: Mode, name: str | None, program: Program) -> tuple[Engine, str]:
    """By name, or the best there is, with why it is not another one.

    GlyphcError for a name that is none, or of an engine that does not go with the mode.
    """
    if mode is not Mode.ENCRYPTED:
        if name is not None:
            raise GlyphcError(f"an engine ({name!r}) is for encrypted runs; mode {mode.value!r} has its own")
        return find_engine(mode.value), ""
    if name is None:
        return best_engine(program.client.parameters)
    try:
        engine = find_engine(name)
    except BackendError as e:
        raise GlyphcError(str(e)) from None
    if not engine.encrypts:
        raise GlyphcError(f"the engine {engine.name!r} does not encrypt; use mode {engine.name!r} instead")
    return engine, ""


@contextmanager
def _backend_errors() -> Iterator[None]:
    try:
        yield
    except BackendError as e:
        raise ParameterError(str(e)) from None


@dataclass(frozen=True, eq=False)
class Fresh(Sequence[Any]):
    """The ciphertexts of an input, each made when it is asked for."""

    messages: Encoded
    encrypt: Callable[[npt.NDArray[Any]], Any]

    def __len__(self) -> int:
        return len(self.messages)

    def __getitem__(self, number: Any) -> Any:
        return self.encrypt(self.messages[number])


class _Runner:
    def __init__(
        self, program: Program, samples: dict[str, F64], mode: Mode, engine: Engine, reporter: Reporter
    ) -> None:
        self.program = program
        self.samples = samples
        self.engine = engine
        self.reporter = reporter
        self.client = program.client
        count = len(next(iter(samples.values())))
        self.passes = [slice(a, min(a + self.client.batch, count)) for a in range(0, count, self.client.batch)]
        secure = (
            self.client.parameters.security if mode is Mode.ENCRYPTED else f"none ({mode.value} mode, no encryption)"
        )
        self.report = RunReport({}, mode, count, len(self.passes), security=secure)
        if mode is Mode.ENCRYPTED:
            self.report.learns = of_program(program)
        self.cost = for_engine(cost_file.current(), engine.name)
        self.began: float | None = None

    def run(self) -> None:
        try:
            exact = isinstance(self.client.parameters, WordParameters)
            # gates have no noise that is worth simulating: what they compute is what the words are
            if self.report.mode is Mode.CLEAR or (exact and self.report.mode is Mode.SIMULATE):
                self._clear()
            else:
                self._on(self.engine)
        finally:
            self.reporter.done()
        self.report.promised = promises.promised(self.program)
        self.report.losses = promises.happened(self.program, self.samples, self.report.outputs)
        self.report.peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[None]:
        """Time a stage; stages of later passes add to those of the same name."""
        self.reporter.stage(name, total)
        start = time.perf_counter()
        yield
        self.report.seconds[name] = self.report.seconds.get(name, 0.0) + time.perf_counter() - start

    def _clear(self) -> None:
        graph = self.program.definition
        with self.stage("evaluate"):
            values = evaluate_all(graph, self.samples)
        self.report.overruns = overruns.find(graph, values, _torus(self.client.parameters))
        for rows in self.passes:
            if overruns.spoiled(graph, {id: x[rows] for id, x in values.items()}):
                self.report.lost += ((rows.start, rows.stop),)
        self.report.outputs = {op.name: np.asarray(values[n.id], dtype=np.float64) for n, op in graph.of(Output)}

    def _find_overruns(self) -> None:
        """As encryption computes, but for noise."""
        graph = self.program.graph
        found: list[overruns.Overrun] = []
        for rows in self.passes:
            few = {name: x[rows] for name, x in self.samples.items()}
            values = evaluate_all(graph, few, with_series(graph))
            found += overruns.find(graph, values, _torus(self.client.parameters), rows.start)
        self.report.overruns = tuple(found)

    def _on(self, engine: Engine) -> None:
        problem = engine.problem()
        if problem is not None:
            raise EnvironmentSetupError(problem)
        schedule = self.program.schedule
        missing = engine.unsupported(schedule.instructions)
        if missing:
            raise GlyphcError(f"the engine {engine.name!r} has no {', '.join(sorted(missing))}; choose another engine")
        if engine.encrypts:
            self.program.warn_if_insecure()
            # before minutes of work, rather than be killed by the system in the middle of it
            free_memory.require_for(self.program.schedule, self.cost)
        self._find_overruns()
        before = ended_processes_seconds()
        with _backend_errors(), engine.session(schedule, self) as session:
            self._evaluate_passes(session)
        self.report.cpu_seconds += ended_processes_seconds() - before

    def advance(self, amount: float, what: str = "") -> None:
        """Tell the reporter (see ``glyphc.backends.engine.Stages``)."""
        self.reporter.advance(amount, what)

    def check_patience(self, allow: bool) -> None:
        """ParameterError for hours of gates or look-ups that nobody asked for."""
        seconds = len(self.passes) * estimate(self.program.schedule, self.cost).seconds
        check_patience(self.program.schedule, seconds, self.report.samples, allow)

    def _evaluate_passes(self, session: Session) -> None:
        results: dict[str, list[F64]] = {p.name: [] for p in self.client.outputs}
        for number, rows in enumerate(self.passes, 1):
            suffix = f" (pass {number} of {len(self.passes)})" if len(self.passes) > 1 else ""
            outputs = self._pass(session, rows, suffix)
            with self.stage("decrypt"):
                ports = self.client.outputs
                messages = {p.name: np.array([session.decrypt(c) for c in outputs[p.name]]) for p in ports}
                found = plausible.decoded(self.client, messages, range(rows.start, rows.stop))
                self.report.lost += found.doubts.lost
                for name, values in found.outputs.items():
                    results[name].append(values)
        self.report.outputs = {name: np.concatenate(parts) for name, parts in results.items()}

    def _pass(self, session: Session, rows: slice, suffix: str) -> dict[str, list[Any]]:
        from glyphc.backends.base import execute

        self.reporter.note(suffix)
        places = self.client.places(rows.stop - rows.start)
        # encrypted when the server asks for them, so that a few are in memory at a time
        samples = {p: self.samples[p.name][rows] for p in self.client.inputs}
        fresh = {p.name: Fresh(encode(p, x, places), session.encrypt) for p, x in samples.items()}
        inputs = {**session.weights, **fresh}
        partial = for_samples(self.program.schedule, rows.stop - rows.start)
        numbers = {id(i): n for i, n in zip(partial.schedule.instructions, partial.numbers, strict=True)}
        instructions = partial.schedule.instructions
        costs = instruction_costs(partial.schedule, self.cost)
        predicted = {id(i): seconds for i, seconds in zip(instructions, costs, strict=True)}
        course = Course.of(instructions, lambda node: self.program.graph.node(node).location)
        spent = time.process_time()

        def observe(instruction: Instruction, seconds: float) -> None:
            nonlocal spent
            before, spent = spent, time.process_time()
            if isinstance(instruction, Load | ClientRequest):
                stage = "encrypt" if isinstance(instruction, Load) else "refresh"
                self.report.seconds[stage] = self.report.seconds.get(stage, 0.0) + seconds
                self.report.seconds["evaluate"] -= seconds
                return
            self.report.cpu_seconds += spent - before
            self.reporter.advance(predicted[id(instruction)], course.text(instruction))
            ended = time.perf_counter()
            self.began = ended - seconds if self.began is None else self.began
            self.report.timeline.append((numbers[id(instruction)], ended - seconds - self.began, seconds))
            by_node = self.report.node_seconds
            by_node[instruction.node] = by_node.get(instruction.node, 0.0) + seconds
            if isinstance(instruction, Powers | Evaluate):
                self.report.bootstrap_seconds += seconds

        for stage in ("encrypt", "evaluate"):
            self.report.seconds.setdefault(stage, 0.0)
        with self.stage("evaluate", sum(predicted.values())):
            return execute(partial.schedule.instructions, session.machine, inputs, observe)


def _torus(parameters: ProgramParameters) -> float:
    """Modulo what values wrap, in their integers: numbers in slots do not."""
    if isinstance(parameters, IntegerParameters):
        return float(parameters.modulus)
    return parameters.plaintext_modulus if isinstance(parameters, Parameters) else float("inf")
