"""Writes slot instructions: keeps track of levels, and evaluates polynomials in as few of them as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import Drop, Instruction, Load, Register, SlotDot, SlotProduct, Store

from .polynomials import leads, polynomial_depth

F64 = npt.NDArray[np.floating[Any]]
# Coefficients below this share of the largest are left out: far below what any scale resolves.
_NOTHING = 2.0**-50


@dataclass
class SlotWriter:
    """Emits instructions one after another; ``levels`` of every register."""

    instructions: list[Instruction] = field(default_factory=list)
    levels: dict[Register, int] = field(default_factory=dict)
    dropped: dict[tuple[Register, int], Register] = field(default_factory=dict)
    node: int = 0

    def load(self, name: str, part: int, depth: int) -> Register:
        """Bind an input ciphertext, which is fresh."""
        target = self._fresh(depth)
        self.instructions.append(Load(target, name, part, self.node))
        return target

    def store(self, source: Register, name: str, part: int) -> None:
        """Hand a ciphertext out."""
        self.instructions.append(Store(source, name, part, self.node))

    def drop(self, source: Register, levels: int) -> Register:
        """The register on fewer levels; once for each of them."""
        if self.levels[source] == levels:
            return source
        key = (source, levels)
        if key not in self.dropped:
            self.dropped[key] = self._fresh(levels)
            self.instructions.append(Drop(self.dropped[key], source, levels, self.node))
        return self.dropped[key]

    def dot(self, sources: Sequence[Register], weights: Sequence[float], bias: float) -> Register:
        """A weighted sum, on one level less than the lowest operand. Operands with weight zero are left out."""
        kept = [(s, float(w)) for s, w in zip(sources, weights, strict=True) if w] or [(sources[0], 0.0)]
        levels = min(self.levels[s] for s, _ in kept)
        return self._sum((), kept, bias, levels)

    def polynomial(self, x: Register, coefficients: Sequence[float]) -> tuple[Register, float]:
        """A polynomial of x, whose numbers lie in [-1, 1], in Chebyshev's basis; the result times a factor.

        As many levels as the logarithm of the degree, rounded up: Paterson and Stockmeyer's method ("On the number of
        nonscalar multiplications necessary to evaluate polynomials", 1973) in Chebyshev's basis, split at powers of
        two all the way down. The polynomial is the factor times what the register holds. The factor is not 1 for
        degrees that are powers of two: one whose leading term is twice a square needs no level for its coefficient.
        """
        c = np.array(coefficients, dtype=np.float64)
        depth = polynomial_depth(len(c) - 1)
        squares = _Squares(self, x)
        level = self.levels[x] - depth
        if len(c) - 1 < 1 << depth:
            return self._evaluate(squares, c, level), 1.0
        assert leads(c)
        factor = 2 * float(c[-1])
        half = squares.register(depth - 1)
        rest = c[:-1] / factor
        rest[0] -= 0.5  # T_2m = 2 T_m^2 - 1
        return self._evaluate(squares, rest, level, ((half, half),)), factor

    # -- polynomials --

    def _evaluate(
        self, squares: _Squares, c: F64, level: int, more: Sequence[tuple[Register, Register]] = ()
    ) -> Register:
        """A polynomial on a level, with further products added."""
        pairs, linear = list(more), []
        bias = 0.0
        while True:
            c = _trimmed(c)
            if len(c) <= 2:
                bias += float(c[0])
                if len(c) == 2:
                    linear.append((squares.x, float(c[1])))
                break
            k = (len(c) - 1).bit_length() - 1
            quotient, c = _divide(c, 1 << k)
            power = squares.register(k)
            quotient = _trimmed(quotient)
            if len(quotient) == 1:
                linear.append((power, float(quotient[0])))
            else:
                pairs.append((power, self._evaluate(squares, quotient, level + 1)))
        return self._sum(pairs, linear or ([] if pairs else [(squares.x, 0.0)]), bias, level + 1)

    def _sum(
        self,
        pairs: Sequence[tuple[Register, Register]],
        linear: Sequence[tuple[Register, float]],
        bias: float,
        levels: int,
    ) -> Register:
        """Products and a weighted sum of operands that are brought to these levels."""
        sources = tuple(self.drop(s, levels) for s, _ in linear)
        weights = tuple(w for _, w in linear)
        products = tuple((self.drop(a, levels), self.drop(b, levels)) for a, b in pairs)
        target = self._fresh(levels - 1)
        if products:
            self.instructions.append(SlotProduct(target, products, sources, weights, float(bias), self.node))
        else:
            self.instructions.append(SlotDot(target, sources, weights, float(bias), self.node))
        return target

    def square(self, source: Register) -> Register:
        """2 x^2 - 1."""
        return self._sum(((source, source),) * 2, (), -1.0, self.levels[source])

    def _fresh(self, levels: int) -> Register:
        register = len(self.levels)
        self.levels[register] = levels
        return register


@dataclass
class _Squares:
    """Chebyshev polynomials of x whose degrees are powers of two, each made when it is needed."""

    writer: SlotWriter
    x: Register
    known: list[Register] = field(default_factory=list)

    def register(self, k: int) -> Register:
        """That of degree 2^k."""
        self.known = self.known or [self.x]
        while len(self.known) <= k:
            self.known.append(self.writer.square(self.known[-1]))
        return self.known[k]


def _divide(c: F64, m: int) -> tuple[F64, F64]:
    """Quotient and rest of a polynomial of degree below 2m by T_m, in Chebyshev's basis: 2 T_m T_j = T_m+j + T_m-j."""
    high = c[m:]
    quotient = np.concatenate([high[:1], 2 * high[1:]])
    rest = c[:m].copy()
    for j in range(1, len(high)):
        rest[m - j] -= high[j]
    return quotient, rest


def _trimmed(c: F64) -> F64:
    """Without leading coefficients that are nothing."""
    kept = np.flatnonzero(np.abs(c) > _NOTHING * (np.abs(c).max() or 1.0))
    return c[: kept[-1] + 1] if len(kept) else c[:1]
