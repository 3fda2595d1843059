"""The layers of a step program that encryption can train: which of its products have two encrypted operands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Add, Apply, Input, MatMul, Mul

from .errors import TrainingError
from .step import LOGITS, WEIGHT, Slot, StepProgram


@dataclass(frozen=True)
class Stage:
    """A trained layer. product: of its values and weights; sums: with the bias.

    errors: the gradient of the mean loss by the sums. back: that by the values; slope: of the activation that made
    them; both None where the values are the client's.
    """

    weight: Slot
    bias: Slot
    values: Node
    product: Node
    sums: Node
    errors: Node
    back: Node | None = None
    slope: Node | None = None


def find_stages(program: StepProgram) -> tuple[Stage, ...]:
    """The trained layers, which must be the last ones, each reading the one before through one activation.

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
        values, weight = graph.operands(product)
        for node in (weight, bias):
            if weights[node.id].trained and sum(_reads(graph, user, node) for user in graph.users(node)) > 1:
                raise TrainingError(
                    f"{weights[node.id].name!r} belongs to two layers, which encrypted training cannot keep equal; "
                    "freeze it, or use --mode clear"
                )
        stage = Stage(weights[weight.id], weights[bias.id], values, product, sums, program.gradients[sums.id])
        remaining -= {stage.weight.name, stage.bias.name}
        if not remaining:
            return (stage, *stages)
        if not isinstance(values.op, Apply) or not _is_layer(graph, graph.operands(values)[0], weights):
            raise TrainingError(
                f"encrypted training takes dense layers with one activation between them, and {min(remaining)!r} lies "
                f"before {values}; freeze the layers before the last ones (--freeze), or use --mode clear"
            )
        stages.insert(0, replace(stage, back=program.gradients[values.id], slope=_slope(program, values)))
        (sums,) = graph.operands(values)


def _slope(program: StepProgram, values: Node) -> Node:
    """The derivative that the gradient of an activation is multiplied by; TrainingError unless it is one function."""
    graph, back = program.graph, program.gradients[values.id]
    (sums,) = graph.operands(values)
    errors = program.gradients[sums.id]
    if isinstance(errors.op, Mul) and errors.operands[0] == back.id:
        slope = graph.operands(errors)[1]
        if isinstance(slope.op, Apply) and slope.operands == (sums.id,):
            return slope
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
