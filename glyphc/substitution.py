"""Another network in place of a given one: its nonlinearities as polynomials, squares, or nothing.

That is what some strategies compute, and what is trained again. The functions that are put in are public, as the
program is: of the calibration samples, they show ranges that are rounded outward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import CalibrationError, GlyphcError, ModelError
from glyphc.ir.evaluate import evaluate_all
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node, Rewriter
from glyphc.ir.ops import (
    Add,
    Affine,
    Apply,
    ArgMax,
    Concat,
    Dense,
    Gather,
    Input,
    MatMul,
    Output,
    ReduceSum,
    Reshape,
    Scale,
    Softmax,
    Sub,
)
from glyphc.ir.types import Level
from glyphc.rounding import outward
from glyphc.ways.strategies import Replacement, Size, size_of, strategy

if TYPE_CHECKING:
    from glyphc.progress import Reporter
    from glyphc.train.retraining import Data

F64 = npt.NDArray[np.floating[Any]]

_POINTS = 4096
# Deviations of a bell that hardly leaves the range, and the share of the weight that lies evenly on it: as for
# polynomials of slot programs, a polynomial explodes where it was not fitted.
_DEVIATIONS, _EVENLY = 6.0, 2.0**-5
_LINEAR_FUNCTIONS = ("affine",)
_LINEAR = (Input, Output, Add, Sub, Scale, Concat, Gather, Affine, Dense, Reshape, ReduceSum, Softmax, ArgMax)
_WEIGHTED = (Affine, Dense, MatMul)


@dataclass(frozen=True, eq=False)
class Changed:
    """Another network than the given one, and what was done, in words."""

    network: Graph
    notes: tuple[str, ...]


def changes(
    graph: Graph,
    name: str,
    degree: int | None,
    samples: Mapping[str, F64],
    retraining: Data | None = None,
    reporter: Reporter | None = None,
) -> Changed | None:
    """What a strategy makes of a network before it is compiled; None where it is compiled as it is.

    name, degree: of the strategy and its polynomials. retraining: what the changed network is trained again on.
    GlyphcError for a strategy that replaces nothing or has no degree to retrain for, or a graph that is no network.
    """
    chosen = strategy(name)
    found = size_of(chosen, Size.DEGREE, degree)
    if retraining is None and not chosen.changes_network:
        return None
    if graph.level is not Level.SOURCE:
        raise GlyphcError(f"the strategy {name!r} changes networks; this is a graph at level {graph.level.value!r}")
    if not chosen.changes_network and chosen.size is not Size.DEGREE:
        raise GlyphcError(f"the strategy {name!r} keeps the network as it is: there is nothing to train again for")
    if not chosen.changes_network and not found:
        raise GlyphcError(f"retraining takes polynomials of a known degree: give one (--degree) with {name!r}")
    what = f"polynomials of degree {found}" if chosen.size is Size.DEGREE else chosen.replacement.value
    note = f"the strategy {name!r} computes another network than the given one, its nonlinearities replaced by {what}"
    network = substituted(graph, chosen.replacement, found, samples)
    if retraining is None:
        untrained = "it was not trained again (--retrain-data, --retrain-labels), so it may be much worse"
        return Changed(network, (note, untrained))
    from glyphc.train.retraining import retrain  # slow to load, and seldom needed

    trained = retrain(network, retraining, reporter, teacher=graph)
    return Changed(trained.network, (note, trained.note))


def substituted(graph: Graph, replacement: Replacement, degree: int, samples: Mapping[str, F64]) -> Graph:
    """The network with other functions in place of its hidden nonlinearities.

    samples: for calibration, by input name. degree: of polynomials. A function at the end, behind all weights, stays
    for losses and for ``fit-polynomials``; squares and the identity refuse it. ModelError for what is no function of
    one value, CalibrationError where there are no samples.
    """
    other = next((n for n in graph if not isinstance(n.op, (*_LINEAR, Apply))), None)
    if other is not None:
        raise ModelError(
            f"{other}: a network with a {other.op.mnemonic} cannot be changed; only functions of one value are replaced"
        )
    if not samples:
        raise CalibrationError(
            "what replaces nonlinearities is fitted to the range of calibration samples, and there are none: pass "
            "--calibration (calibration=...)"
        )
    values = evaluate_all(graph, samples)
    hidden = _before_weights(graph)
    rewriter = Rewriter(graph)
    for node in graph:
        if not isinstance(node.op, Apply) or _linear(node.op):
            rewriter.keep(node)
        elif node.id not in hidden:
            if replacement is not Replacement.POLYNOMIAL:
                raise ModelError(
                    f"{node}: the network ends with a function, which this strategy would replace; leave it to the "
                    "client: export the network without it"
                )
            rewriter.keep(node)
        else:
            seen = np.asarray(values[node.operands[0]], dtype=np.float64)
            function = replacing(node, node.op, replacement, degree, seen)
            new = rewriter.new.add(Apply((function,)), rewriter.operands(node), node.type, node.location)
            rewriter.replace(node, new)
    return rewriter.new


def _linear(op: Apply) -> bool:
    return all(f.name in _LINEAR_FUNCTIONS for f in op.functions)


def _before_weights(graph: Graph) -> set[int]:
    """Ids of the nodes that a layer with weights depends on."""
    found: set[int] = set()
    for node in reversed(list(graph)):
        if isinstance(node.op, _WEIGHTED) or node.id in found:
            found.update(node.operands)
    return found


def replacing(node: Node, op: Apply, replacement: Replacement, degree: int, seen: F64) -> Function:
    """What takes the place of one nonlinearity. seen: its arguments, e.g. on calibration samples."""
    if replacement is Replacement.IDENTITY:
        # no ``affine``, which would be folded into the next layer: the layers are computed as they stand
        return Function("polynomial", (-1.0, 1.0, 0.0, 1.0))
    lo, hi = float(seen.min()), float(seen.max())
    if not np.isfinite((lo, hi)).all():
        raise ModelError(f"{node}: its argument is not finite on the calibration samples")
    left, right = (lo - 1.0, hi + 1.0) if lo == hi else map(float, outward(lo, hi))
    u = (np.arange(_POINTS) + 0.5) * (2 / _POINTS) - 1
    x = (left + right) / 2 + u * (right - left) / 2
    y = compose(op.functions, x)
    if not np.all(np.isfinite(y)):
        raise ModelError(f"{node}: {' then '.join(map(str, op.functions))} is not finite on [{left:g}, {right:g}]")
    weight = np.exp(-((u * _DEVIATIONS) ** 2) / 2)
    weight = weight / weight.sum() + _EVENLY / _POINTS
    if replacement is Replacement.SQUARE:
        factor = float(np.average(y * x**2, weights=weight) / np.average(x**4, weights=weight))
        # any factor will do once the network is trained again, but 0
        return Function("quadratic", (factor or 1.0, 0.0, 0.0))
    root = np.sqrt(weight)
    basis = np.polynomial.chebyshev.chebvander(u, degree)
    found = np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0]
    return Function("polynomial", (left, right, *map(float, found)))
