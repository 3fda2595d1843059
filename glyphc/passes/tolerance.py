"""What accuracy may be lost, told to several passes, and the samples that this is judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.graph import Graph
from glyphc.measures import Judge, Limits, parse_kinds

from .base import Pass, check_option

F64 = npt.NDArray[np.floating[Any]]
# With fewer samples, none are held back.
_FEWEST = 16


@dataclass(frozen=True)
class TolerancePass(Pass):
    """A pass that is told the tolerated loss.

    Every output is judged by its own measure (``glyphc.measures``), and the one that exceeds its limit most decides.
    points: percentage points of the decisions that may differ from the float network's, a bound of the accuracy lost.
    spread: of an output that has no classes, tolerated rms error of every column, in percent of its spread. logits:
    tolerated rms error of the outputs in their own units, instead. measures: kinds of single outputs, e.g.
    ``y=relative;z=classes``.
    """

    points: float = 0.5
    spread: float = 0.75
    logits: float = 0.0
    measures: str = ""

    def __post_init__(self) -> None:
        check_option(self.name, "points", self.points, 0.0, 100.0)
        check_option(self.name, "spread", self.spread, 0.0, 100.0)
        check_option(self.name, "logits", self.logits, 0.0, 1e15)
        parse_kinds(filter(None, self.measures.split(";")))

    def judge(self, network: Graph, samples: Mapping[str, F64]) -> Judge:
        """Judges outputs beside those of a network on samples."""
        kinds = parse_kinds(filter(None, self.measures.split(";")))
        return Judge.of(network, samples, Limits(self.points, self.logits, self.spread), kinds)


@dataclass(frozen=True, eq=False)
class Halves:
    """Calibration samples to choose with, and others to promise on.

    held_out: False where there are too few to hold any back: then both are all of them.
    """

    first: Mapping[str, F64]
    second: Mapping[str, F64]
    held_out: bool

    @staticmethod
    def of(samples: Mapping[str, F64], most: int) -> Halves:
        """Every second sample, at most so many of each half."""
        count = len(next(iter(samples.values())))
        if count < _FEWEST:
            return Halves(samples, samples, False)
        first, second = ({name: x[start::2][:most] for name, x in samples.items()} for start in (0, 1))
        return Halves(first, second, True)

    @property
    def rows(self) -> tuple[slice, slice]:
        """Where each half is among :attr:`both`."""
        count = len(next(iter(self.first.values())))
        return (slice(count), slice(count, None)) if self.held_out else (slice(None), slice(None))

    @property
    def both(self) -> Mapping[str, F64]:
        """All of them."""
        if not self.held_out:
            return self.first
        return {name: np.concatenate([self.first[name], self.second[name]]) for name in self.first}
