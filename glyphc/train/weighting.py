"""Weights of samples as repetitions: what encryption needs no instruction for, and servers learn nothing of.

A mean over samples of which one stands there twice is the mean in which it weighs twice as much. So batches, layouts
and ciphertexts stay as they are; more samples, if all are in one step, take more room in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.floating[Any]]
I64 = npt.NDArray[np.int64]

# At most so many times the number of samples come out.
_MOST_GROWTH = 4


def repetitions(weights: F64) -> I64:
    """How often each sample stands in the data, shape (samples,), from weights that are not negative and not all zero.

    Exact for integers with a sum of at most four times the samples (common factors are taken out), else so that as many
    samples come out and every weight is met to within one repetition (the method of the largest remainder).
    """
    integers = np.rint(weights).astype(np.int64)
    if np.array_equal(integers, weights):
        integers = integers // np.gcd.reduce(integers)
        if integers.sum() <= _MOST_GROWTH * len(weights):
            return np.asarray(integers)
    wanted = weights * (_MOST_GROWTH * len(weights) / weights.sum())
    found = np.floor(wanted).astype(np.int64)
    missing = _MOST_GROWTH * len(weights) - int(found.sum())
    found[np.argsort(found - wanted, kind="stable")[:missing]] += 1
    return np.asarray(found // max(int(np.gcd.reduce(found)), 1))
