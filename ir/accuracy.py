"""What an output loses beside the float network, as data: how it is judged, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class MeasureKind(Enum):
    """How the values of an output are judged."""

    CLASSES = "classes"  # share of decisions that change, in percent
    RELATIVE = "relative"  # rms error of the column that errs most, in percent of its own spread
    ABSOLUTE = "absolute"  # rms error in the output's own units


@dataclass(frozen=True)
class Loss:
    """What one output loses on some samples.

    value, limit: in the unit of ``kind``. error: rms error of the worst column in percent of its spread, whatever the
    kind; column: which one, of how many. near_ties: decisions that change and are not in ``value``, because the float
    network itself hardly decides there and the samples are too few to tell its rate. reason: why it is judged so.
    held_out: whether nothing was chosen with these samples. spreads: of the columns, on the calibration samples, which
    errors are measured by; empty where there are too many to keep.
    """

    output: str
    kind: MeasureKind
    value: float
    limit: float
    samples: int
    error: float
    column: int
    columns: int
    near_ties: int = 0
    reason: str = ""
    held_out: bool = False
    spreads: tuple[float, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether it is tolerated."""
        return self.value <= self.limit

    @property
    def excess(self) -> float:
        """How many times the limit it is."""
        if self.limit:
            return self.value / self.limit
        return float("inf") if self.value else 0.0
