"""Layouts for a chain of dense layers: where units and samples stand, and which kind each layer is.

The ring has room for so many samples, units and features at once; docs/training.md derives what each kind needs. All
arrangements that fit are compared by their predicted seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import log2

from glyphc.analysis.cost import CostModel

from .units import Units, power_of_two

# Seconds of a key switch in the linear context, at N = 65536, beside those of bootstraps (``cost``).
_KEY_SWITCH = 0.012
# What one more level, and the larger keys that go with it, do to a bootstrap's time.
_SLOT_LEVEL = 1.08


@dataclass(frozen=True)
class Arrangement:
    """units: of each layer. samples_apart: the kind of the first. grouped: of each hidden one, whether it is that."""

    units: tuple[Units, ...]
    samples_apart: bool
    grouped: tuple[bool, ...]
    seconds: float

    @property
    def slots(self) -> int:
        return self.units[0].ring // (2 * self.units[0].grid)


def arrange(
    inputs: int, widths: tuple[int, ...], batch: int, ring: int, cost: CostModel, softmax: bool = False
) -> Arrangement | None:
    """The fastest arrangement; None when nothing fits.

    softmax: errors of the last layer come all at once, not in groups, and sums over its units spread to both sides of
    them without meeting.
    """
    outputs = widths[-1]
    rooms = {power_of_two(outputs), power_of_two(2 * outputs - 1)} if softmax else {power_of_two(outputs)}
    found = [a for room in sorted(rooms) for a in arrangements(inputs, widths, batch, ring, room, cost)]
    if softmax:
        found = [a for a in found if a.units[-1].used_groups == 1]
        found = [a for a in found if (2 * outputs - 1) * a.units[-1].period <= ring]
    return min(found, key=lambda a: a.seconds, default=None)


def most_samples(inputs: int, widths: tuple[int, ...], ring: int, cost: CostModel, softmax: bool = False) -> int:
    """The largest batch that fits, a power of two; 0 when none does."""
    batch = ring
    while batch and arrange(inputs, widths, batch, ring, cost, softmax) is None:
        batch //= 2
    return batch


def arrangements(
    inputs: int, widths: tuple[int, ...], batch: int, ring: int, room: int, cost: CostModel
) -> Iterator[Arrangement]:
    """All that fit. room: units that the last layer has room for (a power of two)."""
    for grouped in product((False, True), repeat=len(widths) - 1):
        # sparse bootstraps read every second coefficient at most, and 16 at least
        for bits in range(int(log2(ring)) - 4, 0, -1):
            units = _units(widths, batch, ring, room, grouped, 1 << bits)
            if units is None:
                continue
            for samples_apart in (False, True):
                if samples_apart or power_of_two(inputs + 1) <= units[0].period:
                    seconds = _seconds(inputs, units, samples_apart, grouped, cost)
                    yield Arrangement(units, samples_apart, grouped, seconds)


def _units(
    widths: tuple[int, ...], batch: int, ring: int, room: int, grouped: tuple[bool, ...], grid: int
) -> tuple[Units, ...] | None:
    """Units of each layer on this grid, or None when they do not fit."""
    block = grid * power_of_two(batch)
    rooms = [*(power_of_two(n) for n in widths[:-1]), room]
    found: list[Units] = []
    for at, (count, wide) in enumerate(zip(widths, rooms, strict=True)):
        groups = 1
        if at == 0:
            period = ring // wide
        elif grouped[at - 1]:
            span = rooms[at - 1] * found[-1].period
            if span > ring:
                return None
            groups = max(1, wide // (ring // span))
            if groups > rooms[at - 1]:
                return None
            period = span // groups
        else:
            period = found[-1].period // wide
        if period < block:
            return None
        if at < len(grouped) and grouped[at] and (at == 0 or not grouped[at - 1]):
            period = block  # leaves the most room for the next layer's units
        found.append(Units(ring, count, period, batch, grid, groups))
    return tuple(found)


def _seconds(
    inputs: int, units: tuple[Units, ...], samples_apart: bool, grouped: tuple[bool, ...], cost: CostModel
) -> float:
    """Of a step: bootstraps and key switches."""
    ring, batch = units[0].ring, units[0].batch
    slots = ring // (2 * units[0].grid)
    switches = 2.0 * inputs
    if samples_apart:
        switches = batch * (3 + log2(units[0].period / (units[0].grid * units[0].room)))
    decodes = 2 * len(units) - 1
    for apart, unit in zip(grouped, units[1:], strict=True):
        if apart:
            switches += batch * (1 + 2 * unit.used_groups + log2(unit.period / (unit.grid * unit.room)))
            decodes += unit.used_groups - 1
    bootstraps = 2 * len(units) - 1
    # masks of errors take another level of the bootstrap
    levels = _SLOT_LEVEL if any(grouped) else 1.0
    return (
        levels * bootstraps * cost.powers_seconds(slots, 13, ring)
        + decodes * cost.evaluate_seconds(slots, 13, ring)
        + switches * _KEY_SWITCH * ring / 65536
    )
