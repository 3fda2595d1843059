"""Fills a comparison: compiles every row, predicts, and runs what fits, each run in a process of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc import knowledge
from glyphc.analysis.configurations import priced
from glyphc.analysis.cost import CostModel
from glyphc.analysis.estimate import estimate
from glyphc.analysis.kernels_cost import for_engine
from glyphc.backends.engine import best_engine
from glyphc.backends.processes import apart
from glyphc.codec import check_inputs
from glyphc.comparison import Choice, Comparison, Measured, Outcome, Predicted, Result, held_out, too_much
from glyphc.compiler import compile
from glyphc.errors import DataError, GlyphcError
from glyphc.ir.accuracy import MeasureKind
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import Load, Schedule
from glyphc.ir.instructions.partial import for_samples
from glyphc.ir.ops import Input, Output
from glyphc.measures import Judge, Limits, Measure
from glyphc.overruns import message
from glyphc.program import INSECURE_WARNING, Program
from glyphc.progress import Reporter, Silent
from glyphc.runtime import Mode, run
from glyphc.train.retraining import Data
from glyphc.ways.strategies import Size

F64 = npt.NDArray[np.floating[Any]]
Scores = tuple[tuple[str, float], ...]

ACCURACY, RMS, MAPE = "accuracy", "rms error of the spread", "MAPE"
# What has no form in a record: far beyond every score.
_NOT_FINITE = 1e9


@dataclass(frozen=True, eq=False)
class Task:
    """What is compared. network: the float one. x: samples that all rows are run on; labels: of their classes, or
    targets. options: of ``glyphc.compile``, the same for all rows.

    seconds, memory_bytes: what is predicted to take more is not run; 0 for the memory that is free.
    """

    network: Graph
    calibration: Any
    x: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    cost: CostModel
    retraining: Data | None = None
    options: dict[str, Any] = field(default_factory=dict)
    engine: str | None = None
    seconds: float = 600.0
    memory_bytes: float = 0.0


class Scorer:
    """Scores outputs beside labels or targets."""

    def __init__(self, network: Graph, x: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        """DataError for other networks than those of one input and one output, and for labels that do not fit."""
        names = [op.name for _, op in network.of(Input)]
        outputs = [op for _, op in network.of(Output)]
        if len(names) != 1 or len(outputs) != 1:
            raise DataError("networks with one input and one output can be compared")
        if len(x) != len(labels):
            raise DataError(f"{len(x)} samples take as many labels or targets, not {len(labels)}")
        judge = Judge.of(network, {names[0]: np.asarray(x, dtype=np.float64)}, Limits(100.0))
        self.measure: Measure = judge.measures[0]
        self.truth = judge.truth[self.measure.output].values
        self.names = outputs[0].labels
        labels = self._numbers(labels)
        decided = self.measure.decisions(self.truth)
        # one value of a sample may be a target, even a whole one; of several, labels say which
        several = self.measure.kind is MeasureKind.CLASSES or self.truth.size > decided.size
        classes = several or bool(np.isin(labels, (0, 1)).all())
        self.classes = labels.size == decided.size and classes and bool(np.all(labels == np.rint(labels)))
        if self.classes:
            self.labels = labels.reshape(decided.shape)
        elif labels.size == self.truth.size:
            self.labels = labels.reshape(self.truth.shape).astype(np.float64)
        else:
            raise DataError(
                f"labels are integers of shape ({len(x)},), targets have shape {list(self.truth.shape)}; these have "
                f"{list(labels.shape)}"
            )

    def _numbers(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Labels by index where they are those of the output; else as they are. DataError for other texts."""
        if self.names is not None and bool(np.isin(labels, self.names.array).all()):
            return self.indices(labels)
        if labels.dtype.kind not in "fiub":
            known = "the output has none" if self.names is None else f"those of the output: {self.names.array.tolist()}"
            raise DataError(f"labels are numbers, or labels of the output ({known}), not {labels.dtype}")
        return labels

    def indices(self, outputs: npt.NDArray[Any]) -> F64:
        """Outputs of a run as the network gives them: of labels the indices, -1 for what is none."""
        if self.names is None:
            return np.asarray(outputs, dtype=np.float64)
        places = {label: index for index, label in enumerate(self.names.array.tolist())}
        found = [places.get(label, -1) for label in outputs.ravel().tolist()]
        return np.array(found, dtype=np.float64).reshape(outputs.shape)

    def scores(self, outputs: F64) -> Scores:
        """By name, e.g. the share of correct decisions; outputs: as of ``indices``."""
        if self.classes:
            return ((ACCURACY, float(np.mean(self.measure.decisions(outputs) == self.labels))),)
        off = np.nan_to_num(outputs - self.labels, nan=_NOT_FINITE, posinf=_NOT_FINITE, neginf=-_NOT_FINITE)
        spread = float(np.std(self.labels)) or 1.0
        found = [(RMS, float(np.sqrt(np.mean(off**2))) / spread)]
        if np.all(self.labels != 0):
            found.append((MAPE, float(np.mean(np.abs(off / self.labels)))))
        return tuple(found)


