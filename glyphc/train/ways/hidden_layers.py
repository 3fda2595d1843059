"""Layers whose inputs are values of another one, at i*P + b*G; sums of the target's units k come out at k*P' + b*G.

The contraction over i has garbage beside the sums. Either it falls into other places of the ring, where a mask finds it
in the bootstrap (``Coarse``, one product), or samples are told apart first and packing removes it (``Grouped``).
Errors are sent back in both by the product with the reversed weights, which a mask cleans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from glyphc.ir.instructions import Register

from ..units import Units, power_of_two
from ..writer import Writer
from .layers import STATE_LIMBS, Layer, LayerQuestion, Part, load_state, move_state, moved_state


@dataclass(frozen=True)
class Coarse(Layer):
    """P >= P' * (number of the target's units). The state stands at k*P' - i*P."""

    way: ClassVar[str] = "coarse"
    source: Units

    @staticmethod
    def spacing(question: LayerQuestion) -> tuple[int, int]:
        assert question.source is not None
        return question.source.period // question.room, 1

    @property
    def parts(self) -> tuple[Part, ...]:
        numbers = self.source.numbers
        rows, columns = np.indices((self.target.count, len(numbers)))
        exponents = rows * self.target.period - numbers[columns] * self.source.period
        return (Part("all", rows, columns, exponents, self._gain), self.offset.part)

    @property
    def periods(self) -> tuple[int, ...]:
        return (self.target.period,)

    def forward(self, w: Writer, values: Register | None, step: int) -> Register:
        """Garbage stands in other blocks of P."""
        assert values is not None
        basis = self.trained.weight.basis(step)[0]
        state = load_state(w, self, "all")
        pairs = [(w.scaled(values, float(f)), u) for f, u in zip(basis, state, strict=True) if f]
        return w.product(*pairs, *self.offset.pairs(w, self, step))

    def sent_back(self, w: Writer, errors: Sequence[Register], step: int) -> Register:
        (whole,) = errors
        return w.product(*back_pairs(w, self, "all", whole, step, self._gain))

    def update(self, w: Writer, values: Register | None, errors: Sequence[Register], step: int) -> None:
        assert values is not None
        (whole,) = errors
        self.offset.update(w, self, whole, step)
        gradient = None
        if self.trained.weight_trained:
            # lands at k*P' - i*P; the trace removes what belongs to two different samples
            gradient = w.pack([w.product((w.reverse(values), whole))], 1, self.target.period)
        factor = self._gain / (self.samples * self.scales.values * self.scales.errors * self.target.period)
        move_state(w, self, "all", moved_state(w, self, "all"), gradient, self.trained.weight.push(step) * factor)

    @property
    def _gain(self) -> float:
        return self.scales.phase / self.scales.values


@dataclass(frozen=True)
class Grouped(Layer):
    """S = P * (number of the source's units) > P'. The state has a part for each group h of units k = h mod groups.

    At k*P' - i*P. For a sample and a group, the product has sums at multiples of S and garbage at other multiples of P,
    which packing removes. Errors come in parts, one for each group.
    """

    way: ClassVar[str] = "grouped"
    tight_source: ClassVar[bool] = True
    masks: ClassVar[bool] = True
    source: Units

    @staticmethod
    def spacing(question: LayerQuestion) -> tuple[int, int]:
        assert question.source is not None
        span = _span(question.source)
        groups = max(1, question.room // max(1, question.ring // span))
        return span // groups, groups

    @staticmethod
    def refusal(question: LayerQuestion, period: int, groups: int) -> str:
        assert question.source is not None
        if _span(question.source) > question.ring:
            return f"the units before it take {_span(question.source)} coefficients of {question.ring}"
        return (
            f"{groups} groups are more than the units before it" if groups > power_of_two(question.source.count) else ""
        )

    @property
    def span(self) -> int:
        """S."""
        return _span(self.source)

    @property
    def parts(self) -> tuple[Part, ...]:
        found, numbers = [], self.source.numbers
        for h in range(self.target.used_groups):
            rows, columns = np.meshgrid(
                np.arange(h, self.target.count, self.target.groups), np.arange(len(numbers)), indexing="ij"
            )
            exponents = rows * self.target.period - numbers[columns] * self.source.period
            found.append(Part(str(h), rows, columns, exponents, self._gain))
        return (*found, self.offset.part)

    @property
    def periods(self) -> tuple[int, ...]:
        s = self.source
        return (self.span, s.period, s.grid * s.room, self.target.period)

    def forward(self, w: Writer, values: Register | None, step: int) -> Register:
        """Nothing stands beside the values, and nothing beside the sums."""
        assert values is not None
        s, period = self.source, self.target.period
        scaled = [f * self._gain / self.scales.values for f in self.trained.weight.basis(step)[0]]
        pieces = [
            w.unpack(w.reduced(w.rescaled(values, float(f)), STATE_LIMBS), s.batch, s.room, s.grid) if f else ()
            for f in scaled
        ]
        sums: list[Register | None] = [None] * (self.span // s.grid)
        for h in range(self.target.used_groups):
            state = load_state(w, self, str(h))
            moved = [w.convolved(u, (-h * period,), 1) if h else u for u in state]
            for b in range(s.batch):
                pairs = [(piece[b], u) for piece, u in zip(pieces, moved, strict=True) if piece]
                sums[h * period // s.grid + b] = w.product(*pairs)
        packed = w.pack(sums, len(sums), s.grid)
        return w.sum((packed, 1), (w.product(*self.offset.pairs(w, self, step)), 1))

    def sent_back(self, w: Writer, errors: Sequence[Register], step: int) -> Register:
        """Garbage stands beyond S."""
        pairs = [
            pair for h, group in enumerate(errors) for pair in back_pairs(w, self, str(h), group, step, self._gain)
        ]
        return w.product(*pairs)

    def update(self, w: Writer, values: Register | None, errors: Sequence[Register], step: int) -> None:
        assert values is not None
        whole = w.total(errors)
        self.offset.update(w, self, whole, step)
        factor = self._gain / (self.samples * self.scales.values * self.scales.errors * self.source.period)
        push = self.trained.weight.push(step) * factor
        turned = w.reverse(values)
        for h, group in enumerate(errors):
            gradient = None
            if self.trained.weight_trained:
                gradient = w.pack([w.product((turned, group))], 1, self.source.period)
            move_state(w, self, str(h), moved_state(w, self, str(h)), gradient, push)

    @property
    def _gain(self) -> float:
        # unpacking multiplies by the samples, packing by S; state and values share what that asks for
        return float(np.sqrt(self.scales.phase / (self.span * self.source.room)))


def back_pairs(
    w: Writer, layer: Layer, part: str, errors: Register, step: int, gain: float
) -> list[tuple[Register, Register]]:
    """Products of errors and reversed weights."""
    factor = layer.scales.back / (layer.scales.errors * gain)
    basis = layer.trained.weight.basis(step)[0]
    state = load_state(w, layer, part)
    return [(w.rescaled(errors, float(f * factor)), w.reverse(u)) for f, u in zip(basis, state, strict=True) if f]


def _span(source: Units) -> int:
    """Coefficients that the units before a layer take."""
    return power_of_two(source.count) * source.period
