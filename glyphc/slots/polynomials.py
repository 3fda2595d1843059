"""Polynomials in place of nonlinearities: fitted on the range that calibration asks for, in Chebyshev's basis.

Least squares weighted towards the middle of the range beats Chebyshev interpolation by far, since values crowd there. A
share of the weight is spread evenly over the whole range of the format: outside of what it was fitted on, a polynomial
explodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.analysis.series import bell
from glyphc.errors import ParameterError
from glyphc.ir.functions import compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Fit, Linear, Reshape
from glyphc.ir.types import FixedPoint

F64 = npt.NDArray[np.floating[Any]]

# Degrees worth considering: the highest that each depth reaches. A power of two takes its logarithm of levels where the
# factor of the leading term can be left to the next layer; else one degree less does.
DEGREES = (2, 4, 8, 16, 32)
# Share of the weight of all samples that is spread over the whole range.
EVENLY = 2.0**-5
# A leading coefficient below this share of the largest one is none: the scale of all others would grow by its inverse.
_LEADING = 2.0**-8
_POINTS = 4096


def polynomial_depth(degree: int) -> int:
    """Levels that a polynomial of this degree takes (its leading factor left to the next layer)."""
    return max(1, (degree - 1).bit_length())


def fit(graph: Graph, node: Node, degree: int, exactly: bool = False) -> Fit:
    """The polynomial of at most this degree for a nonlinearity. ParameterError where the function is not finite.

    degree: a power of two reaches farthest for its levels, as long as the leading term can be left to the next layer.
    Where it can be left to nobody, or is none, the polynomial has one degree less; with ``exactly``, it keeps it, and
    takes one level more.
    """
    assert isinstance(node.op, Apply) and node.type.fixed is not None
    source = graph.operands(node)[0]
    assert source.type.fixed is not None
    x = (np.arange(_POINTS) + 0.5) * (2 / _POINTS) - 1
    y = compose(
        node.op.functions, x * (source.type.fixed.magnitude * source.type.fixed.scale[0]) + source.type.fixed.offset[0]
    )
    y = (y - node.type.fixed.offset[0]) / node.type.fixed.scale[0] / node.type.fixed.magnitude
    if not np.all(np.isfinite(y)):
        raise ParameterError(f"{node}: {' then '.join(map(str, node.op.functions))} is not finite on its input range")
    weight = density(source, source.type.fixed, x)
    found = _least_squares(x, y, weight, degree)
    if degree >= 2 and degree & (degree - 1) == 0 and not (leads(found) and absorbed(graph, node)):
        # a zero in front is a higher degree by name, with its levels
        found = np.append(found, 0.0) if exactly else _least_squares(x, y, weight, degree - 1)
    error = np.abs(np.polynomial.chebyshev.chebval(x, found) - y) / (float(np.ptp(y)) or 1.0)
    rms = float(np.sqrt(np.average(error**2, weights=weight)))
    return Fit(tuple(float(c) for c in found), float(error.max()), rms)


def leads(coefficients: npt.ArrayLike) -> bool:
    """Whether the leading coefficient is large enough to divide by, and of a degree at which that saves a level."""
    c = np.asarray(coefficients, dtype=np.float64)
    degree = len(c) - 1
    return degree >= 2 and degree & (degree - 1) == 0 and abs(c[-1]) > _LEADING * np.abs(c).max()


def absorbed(graph: Graph, node: Node) -> bool:
    """Whether every reader of a value is a linear map, which can take over a factor."""
    users = graph.users(node)
    return bool(users) and all(
        isinstance(user.op, Linear) or (isinstance(user.op, Reshape) and absorbed(graph, user)) for user in users
    )


def density(source: Node, fixed: FixedPoint, x: F64) -> F64:
    """Weights of points x in [-1, 1] of a value's range: the middle of its guarded range most, and a little everywhere.

    As for series, what calibration saw is not used, since the server gets the polynomial: of that, only the range that
    the format holds anyway.
    """
    weight = np.full(len(x), EVENLY / len(x))
    calibration = source.type.calibration
    if calibration is None or calibration.guard is None:
        return weight
    lo, hi = calibration.guard.lo - fixed.offset[0], calibration.guard.hi - fixed.offset[0]
    counts = np.array(bell(lo, hi, fixed.magnitude * fixed.scale[0]), dtype=np.float64)
    seen = counts[np.minimum(((x + 1) / 2 * len(counts)).astype(int), len(counts) - 1)]
    return np.asarray(weight + seen / (seen.sum() or 1.0))


def _least_squares(x: F64, y: F64, weight: F64, degree: int) -> F64:
    root = np.sqrt(weight)
    basis = np.polynomial.chebyshev.chebvander(x, degree)
    return np.asarray(np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0])
