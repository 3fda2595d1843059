"""How far simulated values are from those of the float network, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.evaluate import Value, evaluate_all
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import (
    Apply,
    Bootstrap,
    Dense,
    Input,
    IntegerPolynomial,
    Linear,
    Reshape,
    Shorten,
    Switch,
    TableLookup,
    Unpack,
    WordTable,
)

from .trial import Trial

F64 = npt.NDArray[np.floating[Any]]


def node_errors(
    trial: Trial, values: Mapping[int, Value], samples: Mapping[str, F64], floats: Graph | None
) -> dict[int, float]:
    """Rms errors in real units by node id, of all nodes whose value the float network has, too."""
    if floats is None:
        return {}
    exact = evaluate_all(floats, samples)
    same = twins(trial.graph, floats)
    found = trial.reals(values)
    out = {}
    for node in trial.graph:
        if isinstance(node.op, Switch | Unpack | Reshape) and node.operands[0] in same:
            same[node.id] = same[node.operands[0]]
        if node.id in same:
            off = found[node.id].reshape(-1) - exact[same[node.id]].astype(np.float64).reshape(-1)
            out[node.id] = float(np.sqrt(np.mean(off**2)))
    return out


def twins(graph: Graph, reference: Graph) -> dict[int, int]:
    """Nodes of the final graph and those of the float network that compute the same value: same kind, same place."""
    kinds = {
        Input: "input",
        Dense: "linear",
        Linear: "linear",
        Apply: "function",
        Bootstrap: "function",
        IntegerPolynomial: "function",
        TableLookup: "function",
        Shorten: "linear",
        WordTable: "function",
    }

    def key(node: Node) -> tuple[str, str] | None:
        kind = kinds.get(type(node.op))
        name = node.op.name if isinstance(node.op, Input) else node.location
        return None if kind is None or not name else (kind, name)

    known: dict[tuple[str, str], list[Node]] = {}
    for node in reference:
        if (found := key(node)) is not None:
            known.setdefault(found, []).append(node)
    out = {}
    for node in graph:
        candidates = known.get(key(node) or ("", ""), [])
        if len(candidates) == 1 and candidates[0].type.size == node.type.size:
            out[node.id] = candidates[0].id
    return out
