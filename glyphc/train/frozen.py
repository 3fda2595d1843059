"""The part of a network that does not change is computed once, on the client; what is trained begins after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.evaluate import evaluate_all
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Affine, Dense, Input

from .losses import Loss
from .step import weight_slots

F64 = npt.NDArray[np.floating[Any]]

FEATURES = "features"
# Samples that the frozen part is evaluated on at a time.
_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Split:
    """head: the network from the values of node ``boundary`` on, with one input; frozen: of its layers, by name.

    boundary is None where nothing comes before what is trained, and head is then the network itself.
    """

    network: Graph
    boundary: int | None
    head: Graph
    frozen: tuple[str, ...]

    def features(self, x: F64) -> F64:
        """What the head reads, from samples of shape (samples, *shape)."""
        if self.boundary is None:
            return x
        name = next(op.name for _, op in self.network.of(Input))
        parts = (x[at : at + _AT_ONCE] for at in range(0, len(x), _AT_ONCE))
        values = [evaluate_all(self.network, {name: part})[self.boundary] for part in parts]
        return np.concatenate(values).astype(np.float64) if values else x


def unsplit(network: Graph, frozen: tuple[str, ...]) -> Split:
    """Nothing is computed before: frozen layers are a part of every step."""
    return Split(network, None, network, frozen)


def split(network: Graph, loss: Loss, frozen: tuple[str, ...], convolutions: bool = False) -> Split:
    """Cut before the first trained layer, if all that follows depends on its input alone. convolutions: whether these
    are trained.

    TrainingError for layers to freeze that do not exist, or when nothing is left to train.
    """
    last = loss.attachment(network, network.outputs[0])
    trained = {slot.name for slot in weight_slots(network, last, frozen, convolutions) if slot.trained}
    layers = (node for node in network if isinstance(node.op, Dense | Affine))
    first = next(node for node in layers if trained & set(node.op.constant_names()))
    boundary = network.node(first.operands[0]) if len(first.operands) == 1 else None
    whole = Split(network, None, network, frozen)
    if boundary is None or isinstance(boundary.op, Input):
        return whole
    needed = _after(network, boundary)
    if needed is None:
        return whole
    head = Graph(network.level, network.batch, network.parameters)
    new: dict[int, Node] = {boundary.id: head.add(Input(FEATURES, boundary.type.shape))}
    for node in needed:
        for name in node.op.constant_names():
            if name not in head.constants:
                head.add_constant(name, network.constant(name))
        new[node.id] = head.add(node.op, tuple(new[i] for i in node.operands), None, node.location)
    known = {name for node in needed for name in (node.location, *node.op.constant_names())}
    return Split(network, boundary.id, head, tuple(name for name in frozen if name in known))


def _after(network: Graph, boundary: Node) -> list[Node] | None:
    """What the outputs need beside the boundary's values, in order; None when that includes the network's inputs."""
    wanted = {node.id for node in network.outputs}
    needed: list[Node] = []
    for node in reversed(list(network)):
        if node.id in wanted and node.id != boundary.id:
            if isinstance(node.op, Input):
                return None
            needed.append(node)
            wanted.update(node.operands)
    return needed[::-1]
