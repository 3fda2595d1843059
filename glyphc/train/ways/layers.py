"""What all layouts of a trained layer have in common: the state's ciphertexts, what is done with them, a bias.

A layer has the weights of ``outputs`` units for ``inputs`` values, and a bias, which counts as one more column. Its
state is kept in a moving frame (``frames``): component c of part p is the ciphertext "LAYER:p:c".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from glyphc.ir.instructions import Register
from glyphc.ways.base import Question

from ..frames import Frame
from ..units import F64, I64, Units, coefficients, polynomial, power_of_two
from ..writer import Writer

# Limbs of the state: its product with data leaves the one that a bootstrap reads.
STATE_LIMBS = 2
# On which gradients are made: product, then a factor.
GRADIENT_LIMBS = 4
# How much larger than weights the messages of a first layer's state are, so that noise of selections stays far below.
GAIN = 2.0**8
# Of all layers' biases: "one" for every sample, at b*grid and at -b*grid.
ONES, REVERSED_ONES = "ones", "ones-reversed"
# Their message: biases' messages are large then, as weights' are with GAIN.
_ONE = 2.0**-12


@dataclass(frozen=True)
class Trained:
    """weight, bias: frames of both, also of what is frozen, which keeps its value. micros: micro-batches of a step,
    whose gradients are added before the state changes."""

    weight: Frame
    bias: Frame
    weight_trained: bool = True
    bias_trained: bool = True
    micros: int = 1

    @property
    def size(self) -> int:
        """Components of the state."""
        return self.weight.size


@dataclass(frozen=True, eq=False)
class Part:
    """A ciphertext of a layer's state: gain * matrix[rows, columns] at the exponents; all of one shape."""

    name: str
    rows: I64
    columns: I64
    exponents: I64
    gain: float


@dataclass(frozen=True)
class Scales:
    """Messages that stand for 1. phase: sums, where a bootstrap reads them; values: a layer's inputs; errors: errors.

    back: errors that are sent back, where a bootstrap reads them.
    """

    phase: float
    values: float
    errors: float
    back: float


@dataclass(frozen=True, kw_only=True)
class LayerQuestion(Question):
    """What offers for a layer are asked for. inputs: numbers that it reads; source: where they stand, None for data.

    count: its units; room: how many it needs places for, a power of two; grid: distance of two samples. tight: the next
    layer wants units as close as samples allow. clean: see ``Layer``; trained: what of the layer is. pixels: of a
    convolution's units.
    """

    inputs: int
    source: Units | None
    count: int
    room: int
    grid: int
    trained: Trained
    tight: bool = False
    clean: bool = False
    pixels: int = 1

    @property
    def block(self) -> int:
        """Coefficients from a unit to the next one that its samples take, those of all its pixels."""
        return self.grid * power_of_two(self.batch) * power_of_two(self.pixels)


@dataclass(frozen=True)
class Layer(ABC):
    """A layer's weights in one layout, and with it all products that they take part in: forward, back and gradient.

    inputs: numbers that it reads. source: where they stand; None where they are the client's data, in any layout.
    target: where the sums stand. clean: errors of the sums have nothing beside them.

    way: what the layout is called. first: whether it reads the client's data. wide: whether it takes what bootstraps
    leave on a limb more. tight_source: whether it wants the units before it as close as samples allow. masks: whether
    its errors come in groups that only masks tell apart.
    """

    way: ClassVar[str]
    first: ClassVar[bool] = False
    wide: ClassVar[bool] = True
    tight_source: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    name: str
    inputs: int
    source: Units | None
    target: Units
    trained: Trained
    scales: Scales
    clean: bool = False

    @staticmethod
    @abstractmethod
    def spacing(question: LayerQuestion) -> tuple[int, int]:
        """How far apart units can stand at most, and how many groups they come in."""

    @staticmethod
    def refusal(question: LayerQuestion, period: int, groups: int) -> str:
        """Why units cannot stand so; empty when they can."""
        return ""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The state's ciphertexts, for every component."""

    @property
    @abstractmethod
    def periods(self) -> tuple[int, ...]:
        """Of its ``Pack`` and ``Unpack`` instructions."""

    @abstractmethod
    def forward(self, w: Writer, values: Register | None, step: int) -> Register:
        """The sums as phases, on one limb. values: of the layer before, None for the client's data."""

    @abstractmethod
    def update(self, w: Writer, values: Register | None, errors: Sequence[Register], step: int) -> None:
        """Store the state after the step. errors: of the sums, one register for each of the target's groups."""

    @property
    def data_limbs(self) -> dict[str, int]:
        """Limbs of the ciphertexts that the client makes of a batch, by name."""
        return {}

    def data(self, features: F64) -> dict[str, F64]:
        """Messages of a batch, shape (batch, features), by the same names."""
        return {}

    def sent_back(self, w: Writer, errors: Sequence[Register], step: int) -> Register:
        """Errors of the values, as what a bootstrap reads; of layers that read another one's values."""
        raise NotImplementedError(f"{type(self).__name__} reads the client's data")

    @property
    def samples(self) -> int:
        """Of a whole step: what gradients are the mean over."""
        return self.target.batch * self.trained.micros

    @property
    def offset(self) -> Offset:
        return Offset(self.target, self.scales)


