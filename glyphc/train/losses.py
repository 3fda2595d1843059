"""Losses: what is minimised, as nodes of a step program. All are means over the batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.errors import DataError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, ReduceSum, Softmax, Sub, SumTo

from .builder import Builder
from .errors import TrainingError

F64 = npt.NDArray[np.floating[Any]]
_SIGMOID = (Function("sigmoid"),)
_NUMBERS = ". To fit numbers, one for each output, use --loss mean-squared-error"


class Loss(ABC):
    """Base of all losses. ``z``: what the loss is attached to, shape (batch, outputs); ``y``: its targets."""

    name: ClassVar[str]

    @abstractmethod
    def attachment(self, network: Graph, output: Node) -> Node:
        """The node of the network that ``z`` is: the output itself, or what its last nonlinearity reads.

        Losses on logits strip the network's own sigmoid or softmax, so that neither overflows and the gradient is a
        difference of probabilities. TrainingError when the network's end does not go with the loss.
        """

    @abstractmethod
    def value(self, b: Builder, z: Node, y: Node) -> Node:
        """The loss of each sample, shape (batch,)."""

    @abstractmethod
    def gradient(self, b: Builder, z: Node, y: Node) -> Node:
        """The gradient of the batch's mean loss by ``z``."""

    @abstractmethod
    def targets(self, labels: npt.ArrayLike, outputs: int) -> F64:
        """``y`` of shape (samples, outputs) from a user's labels; DataError when they do not fit."""


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """-log softmax(z)[class]; labels are class indices 0, 1, ..., or of each class a probability (one-hot)."""

    name: ClassVar[str] = "softmax-cross-entropy"

    def attachment(self, network: Graph, output: Node) -> Node:
        (node,) = network.operands(output)
        if isinstance(node.op, Softmax):
            (node,) = network.operands(node)
        if len(node.type.shape) != 1 or node.type.size < 2:
            raise TrainingError(
                f"{node}: {self.name} needs a flat output with two classes or more, not shape {list(node.type.shape)}"
            )
        return node

    def value(self, b: Builder, z: Node, y: Node) -> Node:
        return b.times(b.node(ReduceSum(), b.mul(y, b.node(Softmax(log=True), z))), -1.0)

    def gradient(self, b: Builder, z: Node, y: Node) -> Node:
        return b.times(b.node(Sub(), b.node(Softmax(), z), y), 1.0 / z.type.shape[0])

    def targets(self, labels: npt.ArrayLike, outputs: int) -> F64:
        y = np.asarray(labels)
        if y.ndim == 2 and y.shape[1] == outputs and y.dtype.kind in "fiub":
            if not ((y >= 0).all() and np.allclose(y.sum(axis=1), 1)):
                raise DataError(
                    f"one-hot labels for {self.name} are not negative and sum to 1 for every sample{_NUMBERS}"
                )
            return y.astype(np.float64)
        return np.asarray(np.eye(outputs)[_classes(y, outputs)])


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Sum over the outputs of log(1 + e^z) - y z; labels are 0 or 1, or classes (one output against the rest)."""

    name: ClassVar[str] = "binary-cross-entropy"

    def attachment(self, network: Graph, output: Node) -> Node:
        (node,) = network.operands(output)
        if isinstance(node.op, Apply) and node.op.functions == _SIGMOID:
            (node,) = network.operands(node)
        if isinstance(node.op, Softmax):
            raise TrainingError(f"{node}: {self.name} goes with a sigmoid at the end; use softmax-cross-entropy")
        if len(node.type.shape) != 1:
            raise TrainingError(f"{node}: {self.name} needs a flat output, not shape {list(node.type.shape)}")
        return node

    def value(self, b: Builder, z: Node, y: Node) -> Node:
        return b.node(ReduceSum(), b.node(Sub(), b.apply(z, "softplus"), b.mul(y, z)))

    def gradient(self, b: Builder, z: Node, y: Node) -> Node:
        return b.times(b.node(Sub(), b.apply(z, "sigmoid"), y), 1.0 / z.type.shape[0])

    def targets(self, labels: npt.ArrayLike, outputs: int) -> F64:
        given = np.asarray(labels)
        if outputs == 1:
            given = _classes(given, 2)
        elif given.ndim == 1:
            given = np.eye(outputs)[_classes(given, outputs)]
        y: F64 = given.reshape(len(given), -1).astype(np.float64)
        if y.shape[1] != outputs or not np.isin(y, (0.0, 1.0)).all():
            raise DataError(
                f"labels for {self.name} are 0 or 1, of shape (samples, {outputs}); got shape {y.shape}{_NUMBERS}"
            )
        return y


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """Mean over the outputs of (z - y)^2; labels are real numbers."""

    name: ClassVar[str] = "mean-squared-error"

    def attachment(self, network: Graph, output: Node) -> Node:
        (node,) = network.operands(output)
        if len(node.type.shape) != 1:
            raise TrainingError(f"{node}: {self.name} needs a flat output, not shape {list(node.type.shape)}")
        return node

    def value(self, b: Builder, z: Node, y: Node) -> Node:
        difference = b.node(Sub(), z, y)
        return b.times(b.node(ReduceSum(), b.mul(difference, difference)), 1.0 / z.type.shape[1])

    def gradient(self, b: Builder, z: Node, y: Node) -> Node:
        batch, outputs = z.type.shape
        return b.times(b.node(Sub(), z, y), 2.0 / (batch * outputs))

    def targets(self, labels: npt.ArrayLike, outputs: int) -> F64:
        y = np.asarray(labels)
        if y.dtype.kind not in "fiub" or y.ndim not in (1, 2) or y.reshape(len(y), -1).shape[1] != outputs:
            raise DataError(f"labels for {self.name} are numbers of shape (samples, {outputs}); got {y.shape}")
        if not np.isfinite(y).all():
            raise DataError("the labels contain NaN or infinity; repair the data")
        return y.reshape(len(y), -1).astype(np.float64)


LOSSES: dict[str, Loss] = {
    loss.name: loss for loss in (SoftmaxCrossEntropy(), BinaryCrossEntropy(), MeanSquaredError())
}


def choose_loss(network: Graph, labels: npt.ArrayLike | None = None) -> Loss:
    """The usual loss for a network's last operation: a sigmoid's, a softmax's (also several raw outputs), else MSE.

    Several raw outputs are also numbers (MSE) where the labels are: floats, one for each output, not all 0 or 1. One
    raw output is the logit of class 1 where all labels are 0 or 1.
    """
    (node,) = network.operands(network.outputs[0])
    if isinstance(node.op, Apply) and node.op.functions == _SIGMOID:
        return LOSSES["binary-cross-entropy"]
    y = np.asarray(labels)
    fits = y.dtype.kind == "f" and y.shape[1:] == node.type.shape and not np.isin(y, (0.0, 1.0)).all()
    if fits and not isinstance(node.op, Softmax):
        return LOSSES["mean-squared-error"]
    if node.type.size > 1:
        return LOSSES["softmax-cross-entropy"]
    decides = y.dtype.kind in "fiub" and np.isin(y, (0, 1)).all() and not isinstance(node.op, Apply)
    return LOSSES["binary-cross-entropy" if decides else "mean-squared-error"]


def mean_loss(b: Builder, per_sample: Node) -> Node:
    """The batch's mean, shape ()."""
    return b.times(b.node(SumTo(()), per_sample), 1.0 / per_sample.type.shape[0])


def _classes(labels: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    y = np.asarray(labels)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "fiub" or not np.array_equal(y, np.rint(y)):
        raise DataError(
            f"labels must be class indices of shape (samples,); got {y.dtype} of shape {list(y.shape)}{_NUMBERS}"
        )
    outside = (y < 0) | (y >= count)
    if outside.any():
        at = int(np.argmax(outside))
        raise DataError(f"label {y[at]:g} of sample {at} is no class; the network has {count}: 0 to {count - 1}")
    return y.astype(np.int64)
