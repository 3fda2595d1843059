"""What a client sees of numbers in slots that went wrong, once they are decrypted.

A polynomial explodes outside of the range that it was fitted on. A sample whose hidden values leave their ranges there
has results far beyond what they can be; and where they are too large for the modulus (``glyphc.ir.slot_range``), all
samples of its pass have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.codec import decode
from glyphc.ir.instructions import ClientSpec
from glyphc.ir.types import Encoding

F64 = npt.NDArray[np.floating[Any]]
Message = npt.NDArray[Any]

# Results this many times as far from the middle of their range as its end, which has a guard band, are none.
FAR = 2.0
# A pass is lost in which a larger share of the samples have such results, and of all slots: what wraps is spread over
# all of them. Slots that no sample fills hold copies of the first one.
_LOST = 0.5


@dataclass(frozen=True)
class Doubts:
    """Samples, by number, whose results are not to be relied on. lost: passes in which nothing is left, as ranges of
    samples; far: others whose results cannot be."""

    lost: tuple[tuple[int, int], ...] = ()
    far: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.lost or self.far)

    def __add__(self, other: Doubts) -> Doubts:
        return Doubts(self.lost + other.lost, self.far + other.far)


@dataclass(frozen=True, eq=False)
class Decoded:
    """Real outputs of a pass by name, shape (samples, *shape), and which of them are in doubt."""

    outputs: Mapping[str, F64]
    doubts: Doubts


def decoded(client: ClientSpec, messages: Mapping[str, Message], samples: range) -> Decoded:
    """What decrypted messages say, of shape (ciphertexts, positions) by output, of the pass that holds these samples.

    What is lost is NaN, whatever the client makes of results.
    """
    found, places = _doubts(client, messages, samples), client.places(len(samples))
    outputs = {}
    for port in client.outputs:
        read = np.zeros_like(messages[port.name]) if found.lost else messages[port.name]
        values = decode(port, read, len(samples), places)
        outputs[port.name] = np.full_like(values, np.nan) if found.lost else values
    return Decoded(outputs, found)


def _doubts(client: ClientSpec, messages: Mapping[str, Message], samples: range) -> Doubts:
    far: set[int] = set()
    for port in client.outputs:
        if port.encoding is not Encoding.SLOTS:
            continue
        beyond = ~(np.abs(messages[port.name]) <= FAR)  # also what is no number
        own = beyond[:, : len(samples)]
        if (np.minimum(own.mean(axis=1), beyond.mean(axis=1)) > _LOST).any():
            return Doubts(((samples.start, samples.stop),))
        far |= set(np.flatnonzero(own.any(axis=0)))
    return Doubts((), tuple(samples.start + int(number) for number in sorted(far)))


def text(found: Doubts, samples: int) -> str:
    """What a user has to know, as a paragraph."""
    parts = []
    if found.lost:
        parts.append(
            f"{lost_text(found.lost)} of {samples} are lost: hidden values of at least one of them left their ranges "
            "so far that nothing of their pass is left, and their results are NaN"
        )
    if found.far:
        numbers = ", ".join(map(str, found.far[:5])) + (f" and {len(found.far) - 5} more" if len(found.far) > 5 else "")
        parts.append(
            f"the results of sample{'s' if len(found.far) > 1 else ''} {numbers} of {samples} lie more than {FAR:g} "
            "times as far out as results can: their hidden values left their ranges"
        )
    return "; ".join(parts) + (
        ". 'run --mode simulate' shows which samples and layers; leave these samples out, or compile with calibration "
        "samples that cover such values, or with a larger --margin"
    )


def lost_text(lost: Sequence[tuple[int, int]]) -> str:
    """Ranges of samples in words."""
    if len(lost) == 1 and lost[0][1] - lost[0][0] == 1:
        return f"the results of sample {lost[0][0]}"
    return "the results of samples " + ", ".join(f"{first} to {end - 1}" for first, end in lost)
