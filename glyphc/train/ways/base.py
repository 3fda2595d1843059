"""What a way of a product of two encrypted operands is: a layout of a layer's weights, with its price or a refusal.

A layer's weights take part in three products: with values (forward), with errors (sent back), and their gradient is one
of values and errors. All have the layout of the weights, so one way computes all of them. Offers and refusals are those
of ``glyphc.ways``; a space says here also where the numbers stand. Other packages add ways as entry points of the group
``glyphc.training_ways``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glyphc.analysis.training_cost import Bootstraps, step_seconds
from glyphc.ir.graph import Node
from glyphc.ir.instructions.ckks import Code
from glyphc.ir.ops import MatMul
from glyphc.ir.types import Encoding, Scheme
from glyphc.ways.base import Context, Offer, Question, Refusal, Space, Way

from ..units import Units
from ..writer import Writer
from .layers import GRADIENT_LIMBS, ONES, REVERSED_ONES, STATE_LIMBS, Layer, LayerQuestion, Scales, state_names

# Errors in groups take a mask, and that another level of every bootstrap.
MASKS = Context("masks")
# What a layer's instructions load where bootstraps would have left it.
_VALUES, _ERRORS = "values", "errors"


@dataclass(frozen=True)
class Placed(Space):
    """Encrypted numbers in coefficients, and where. units: None for the client's data, encrypted as a way asks."""

    units: Units | None = None

    def __str__(self) -> str:
        return "data" if self.units is None else f"units {self.units.period} apart, samples {self.units.grid}"


def placed(units: Units | None) -> Placed:
    return Placed(Scheme.CKKS, Encoding.MSB, units)


class ProductWay(Way):
    """What a kind of layer offers. name: as explanations call it."""

    def __init__(self, layer: type[Layer]) -> None:
        self.layer = layer
        self.name = layer.way  # type: ignore[misc]

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        """For the product of a layer's values and weights."""
        if not isinstance(node.op, MatMul) or not isinstance(question, LayerQuestion):
            return None
        if self.layer.first is not (question.source is None):
            return Refusal("it reads the client's data" if self.layer.first else "it reads another layer's values")
        target = self.target(question)
        if isinstance(target, Refusal):
            return target
        layer = self.make("1", target, question, Scales(1.0, 1.0, 1.0, 1.0))
        code = self._code(layer)
        held = dict.fromkeys(state_names(layer), STATE_LIMBS) | {_VALUES: GRADIENT_LIMBS, _ERRORS: GRADIENT_LIMBS}
        data = layer.data_limbs | {ONES: STATE_LIMBS + 1, REVERSED_ONES: GRADIENT_LIMBS}
        unused = Bootstraps(1)  # there are none in it
        seconds = step_seconds(code, held, data, GRADIENT_LIMBS, unused, question.ring, question.cost)
        contexts = frozenset({MASKS} if self.layer.masks else ())
        return Offer(placed(question.source), placed(target), seconds, f"{len(code)} instructions", contexts)

    def make(self, name: str, target: Units, question: LayerQuestion, scales: Scales) -> Layer:
        """The layer with its sums at ``target``."""
        return self.layer(name, question.inputs, question.source, target, question.trained, scales, question.clean)

    def target(self, question: LayerQuestion) -> Units | Refusal:
        """Where the sums stand."""
        period, groups = self.layer.spacing(question)
        if period < question.block:
            pixels = f" of {question.pixels} pixels" if question.pixels > 1 else ""
            return Refusal(f"{question.batch} samples{pixels} need {question.block} coefficients, a unit has {period}")
        if question.tight and not self.layer.masks:
            period = question.block
        reason = self.layer.refusal(question, period, groups)
        if reason:
            return Refusal(reason)
        return Units(question.ring, question.count, period, question.batch, question.grid, groups, question.pixels)

    @staticmethod
    def _code(layer: Layer) -> Code:
        """All that a step does with the layer's weights, but for bootstraps before, between and after."""
        w = Writer()
        errors = [w.load(_ERRORS) for _ in range(layer.target.used_groups)]
        values = None if layer.first else w.load(_VALUES)
        layer.forward(w, values, 1)
        if not layer.first:
            layer.sent_back(w, errors, 1)
        layer.update(w, values, errors, 1)
        return tuple(w.code)
