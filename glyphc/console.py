"""Progress on a terminal (a bar) or in a log (plain lines)."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from glyphc.progress import Reporter

# In a log, steps shorter than this are not worth a line.
_LOG_SECONDS = 1.0
# Stages that are worth a line before they begin.
_LONG_STAGES = ("generate keys", "evaluate", "train")


def reporter() -> Reporter:
    """Bars when stderr is a terminal, lines otherwise."""
    return _Bars() if sys.stderr.isatty() else _Lines()


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
    """A line when a long stage begins, one for each long step in it, one when a stage that took time has ended."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._name = self._note = ""

    def stage(self, name: str, total: float) -> None:
        self.done()
        self._name = name + self._note
        self._start = self._last = time.perf_counter()
        if name in _LONG_STAGES:
            print(f"{self._name} ...", file=sys.stderr, flush=True)

    def advance(self, amount: float, what: str = "") -> None:
        now = time.perf_counter()
        if now - self._last >= _LOG_SECONDS:
            print(f"  {what}: {now - self._last:.1f} s", file=sys.stderr, flush=True)
        self._last = now

    def note(self, text: str) -> None:
        self._note = text

    def done(self) -> None:
        seconds = time.perf_counter() - self._start
        if self._name and (seconds >= _LOG_SECONDS or self._name.startswith(_LONG_STAGES)):
            print(f"{self._name}: {seconds:.1f} s", file=sys.stderr, flush=True)
        self._name = ""
