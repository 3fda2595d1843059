"""Where the numbers of a layer stand in a polynomial, and polynomials from numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Series are fitted for phases up to this magnitude. Compilation of networks goes to 0.45, where smooth functions need
# degree 27: the wider guard band makes 13 do (the error of a straight line falls from 2^-7.7 to 2^-14 of its range),
# and a level of the bootstrap is worth more than an eighth of the torus.
HALF_RANGE = 0.4

F64 = npt.NDArray[np.floating[Any]]
I64 = npt.NDArray[np.int64]


def power_of_two(n: int) -> int:
    """The smallest one that is at least n."""
    return 1 << (n - 1).bit_length()


@dataclass(frozen=True)
class Units:
    """Sums, values and errors of a layer: unit i of sample b at i*period + b*grid; batch*grid <= period.

    groups: units i with equal i modulo groups can be told apart by a mask only; see ``hidden_layers.Grouped``. pixels:
    of a convolution's units, pixel p at p*step behind the first one. used: of every so many units in a row, how many
    there are; see :attr:`flat`.
    """

    ring: int
    count: int
    period: int
    batch: int
    grid: int
    groups: int = 1
    pixels: int = 1
    used: tuple[int, int] = (1, 1)

    @property
    def step(self) -> int:
        """From one pixel of a unit to the next."""
        return self.period // power_of_two(self.pixels)

    @property
    def flat(self) -> Units:
        """The same places as a dense layer reads them: each pixel of a unit is one."""
        if self.pixels == 1:
            return self
        room = power_of_two(self.pixels)
        count, used = self.count * room, (self.pixels, room)
        return Units(self.ring, count, self.step, self.batch, self.grid, used=used)

    @property
    def numbers(self) -> I64:
        """Of the units that there are, in order."""
        every, (used, of) = np.arange(self.count), self.used
        return np.asarray(every[every % of < used])

    @property
    def rows(self) -> I64:
        """Exponents of all pixels of all samples, for unit 0: the samples of a pixel in a row."""
        return np.asarray((self.step * np.arange(self.pixels)[:, None] + self.samples).ravel())

    @property
    def units(self) -> I64:
        """Exponents of the units, for sample 0."""
        return np.asarray(self.period * np.arange(self.count))

    @property
    def samples(self) -> I64:
        """Exponents of the samples, for unit 0."""
        return np.asarray(self.grid * np.arange(self.batch))

    @property
    def room(self) -> int:
        """Samples that there is room for, a power of two."""
        return power_of_two(self.batch)

    @property
    def used_groups(self) -> int:
        """Groups with a unit."""
        return min(self.groups, self.count)

    def kept(self, group: int | None = None, block: tuple[int, int] | None = None) -> tuple[tuple[int, int, int], ...]:
        """The places of all units, of one group, or from one unit to before another, as conditions of a mask."""
        of, start = (1, 0) if group is None else (self.groups, group * self.period)
        first, end = block or (0, self.count)
        own = (self.ring, first * self.period, end * self.period)
        if self.pixels == 1:
            return ((of * self.period, start, start + self.batch * self.grid), own)
        pixels = (of * self.period, start, start + self.pixels * self.step)
        return ((self.step, 0, self.batch * self.grid), pixels, own)


def can_move(source: Units, target: Units, numbers: I64 | None = None) -> bool:
    """Whether a product with sum_k X^(k*P' - k*P) brings units to the places of as many others: what it makes of unit i
    with the term of another unit k must stand elsewhere. numbers: of the units that are there, and of the terms."""
    if source.period == target.period:
        return True
    numbers = np.arange(source.count) if numbers is None else numbers
    i, k = numbers[:, None], numbers
    places = (i * source.period + k * (target.period - source.period)) % source.ring
    met = (places % target.period == 0) & (places < target.count * target.period)
    return not bool((met & (i != k)).any())


def blocks_to_move(source: Units, targets: Sequence[Units]) -> list[I64]:
    """The fewest blocks of units in a row, by their numbers, of which each can be moved to the places of all targets:
    at worst one for each unit."""
    size = power_of_two(source.count)
    while True:
        blocks: list[I64] = [np.arange(at, min(at + size, source.count)) for at in range(0, source.count, size)]
        if all(can_move(source, target, numbers) for target in targets for numbers in blocks):
            return blocks
        size //= 2


def groups_to_move(source: Units, target: Units, groups: int) -> list[I64] | None:
    """The numbers of all units in one, where they can be moved together, or of so many groups (``Units.groups``) that
    can be moved one by one; None where not even that is possible."""
    for number in (1, groups):
        found: list[I64] = [np.arange(h, source.count, number) for h in range(number)]
        if all(can_move(source, target, numbers) for numbers in found):
            return found
    return None


def polynomial(ring: int, exponents: I64, values: F64) -> F64:
    """The polynomial with these terms, modulo X^N + 1."""
    out = np.zeros(ring)
    wrapped = np.asarray(exponents) % (2 * ring)
    np.add.at(out, wrapped % ring, np.where(wrapped < ring, values, -np.asarray(values)))
    return out


def coefficients(message: F64, exponents: I64) -> F64:
    """Coefficients of a polynomial modulo X^N + 1 at any exponents, in their shape."""
    wrapped = np.asarray(exponents) % (2 * len(message))
    values = message[wrapped % len(message)]
    return np.asarray(np.where(wrapped < len(message), values, -values))
