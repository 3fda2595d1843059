"""Whitening: the client decorrelates what the first trained layer reads, so that steps are as good in all directions.

A linear map in front of a dense layer is one with that layer: training begins with weights that undo it, so nothing of
the function changes, and in the end it is multiplied into the layer. It changes the path of gradient descent alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Const, Dense

from .errors import TrainingError
from .frozen import Split

F64 = npt.NDArray[np.floating[Any]]

# The layer's location, and what its constants begin with.
WHITENING = "glyphc.whitening"


@dataclass(frozen=True)
class Whitening:
    """Principal axes of samples divided by their deviations (PCA whitening, e.g. LeCun et al., "Efficient BackProp",
    1998).

    ridge: added to deviations, as a share of their root mean square: axes of noise alone stay small. size: root mean
    square of the features that come out.
    """

    ridge: float
    size: float = 1.0

    def layer(self, x: F64) -> tuple[F64, F64]:
        """Weights (features, features) and bias (features,) from samples (samples, features)."""
        mean = x.mean(axis=0)
        variances, axes = np.linalg.eigh(np.cov(x - mean, rowvar=False, bias=True).reshape(x.shape[1], -1))
        weight = axes.T / np.sqrt(np.maximum(variances, 0) + self.ridge**2 * variances.mean())[:, None]
        weight *= self.size / np.sqrt((((x - mean) @ weight.T) ** 2).mean())
        return weight, -weight @ mean


def check_ridge(ridge: float) -> None:
    """TrainingError for a ridge that whitens nothing: without one, an axis on which samples do not differ has no
    deviation to divide by."""
    if not (isfinite(ridge) and 0 < ridge <= 100):
        raise TrainingError(f"whitening takes a ridge above 0 and up to 100, such as 0.5, not {ridge:g}")


def whitened(split: Split, trained: frozenset[str], x: F64, ridge: float) -> Graph:
    """The same network with a whitening layer before its first trained layer, and in this the weights that undo it.

    split: of the network; trained: names of constants that are trained; x: samples of its input. TrainingError where
    the first trained layer is no dense layer that reads one tensor.
    """
    check_ridge(ridge)
    network = split.network
    first = next(node for node in network if trained & set(node.op.constant_names()))
    source = network.operands(first)[0]
    if not isinstance(first.op, Dense) or len(first.operands) > 1 or len(source.type.shape) != 1:
        raise TrainingError(f"whitening goes before a dense layer that reads one flat tensor, not before {first}")
    features = split.features(x)
    if not np.ptp(features, axis=0).any():
        raise TrainingError(f"whitening: what {first} reads is the same for all samples")
    weight, bias = Whitening(ridge).layer(features)
    names = first.op.weights[0].name, first.op.bias.name
    if any(len(_users(network, name)) > 1 for name in names):
        raise TrainingError(f"whitening: the weights of {first} belong to another layer, too; leave --whiten out")
    # without a bias that is trained, nothing could undo a shift
    bias = bias if names[1] in trained else np.zeros_like(bias)
    inner = network.constant(names[0]) @ np.linalg.inv(weight)
    changed = {names[0]: inner, names[1]: network.constant(names[1]) - inner @ bias}
    new = _constants(network, changed)
    at: dict[int, Node] = {}
    for node in network:
        operands = tuple(at[i] for i in node.operands)
        if node is first:
            layer = (new.add_constant(f"{WHITENING}.weight", weight), new.add_constant(f"{WHITENING}.bias", bias))
            operands = (new.add(Dense((Const(layer[0]),), Const(layer[1])), operands, location=WHITENING),)
        at[node.id] = new.add(node.op, operands, None, node.location)
    return new


def unwhitened(network: Graph) -> Graph:
    """With the whitening layer multiplied into the one behind it; other networks as they are."""
    layer = next((node for node in network if node.location == WHITENING and isinstance(node.op, Dense)), None)
    if layer is None:
        return network
    (behind,) = network.users(layer)
    assert isinstance(layer.op, Dense) and isinstance(behind.op, Dense)
    mine, theirs = ((op.weights[0].name, op.bias.name) for op in (layer.op, behind.op))
    inner = network.constant(theirs[0])
    changed = {
        theirs[0]: inner @ network.constant(mine[0]),
        theirs[1]: network.constant(theirs[1]) + inner @ network.constant(mine[1]),
    }
    new = _constants(network, changed, without=mine)
    at: dict[int, Node] = {}
    for node in network:
        if node is layer:
            at[node.id] = at[node.operands[0]]
        else:
            at[node.id] = new.add(node.op, tuple(at[i] for i in node.operands), None, node.location)
    return new


def _constants(network: Graph, changed: dict[str, F64], without: tuple[str, ...] = ()) -> Graph:
    """A graph with the constants of another one, and nothing else."""
    new = Graph(network.level, network.batch, network.parameters)
    for name, value in network.constants.items():
        if name not in without:
            new.add_constant(name, changed.get(name, value))
    return new


def _users(network: Graph, name: str) -> list[Node]:
    return [node for node in network if name in node.op.constant_names()]
