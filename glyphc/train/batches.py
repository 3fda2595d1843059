"""Which samples a step sees: a pure function of seed and step, so that a resumed run sees the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batches:
    """Every epoch goes through all samples in an order of its own; its last batch is filled up with its first samples.

    With a batch of all samples every step sees all of them in their own order.
    """

    samples: int
    batch: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= self.samples:
            raise ValueError(f"the batch must be 1 to {self.samples}, not {self.batch}")

    @property
    def per_epoch(self) -> int:
        return -(-self.samples // self.batch)

    def rows(self, step: int) -> I64:
        """Sample indices of step 0, 1, ..., shape (batch,)."""
        if self.batch == self.samples:
            return np.arange(self.samples)
        epoch, at = divmod(step, self.per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
        return np.asarray(np.resize(order, self.per_epoch * self.batch)[at * self.batch : (at + 1) * self.batch])
