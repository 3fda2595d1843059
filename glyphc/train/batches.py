"""Which samples a step sees: a pure function of seed and step, so that a resumed run sees the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]


class Shuffle(Enum):
    """What every epoch draws anew. ONCE: nothing; BATCHES: the order of its batches, which costs nothing; SAMPLES:
    their order, so that its batches are others, each encrypted and uploaded for one step alone."""

    ONCE = "once"
    BATCHES = "batches"
    SAMPLES = "samples"


@dataclass(frozen=True)
class Turn:
    """From ``step`` on, batches first, ..., first + count - 1 come in turn, ``begin`` before all others."""

    step: int
    first: int
    count: int
    begin: int

    def number(self, step: int) -> int:
        return self.first + (self.begin - self.first + step - self.step) % self.count


@dataclass(frozen=True)
class Batches:
    """The samples in an order drawn by the seed, cut into batches; the last one is filled up with the first samples.

    Every epoch has the same batches, unless ``shuffle`` says otherwise: under encryption, each is encrypted once. With
    a batch of all samples, they keep their own order. turns: where a run goes on with others, in the order of their
    steps; batches beyond the first epoch's are of samples that came later.
    """

    samples: int
    batch: int
    seed: int = 0
    turns: tuple[Turn, ...] = ()
    shuffle: Shuffle = Shuffle.ONCE

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= self.samples:
            raise ValueError(f"the batch must be 1 to {self.samples}, not {self.batch}")

    @property
    def per_epoch(self) -> int:
        return -(-self.samples // self.batch)

    def number(self, step: int) -> int:
        """Which batch step 0, 1, ... sees."""
        turn = next((turn for turn in reversed(self.turns) if turn.step <= step), None)
        if turn is not None:
            return turn.number(step)
        epoch, at = divmod(step, self.per_epoch)
        if self.shuffle is Shuffle.SAMPLES and self.batch < self.samples:
            return step
        # the first epoch keeps its order, so that a run of part of it needs no other batches
        again = self.shuffle is Shuffle.BATCHES and epoch > 0
        return int(np.random.default_rng((self.seed, epoch)).permutation(self.per_epoch)[at]) if again else at

    def rows(self, number: int) -> I64:
        """Sample indices of a batch, shape (batch,)."""
        if self.batch == self.samples:
            return np.arange(self.samples)
        epoch, at = divmod(number, self.per_epoch)
        order = np.random.default_rng((self.seed, epoch) if epoch else self.seed).permutation(self.samples)
        return np.asarray(np.resize(order, self.per_epoch * self.batch)[at * self.batch : (at + 1) * self.batch])
