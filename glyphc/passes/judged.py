"""What passes share that hold a network's outputs against the loss of accuracy that is tolerated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.graph import Graph
from glyphc.measures import Judge, Limits, parse_kinds

from .base import Context, Pass, check_option

F64 = npt.NDArray[np.floating[Any]]

# With fewer samples, none are held back.
_FEWEST = 16


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
    def both(self) -> Mapping[str, F64]:
        """All of them."""
        if not self.held_out:
            return self.first
        return {name: np.concatenate([self.first[name], self.second[name]]) for name in self.first}


@dataclass(frozen=True)
class JudgedPass(Pass):
    """A pass that judges every output by its own measure (``glyphc.measures``); the worst one decides.

    points: percentage points of the decisions that may differ from the float network's, a bound of the accuracy lost.
    spread: of an output that has no classes, tolerated rms error of every column, in percent of its spread. logits:
    tolerated rms error of the outputs in their own units, instead. samples: how many calibration samples are simulated
    at most, to choose and to promise. measures: kinds of single outputs, e.g. ``y=relative;z=classes``.
    """

    points: float = 0.5
    spread: float = 0.75
    logits: float = 0.0
    samples: int = 512
    measures: str = ""

    def __post_init__(self) -> None:
        check_option(self.name, "points", self.points, 0.0, 100.0)
        check_option(self.name, "spread", self.spread, 0.0, 100.0)
        check_option(self.name, "logits", self.logits, 0.0, 1e15)
        check_option(self.name, "samples", self.samples, 1, 1_000_000)
        parse_kinds(filter(None, self.measures.split(";")))

    def judged(self, graph: Graph, context: Context) -> tuple[Halves, Judge]:
        """The samples of a context, of which there are some, and who judges outputs of a graph on them."""
        halves = Halves.of(context.samples, self.samples)
        kinds = parse_kinds(filter(None, self.measures.split(";")))
        limits = Limits(self.points, self.logits, self.spread)
        return halves, Judge.of(context.source or graph, halves.both, limits, kinds)
