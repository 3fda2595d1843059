"""Training systems side by side on one network and its data: a few steps of each, predicted, and run where it fits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.backends.processes import apart
from glyphc.comparison import digest, too_much
from glyphc.errors import DataError, GlyphcError
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Input
from glyphc.ir.parameters import INSECURE
from glyphc.ir.text import to_text
from glyphc.program import INSECURE_WARNING
from glyphc.runtime import Mode
from glyphc.text_tables import align
from glyphc.train.job import Job, Options, make_job
from glyphc.train.predict import different_batches
from glyphc.train.step import with_weights

from .choose import NAMES, Sizes, system_of
from .glyph import Glyph
from .system import Forecast, System, carry_out

F64 = npt.NDArray[np.floating[Any]]
GLYPH = "glyph"
ALL = (GLYPH, *NAMES)
NOT_RUN = "predicted, not run"
# What has no form in a record: far beyond every score.
_NOT_FINITE = 1e9


@dataclass(frozen=True)
class Row:
    """A strategy, and the size of what it replaces functions by: degree, bits of a table's index or of words."""

    strategy: str
    size: int | None = None

    def __str__(self) -> str:
        return self.strategy if self.size is None else f"{self.strategy}:{self.size}"

    @property
    def sizes(self) -> Sizes:
        match self.strategy:
            case "nandakumar":
                return Sizes(table_bits=self.size)
            case "tbmpnet":
                return Sizes(word_bits=self.size)
        return Sizes(degree=self.size)


@dataclass(frozen=True)
class Scores:
    """loss: the mean square of what outputs are off, over all samples; accuracy: the share of right classes."""

    loss: float
    accuracy: float

    def __str__(self) -> str:
        return f"{self.loss:.4g}, {self.accuracy:.1%}"


@dataclass(frozen=True)
class Measured:
    """Of an encrypted run in a process of its own. step_seconds, client_seconds, cpu_seconds: of a step: the server's
    and the client's by the wall, both on all cores. off: the largest difference of a weight from the definition, as a
    share of the largest change of one; 0 where all are the same bit for bit."""

    step_seconds: float
    client_seconds: float
    cpu_seconds: float
    trips: int
    memory_bytes: int
    off: float


@dataclass(frozen=True)
class Trained:
    """What was found of a row. outcome: in a word; reason: where it was not run. scores: after all steps, encrypted
    where it ran, else of the definition; floats: of the same steps with floats and the network's own functions."""

    row: Row
    outcome: str
    reason: str = ""
    security: str = ""
    predicted: Forecast | None = None
    scores: Scores | None = None
    measured: Measured | None = None
    learns: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingRecord:
    """What is known of a comparison. subject: what was compared, a digest of network, data and options; machine: where
    rows were predicted and run."""

    subject: str
    machine: str
    results: tuple[Trained, ...] = ()
    format: str = "glyphc-training-comparison"
    version: int = 1

    def of(self, row: Row) -> Trained | None:
        """The result of a row, if there is one that need not be worked out again."""
        found = (result for result in self.results if result.row == row and result.outcome != NOT_RUN)
        return next(found, None)

    def with_result(self, result: Trained) -> TrainingRecord:
        """With this row in place of an earlier one, or behind all others."""
        return replace(self, results=(*(r for r in self.results if r.row != result.row), result))


@dataclass(frozen=True, eq=False)
class Task:
    """network, x, y: what is trained, with numbers as targets, one for each output. options: of the run, the same for
    all; their loss is quadratic. seconds, memory_bytes: what is predicted to take more is not run; 0: memory that is
    free."""

    network: Graph
    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    options: Options
    seconds: float = 600.0
    memory_bytes: float = 0.0

    def job(self) -> Job:
        return make_job(self.network, self.x, self.y, self.options)

    @property
    def subject(self) -> str:
        """What is compared, in hexadecimal digits: limits of time and memory are no part of it."""
        return digest(to_text(self.network).encode(), (self.x, self.y), repr(self.options))

    def system(self, row: Row) -> System:
        job = self.job()
        return Glyph(job) if row.strategy == GLYPH else system_of(row.strategy, job, row.sizes)

    def scores(self, network: Graph) -> Scores:
        """Of a network's outputs on all samples."""
        ((_, op),) = network.of(Input)
        (outputs,) = evaluate(network, {op.name: np.asarray(self.x, dtype=np.float64)}).values()
        found, wanted = (np.asarray(v, dtype=np.float64).reshape(len(self.x), -1) for v in (outputs, self.y))
        several = wanted.shape[1] > 1
        right = found.argmax(axis=1) == wanted.argmax(axis=1) if several else (found > 0.5) == (wanted > 0.5)
        # what diverged has no number, and a record none for that
        loss = np.nan_to_num(np.mean((found - wanted) ** 2), nan=_NOT_FINITE, posinf=_NOT_FINITE)
        return Scores(float(loss), float(np.mean(right)))


