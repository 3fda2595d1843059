"""Networks of dense layers, as source-level graphs: what the estimators train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Const, Dense, Input, Output, Scale, Softmax
from glyphc.ir.types import Level

F64 = npt.NDArray[np.floating[Any]]


def linear_model(x: F64, outputs: int, ending: str = "", standardise: bool = True) -> Graph:
    """A dense layer of zero weights on (standardised) features, then nothing, "sigmoid" or "softmax".

    x: samples, shape (samples, features), whose means and standard deviations are put into the model; features that
    do not vary are left as they are.
    """
    return dense_network(x, (), outputs, "", ending, standardise)


def dense_network(
    x: F64, hidden: Sequence[int], outputs: int, activation: str, ending: str = "", standardise: bool = True
) -> Graph:
    """The same with hidden layers of so many units, each followed by the activation. All weights are zero."""
    graph = Graph(Level.SOURCE, 1)
    features = int(x.shape[1])
    value = graph.add(Input("x", (features,)))
    if standardise:
        spread = x.std(axis=0)
        factor = 1.0 / np.where(spread > 1e-12 * np.abs(x).max(axis=0), spread, 1.0)
        names = (graph.add_constant("factor", factor), graph.add_constant("shift", -x.mean(axis=0) * factor))
        value = graph.add(Scale(Const(names[0]), Const(names[1])), (value,), location="standardise")
    for number, units in enumerate(hidden, 1):
        value = _dense(graph, value, str(number), units)
        value = graph.add(Apply((Function(activation),)), (value,), location=f"{activation}{number}")
    value = _dense(graph, value, "", outputs)
    if ending == "sigmoid":
        value = graph.add(Apply((Function("sigmoid"),)), (value,), location="sigmoid")
    elif ending == "softmax":
        value = graph.add(Softmax(), (value,), location="softmax")
    graph.add(Output("y"), (value,), location="y")
    return graph


def _dense(graph: Graph, value: Node, number: str, units: int) -> Node:
    weight = graph.add_constant("weight" + number, np.zeros((units, value.type.size)))
    bias = graph.add_constant("bias" + number, np.zeros(units))
    return graph.add(Dense((Const(weight),), Const(bias)), (value,), location="dense" + number)
