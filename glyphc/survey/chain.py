"""The networks that integers and words of bits are trained on: dense layers, a function behind each or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Dense, Input, Reshape
from glyphc.train.derivatives import chain_derivatives
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job
from glyphc.train.losses import BinaryCrossEntropy, MeanSquaredError
from glyphc.train.optimizers import Constant

F64 = npt.NDArray[np.floating[Any]]
Functions = tuple[Function, ...]


@dataclass(frozen=True)
class Layer:
    """weight, bias: names of constants, of shapes (outputs, inputs) and (outputs,); bias None where there is none.
    functions: behind its sums, one after another; empty for none. slopes: factors of their derivative."""

    weight: str
    bias: str | None
    inputs: int
    outputs: int
    functions: Functions = ()
    slopes: tuple[Functions, ...] = ()

    def value(self, sums: F64) -> F64:
        """The functions of sums."""
        return compose(self.functions, sums)

    def slope(self, sums: F64) -> F64:
        """Their derivative."""
        found = np.ones_like(sums)
        for factor in self.slopes:
            found = found * compose(factor, sums)
        return found


@dataclass(frozen=True)
class Values:
    """Of one step, by layer: what it reads, its sums, its slopes, the loss's gradient by its sums divided by ``scale``
    of the chain, and what of it is sent back to the layer."""

    read: list[F64]
    sums: list[F64]
    slopes: list[F64]
    errors: list[F64]


@dataclass(frozen=True)
class Chain:
    """layers: in order. sloped: whether the error of the outputs is multiplied by the last slope: that of a quadratic
    loss is, that of a cross-entropy of sigmoids is not. scale: of the gradients: 2 / (samples outputs), 1 / samples."""

    layers: tuple[Layer, ...]
    sloped: bool
    scale: float

    def values(self, weights: dict[str, F64], x: F64, y: F64) -> Values:
        """A forward and a backward pass on real numbers. x: shape (samples, inputs), y: (samples, outputs)."""
        read: list[F64] = [x]
        sums: list[F64] = []
        slopes: list[F64] = []
        for layer in self.layers:
            z = read[-1] @ weights[layer.weight].T
            z = z if layer.bias is None else z + weights[layer.bias]
            sums.append(z)
            slopes.append(layer.slope(z))
            read.append(layer.value(z))
        error = read[-1] - y
        errors: list[F64] = [error * slopes[-1] if self.sloped else error]
        for at in reversed(range(1, len(self.layers))):
            errors.insert(0, errors[0] @ weights[self.layers[at].weight] * slopes[at - 1])
        return Values(read[:-1], sums, slopes, errors)

    def after(self, weights: dict[str, F64], values: Values, rate: float) -> dict[str, F64]:
        """The weights after the step."""
        new = dict(weights)
        for layer, read, errors in zip(self.layers, values.read, values.errors, strict=True):
            new[layer.weight] = weights[layer.weight] - rate * self.scale * errors.T @ read
            if layer.bias is not None:
                new[layer.bias] = weights[layer.bias] - rate * self.scale * errors.sum(axis=0)
        return new


def chain_of(job: Job, name: str) -> Chain:
    """The chain of a job's trained part. name: of the strategy, for messages.

    TrainingError for other networks, losses and optimizers, with what to do.
    """
    optimizer = job.options.optimizer
    if optimizer.momentum or optimizer.weight_decay or not isinstance(optimizer.schedule, Constant):
        raise TrainingError(
            f"the strategy {name!r} takes plain steps of one learning rate: leave out momentum, weight decay and "
            "schedule, or use --strategy glyph"
        )
    head = job.split.head
    last = job.loss.attachment(head, head.outputs[0])
    layers = _layers(head, last, {s.name for s in job.program.slots if s.trained}, name)
    outputs = layers[-1].outputs
    match job.loss:
        case MeanSquaredError():
            return Chain(layers, True, 2.0 / (job.batches.batch * outputs))
        case BinaryCrossEntropy():
            sigmoid = (Function("sigmoid"),)
            behind = Layer(
                layers[-1].weight, layers[-1].bias, layers[-1].inputs, outputs, sigmoid, _slopes(sigmoid, name)
            )
            return Chain((*layers[:-1], behind), False, 1.0 / job.batches.batch)
    raise TrainingError(
        f"the strategy {name!r} has no {job.loss.name}; it trains with a quadratic loss (--loss mean-squared-error, "
        "with one-hot rows as labels)"
    )


def _layers(head: Graph, last: Node, trained: set[str], name: str) -> tuple[Layer, ...]:
    found: list[Layer] = []
    functions: Functions = ()
    node = last
    while not isinstance(node.op, Input):
        match node.op:
            case Reshape():
                pass
            case Apply(functions=more):
                functions = (*more, *functions)
            case Dense(weights=(weight,), bias=bias) if weight.name in trained:
                own = bias.name if bias.name in trained else None
                outputs, inputs = head.constant(weight.name).shape
                layer = Layer(weight.name, own, int(inputs), int(outputs), functions, _slopes(functions, name))
                found, functions = [layer, *found], ()
            case _:
                raise TrainingError(
                    f"the strategy {name!r} trains dense layers with functions of one value between them, and {node} "
                    "is neither, or frozen behind a trained layer"
                )
        (node,) = head.operands(node)
    if functions:
        raise TrainingError(f"the strategy {name!r} takes no function in front of the first layer that is trained")
    if len({layer.weight for layer in found}) < len(found):
        raise TrainingError(f"the strategy {name!r} trains no layer twice")
    return tuple(found)


def _slopes(functions: Functions, name: str) -> tuple[Functions, ...]:
    if not functions:
        return ()
    slopes = chain_derivatives(functions)
    if slopes is None:
        raise TrainingError(f"the strategy {name!r} has no derivative of {', then '.join(map(str, functions))}")
    return slopes
