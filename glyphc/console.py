"""Progress on a terminal (a bar) or in a log (plain lines)."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from glyphc.backends.engine import FIRST_USE
from glyphc.errors import OverrunWarning
from glyphc.progress import RESUMED, Reporter, duration

# In a log, what takes less than this is not worth a line, and a stage has about so many: one for each share of its
# work, and one a minute where it is long.
_LOG_SECONDS = 1.0
_LOG_LINES = 5
_LOG_MINUTE = 60.0
# What is left is said where it is no less than this, and something of the stage is done to judge by.
_LEFT_SECONDS = 10.0
# Stages that are worth a line before they begin.
_LONG_STAGES = (FIRST_USE, "generate keys", "evaluate", "train")


def reporter() -> Reporter:
    """Bars when stderr is a terminal, lines otherwise."""
    return _Bars() if sys.stderr.isatty() else _Lines()


@contextmanager
def overruns_told() -> Iterator[None]:
    """What a library warns of values beyond their ranges goes to stderr, in so many words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", OverrunWarning)
        yield
    for found in caught:
        if issubclass(found.category, OverrunWarning):
            click.echo(f"warning: {found.message}", err=True)


class _Bars:
    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None
        self._note = ""

    def stage(self, name: str, total: float) -> None:
        self._finish()
        self._progress.start()
        self._task = self._progress.add_task(name + self._note, total=total, what="")

    def advance(self, amount: float, what: str = "") -> None:
        if self._task is not None:
            self._progress.update(self._task, advance=amount, what=what)

    def note(self, text: str) -> None:
        self._note = text

    def done(self) -> None:
        self._finish()
        self._progress.stop()

    def _finish(self) -> None:
        if self._task is not None:
            total = self._progress.tasks[self._task].total or 1.0
            self._progress.update(self._task, completed=total, what="")
            self._progress.stop_task(self._task)
            self._task = None


class _Lines:
    """A line when a long stage begins, a handful while it goes on, one when a stage that took time has ended."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._name = self._note = ""
        self._total = self._unsaid = self._worked = self._resumed = 0.0

    def stage(self, name: str, total: float) -> None:
        self.done()
        self._name = name + self._note
        self._start = self._last = time.perf_counter()
        self._total, self._unsaid, self._worked, self._resumed = total, 0.0, 0.0, 0.0
        if name.startswith(_LONG_STAGES):
            print(f"{self._name} ...", file=sys.stderr, flush=True)

    def advance(self, amount: float, what: str = "") -> None:
        """Says what is done now, the seconds since the line before, and what is left at the stage's pace."""
        if what == RESUMED:
            self._resumed += amount
            return
        self._worked += amount
        self._unsaid += amount
        seconds = time.perf_counter() - self._last
        much = seconds >= _LOG_SECONDS and self._unsaid >= self._total / _LOG_LINES
        if much or seconds >= _LOG_MINUTE:
            print(f"  {what}: {seconds:.1f} s{self._left()}", file=sys.stderr, flush=True)
            self._last, self._unsaid = time.perf_counter(), 0.0

    def _left(self) -> str:
        if not self._worked:
            return ""
        pace = (time.perf_counter() - self._start) / self._worked
        left = pace * (self._total - self._resumed - self._worked)
        return f", about {duration(left)} left{self._note and ' of this pass'}" if left >= _LEFT_SECONDS else ""

    def note(self, text: str) -> None:
        self._note = text

    def done(self) -> None:
        seconds = time.perf_counter() - self._start
        if self._name and (seconds >= _LOG_SECONDS or self._name.startswith(_LONG_STAGES)):
            print(f"{self._name}: {seconds:.1f} s", file=sys.stderr, flush=True)
        self._name = ""
