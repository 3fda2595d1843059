"""Weights of samples as repetitions: what encryption needs no instruction for, and servers learn nothing of.

A mean over samples of which one stands there twice is the mean in which it weighs twice as much. So batches, layouts
and ciphertexts stay as they are; more samples, if all are in one step, take more room in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import DataError

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


def repeated(weights: F64) -> I64:
    """The samples by number, each as often as it counts; DataError where none does."""
    if not weights.any():
        raise DataError("all samples weigh nothing; there is nothing to train on")
    return np.repeat(np.arange(len(weights)), repetitions(weights))


def sample_factors(given: npt.ArrayLike | None, samples: int) -> F64:
    """Weights of samples, shape (samples,), all 1 where none are given; DataError for what are none."""
    if given is None:
        return np.ones(samples)
    weights = np.asarray(given)
    if weights.shape != (samples,) or weights.dtype.kind not in "fiub":
        raise DataError(f"weights are numbers, one for each of {samples} samples; got shape {list(weights.shape)}")
    found = weights.astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
    if len(wrong):
        raise DataError(f"the weight of sample {wrong[0]} is {found[wrong[0]]:g}; weights are finite and not negative")
    return found


def class_factors(text: str, labels: npt.NDArray[Any]) -> F64:
    """Of each sample, by its class: "balanced", so that all classes that there are count as much, or "0=1,1=3"; classes
    that are not named count once. DataError for labels that are no classes, and for other texts."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "fiub" or not np.array_equal(labels, np.rint(labels)):
        raise DataError("weights of classes take classes as labels: one integer for each sample")
    classes, of, counts = np.unique(labels.astype(np.int64), return_inverse=True, return_counts=True)
    if text.strip() == "balanced":
        return np.asarray((len(labels) / (len(classes) * counts))[of])
    factors = np.ones(len(classes))
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = pair.partition("=")
        try:
            at, factor = np.flatnonzero(classes == int(name)), float(value)
        except ValueError:
            raise DataError(f"weights of classes are 'balanced' or CLASS=WEIGHT, not {pair!r}") from None
        if not len(at) or not 0 <= factor < np.inf:
            raise DataError(f"{pair!r}: the labels have no class {name}, or its weight is negative or not finite")
        factors[at] = factor
    return np.asarray(factors[of])
