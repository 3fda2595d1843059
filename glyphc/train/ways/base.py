"""What a way of a product of two encrypted operands is: a layout of a layer's weights, with its price or a refusal.

A layer's weights take part in three products: with values (forward), with errors (sent back), and their gradient is one
of values and errors. All have the layout of the weights, so one way computes all of them. Offers and refusals are those
of ``glyphc.ways``; a space says here also where the numbers stand. Other packages add ways as entry points of the group
``glyphc.training_ways``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from glyphc.analysis.training_cost import step_seconds
from glyphc.ir.graph import Node
from glyphc.ir.ops import MatMul
from glyphc.ir.types import Encoding, Scheme
from glyphc.ways.base import Context, Offer, Question, Refusal, Space, Way

from ..units import Units, power_of_two
from ..writer import Writer
from .layers import Layer, Scales, Trained

# Errors in groups take a mask, and that another level of every bootstrap.
MASKS = Context("masks")


@dataclass(frozen=True)
class Placed(Space):
    """Encrypted numbers in coefficients, and where. units: None for the client's data, encrypted as a way asks."""

    units: Units | None = None

    def __str__(self) -> str:
        return "data" if self.units is None else f"units {self.units.period} apart, samples {self.units.grid}"


def placed(units: Units | None) -> Placed:
    return Placed(Scheme.CKKS, Encoding.MSB, units)


@dataclass(frozen=True, kw_only=True)
class LayerQuestion(Question):
    """What offers for a layer are asked for. inputs: numbers that it reads; source: where they stand, None for data.

    count: its units; room: how many it needs places for, a power of two; grid: distance of two samples. tight: the next
    layer wants units as close as samples allow. clean: see ``Layer``; trained: what of the layer is.
    """

    inputs: int
    source: Units | None
    count: int
    room: int
    grid: int
    trained: Trained
    tight: bool = False
    clean: bool = False

    @property
    def block(self) -> int:
        """Coefficients from a unit to the next one that its samples take."""
        return self.grid * power_of_two(self.batch)


class ProductWay(Way):
    """Base of all. layer: what computes in this way. data: whether it reads the client's data, or values.

    tight_source: whether it wants the units before it as close as samples allow. masks: whether its errors come in
    groups that only masks tell apart.
    """

    layer: ClassVar[type[Layer]]
    data: ClassVar[bool] = False
    tight_source: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        """For the product of a layer's values and weights."""
        if not isinstance(node.op, MatMul) or not isinstance(question, LayerQuestion):
            return None
        if self.data is not (question.source is None):
            return Refusal("it reads the client's data" if self.data else "it reads another layer's values")
        target = self.target(question)
        if isinstance(target, Refusal):
            return target
        w = Writer()
        self._write(w, self.make("1", target, question, Scales(1.0, 1.0, 1.0, 1.0)))
        seconds = step_seconds(w.code, question.ring, question.cost)
        contexts = frozenset({MASKS} if self.masks else ())
        return Offer(placed(question.source), placed(target), seconds, f"{len(w.code)} instructions", contexts)

    def make(self, name: str, target: Units, question: LayerQuestion, scales: Scales) -> Layer:
        """The layer with its sums at ``target``."""
        return self.layer(name, question.inputs, question.source, target, question.trained, scales, question.clean)

    def target(self, question: LayerQuestion) -> Units | Refusal:
        """Where the sums stand."""
        period, groups = self.room(question)
        if period < question.block:
            return Refusal(f"{question.batch} samples need {question.block} coefficients, a unit has {period}")
        if question.tight and not self.masks:
            period = question.block
        reason = self.refusal(question, period, groups)
        if reason:
            return Refusal(reason)
        return Units(question.ring, question.count, period, question.batch, question.grid, groups)

    @abstractmethod
    def room(self, question: LayerQuestion) -> tuple[int, int]:
        """How far apart units can stand at most, and how many groups they come in."""

    def refusal(self, question: LayerQuestion, period: int, groups: int) -> str:
        """Why units cannot stand so; empty when they can."""
        return ""

    def _write(self, w: Writer, layer: Layer) -> None:
        """All that a step does with the layer's weights. Instructions are all that counts, registers are anything."""
        errors = [w.load("errors")] * layer.target.used_groups
        values = None if self.data else w.load("values")
        layer.forward(w, values, 1)
        if not self.data:
            layer.sent_back(w, errors, 1)
        layer.update(w, values, errors, 1)
