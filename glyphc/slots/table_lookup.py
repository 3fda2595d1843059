"""A table by the encrypted bits of its index (Nandakumar and others, "Towards Deep Neural Network Training on Encrypted
Data", 2019, section 4): an inner product of the table with products of the bits and their complements.

A product of bits and complements is a sum of products of bits alone, so the same inner product has one term for each
set of bits: its factor is the alternating sum of the table's entries over the subsets (the Moebius transform). Sets are
split between low and high bits, so that few products of ciphertexts are needed: 22 for 7 bits, 3 one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from glyphc.ir.instructions import Register


class Arithmetic(Protocol):
    """What instructions are written by."""

    def dot(self, sources: Sequence[Register], weights: Sequence[int], bias: int, node: int) -> Register:
        """A weighted sum."""

    def product(self, a: Register, b: Register, node: int) -> Register:
        """A product."""


def moebius(table: Sequence[int]) -> list[int]:
    """Factors of the products of bits: entry i is that of the bits that are set in i."""
    found = list(table)
    for bit in (1 << k for k in range(len(found).bit_length() - 1)):
        for at in range(len(found)):
            if at & bit:
                found[at] -= found[at ^ bit]
    return found


@dataclass
class Lookup:
    """bits: registers with the bits of an index, the lowest first. products: of sets of bits, each made once."""

    arithmetic: Arithmetic
    bits: Sequence[Register]
    node: int
    products: dict[int, Register] = field(default_factory=dict)

    def of(self, table: Sequence[int]) -> Register:
        """The table's entry, in every slot."""
        factors, low = moebius(table), 1 << (len(self.bits) + 1) // 2
        sources: list[Register] = []
        weights: list[int] = []
        for high in range(0, len(factors), low):
            inner = [(at, factors[high | at]) for at in range(1, low) if factors[high | at]]
            if not high:
                sources += [self._product(at) for at, _ in inner]
                weights += [factor for _, factor in inner]
            elif inner:
                total = self.arithmetic.dot(
                    [self._product(at) for at, _ in inner], [f for _, f in inner], factors[high], self.node
                )
                sources.append(self.arithmetic.product(self._product(high), total, self.node))
                weights.append(1)
            elif factors[high]:
                sources.append(self._product(high))
                weights.append(factors[high])
        if not sources:
            # every entry is the same
            sources, weights = [self.bits[0], self.bits[0]], [1, -1]
        return self.arithmetic.dot(sources, weights, factors[0], self.node)

    def _product(self, bits: int) -> Register:
        """Of the bits that are set in a number: as few products one after another as can be."""
        if bits not in self.products:
            chosen = [k for k in range(len(self.bits)) if bits >> k & 1]
            if len(chosen) == 1:
                return self.bits[chosen[0]]
            half = sum(1 << k for k in chosen[: (len(chosen) + 1) // 2])
            a, b = self._product(half), self._product(bits ^ half)
            self.products[bits] = self.arithmetic.product(a, b, self.node)
        return self.products[bits]
