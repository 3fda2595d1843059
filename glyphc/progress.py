"""Progress of long work: what a run reports, and a silent default."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Protocol

# Said of work that was done before a run was interrupted.
RESUMED = "resumed"


class Reporter(Protocol):
    """Receives the progress of a run. Stages follow each other; total counts seconds of predicted work."""

    def stage(self, name: str, total: float) -> None:
        """A new stage begins, with this much work."""

    def advance(self, amount: float, what: str = "") -> None:
        """So much of the stage's work is done; ``what`` names the node or instruction."""

    def note(self, text: str) -> None:
        """Said of all following stages, e.g. which pass this is; empty to take it back."""

    def done(self) -> None:
        """The last stage has ended."""


class Silent:
    """Reports nothing."""

    def stage(self, name: str, total: float) -> None:
        pass

    def advance(self, amount: float, what: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def done(self) -> None:
        pass


class Written(Silent):
    """A line on stderr for each stage that begins: of processes whose stderr is a log."""

    def __init__(self) -> None:
        self._note = ""

    def stage(self, name: str, total: float) -> None:
        print(f"{name}{self._note} ...", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        self._note = text


def keys_counted(reporter: Reporter, count: int) -> Callable[[str], None]:
    """Tells of each of so many keys that it is made or loaded: which one, as their names say nothing to people."""
    numbers = itertools.count(1)
    return lambda name: reporter.advance(1, f"key {next(numbers)} of {count}")


def duration(seconds: float) -> str:
    """A time for people: "42 s", "12 min", "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
