"""Results of a program in the form of scikit-learn's estimators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.graph import Graph
from glyphc.ir.ops import Output

Array = npt.NDArray[Any]
Results = Array | Mapping[str, Array]


def classes(graph: Graph) -> Array:
    """The labels of the classes; AttributeError where no output has any."""
    op = _labelled(graph)
    if op is None or op.labels is None:
        raise AttributeError("the model does not name classes: none of its outputs is a label")
    return op.labels.array


def predict(graph: Graph, results: Results) -> Array:
    """Labels, or else the only result; AttributeError where there are several."""
    label, named = _labelled(graph), _by_name(graph, results)
    if label is not None:
        return named[label.name].reshape(len(named[label.name]), -1).squeeze(axis=-1)
    if len(named) > 1:
        raise AttributeError(f"the model has {len(named)} outputs ({', '.join(named)}) and no label; use run")
    (value,) = named.values()
    return value[:, 0] if value.ndim == 2 and value.shape[1] == 1 else value


def predict_proba(graph: Graph, results: Results) -> npt.NDArray[np.floating[Any]]:
    """The scores beside the label; AttributeError where there is no label, or not one output of scores."""
    count, named = len(classes(graph)), _by_name(graph, results)
    label = _labelled(graph)
    scores = [v for name, v in named.items() if label is not None and name != label.name and v.shape[1:] == (count,)]
    if len(scores) != 1:
        raise AttributeError("the model gives no probabilities beside its labels")
    return scores[0]


def score(graph: Graph, results: Results, y: npt.ArrayLike) -> float:
    """Share of right labels, or R^2 (of several targets, their mean, as in scikit-learn)."""
    found, wanted = predict(graph, results), np.asarray(y)
    if _labelled(graph) is not None:
        return float(np.mean(found == wanted.reshape(found.shape)))
    found, wanted = found.reshape(len(found), -1), wanted.astype(np.float64).reshape(len(found), -1)
    rest = ((wanted - found) ** 2).sum(axis=0)
    return float(np.mean(1 - rest / ((wanted - wanted.mean(axis=0)) ** 2).sum(axis=0)))


def _labelled(graph: Graph) -> Output | None:
    return next((op for _, op in graph.of(Output) if op.labels is not None), None)


def _by_name(graph: Graph, results: Results) -> dict[str, Array]:
    if isinstance(results, Mapping):
        return dict(results)
    ((_, op),) = graph.of(Output)
    return {op.name: results}