def state_names(layer: Layer) -> tuple[str, ...]:
    """All ciphertexts of a layer's state."""
    return tuple(component_name(layer.name, p.name, i) for p in layer.parts for i in range(layer.trained.size))


def component_name(layer: str, part: str, component: int) -> str:
    return f"state:{layer}:{part}:{component}"


def encode_state(layer: Layer, weights: F64, bias: F64) -> dict[str, F64]:
    """Messages of a layer's state at the start: the first component has the weights, others are zero."""
    matrix = np.hstack([weights, bias[:, None]])
    out: dict[str, F64] = {}
    for part in layer.parts:
        first = polynomial(layer.target.ring, part.exponents, part.gain * matrix[part.rows, part.columns])
        for i in range(layer.trained.size):
            out[component_name(layer.name, part.name, i)] = first if i == 0 else np.zeros_like(first)
    return out


def decode_state(layer: Layer, messages: dict[str, F64], step: int, inputs: int, which: int = 0) -> tuple[F64, F64]:
    """Weights (outputs, inputs) and bias before ``step`` from the state's messages; their velocities if which is 1."""
    components = np.zeros((layer.trained.size, layer.target.count, inputs + 1))
    for part in layer.parts:
        for i, component in enumerate(components):
            message = messages[component_name(layer.name, part.name, i)]
            component[part.rows, part.columns] = coefficients(message, part.exponents) / part.gain
    weight, bias = layer.trained.weight.basis(step)[which], layer.trained.bias.basis(step)[which]
    return np.tensordot(weight, components[:, :, :-1], 1), np.tensordot(bias, components[:, :, -1], 1)


def load_state(w: Writer, layer: Layer, part: str) -> list[Register]:
    """All components of a part."""
    return [w.load(component_name(layer.name, part, i)) for i in range(layer.trained.size)]


def moved_state(w: Writer, layer: Layer, part: str) -> list[Register]:
    """All components of a part, with the gradients of earlier micro-batches."""
    return [w.moved(component_name(layer.name, part, i)) for i in range(layer.trained.size)]


def move_state(
    w: Writer, layer: Layer, part: str, state: Sequence[Register], gradient: Register | None, push: F64
) -> None:
    """Add push[c] * gradient to component c, which is stored. gradient: on one limb more; None: no change."""
    for i, u in enumerate(state):
        if gradient is not None and push[i]:
            u = w.sum((u, 1), (w.rescaled(gradient, float(push[i])), 1))
        w.move(u, component_name(layer.name, part, i))


@dataclass(frozen=True)
class Offset:
    """A bias beside the weights: unit i at i*period, the part "bias"."""

    target: Units
    scales: Scales

    @property
    def part(self) -> Part:
        rows = np.arange(self.target.count)
        return Part("bias", rows, np.full_like(rows, -1), self.target.units, self._gain)

    @property
    def _gain(self) -> float:
        return self.scales.phase / _ONE

    def pairs(self, w: Writer, layer: Layer, step: int) -> list[tuple[Register, Register]]:
        """Products whose sum is the bias, for every sample, as phases."""
        basis = layer.trained.bias.basis(step)[0]
        ones = w.load(ONES)
        state = load_state(w, layer, "bias")
        return [(w.scaled(ones, float(f)), u) for f, u in zip(basis, state, strict=True) if f]

    def update(self, w: Writer, layer: Layer, errors: Register, step: int) -> None:
        """errors: of the target, garbage beside them allowed."""
        state, gradient = moved_state(w, layer, "bias"), None
        if layer.trained.bias_trained:
            gradient = w.pack([w.product((w.load(REVERSED_ONES), errors))], 1, self.target.period)
        factor = self._gain / (layer.samples * self.scales.errors * self.target.period)
        move_state(w, layer, "bias", state, gradient, layer.trained.bias.push(step) * factor)


def ones_data(units: Units) -> dict[str, F64]:
    """What ``Offset`` needs of the client (no secret: it is the same for all batches)."""
    ones = np.ones(units.batch)
    return {
        ONES: polynomial(units.ring, units.samples, ones * _ONE),
        REVERSED_ONES: polynomial(units.ring, -units.samples, ones),
    }
