"""How large the numbers are that bootstraps see in training, and how large they may be."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log2
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.rounding import down, up

F64 = npt.NDArray[np.floating[Any]]

# Errors that are sent back are sums of a few products of weights and errors, far smaller than logits: their share of a
# range that is given for all layers.
BACK_SHARE = 1 / 4
# What a trial run saw, and this much more: encrypted weights are not quite those of the trial.
MARGIN = 1.15
# The trial may see nothing, as of errors behind weights of zero.
_LEAST = 2.0**-4


@dataclass(frozen=True)
class Ranges:
    """Largest magnitudes. sums: of each trained layer, the last ones are the logits; back: of the errors that are sent
    back to each layer but the last, 0 where there are none. exponentials: least and largest sum of exponentials of a
    sample's logits.
    """

    sums: tuple[float, ...]
    back: tuple[float, ...]
    exponentials: tuple[float, float]

    @staticmethod
    def given(reach: float, layers: int, outputs: int) -> Ranges:
        """One range for the sums of all layers.

        Logits of a softmax sum to zero if they did at the start: then a sum of exponentials is at least their number,
        and the largest one has company.
        """
        sums = (0.8 * outputs, 1.5 * exp(min(reach, 100.0)) + outputs)
        return Ranges((reach,) * layers, (reach * BACK_SHARE,) * (layers - 1), sums)

    @staticmethod
    def of(sums: list[F64], back: list[F64]) -> Ranges:
        """Of a batch's values."""
        totals = np.exp(np.minimum(sums[-1], 100.0)).sum(axis=1)
        return Ranges(
            tuple(float(np.abs(v).max()) for v in sums),
            tuple(float(np.abs(v).max()) for v in back),
            (float(totals.min()), float(totals.max())),
        )

    def widened(self, other: Ranges) -> Ranges:
        """What holds both."""
        (low, high), (other_low, other_high) = self.exponentials, other.exponentials
        return Ranges(
            tuple(map(max, self.sums, other.sums)),
            tuple(map(max, self.back, other.back)),
            (min(low, other_low), max(high, other_high)),
        )

    def with_margin(self, margin: float = MARGIN) -> Ranges:
        """What to plan for. margin: how many times larger than what was seen or bounded."""
        low, high = self.exponentials
        return Ranges(
            tuple(_up(margin * v) for v in self.sums),
            tuple(_up(margin * v) if v else 0.0 for v in self.back),
            (down(low / margin), _up(margin * high)),
        )

    def bits_beyond(self, other: Ranges) -> tuple[float, ...]:
        """How many bits of precision each range loses beside one that just holds ``other``; below 0 if it does not."""
        pairs = zip((*self.sums, *self.back), (*other.sums, *other.back), strict=True)
        return tuple(log2(mine / max(theirs, _LEAST)) for mine, theirs in pairs if mine)

    def holds(self, other: Ranges, softmax: bool) -> bool:
        """Whether nothing of ``other`` is beyond these ranges."""
        mine, theirs = self.named(softmax), other.named(softmax)
        return all(value <= mine[what] for what, value in theirs.items())

    def __str__(self) -> str:
        text = ", ".join(f"{what} {value:.3g}" for what, value in self.named(False).items())
        for at, value in enumerate(self.back, 1):
            if not value:  # no errors are sent there
                text = text.replace(f"trained layer {at} ", f"kept layer {at} ")
        return text

    def named(self, softmax: bool) -> dict[str, float]:
        """Magnitudes by what they are of, for people; with a softmax, of its sums and their inverses too."""
        last = len(self.sums) - 1
        found = {"logits" if at == last else f"sums of trained layer {at + 1}": v for at, v in enumerate(self.sums)}
        found |= {f"errors sent back to trained layer {at + 1}": v for at, v in enumerate(self.back) if v}
        if softmax:
            low, high = self.exponentials
            found |= {"sums of exponentials": high, "inverses of sums of exponentials": 1 / low}
        return found


def _up(value: float) -> float:
    """The server sees ranges, since they are in the series, and they come from private data: so they are rounded."""
    return up(max(value, _LEAST))
