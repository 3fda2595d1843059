"""How far values go beyond those that a few samples showed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.floating[Any]]

# What is planned for: one in so many fresh samples may go beyond.
_CHANCE = 1e-4
# A tail is fitted to the largest tenth, if that has so many samples at least.
_TAIL, _FEWEST = 0.1, 8
# Shapes of tails: bounded ones are taken to end no sooner, heavy ones no later than at these.
_SHAPES = (-0.5, 0.25)
# Margins, as shares of half of the range that was seen: at least for rounding and noise, at most for precision.
_LEAST, _MOST = 0.1, 1.0


def margin(extremes: F64, half: float) -> float:
    """How far a fresh sample may go beyond the largest of ``extremes``, one number for each calibration sample.

    half: half the range of all values, which bounds the answer. The excesses over a high threshold follow a generalised
    Pareto distribution, whatever the distribution of the samples (Pickands 1975); its parameters are estimated by
    probability-weighted moments (Hosking and Wallis, Technometrics 29, 1987). Of too few samples for that, a fresh one
    is the largest with probability 1/(n + 1), and the margin is larger the fewer there are.
    """
    values = np.sort(np.asarray(extremes, dtype=np.float64))
    count, top = len(values), float(values[-1])
    tail = int(np.ceil(_TAIL * count))
    if tail < _FEWEST:
        return min(_MOST, 0.25 + 2.5 / count) * half
    excesses = values[-tail:] - values[-tail - 1]
    level = float(values[-tail - 1]) + _quantile(excesses, _CHANCE * count / tail)
    return float(np.clip(level - top, _LEAST * half, _MOST * half))


def _quantile(excesses: F64, chance: float) -> float:
    """What an excess is larger than with a probability; excesses in ascending order."""
    count = len(excesses)
    mean = float(excesses.mean())
    weighted = float((excesses * np.arange(count - 1, -1, -1)).sum()) / (count * (count - 1))
    if mean <= 0:
        return 0.0
    spread = mean - 2 * weighted
    shape = 2 - mean / spread if spread > 0 else _SHAPES[0]
    shape = float(np.clip(shape, *_SHAPES))
    scale = mean * (1 - shape)
    if abs(shape) < 1e-6:
        return float(-scale * np.log(chance))
    return float(scale / shape * (chance**-shape - 1))
