"""Ranges of private data, rounded outward: others see them, since number formats and series are made for them."""

from __future__ import annotations

from math import ceil, floor, log2
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.floating[Any]]

# Steps of an octave.
_STEPS = 8


def up(value: float) -> float:
    """The next power of 2^(1/8), of a positive number."""
    return float(2.0 ** (ceil(_STEPS * log2(value)) / _STEPS))


def down(value: float) -> float:
    """The last power of 2^(1/8), of a positive number."""
    return float(2.0 ** (floor(_STEPS * log2(value)) / _STEPS))


def outward(lo: npt.ArrayLike, hi: npt.ArrayLike) -> tuple[F64, F64]:
    """Intervals that hold [lo, hi], lo < hi, with ends on a grid of an eighth of the octave of their half width.

    Not in eighths of an octave of the ends themselves: a narrow range far from zero would become a wide one.
    """
    low, high = np.asarray(lo, dtype=np.float64), np.asarray(hi, dtype=np.float64)
    step = 2.0 ** (np.floor(np.log2((high - low) / 2))) / _STEPS
    return np.floor(low / step) * step, np.ceil(high / step) * step
