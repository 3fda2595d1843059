"""Series of the nonlinearities of a laid-out graph: from phase to phase, by degree, each fitted once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.analysis.lookups import fit_lookup
from glyphc.analysis.series import HALF_RANGE, bell, fit
from glyphc.errors import ParameterError
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Linear
from glyphc.ir.parameters import MAX_DEGREES
from glyphc.ir.series import Approximation, Lookup
from glyphc.ir.types import FixedPoint

F64 = npt.NDArray[np.floating[Any]]

# Degrees worth considering: the highest of each depth; the first is about the cheapest that any function can use.
DEGREES = tuple(MAX_DEGREES.values())
_MAX_PLAINTEXT_BITS = 30


def plaintext_bits(graph: Graph) -> int:
    """log2 of the smallest plaintext modulus that holds every sum in the usable half of the torus."""
    needed = 2
    for node, _ in graph.of(Linear):
        assert node.type.fixed is not None
        # the magnitude is HALF_RANGE of a power of two, rounded down: not a hair more may make it the next one
        bits = int(np.ceil(np.log2(node.type.fixed.magnitude / HALF_RANGE)))
        if bits > _MAX_PLAINTEXT_BITS:
            raise ParameterError(
                f"{node} needs sums of {bits} bits, more than the {_MAX_PLAINTEXT_BITS} that BGV offers here; "
                "quantize it with fewer bits (weight_precision, activation_bits)"
            )
        needed = max(needed, bits)
    return needed


@dataclass
class SeriesFits:
    """Series for a plaintext modulus of 2^bits; what one gives are integers of the output format, as phases."""

    graph: Graph
    bits: int
    _known: dict[tuple[int, int], Approximation] = field(default_factory=dict)

    def series(self, node: Node, degree: int) -> Approximation:
        """The best series of a degree for a nonlinearity, or a table by series of that degree."""
        if (node.id, degree) not in self._known:
            assert isinstance(node.op, Apply) and node.type.fixed is not None
            source = self.source(node)
            self._known[node.id, degree] = _fitted(
                node.op.functions,
                source,
                node.type.fixed,
                self.bits,
                degree,
                self._weights(node),
                node.op.table_bits,
            )
        return self._known[node.id, degree]

    def source(self, node: Node) -> FixedPoint:
        """The format of what a nonlinearity reads."""
        fixed = self.graph.operands(node)[0].type.fixed
        assert fixed is not None
        return fixed

    def _weights(self, node: Node) -> tuple[int, ...]:
        """Where the operand's values are taken to lie: what calibration saw is not for the server, which has the fit.

        Of that, the range that the format holds anyway is all that is used.
        """
        calibration, fixed = self.graph.operands(node)[0].type.calibration, self.source(node)
        if calibration is None or calibration.guard is None:
            return ()
        lo, hi = calibration.guard.lo - fixed.offset[0], calibration.guard.hi - fixed.offset[0]
        return bell(lo, hi, fixed.scale[0] * fixed.magnitude)


@lru_cache(maxsize=1024)
def _fitted(
    functions: tuple[Function, ...],
    source: FixedPoint,
    target: FixedPoint,
    bits: int,
    degree: int,
    histogram: tuple[int, ...],
    table_bits: int,
) -> Approximation:
    """Passes one after another ask for the same series."""
    function = phase_function(functions, source, target, 1 << bits)
    if table_bits:
        return fit_lookup(function, table_bits, degree, source.magnitude / 2.0**bits, histogram)
    return fit(function, degree, source.magnitude / 2.0**bits, histogram)


def shared_degrees(graph: Graph, degrees: Mapping[int, int]) -> dict[int, int]:
    """Functions of one value share its powers, so they all have the highest degree among them."""
    highest: dict[int, int] = {}
    for id, degree in degrees.items():
        value = graph.bootstrapped(graph.node(id)).id
        highest[value] = max(degree, highest.get(value, 0))
    return {id: highest[graph.bootstrapped(graph.node(id)).id] for id in degrees}


def scaled(series: Approximation, factor: float) -> Approximation:
    """factor times the series: the same errors, as they are shares of the function's range."""
    if isinstance(series, Lookup):
        return replace(series, table=tuple(factor * entry for entry in series.table))
    return replace(series, real=tuple(c * factor for c in series.real), imag=tuple(c * factor for c in series.imag))


def phase_function(
    functions: tuple[Function, ...], source: FixedPoint, target: FixedPoint, modulus: int
) -> Callable[[F64], F64]:
    """The map of phases that a bootstrap has to compute: phase -> integer -> real -> functions -> integer -> phase."""

    def phase(x: F64) -> F64:
        value = compose(functions, x * (modulus * source.scale[0]) + source.offset[0])
        return np.asarray((value - target.offset[0]) / target.scale[0] / modulus)

    return phase
