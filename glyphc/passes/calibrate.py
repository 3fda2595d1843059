"""Value ranges, from running the network on the calibration samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.errors import CalibrationError
from glyphc.ir.evaluate import Value, evaluate_all
from glyphc.ir.graph import Candidate, Decision, Graph, Rewriter
from glyphc.ir.ops import Input
from glyphc.ir.types import Calibration, Level

from .base import Context, Pass, check_option

F64 = npt.NDArray[np.float64]

# Fewer samples than these deserve a word.
_FEWEST = 50
# Magnitudes beyond this leave no room for computing with ranges in double precision.
_LARGEST = 1e15


@dataclass(frozen=True)
class Calibrate(Pass):
    """Give every value the range and the histogram that the calibration samples show."""

    name: ClassVar[str] = "calibrate"
    requires: ClassVar[Level] = Level.SOURCE
    ensures: ClassVar[Level] = Level.SOURCE
    bins: int = 64

    def __post_init__(self) -> None:
        check_option(self.name, "bins", self.bins, 1, 4096)

    def run(self, graph: Graph, context: Context) -> Graph:
        values = calibration_values(graph, context.samples)
        rewriter = Rewriter(graph)
        for node in graph:
            x = values[node.id].astype(np.float64)
            lo, hi = float(x.min()), float(x.max())
            calibration = Calibration(lo, hi, _histogram(x, lo, hi, self.bins), _reach(x, lo, hi))
            decisions = self._doubts(x) if isinstance(node.op, Input) else ()
            rewriter.keep(node, replace(node.type, calibration=calibration), decisions)
        return rewriter.new

    def _doubts(self, x: F64) -> tuple[Decision, ...]:
        """Why the samples may not show what values there are."""
        count = len(x)
        warning = ""
        if count < _FEWEST:
            warning = (
                f"only {count} calibration sample{'s' if count > 1 else ''}: ranges that so few show are guesses, and "
                "so is the accuracy; give some hundreds"
            )
        elif not np.ptp(x, axis=0).any():
            warning = f"all {count} calibration samples are equal: they show no ranges; give some that are typical"
        elif (equal := count - len(np.unique(x.reshape(count, -1), axis=0))) > count / 2:
            warning = f"{equal} of {count} calibration samples are equal to others; give more that differ"
        if not warning:
            return ()
        return (Decision(self.name, f"{count} samples", (Candidate(f"{count} samples", None, warning),), warning),)


def calibration_values(graph: Graph, samples: dict[str, F64]) -> dict[int, Value]:
    """Values of all nodes on the calibration samples; CalibrationError when there are none, or one is out of range."""
    for node in graph.inputs:
        assert isinstance(node.op, Input)
        check_samples(samples.get(node.op.name), node.op.name, node.op.shape)
    with np.errstate(over="ignore", invalid="ignore"):  # looked for below, with the node's name
        values = evaluate_all(graph, samples)
    for node in graph:
        x = values[node.id].astype(np.float64)
        if not np.all(np.isfinite(x)):
            raise CalibrationError(
                f"{node} overflows on the calibration samples: it is not finite for "
                f"{int((~np.isfinite(x.reshape(len(x), -1))).any(axis=1).sum())} of {len(x)} samples"
            )
        largest = float(np.abs(x).max())
        if largest > _LARGEST:
            raise CalibrationError(
                f"{node} reaches {largest:.3g} on the calibration samples; values beyond {_LARGEST:.0e} cannot be "
                "calibrated. Check the calibration data's units"
            )
    return values


def _histogram(x: F64, lo: float, hi: float, bins: int) -> tuple[int, ...]:
    """Counts in equal bins over [lo, hi]; all in the first one when the range is empty."""
    share = (x.reshape(-1) - lo) / ((hi - lo) or 1.0)
    at = np.clip((share * bins).astype(int), 0, bins - 1)
    return tuple(int(c) for c in np.bincount(at, minlength=bins))


def _reach(x: F64, lo: float, hi: float) -> tuple[int, ...]:
    """Samples by how far their farthest element is from the middle, in tenths of the half width."""
    farthest = np.abs(x.reshape(len(x), -1) - (lo + hi) / 2).max(axis=1)
    tenths = np.minimum(farthest / ((hi - lo) / 2 or 1.0) * 10, 9.999).astype(int)
    return tuple(int(c) for c in np.bincount(tenths, minlength=10))


def check_samples(x: F64 | None, name: str, shape: tuple[int, ...]) -> None:
    """CalibrationError unless x is a finite real array of shape (samples >= 1, *shape)."""
    wanted = f"an array of shape (samples, {', '.join(map(str, shape))})"
    if x is None:
        raise CalibrationError(
            f"no calibration samples for input {name!r}: value ranges are measured on real samples, so pass some "
            f"(a few "
            f"hundred are plenty) with --calibration FILE.npy, or calibration= in Python, as {wanted}"
        )
    if x.ndim != len(shape) + 1 or x.shape[1:] != shape or not len(x):
        raise CalibrationError(f"the calibration samples for input {name!r} have shape {list(x.shape)}; need {wanted}")
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1)
    if bad.any():
        raise CalibrationError(
            f"{int(bad.sum())} of {len(x)} calibration samples for input {name!r} contain NaN or infinity, the first "
            f"one at index {int(np.argmax(bad))}; remove or repair them"
        )