def parse_rows(text: str) -> tuple[Row, ...]:
    """Rows from ``all``, or ``NAME[:SIZE]``, separated by commas; GlyphcError for anything else."""
    found: list[Row] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        if item == "all":
            found += [Row(name) for name in ALL]
            continue
        name, colon, size = item.partition(":")
        if name not in ALL:
            raise GlyphcError(f"there is no strategy {name!r} that trains; there are: all, {', '.join(ALL)}")
        if colon and not (size.isdecimal() and len(size) < 4):
            raise GlyphcError(f"{item!r} is not NAME:SIZE; write e.g. onoufriou:7 for degree 7")
        if colon and name == GLYPH:
            raise GlyphcError(f"{item!r}: the strategy {GLYPH!r} has no size")
        found.append(Row(name, int(size) if colon else None))
    if not found:
        raise GlyphcError(f"{text!r} names no strategy; write all, or names separated by commas")
    return tuple(dict.fromkeys(found))


def targets_of(network: Graph, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Targets of a quadratic loss: one-hot rows of classes, or numbers as they are."""
    (output,) = network.outputs
    count = network.operands(output)[0].type.size
    if count > 1 and labels.ndim == 1:
        if labels.dtype.kind not in "iub" or labels.min(initial=0) < 0 or labels.max(initial=0) >= count:
            raise DataError(f"labels are classes 0 to {count - 1}, or rows of {count} numbers")
        return np.eye(count)[labels.astype(np.int64)]
    return labels


def compare_training(
    task: Task,
    rows: Sequence[Row],
    say: Callable[[str], None] = lambda text: None,
    record: TrainingRecord | None = None,
    keep: Callable[[TrainingRecord], None] = lambda record: None,
) -> tuple[Scores, list[Trained]]:
    """Scores of the same steps with floats, and all rows. say: told what is done now. record: what is known already,
    of the same subject; keep: told of it with every row that is worked out."""
    job = task.job()
    state = job.program.initial()
    for step in range(job.options.steps):
        x, y = job.batch(job.batches.number(step))
        state, _ = job.program.run(state, job.named(x), y)
    floats = task.scores(with_weights(job.network, state.weights))
    record = record or TrainingRecord(task.subject, "")
    found = []
    for number, row in enumerate(rows, 1):
        known = record.of(row)
        if known is not None:
            say(f"{number} of {len(rows)}: {row}: known, {known.outcome}")
            found.append(known)
            continue
        say(f"{number} of {len(rows)}: {row}")
        found.append(_row(task, row))
        say(f"  {found[-1].outcome}{f': {found[-1].reason}' if found[-1].reason else ''}")
        record = record.with_result(found[-1])
        keep(record)
    return floats, found


def _row(task: Task, row: Row) -> Trained:
    try:
        system = task.system(row)
        forecast = system.forecast
        expected = carry_out(system, Mode.CLEAR).state
    except GlyphcError as e:
        return Trained(row, "refused", str(e))
    scores = task.scores(with_weights(system.job.network, system.weights(expected)))
    security = INSECURE_WARNING if system.security == INSECURE else system.security
    learns, notes = str(system.knowledge), system.notes
    result = Trained(row, NOT_RUN, "", security, forecast, scores, None, learns, notes)
    if reason := _too_much(task, forecast):
        return replace(result, reason=reason)
    try:
        weights, measured = apart(encrypted_run, task, row, errors=GlyphcError)
    except (GlyphcError, MemoryError, RuntimeError) as e:
        return replace(result, outcome="failed", reason=str(e))
    scores = task.scores(with_weights(system.job.network, weights))
    return replace(result, outcome="run", scores=scores, measured=measured)


def _too_much(task: Task, forecast: Forecast) -> str:
    """Why a row is not run, in words; empty where it fits."""
    seconds = task.options.steps * (forecast.step_seconds + forecast.client_seconds)
    return too_much(seconds, task.seconds, forecast.memory_bytes, task.memory_bytes)


def encrypted_run(task: Task, row: Row) -> tuple[dict[str, F64], Measured]:
    """:func:`measured_run` of a row; GlyphcError as from its system."""
    warnings.simplefilter("ignore")
    return measured_run(task.system(row))


def measured_run(system: System) -> tuple[dict[str, F64], Measured]:
    """Real weights after an encrypted run in this process, and its figures."""
    start, expected = system.initial(), carry_out(system, Mode.CLEAR).state
    done = carry_out(system, Mode.ENCRYPTED)
    steps = len(done.seconds)
    moved = max(float(np.abs(expected[n] - start[n]).max(initial=0)) for n in start)
    off = max(float(np.abs(done.state[n] - expected[n]).max(initial=0)) for n in start)
    measured = Measured(
        done.server_seconds / steps,
        done.client_seconds / steps,
        done.cpu_seconds / steps,
        done.trips,
        done.peak_memory,
        off / (moved or 1.0),
    )
    return system.weights(done.state), measured


# -- for people --

_HEADING = (
    "strategy", "result", "loss, accuracy", "off", "server s a step (predicted)", "client s (predicted)",
    "CPU s a step", "trips (predicted)", "up MB a step", "down MB a step", "batches and weights MB", "keys MB",
    "peak GB (predicted)",
)  # fmt: skip


def cells(task: Task, found: Trained) -> tuple[str, ...]:
    """A row of the table."""
    p, m, steps = found.predicted, found.measured, task.options.steps
    if p is None:
        return (str(found.row), found.outcome, *[""] * (len(_HEADING) - 2))
    job = task.job()
    once = p.state_bytes + different_batches(job.batches, steps) * p.batch_bytes
    fixed = (f"{p.upload_bytes / 1e6:.1f}", f"{p.download_bytes / 1e6:.1f}", f"{once / 1e6:.1f}")
    keys, scores = f"{p.key_bytes / 1e6:,.0f}", str(found.scores)
    server, client = f"({p.step_seconds:.3g})", f"({p.client_seconds:.3g})"
    trips, memory = f"({steps * p.trips})", f"({p.memory_bytes / 1e9:.2f})"
    if m is None:
        return (str(found.row), found.outcome, scores, "", server, client, "", trips, *fixed, keys, memory)
    off = "exact" if not m.off else f"2^{log2(max(m.off, 2.0**-99)):.1f}"
    return (
        str(found.row),
        found.outcome,
        scores,
        off,
        f"{m.step_seconds:.3g} {server}",
        f"{m.client_seconds:.3g} {client}",
        f"{m.cpu_seconds:.3g}",
        f"{m.trips} {trips}",
        *fixed,
        keys,
        f"{m.memory_bytes / 1e9:.2f} {memory}",
    )


def _caption(task: Task, floats: Scores, found: Sequence[Trained]) -> str:
    options, measured = task.options, [t.predicted.measured_on for t in found if t.predicted]
    machine = f"predicted for {measured[0]}" if measured else ""
    security = ", ".join(dict.fromkeys(t.security for t in found if t.security))
    before = task.scores(task.job().network)
    return (
        f"{options.steps} steps of {options.batch or len(task.x)} of {len(task.x)} samples, {options.optimizer}; "
        + "; ".join(filter(None, (f"before: {before}", f"as many steps with floats: {floats}", machine, security)))
    )


_LEGEND = (
    "off: the largest difference of a weight from the same steps in the clear, of the largest change of one; server "
    "and client: wall seconds of a step; CPU: of both sides on all cores; peak: both sides in one process."
)


def table(task: Task, floats: Scores, found: Sequence[Trained]) -> str:
    """Text with aligned columns, then reasons and who learns what."""
    lines = [_caption(task, floats, found), "", align([_HEADING, *(cells(task, t) for t in found)]), "", _LEGEND, ""]
    lines += [f"{t.row}: {text}" for t in found for text in (t.reason, *t.notes) if text]
    return "\n".join([*lines, "", "who learns what", *_known(found)]).rstrip()


def markdown(task: Task, floats: Scores, found: Sequence[Trained]) -> str:
    """The same as Markdown."""
    lines = ["| " + " | ".join(_HEADING) + " |", "|" + " --- |" * len(_HEADING)]
    lines += ["| " + " | ".join(cells(task, t)) + " |" for t in found]
    reasons = [f"- {t.row}: {t.reason}" for t in found if t.reason]
    known = [f"- {line.strip()}" for line in _known(found)]
    return "\n".join([*lines, "", f"{_caption(task, floats, found).rstrip('.')}. {_LEGEND}", "", *reasons, *known])


def _known(found: Sequence[Trained]) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for t in found:
        if t.learns:
            kinds.setdefault(t.learns, []).append(str(t.row))
    return [f"  {', '.join(names)}: {learns}" for learns, names in kinds.items()]
