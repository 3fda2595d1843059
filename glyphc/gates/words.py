"""Integers as words of bits, the lowest first, in two's complement: sums, products, comparisons, tables.

Where an operand is a public constant its bits are, and gates with constants fold away (:mod:`.circuit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .circuit import Bit, Circuit, invert

Word = tuple[Bit, ...]


def constant(value: int, width: int) -> Word:
    """A public integer. ValueError where it has no such word."""
    if not -(1 << width - 1) <= value < 1 << width - 1:
        raise ValueError(f"{value} is no signed integer of {width} bits")
    return tuple(bool(value >> k & 1) for k in range(width))


def extended(word: Word, width: int) -> Word:
    """The same integer in more bits, or modulo 2^width in fewer."""
    return (*word[:width], *([word[-1]] * (width - len(word))))


@dataclass(frozen=True)
class Words:
    """Arithmetic on words of a circuit; results are exact modulo 2^width."""

    circuit: Circuit

    def add(self, a: Word, b: Word, width: int, carry: Bit = False) -> Word:
        """a + b + carry: two exclusive ors and a majority for each bit."""
        a, b = extended(a, width), extended(b, width)
        out: list[Bit] = []
        for x, y in zip(a, b, strict=True):
            out.append(self.circuit.xor(self.circuit.xor(x, y), carry))
            carry = self.circuit.majority(x, y, carry)
        return tuple(out)

    def subtract(self, a: Word, b: Word, width: int) -> Word:
        """a - b."""
        return self.add(extended(a, width), tuple(map(invert, extended(b, width))), width, True)

    def negate(self, a: Word, width: int) -> Word:
        """-a."""
        return self.subtract((False,), a, width)

    def multiply(self, a: Word, b: Word, width: int) -> Word:
        """a b: the rows of b's bits, of which the sign's is taken away."""
        total: Word = (False,) * width
        for k, bit in enumerate(b):
            if k >= width:
                break
            row = tuple(self.circuit.both(bit, x) for x in extended(a, width - k))
            part = (*([False] * k), *row)
            total = self.subtract(total, part, width) if k == len(b) - 1 else self.add(total, part, width)
        return total

    def scale(self, a: Word, factor: int, width: int) -> Word:
        """a times a public integer: sums and differences of shifted words, by its non-adjacent form (Reitwiesner 1960),
        in which no two neighbouring digits are other than 0."""
        total: Word = (False,) * width
        k = 0
        while factor and k < width:
            digit = 0 if factor % 2 == 0 else 2 - factor % 4
            part = (*([False] * k), *extended(a, width - k))
            if digit:
                total = self.add(total, part, width) if digit > 0 else self.subtract(total, part, width)
            factor, k = (factor - digit) // 2, k + 1
        return total

    def total(self, words: Sequence[Word], width: int) -> Word:
        """A sum."""
        found: Word = (False,) * width
        for word in words:
            found = self.add(found, word, width)
        return found

    def saturate(self, a: Word, width: int) -> Word:
        """The nearest integer that a shorter word holds."""
        sign, cut = a[-1], a[width - 1 : -1]
        over: Bit = False
        for bit in cut:
            over = self.circuit.either(over, self.circuit.xor(bit, sign))
        lowest = [self.circuit.choose(over, invert(sign), bit) for bit in a[: width - 1]]
        return (*lowest, sign)

    def relu(self, a: Word) -> Word:
        """a where that is positive, else 0."""
        return (*(self.circuit.both(bit, invert(a[-1])) for bit in a[:-1]), False)

    def lookup(self, index: Word, table: Sequence[int], width: int) -> Word:
        """The entry of a public table at a signed index, that of the lowest one first. ValueError for another size.

        Choices from the lowest bit up: entries that are the same take no gate.
        """
        if len(table) != 1 << len(index):
            raise ValueError(f"a table of {len(table)} entries has no index of {len(index)} bits")
        half = len(table) // 2
        # by the bits as they are: indices from 0 on, then negative ones
        rows = [constant(entry, width) for entry in (*table[half:], *table[:half])]
        for bit in index:
            rows = [
                tuple(self.circuit.choose(bit, one, other) for one, other in zip(high, low, strict=True))
                for low, high in zip(rows[::2], rows[1::2], strict=True)
            ]
        (found,) = rows
        return found
