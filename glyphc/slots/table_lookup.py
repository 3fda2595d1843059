"""A table by the encrypted bits of its index, as instructions (see ``glyphc.ir.tables``): 22 products of ciphertexts
for 7 bits, 3 one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from glyphc.ir.instructions import Register
from glyphc.ir.tables import halves, moebius, parted


class Arithmetic(Protocol):
    """What instructions are written by."""

    def dot(self, sources: Sequence[Register], weights: Sequence[int], bias: int, node: int) -> Register:
        """A weighted sum."""

    def product(self, a: Register, b: Register, node: int) -> Register:
        """A product."""


@dataclass
class Lookup:
    """bits: registers with the bits of an index, the lowest first. products: of sets of bits, each made once."""

    arithmetic: Arithmetic
    bits: Sequence[Register]
    node: int
    products: dict[int, Register] = field(default_factory=dict)

    def of(self, table: Sequence[int]) -> Register:
        """The table's entry, in every slot."""
        factors, low = moebius(np.array(table, dtype=object)).tolist(), 1 << parted(len(self.bits))[0]
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
            if not bits & (bits - 1):
                return self.bits[bits.bit_length() - 1]
            a, b = map(self._product, halves(bits))
            self.products[bits] = self.arithmetic.product(a, b, self.node)
        return self.products[bits]
