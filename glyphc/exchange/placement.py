"""Where numbers stand in a batch's ciphertexts, as plain data: what an owner of data needs of a plan, and no more.

Every coefficient of a batch's messages is a constant, and one element of the samples or labels times a factor. Which,
is found out from a plan by asking it for messages, so that no way of laying out a layer has to describe itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.floating[Any]]
I32 = npt.NDArray[np.int32]
# (features, targets) of a batch to messages by name
Messages = Callable[[F64, F64], Mapping[str, F64]]
_ENTRY = np.dtype([("coefficient", "<i4"), ("source", "<i4"), ("factor", "<f8")])


@dataclass(frozen=True, eq=False)
class Placement:
    """Of one ciphertext: coefficient += factor * source. Sources are features of all samples, targets, and 1."""

    coefficients: I32
    sources: I32
    factors: F64

    def message(self, ring: int, sources: F64) -> F64:
        """The polynomial's coefficients, from all sources in order."""
        out = np.zeros(ring)
        np.add.at(out, self.coefficients, self.factors * sources[self.sources])
        return out

    def to_bytes(self) -> bytes:
        rows = np.empty(len(self.factors), dtype=_ENTRY)
        rows["coefficient"], rows["source"], rows["factor"] = self.coefficients, self.sources, self.factors
        return rows.tobytes()

    @staticmethod
    def from_bytes(data: bytes, ring: int, sources: int) -> Placement:
        """ValueError for anything that is none for this ring and so many sources."""
        if len(data) % _ENTRY.itemsize or len(data) > 2 * ring * _ENTRY.itemsize:
            raise ValueError("a placement has the wrong size")
        rows = np.frombuffer(data, dtype=_ENTRY)
        places, origins, factors = rows["coefficient"], rows["source"], rows["factor"]
        if len(rows) and not (
            0 <= places.min() <= places.max() < ring
            and 0 <= origins.min() <= origins.max() < sources
            and np.isfinite(factors).all()
        ):
            raise ValueError("a placement is beyond the ring or its sources")
        return Placement(places.copy(), origins.copy(), factors.copy())


def sources_of(features: F64, targets: F64) -> F64:
    """All that coefficients come from: samples, then targets, then 1."""
    return np.concatenate([features.ravel(), targets.ravel(), np.ones(1)])


def placements(messages: Messages, batch: int, features: int, targets: int) -> dict[str, Placement]:
    """Of all ciphertexts of a batch. Asked three times: with nothing, with ones, and with everything different.

    AssertionError where messages are not as the module says, which a fourth batch of drawn numbers shows.
    """
    shapes = (batch, features), (batch, targets)
    count = batch * (features + targets)

    def asked(values: F64) -> Mapping[str, F64]:
        return messages(values[: batch * features].reshape(shapes[0]), values[batch * features :].reshape(shapes[1]))

    nothing, ones, numbered = asked(np.zeros(count)), asked(np.ones(count)), asked(1.0 + np.arange(count))
    out: dict[str, Placement] = {}
    for name, constant in nothing.items():
        factor, scaled = ones[name] - constant, numbered[name] - constant
        moving = np.flatnonzero(factor)
        origins = np.rint(scaled[moving] / factor[moving]).astype(np.int64) - 1
        still = np.flatnonzero(constant)
        out[name] = Placement(
            np.concatenate([moving, still]).astype(np.int32),
            np.concatenate([origins, np.full(len(still), count)]).astype(np.int32),
            np.concatenate([factor[moving], constant[still]]),
        )
    drawn = np.random.default_rng(0).normal(size=count)
    for name, message in asked(drawn).items():
        found = out[name].message(len(message), np.append(drawn, 1.0))
        assert np.allclose(found, message, rtol=1e-9, atol=1e-12), f"{name} is no placement of samples and labels"
    return out
