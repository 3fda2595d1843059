"""The layers of a step program that encryption can train: which of its products have two encrypted operands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
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
    """A trained layer. product: of its values and weights; sums: with the bias, and with ``added``: an activation of an
    earlier layer, where a connection skips those between.

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
    added: Node | None = None

    @property
    def returned(self) -> Node | None:
        """What is multiplied by the slope."""
        return self.limited or self.back

    def adds(self, reader: Stage) -> bool:
        """Whether what another layer reads is added to its sums."""
        return self.added is not None and self.added.id == reader.values.id

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
    """The trained layers, which must be the last ones, each reading the one before through one activation, which may be
    added to a later one's sums, too; and before them frozen ones of the same kind.

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
        own, added = _own_sums(graph, sums, weights) or (sums, None)
        product, bias = graph.operands(own)
        read, weight = graph.operands(product)
        values = moved_from(graph, read)
        for node in (weight, bias):
            if weights[node.id].trained and sum(_reads(graph, user, node) for user in graph.users(node)) > 1:
                raise TrainingError(
                    f"{weights[node.id].name!r} belongs to two layers, which encrypted training cannot keep equal; "
                    "freeze it, or use --mode clear"
                )
        errors = program.gradients.get(sums.id)
        stage = Stage(weights[weight.id], weights[bias.id], values, product, sums, errors, added=added)
        remaining -= {stage.weight.name, stage.bias.name}
        found = _layer_before(graph, read, weights)
        if found is None and not remaining:
            # a first layer reads the client's data as they are
            stages.insert(0, replace(stage, values=read))
            _check_added(program, stages)
            return tuple(stages)
        if found is None:
            raise TrainingError(_other_order(graph, stage, values, min(remaining)))
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
    found = _own_sums(graph, sums, weights)
    if found is None:
        return None
    slot = weights[graph.operands(graph.operands(found[0])[0])[1].id]
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


def _own_sums(graph: Graph, node: Node, weights: Mapping[int, Slot]) -> tuple[Node, Node | None] | None:
    """A layer's sums, and the activation that a node adds to them, if it does; None where it is no such thing."""
    if _is_layer(graph, node, weights):
        return node, None
    if isinstance(node.op, Add):
        a, b = graph.operands(node)
        for own, other in ((a, b), (b, a)):
            # one of another shape would be repeated
            same = own.type.shape == other.type.shape
            if same and _is_layer(graph, own, weights) and isinstance(other.op, Apply):
                return own, other
    return None


def _check_added(program: StepProgram, stages: list[Stage]) -> None:
    """TrainingError unless all that is added to sums are activations that a layer reads, and what is sent back to an
    activation comes from that layer and from these sums alone."""
    graph, readers = program.graph, {stage.values.id: stage for stage in stages if stage.before is not None}
    # an activation is read by the layer behind the one that makes it
    convolved = {stage.values.id for made, stage in pairwise(stages) if made.patches is not None}
    for stage in stages:
        if stage.added is not None and (stage.added.id not in readers or stage.added.id in convolved):
            raise TrainingError(f"{_adds(stage.sums)} {stage.added}; freeze what lies before, or use --mode clear")
    for stage in readers.values():
        if stage.back is None:
            continue
        parts = [stage] + [other for other in stages if other.adds(stage)]
        terms = _terms(graph, stage.back)
        wanted = {other.errors.id for other in parts[1:] if other.errors is not None}
        own = [node for node in terms if node.id not in wanted]
        if len(terms) != len(parts) or len(own) != 1 or not isinstance(own[0].op, MatMul):
            raise TrainingError(
                f"{stage.values} is read by more than the next layer and sums that it is added to, which encrypted "
                "training does not take; freeze the layers up to it (--freeze), or use --mode clear"
            )


def _terms(graph: Graph, node: Node) -> list[Node]:
    """What a sum is made of."""
    if not isinstance(node.op, Add):
        return [node]
    return [term for operand in graph.operands(node) for term in _terms(graph, operand)]


def _adds(node: Node) -> str:
    return (
        "encrypted training adds to the sums of a dense layer an activation of an earlier one, of the same width and "
        f"behind the client's data, and no more; {node} adds"
    )


def _other_order(graph: Graph, stage: Stage, values: Node, remaining: str) -> str:
    what = "encrypted training takes dense layers with one activation between them, and a convolution before them"
    sums = moved_from(graph, graph.operands(values)[0]) if isinstance(values.op, Apply) else values
    if isinstance(sums.op, Add):
        what = f"{_adds(sums)} {' and '.join(map(str, graph.operands(sums)))}"
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
