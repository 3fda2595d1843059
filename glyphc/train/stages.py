"""The layers of a step program that encryption can train: which of its products have two encrypted operands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Add, Affine, Apply, Gather, Input, MatMul, Mul, Reshape

from .convolutions import Patches
from .errors import TrainingError
from .step import LOGITS, WEIGHT, Slot, StepProgram

F64 = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Stage:
    """A trained layer. product: of its values and weights; sums: with the bias.

    before: the sums of the layer before; None where the values are the client's. errors: the gradient of the mean loss
    by the sums; None where nothing is trained up to here. back: that by the values; slope: of the activation that made
    them; both None where nothing is trained before. Sums of a convolution have a row for each pixel and sample, its
    values are patches. limited: ``back`` below a limit, where there is one.
    """

    weight: Slot
    bias: Slot
    values: Node
    product: Node
    sums: Node
    errors: Node | None
    before: Node | None = None
    back: Node | None = None
    slope: Node | None = None
    limited: Node | None = None

    @property
    def returned(self) -> Node | None:
        """What is multiplied by the slope."""
        return self.limited or self.back

    @property
    def patches(self) -> Patches | None:
        """Of a convolution."""
        return self.weight.patches

    @property
    def pixels(self) -> int:
        return 1 if self.patches is None else self.patches.pixels

    def by_sample(self, sums: F64) -> F64:
        """The values of ``sums``, a row for each sample."""
        return sums.reshape(self.pixels, -1, sums.shape[-1]).swapaxes(0, 1).reshape(-1, self.pixels * sums.shape[-1])


def moved_from(graph: Graph, node: Node) -> Node:
    """What stands in a node, perhaps in another order or shape."""
    while isinstance(node.op, Reshape | Gather):
        (node,) = graph.operands(node)
    return node


def find_stages(program: StepProgram) -> tuple[Stage, ...]:
    """The trained layers, which must be the last ones, each reading the one before through one activation; and before
    them frozen ones of the same kind.

    TrainingError says which layer stands in the way.
    """
    graph = program.graph
    slots = {WEIGHT + slot.name: slot for slot in program.slots}
    weights = {node.id: slots[op.name] for node, op in graph.of(Input) if op.name in slots}
    remaining = {slot.name for slot in program.slots if slot.trained}
    (sums,) = (graph.operands(node)[0] for node in graph.outputs if getattr(node.op, "name", None) == LOGITS)
    if not _is_layer(graph, sums, weights):
        raise TrainingError(
            f"encrypted training takes a model that ends in a dense layer, with a sigmoid or softmax or without; the "
            f"loss is attached to {sums}. Use --mode clear for other models"
        )
    stages: list[Stage] = []
    while True:
        product, bias = graph.operands(sums)
        read, weight = graph.operands(product)
        values = moved_from(graph, read)
        for node in (weight, bias):
            if weights[node.id].trained and sum(_reads(graph, user, node) for user in graph.users(node)) > 1:
                raise TrainingError(
                    f"{weights[node.id].name!r} belongs to two layers, which encrypted training cannot keep equal; "
                    "freeze it, or use --mode clear"
                )
        stage = Stage(weights[weight.id], weights[bias.id], values, product, sums, program.gradients.get(sums.id))
        remaining -= {stage.weight.name, stage.bias.name}
        found = _layer_before(graph, read, weights)
        if found is None and not remaining:
            # a first layer reads the client's data as they are
            return (replace(stage, values=read), *stages)
        if found is None:
            raise TrainingError(_other_order(stage, values, min(remaining)))
        stage = replace(stage, before=found)
        if values.id in program.gradients:
            back = moved_from(graph, program.gradients[values.id])
            limited, slope = _slope(program, values)
            stage = replace(stage, back=back, slope=slope, limited=limited)
        stages.insert(0, stage)
        sums = found


def _layer_before(graph: Graph, read: Node, weights: Mapping[int, Slot]) -> Node | None:
    """The sums of the layer whose activation a layer reads, if it reads them in their order: units, and of these the
    pixels."""
    values = moved_from(graph, read)
    if not isinstance(values.op, Apply):
        return None
    sums = moved_from(graph, graph.operands(values)[0])
    if not _is_layer(graph, sums, weights):
        return None
    slot = weights[graph.operands(graph.operands(sums)[0])[1].id]
    batch, pixels = read.type.shape[0], 1 if slot.patches is None else slot.patches.pixels
    expected = np.arange(sums.type.size).reshape(pixels, batch, -1).transpose(1, 2, 0)
    return sums if np.array_equal(_places(graph, read, sums), expected.ravel()) else None


def _places(graph: Graph, node: Node, source: Node) -> npt.NDArray[np.int64]:
    """Where each element of a node stands in what it was moved from, through functions of one value."""
    found = np.arange(node.type.size)
    while node.id != source.id:
        if isinstance(node.op, Gather):
            found = graph.constant(node.op.indices.name).ravel()[found]
        (node,) = graph.operands(node)
    return found


def _other_order(stage: Stage, values: Node, remaining: str) -> str:
    what = "encrypted training takes dense layers with one activation between them, and a convolution before them"
    if isinstance(values.op, Affine) and stage.patches is not None:
        what = "encrypted training takes one convolution, which reads the client's data"
    return (
        f"{what}, and {remaining!r} lies before {values}; freeze the layers before the last ones (--freeze), or use "
        "--mode clear"
    )


def _slope(program: StepProgram, values: Node) -> tuple[Node | None, Node]:
    """The gradient of an activation below its limit, if it has one, and the derivative that it is multiplied by;
    TrainingError unless that is one function."""
    graph, back = program.graph, program.gradients[values.id]
    (sums,) = graph.operands(values)
    errors = program.gradients[sums.id]
    if isinstance(errors.op, Mul):
        given, slope = graph.operands(errors)
        limited = given if isinstance(given.op, Apply) and given.operands == (back.id,) else None
        direct = given.id == back.id or limited is not None
        if direct and isinstance(slope.op, Apply) and slope.operands == (sums.id,):
            return limited, slope
    assert isinstance(values.op, Apply)
    names = ", ".join(map(str, values.op.functions))
    raise TrainingError(f"encrypted training takes one differentiable activation, not {names}; use --mode clear")


def _is_layer(graph: Graph, node: Node, weights: Mapping[int, Slot]) -> bool:
    """Whether a node is a product with weights, and a bias."""
    if not isinstance(node.op, Add):
        return False
    product, bias = graph.operands(node)
    return isinstance(product.op, MatMul) and product.operands[1] in weights and bias.id in weights


def _reads(graph: Graph, user: Node, weight: Node) -> bool:
    """Whether a layer's forward pass reads these weights or this bias here."""
    forward = not isinstance(user.op, MatMul) or user.op.transpose_b
    return isinstance(user.op, MatMul | Add) and forward and user.operands[1] == weight.id
