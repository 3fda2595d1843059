"""How much the outputs of an approximated network lose beside the float network, on calibration samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.evaluate import Value, evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.ops import ArgMax, Output

F64 = npt.NDArray[np.floating[Any]]


class Measure(Enum):
    """What is lost, in words."""

    CLASSES = "percent of samples whose class changes"
    RANGE = "rms error in percent of an output's range"
    OUTPUTS = "rms error in the units of an output"


@dataclass(frozen=True)
class Loss:
    """What an output loses beside the float network."""

    value: float
    measure: Measure

    def text(self, samples: int) -> str:
        match self.measure:
            case Measure.CLASSES:
                return f"the class of {self.value:.2f} % of {samples} calibration samples changes"
            case Measure.RANGE:
                return f"rms error {self.value:.2g} % of the range on {samples} calibration samples"
            case Measure.OUTPUTS:
                return f"rms error {self.value:.3g} of the outputs on {samples} calibration samples"


@dataclass(frozen=True, eq=False)
class Judge:
    """Compares outputs with those of the float network (``source``; the graph itself where there is none).

    points: percentage points of the samples whose class (the largest of several outputs) may differ; of an output of
    one value: rms error, in percent of its range. logits: if not 0, tolerated rms error of the outputs in their own
    units, instead.
    """

    graph: Graph
    samples: Mapping[str, F64]
    source: Graph | None
    points: float
    logits: float

    @property
    def count(self) -> int:
        """Samples that are compared."""
        return len(next(iter(self.samples.values())))

    @property
    def tolerance(self) -> float:
        return self.logits or self.points

    @cached_property
    def _reference(self) -> dict[str, F64]:
        return real_outputs(evaluate(self.source or self.graph, self.samples))

    @cached_property
    def _classes(self) -> frozenset[str]:
        """Outputs that are a class already."""
        outputs = self.graph.of(Output)
        return frozenset(op.name for n, op in outputs if isinstance(self.graph.operands(n)[0].op, ArgMax))

    def loss(self, outputs: Mapping[str, F64]) -> Loss:
        """Of the output that loses most."""
        found = []
        for name, got in outputs.items():
            wanted = self._reference[name]
            if self.logits:
                found.append(Loss(rms(got - wanted), Measure.OUTPUTS))
            else:
                found.append(_loss(got, wanted, name in self._classes))
        return max(found, key=lambda loss: loss.value)

    def exaggerated(self, outputs: Mapping[str, F64], times: float) -> dict[str, F64]:
        """Outputs with their errors multiplied; those that are classes already stay as they are."""
        return {
            name: got if name in self._classes else self._reference[name] + times * (got - self._reference[name])
            for name, got in outputs.items()
        }

    def keeps(self, loss: Loss) -> bool:
        """Whether a loss is tolerated."""
        return loss.value <= self.tolerance

    def reason(self, loss: Loss) -> str:
        """A loss and the limit, for people."""
        limit = f"{self.tolerance:g}{'' if self.logits else ' %'}"
        text = f", {limit} tolerated" if self.keeps(loss) else f": more than the tolerated {limit}"
        return loss.text(self.count) + text


def real_outputs(outputs: Mapping[str, Value]) -> dict[str, F64]:
    """Outputs as float64."""
    return {name: np.asarray(value, dtype=np.float64) for name, value in outputs.items()}


def rms(x: Value) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _loss(got: F64, wanted: F64, classes: bool) -> Loss:
    """Samples with another class; of single values, rms error as a share of the range."""
    if classes:
        differ = got != wanted
    elif got[0].size == 1:
        return Loss(100 * rms(got - wanted) / (float(np.ptp(wanted)) or 1.0), Measure.RANGE)
    else:
        differ = np.argmax(got, axis=-1) != np.argmax(wanted, axis=-1)
    return Loss(100 * float(differ.reshape(len(differ), -1).any(axis=1).mean()), Measure.CLASSES)
