"""The layers of a network that encryption can train, and what is computed in them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Dense

from .derivatives import chain_derivatives
from .errors import TrainingError
from .losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from .step import Slot, weight_slots

F64 = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Stage:
    """A trained layer of the network and the names of its constants; before: the activation in front of it."""

    node: Node
    weight: Slot
    bias: Slot
    before: tuple[Function, ...] = ()


def find_stages(network: Graph, loss: Loss, frozen: tuple[str, ...]) -> tuple[Stage, ...]:
    """The trained layers, which must be the last ones, each reading the one before through one activation.

    TrainingError says which layer stands in the way.
    """
    last = loss.attachment(network, network.outputs[0])
    slots = {slot.name: slot for slot in weight_slots(network, last, frozen)}
    remaining = {name for name, slot in slots.items() if slot.trained}
    if not isinstance(last.op, Dense) or len(last.operands) != 1:
        raise TrainingError(
            f"encrypted training takes a model that ends in a dense layer, with a sigmoid or softmax or without; the "
            f"loss is attached to {last}. Use --mode clear for other models"
        )
    uses = Counter(name for node in network for name in node.op.constant_names())
    stages: list[Stage] = []
    node = last
    while True:
        assert isinstance(node.op, Dense)
        weight, bias = slots[node.op.weights[0].name], slots[node.op.bias.name]
        for slot in (weight, bias):
            if slot.trained and uses[slot.name] > 1:
                raise TrainingError(
                    f"{slot.name!r} belongs to two layers, which encrypted training cannot keep equal; freeze it, "
                    "or use --mode clear"
                )
        remaining -= {weight.name, bias.name}
        if not remaining:
            return (Stage(node, weight, bias), *stages)
        before, functions = _layer_before(network, node, min(remaining))
        stages.insert(0, Stage(node, weight, bias, functions))
        node = before


def _layer_before(network: Graph, node: Node, trained: str) -> tuple[Node, tuple[Function, ...]]:
    """The dense layer whose values a layer reads through an activation."""
    (between,) = network.operands(node)
    if isinstance(between.op, Apply) and len(between.operands) == 1:
        (before,) = network.operands(between)
        if isinstance(before.op, Dense) and len(before.operands) == 1:
            return before, between.op.functions
    raise TrainingError(
        f"encrypted training takes dense layers with one activation between them, and {trained!r} lies before "
        f"{between}; freeze the layers before the last ones (--freeze), or use --mode clear"
    )


def slope(stage: Stage) -> tuple[Function, ...]:
    """The derivative of the activation before a stage; TrainingError when it has none that is one function."""
    slopes = chain_derivatives(stage.before)
    if slopes is None or len(slopes) != 1:
        names = ", ".join(map(str, stage.before))
        raise TrainingError(f"encrypted training takes one differentiable activation, not {names}; use --mode clear")
    return slopes[0]


def magnitudes(
    stages: tuple[Stage, ...], loss: Loss, weights: dict[str, F64], features: F64, targets: F64
) -> tuple[list[F64], list[F64]]:
    """Sums of every stage, and errors sent back to every stage but the last; of a batch, (batch, units) each."""
    values = features
    sums: list[F64] = []
    for stage in stages:
        values = compose(stage.before, values) if stage.before else values
        values = values @ weights[stage.weight.name].T + weights[stage.bias.name]
        sums.append(values)
    errors = _errors(loss, sums[-1], targets)
    back: list[F64] = []
    for at in range(len(stages) - 1, 0, -1):
        back.append(errors @ weights[stages[at].weight.name])
        errors = back[-1] * compose(slope(stages[at]), sums[at - 1])
    return sums, back[::-1]


def _errors(loss: Loss, logits: F64, targets: F64) -> F64:
    """The gradient of a sample's loss by its logits."""
    if isinstance(loss, SoftmaxCrossEntropy):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True) - targets)
    if isinstance(loss, BinaryCrossEntropy):
        return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)) - targets)
    return np.asarray((logits - targets) * (2.0 / logits.shape[1]))
