"""The first trained layer: its inputs are the client's data, in whatever layout suits.

Both kinds leave the sums at i*P + b*G (``Units``). docs/training-steps.md derives the layouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from glyphc.ir.instructions import Register

from ..frames import Frame
from ..units import F64, I64, polynomial, power_of_two
from ..writer import Writer
from .layers import (
    GAIN,
    GRADIENT_LIMBS,
    STATE_LIMBS,
    Layer,
    LayerQuestion,
    Part,
    component_name,
    load_state,
    move_state,
    moved_state,
)


@dataclass(frozen=True)
class FeaturesApart(Layer):
    """A ciphertext for each column j of the data (features, and ones for the bias), one or two for the state.

        data X_j, and reversed    b*G, -b*G
        state                     i*P + j*P/D      unpacked, column j stands at i*P

    D columns, rounded up to a power of two. A product of a column and its weights has nothing but useful terms. Columns
    of a convolution are the elements of its patches, and have a number for each pixel of a sample (``Units.rows``): the
    gradient sums over these as over samples.
    """

    way: ClassVar[str] = "features apart"
    first: ClassVar[bool] = True
    wide: ClassVar[bool] = False

    @staticmethod
    def spacing(question: LayerQuestion) -> tuple[int, int]:
        return question.ring // question.room, 1

    @staticmethod
    def refusal(question: LayerQuestion, period: int, groups: int) -> str:
        columns = power_of_two(question.inputs + 1)
        return f"{columns} columns do not fit between units, {period} apart" if columns > period else ""

    @property
    def columns(self) -> int:
        return self.inputs + 1

    @property
    def room(self) -> int:
        """Columns that a ciphertext of the state has room for."""
        return power_of_two(self.columns)

    @property
    def stride(self) -> int:
        """Distance of two columns of the state."""
        return self.target.period // self.room

    @property
    def parts(self) -> tuple[Part, ...]:
        rows, columns = np.indices((self.target.count, self.columns))
        return (Part("all", rows, columns, rows * self.target.period + columns * self.stride, GAIN),)

    @property
    def periods(self) -> tuple[int, ...]:
        return (self.target.period,)

    @property
    def data_limbs(self) -> dict[str, int]:
        columns = range(self.columns)
        forward = {f"forward:{c}": STATE_LIMBS + 1 for c in columns}
        return forward | {f"gradient:{c}": GRADIENT_LIMBS for c in columns if self._is_trained(c)}

    def data(self, features: F64) -> dict[str, F64]:
        t = self.target
        rows = np.hstack([features, np.ones((len(features), 1))])
        forward = rows * self.scales.phase / (GAIN * self.room)
        # packing multiplies by the period
        gradient = rows * self._largest_push * GAIN / (self.samples * t.period * self.scales.errors)
        out = {f"forward:{c}": polynomial(t.ring, t.rows, forward[:, c]) for c in range(self.columns)}
        for c in range(self.columns):
            if self._is_trained(c):
                out[f"gradient:{c}"] = polynomial(t.ring, -t.rows, gradient[:, c])
        return out

    def forward(self, w: Writer, values: Register | None, step: int) -> Register:
        state = load_state(w, self, "all")
        pieces = [w.unpack(u, self.columns, self.room, self.stride) for u in state]
        pairs = []
        for c in range(self.columns):
            x, basis = w.load_data(f"forward:{c}"), self._frame(c).basis(step)[0]
            pairs += [(w.scaled(x, float(f)), piece[c]) for f, piece in zip(basis, pieces, strict=True) if f]
        return w.product(*pairs)

    def update(self, w: Writer, values: Register | None, errors: Sequence[Register], step: int) -> None:
        """Garbage beside the errors is allowed, since packing removes what it leads to."""
        whole = w.reduced(errors[0], STATE_LIMBS + 1)
        data = {c: w.load_data(f"gradient:{c}") for c in range(self.columns) if self._is_trained(c)}
        for i, u in enumerate(moved_state(w, self, "all")):
            gradients: list[Register | None] = [None] * self.columns
            for c, x in data.items():
                factor = float(self._frame(c).push(step)[i] / self._largest_push)
                if factor:
                    gradients[c] = w.product((w.scaled(x, factor), whole))
            if any(g is not None for g in gradients):
                u = w.sum((u, 1), (w.pack(gradients, self.room, self.stride), 1))
            w.move(u, component_name(self.name, "all", i))

    def _frame(self, column: int) -> Frame:
        return self.trained.weight if column < self.inputs else self.trained.bias

    def _is_trained(self, column: int) -> bool:
        return self.trained.weight_trained if column < self.inputs else self.trained.bias_trained

    @property
    def _largest_push(self) -> float:
        """What the client's data for gradients are multiplied by already."""
        frames = [self._frame(c) for c in (0, self.inputs) if self._is_trained(c)]
        return max((float(p) for f in frames for p in f.push(0)), key=abs, default=1.0)


