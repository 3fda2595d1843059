"""How large the numbers are that bootstraps see in training, and how large they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.floating[Any]]

# Errors that are sent back are sums of a few products of weights and errors, far smaller than logits: their share of a
# range that is given for all layers.
BACK_SHARE = 1 / 4
# What a trial run saw, and this much more: encrypted weights are not quite those of the trial.
MARGIN = 1.25
# The trial may see nothing, as of errors behind weights of zero.
_LEAST = 2.0**-4


@dataclass(frozen=True)
class Ranges:
    """Largest magnitudes. sums: of each trained layer, the last ones are the logits; back: of the errors that are sent
    back to each layer but the last.
    """

    sums: tuple[float, ...]
    back: tuple[float, ...]

    @staticmethod
    def given(reach: float, layers: int) -> Ranges:
        """One range for the sums of all layers."""
        return Ranges((reach,) * layers, (reach * BACK_SHARE,) * (layers - 1))

    @staticmethod
    def of(sums: list[F64], back: list[F64]) -> Ranges:
        """Of a batch's values."""
        return Ranges(tuple(float(np.abs(v).max()) for v in sums), tuple(float(np.abs(v).max()) for v in back))

    def widened(self, other: Ranges) -> Ranges:
        """What holds both."""
        return Ranges(
            tuple(map(max, self.sums, other.sums)),
            tuple(map(max, self.back, other.back)),
        )

    def with_margin(self) -> Ranges:
        """What to plan for after a trial run."""
        return Ranges(
            tuple(max(_LEAST, MARGIN * v) for v in self.sums), tuple(max(_LEAST, MARGIN * v) for v in self.back)
        )

    def named(self) -> dict[str, float]:
        """By what they are of, for people."""
        last = len(self.sums) - 1
        sums = {"logits" if at == last else f"sums of trained layer {at + 1}": v for at, v in enumerate(self.sums)}
        return sums | {f"errors sent back to trained layer {at + 1}": v for at, v in enumerate(self.back)}
