"""Sums of products with the parts of a polynomial as sums over its Galois conjugates, by baby and giant steps.

In Z[X]/(X^N + 1) let c be zero off multiples of s, c_r its terms at exponents congruent to s*r modulo s*P, and
a = 2N/(s*P). The automorphisms X -> X^g with g = 1 (mod a) are a group of P elements on multiples of s, where g = 1 +
a*k multiplies c_r by omega^(r*k), omega = X^(2N/P). So c_r is a Fourier coefficient of c over that group, and

    sum_r P*X^(-s*r)*c_r * w_r = sum_g W_g * c(X^g),  with  W_g = sum_r omega^(-r*k) X^(-s*r) w_r.

Every element is a product of a baby step b and a giant step h. The sum is sum_h (sum_b W_hb(X^(1/h)) * c(X^b))(X^h):
the babies are images of c itself, shared by all sums that read it, and there is one automorphism more for every giant
step (Halevi, Shoup: Algorithms in HElib, CRYPTO 2014, for linear transforms of slots).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from .errors import IRError

I64 = npt.NDArray[np.int64]
_Numbers = TypeVar("_Numbers", bound=npt.NDArray[Any])

# Weights that are made at a time, as dense polynomials: some megabytes, which stay in a cache.
_AT_ONCE = 16


def baby_steps(parts: int) -> int:
    """How many of the conjugates are baby steps, by default: as many as giant steps, or twice as many."""
    return 1 << parts.bit_length() // 2


@dataclass(frozen=True)
class Conjugation:
    """ring: N; parts: P; stride: s; babies: how many baby steps there are, all powers of two. IRError for others.

    Elements of the group are numbered: number j*babies + b is giant step j times baby step b; the identity is 0.
    """

    ring: int
    parts: int
    stride: int
    babies: int

    def __post_init__(self) -> None:
        numbers = (self.ring, self.parts, self.stride, self.babies)
        if min(numbers) < 1 or any(n & (n - 1) for n in numbers):
            raise IRError(f"no powers of two: {self.parts} parts, stride {self.stride}, {self.babies} baby steps")
        if self.parts < 2 or self.parts * self.stride > self.ring:
            raise IRError(f"{self.parts} parts at stride {self.stride} are not 2 to {self.ring // self.stride}")
        if not 2 <= self.babies <= self.parts:
            raise IRError(f"{self.babies} baby steps of {self.parts} conjugates are not 2 to {self.parts}")

    @staticmethod
    def of(ring: int, parts: int, stride: int) -> Conjugation:
        """With as many baby steps as programs are compiled with."""
        return Conjugation(ring, parts, stride, baby_steps(parts))

    @property
    def giants(self) -> int:
        return self.parts // self.babies

    @property
    def _distance(self) -> int:
        """The elements are 1 modulo this."""
        return 2 * self.ring // (self.parts * self.stride)

    def element(self, number: int) -> int:
        """The exponent g of an element X -> X^g, 1 <= g < 2N.

        All powers of a power of 5; where every odd number is an element, -1 times those, too.
        """
        powers = self.parts if self._distance > 2 else self.parts // 2
        sign, power = divmod(number, powers)
        found = pow(5, power * max(1, self._distance // 4), 2 * self.ring)
        return 2 * self.ring - found if sign else found

    @property
    def baby_elements(self) -> tuple[int, ...]:
        """All but the identity, in order."""
        return tuple(map(self.element, range(1, self.babies)))

    @property
    def giant_elements(self) -> tuple[int, ...]:
        """All but the identity, in order."""
        return tuple(map(self.element, range(self.babies, self.parts, self.babies)))

    @property
    def elements(self) -> tuple[int, ...]:
        """Of all automorphisms that take a key."""
        return self.baby_elements + self.giant_elements

    def weights(self, residues: I64, exponents: I64, values: I64) -> Iterator[tuple[int, int, I64]]:
        """(giant step, baby step, coefficients) of every W_hb(X^(1/h)), in any order; a baby step alone has h = 1.

        residues, exponents, values: of the terms of all w_r, which residue, which power of X, and how often.
        """
        turns = self.turns(len(values))
        for turn in range(turns):
            yield from self.weights_of_turn(turn, turns, residues, exponents, values)

    def turns(self, terms: int) -> int:
        """In how many turns to make the weights of so many terms: each looks at all terms, and takes room for a dense
        polynomial for each of its weights."""
        once = _AT_ONCE
        while once * self.ring < terms:
            once *= 2
        return max(1, self.parts // once)

    def encoding_bytes(self, terms: int, threads: int) -> float:
        """Memory that making the weights of so many terms takes at most, beside the weights, where so many threads take
        a turn each: the terms as they are given, then of each turn dense polynomials with what transforming them
        copies, and all terms moved."""
        turns = self.turns(terms)
        dense = 2.5 * self.parts // turns * self.ring
        return 8.0 * (3 * terms + min(threads, turns) * (dense + 3 * terms))

    def weights_of_turn(
        self, turn: int, turns: int, residues: I64, exponents: I64, values: I64
    ) -> Iterator[tuple[int, int, I64]]:
        """Those of :meth:`weights` whose frequencies k are ``turn`` modulo ``turns``."""
        at = _by_frequency(self)
        once, omega = self.parts // turns, 2 * self.ring // self.parts
        # k = turn + turns*j; terms whose residues differ by ``once`` meet the same power of X for all j
        rows = np.zeros((once, self.ring), dtype=np.int64)
        moved = (exponents - (self.stride + omega * turn) * residues) & (2 * self.ring - 1)
        signed = np.where(moved < self.ring, values, -values)
        np.add.at(rows.reshape(-1), residues % once * self.ring + (moved & (self.ring - 1)), signed)
        _transform(rows, omega * turns)
        for row, j in zip(rows, _bit_reversal(once), strict=True):
            giant, baby = divmod(at[turn + turns * j], self.babies)
            inverse = pow(self.element(giant * self.babies), -1, 2 * self.ring)
            yield giant, baby, image(row, inverse)

    def frequency(self, number: int) -> int:
        """k, where element ``number`` is 1 + a*k on multiples of the stride."""
        return (self.element(number) - 1) // self._distance % self.parts


@lru_cache(maxsize=8)
def _by_frequency(steps: Conjugation) -> dict[int, int]:
    return {steps.frequency(number): number for number in range(steps.parts)}


def image(polynomial: _Numbers, element: int) -> _Numbers:
    """The coefficients of a(X^element), shape (N,), for an odd ``element``; N is a power of two."""
    n = len(polynomial)
    places = np.arange(n, dtype=np.int64) * element & (2 * n - 1)
    out = np.empty_like(polynomial)
    out[places & (n - 1)] = np.where(places < n, polynomial, -polynomial)
    return cast(_Numbers, out)


def _transform(rows: I64, turn: int) -> None:
    """Row k := sum_r X^(-turn*r*k) row r, in place, in bit-reversed order; turn * len(rows) = 2N.

    Powers of X are roots of unity, so there is nothing to multiply (Nussbaumer 1980).
    """
    size, n = rows.shape
    while size > 1:
        half = size // 2
        blocks = rows.reshape(-1, size, n)
        low, high = blocks[:, :half].copy(), blocks[:, half:]
        np.add(low, high, out=blocks[:, :half])
        low -= high
        for r in range(half):
            blocks[:, half + r] = _turned(low[:, r], turn * r)
        size, turn = half, 2 * turn


def _turned(rows: I64, by: int) -> I64:
    """Rows times X^-by, 0 <= by < N."""
    return np.concatenate([rows[..., by:], -rows[..., :by]], axis=-1)


def _bit_reversal(count: int) -> list[int]:
    found = [0]
    while len(found) < count:
        found = [2 * k for k in found] + [2 * k + 1 for k in found]
    return found