@dataclass(frozen=True)
class SamplesApart(Layer):
    """A ciphertext for each sample (or several, if there are many features); the state has as many.

        sample b, features of group g     -(t*T + j)          T = units * P, rounded up to a power of two
        state, group g                    t*T + i*P + j

    Feature number g*N/units + t*P + j. A product of a sample and the state has the sums at i*P; what stands between
    multiples of P, packing removes, and what stands beyond T, a mask in the bootstrap. Fewer ciphertexts and
    automorphisms than ``FeaturesApart`` when there are fewer samples than features.
    """

    way: ClassVar[str] = "samples apart"
    first: ClassVar[bool] = True

    @staticmethod
    def spacing(question: LayerQuestion) -> tuple[int, int]:
        return question.ring // question.room, 1

    @staticmethod
    def refusal(question: LayerQuestion, period: int, groups: int) -> str:
        return "pixels share the weights of a convolution" if question.pixels > 1 else ""

    @property
    def span(self) -> int:
        """T: where the next block of features begins."""
        return power_of_two(self.target.count) * self.target.period

    @property
    def groups(self) -> int:
        """Ciphertexts of a sample."""
        return -(-self.inputs // self._capacity)

    @property
    def parts(self) -> tuple[Part, ...]:
        found = []
        for g in range(self.groups):
            held = np.arange(g * self._capacity, min(self.inputs, (g + 1) * self._capacity))
            rows, columns = np.meshgrid(np.arange(self.target.count), held, indexing="ij")
            found.append(Part(str(g), rows, columns, rows * self.target.period + self._places(columns), self._gain))
        return (*found, self.offset.part)

    @property
    def periods(self) -> tuple[int, ...]:
        t = self.target
        return (t.period, t.grid * t.room)

    @property
    def data_limbs(self) -> dict[str, int]:
        return {self._sample(b, g): GRADIENT_LIMBS for b in range(self.target.batch) for g in range(self.groups)}

    def data(self, features: F64) -> dict[str, F64]:
        out = {}
        rows = features * self._sample_gain
        for g in range(self.groups):
            columns = np.arange(g * self._capacity, min(self.inputs, (g + 1) * self._capacity))
            for b, row in enumerate(rows):
                out[self._sample(b, g)] = polynomial(self.target.ring, -self._places(columns), row[columns])
        return out

    def forward(self, w: Writer, values: Register | None, step: int) -> Register:
        """Beyond the units' places stands garbage."""
        t, basis = self.target, self.trained.weight.basis(step)[0]
        state = [load_state(w, self, str(g)) for g in range(self.groups)]
        sums: list[Register | None] = []
        for b in range(t.batch):
            pairs = []
            for g, components in enumerate(state):
                x = w.load_data(self._sample(b, g))
                pairs += [(w.scaled(x, float(f)), u) for f, u in zip(basis, components, strict=True) if f]
            sums.append(w.product(*pairs))
        packed = w.pack(sums, t.period // t.grid, t.grid)
        return w.sum((packed, 1), (w.product(*self.offset.pairs(w, self, step)), 1))

    def update(self, w: Writer, values: Register | None, errors: Sequence[Register], step: int) -> None:
        t = self.target
        self.offset.update(w, self, errors[0], step)
        parts = t.room if self.clean else t.period // t.grid
        gradients: list[Register | None] = [None] * self.groups
        if self.trained.weight_trained:
            # sample b stands at (batch - 1 - b)*grid - i*period
            turned = w.convolved(w.reverse(errors[0]), ((t.batch - 1) * t.grid,), 1)
            pieces = w.unpack(turned, t.batch, parts, t.grid)
            for g in range(self.groups):
                pairs = ((w.load_data(self._sample(b, g)), pieces[t.batch - 1 - b]) for b in range(t.batch))
                gradients[g] = w.reverse(w.product(*pairs))
        factor = self._gain / (self.samples * self._sample_gain * self.scales.errors * parts)
        for g, gradient in enumerate(gradients):
            push = self.trained.weight.push(step) * factor
            move_state(w, self, str(g), moved_state(w, self, str(g)), gradient, push)

    @property
    def _capacity(self) -> int:
        """Features of a ciphertext."""
        return self.target.ring // self.span * self.target.period

    def _places(self, columns: I64) -> I64:
        """Exponents of features, for unit 0."""
        within = columns % self._capacity
        return within // self.target.period * self.span + within % self.target.period

    @property
    def _gain(self) -> float:
        # sums come out of packing multiplied by the period; state and samples share what that asks for
        return float(np.sqrt(self.scales.phase / self.target.period))

    @property
    def _sample_gain(self) -> float:
        return self.scales.phase / self.target.period / self._gain

    @staticmethod
    def _sample(b: int, g: int) -> str:
        return f"sample:{b}:{g}"
