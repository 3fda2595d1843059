"""Models with one dense layer, as source-level graphs: what the estimators train."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, Const, Dense, Input, Output, Scale, Softmax
from glyphc.ir.types import Level

F64 = npt.NDArray[np.floating[Any]]


def linear_model(x: F64, outputs: int, ending: str = "", standardise: bool = True) -> Graph:
    """A dense layer of zero weights on (standardised) features, then nothing, "sigmoid" or "softmax".

    x: samples, shape (samples, features), whose means and standard deviations are put into the model; features that
    do not vary are left as they are.
    """
    graph = Graph(Level.SOURCE, 1)
    features = int(x.shape[1])
    value = graph.add(Input("x", (features,)))
    if standardise:
        spread = x.std(axis=0)
        factor = 1.0 / np.where(spread > 0, spread, 1.0)
        names = (graph.add_constant("factor", factor), graph.add_constant("shift", -x.mean(axis=0) * factor))
        value = graph.add(Scale(Const(names[0]), Const(names[1])), (value,), location="standardise")
    weight = graph.add_constant("weight", np.zeros((outputs, features)))
    bias = graph.add_constant("bias", np.zeros(outputs))
    value = graph.add(Dense((Const(weight),), Const(bias)), (value,), location="dense")
    if ending == "sigmoid":
        value = graph.add(Apply((Function("sigmoid"),)), (value,), location="sigmoid")
    elif ending == "softmax":
        value = graph.add(Softmax(), (value,), location="softmax")
    graph.add(Output("y"), (value,), location="y")
    return graph