def compare(
    task: Task,
    choices: Sequence[Choice],
    comparison: Comparison,
    keep: Callable[[Comparison], None] = lambda comparison: None,
    reporter: Reporter | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Work out all rows that ``comparison`` has not yet. keep: told of every step forward. say: of what is done now.

    GlyphcError where samples to compare on are among those to retrain on, and as from ``Scorer``.
    """
    if task.retraining is not None:
        held_out(task.x, task.retraining.x)
    scorer = Scorer(task.network, task.x, task.labels)
    for number, choice in enumerate(choices, 1):
        known = comparison.of(choice)
        if known is not None and known.outcome is not Outcome.NOT_RUN:
            say(f"{number} of {len(choices)}: {choice}: known, {known.outcome}")
            continue
        say(f"{number} of {len(choices)}: {choice}")
        result = _row(task, choice, comparison, scorer, reporter or Silent())
        say(f"  {result.outcome}{f': {result.reason}' if result.reason else ''}")
        comparison = comparison.with_result(result)
        keep(comparison)
    return comparison


def _row(task: Task, choice: Choice, comparison: Comparison, scorer: Scorer, reporter: Reporter) -> Result:
    try:
        program = _compiled(task, choice, reporter)
        result = _predicted(task, choice, program, scorer, reporter)
    except GlyphcError as e:
        return Result(choice, Outcome.REFUSED, str(e))
    same = next((r for r in comparison.results if r.program == result.program and r.measured is not None), None)
    if same is not None:
        return replace(result, outcome=Outcome.RUN, reason=f"the same program as {same.choice}", measured=same.measured)
    assert result.predicted is not None
    too_much = _too_much(task, program, result.predicted)
    if too_much:
        return replace(result, reason=too_much)
    try:
        measured, notes = _measured(task, program, scorer)
    except (GlyphcError, MemoryError, RuntimeError) as e:
        return replace(result, outcome=Outcome.FAILED, reason=str(e))
    return replace(result, outcome=Outcome.RUN, measured=measured, notes=(*result.notes, *notes))


def _compiled(task: Task, choice: Choice, reporter: Reporter) -> Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compile(
            task.network,
            task.calibration,
            **task.options,
            cost=task.cost,
            strategy=choice.strategy,
            degree=choice.given(Size.DEGREE),
            table_bits=choice.given(Size.TABLE_BITS),
            word_bits=choice.given(Size.WORD_BITS),
            # what is too slow is predicted all the same
            allow_slow=True,
            retrain=task.retraining if choice.retrained else None,
            reporter=reporter,
        )


def _predicted(task: Task, choice: Choice, program: Program, scorer: Scorer, reporter: Reporter) -> Result:
    cost = _cost(task, program)
    each = estimate(program.schedule, cost)
    passes = -(-len(task.x) // program.client.batch)
    full, rest = divmod(len(task.x), program.client.batch)
    seconds, sent = full * each.seconds, float(full)
    if rest:  # chunks that hold no sample are neither encrypted nor evaluated
        part = for_samples(program.schedule, rest).schedule
        seconds += estimate(part, cost).seconds
        sent += _loads(part) / _loads(program.schedule)
    predicted = Predicted(
        seconds,
        sent * each.client_seconds,
        each.memory_bytes,
        each.key_bytes,
        sent * each.upload_bytes,
        passes * each.download_bytes,
        passes * knowledge.trips(program),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = run(program, task.x, Mode.SIMULATE, reporter).outputs
    (values,) = outputs.values()
    learns = str(knowledge.of_program(program))
    security = program.client.parameters.security if program.secure else INSECURE_WARNING
    return Result(
        choice,
        Outcome.NOT_RUN,
        "",
        program.fingerprint,
        security,
        predicted,
        scorer.scores(scorer.indices(values)),
        None,
        learns,
        program.notes,
    )


def _cost(task: Task, program: Program) -> CostModel:
    """Of the engine that a program is run on."""
    return for_engine(task.cost, task.engine or best_engine(program.client.parameters)[0].name)


def _loads(schedule: Schedule) -> int:
    return sum(isinstance(i, Load) for i in schedule.instructions)


def _too_much(task: Task, program: Program, predicted: Predicted) -> str:
    """Why a program is not run here, in words; empty where it fits."""
    keys = priced(_cost(task, program), program.client.parameters).key_seconds(program.client.parameters)
    seconds = predicted.evaluate_seconds + predicted.client_seconds + keys
    return too_much(seconds, task.seconds, predicted.memory_bytes, task.memory_bytes)


def _measured(task: Task, program: Program, scorer: Scorer) -> tuple[Measured, tuple[str, ...]]:
    """Run it, encrypted, apart; and in the clear, which it should agree with."""
    found, report, notes = apart(encrypted_run, program.to_bytes(), task.x, task.engine, errors=GlyphcError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (exact_outputs,) = run(program, task.x, Mode.CLEAR).outputs.values()
    outputs, clear = scorer.indices(found), scorer.indices(exact_outputs)
    span = float(np.ptp(clear)) or 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.sqrt(np.mean((outputs - clear) ** 2))) / span
    error = min(float(np.nan_to_num(error, nan=_NOT_FINITE)), _NOT_FINITE)
    exact = bool(np.array_equal(outputs, clear))
    return replace(report, error=error, exact=exact, scores=scorer.scores(outputs)), notes


# -- in a process of its own --


def encrypted_run(
    artifact: bytes, x: npt.NDArray[Any], engine: str | None
) -> tuple[npt.NDArray[Any], Measured, tuple[str, ...]]:
    """Outputs, figures and notes of an encrypted run in this process; GlyphcError as from ``run``."""
    from glyphc.console import reporter

    warnings.simplefilter("ignore")
    program = Program.from_bytes(artifact)
    check_inputs(program.client, x)
    report = run(program, x, Mode.ENCRYPTED, reporter(), engine, allow_slow=True)
    (outputs,) = report.outputs.values()
    seconds = tuple(report.seconds.items())
    measured = Measured(seconds, report.cpu_seconds, report.peak_memory, 0.0, False, ())
    told = report.overruns or report.lost
    return outputs, measured, (message(report.overruns, report.samples, report.lost),) if told else ()
