"""Fixed-point formats of inputs, hidden values and results.

Formats are seen by the server, which has no calibration data: they follow from ranges that are rounded outward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.analysis.series import HALF_RANGE
from glyphc.errors import ParameterError
from glyphc.ir.evaluate import Value, evaluate_all, quantize
from glyphc.ir.functions import compose
from glyphc.ir.graph import Candidate, Decision, Graph, Node
from glyphc.ir.ops import Apply, ArgMax, Dense, Input, Output, Reshape, Softmax
from glyphc.ir.series import LARGEST_BITS, OUTPUT_BITS
from glyphc.ir.types import FixedPoint, Guard
from glyphc.rounding import outward, up

from .guard_bands import Allowed, allowed

F64 = npt.NDArray[np.floating[Any]]

# BGV in OpenFHE takes plaintext moduli of 31 bits at most; one bit is kept in reserve.
_MAX_ACCUMULATOR_BITS = 29
# Share of a step that is a rounding error of float64.
_ROUNDING = 1e-6
# So many samples may show what they all have in common, and how single columns vary.
_MANY, _SEVERAL = 50, 20
# Columns of a result share a scale as long as none has less than this part of it.
_SHARED = 0.5
# Rms error of a series as a share of its range, as large as one is ever chosen, and how many of them must fit in.
_SERIES = 2.0**-8
_DEVIATIONS = 6.0
# Share of a value's magnitude that is a rounding error of float64 sums.
_NOTHING = 2.0**-40


@dataclass
class Formats:
    """Formats of a calibrated graph's values. Margins, bits, reserve: as of the pass ``quantize``; width: of a node."""

    graph: Graph
    samples: Mapping[str, F64]
    name: str
    input_bits: int
    activation_bits: int
    weight_precision: int
    margin: float
    input_margin: float
    width: Callable[[Node, int], int]
    reserve: bool = True
    values: dict[int, Value] = field(init=False)
    _allowed: dict[int, Allowed] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.values = evaluate_all(self.graph, self.samples)

    def of_input(self, node: Node) -> tuple[FixedPoint, Decision]:
        """One scale for all features, or one for each where its steps would show in what is computed from them."""
        x = self._flat(node)
        limit = 2 ** (self.width(node, self.input_bits) - 1) - 1
        largest = float(np.abs(x).max())
        magnitude = up(largest) * self.input_margin if largest else 1.0
        shared = FixedPoint((magnitude / limit,), (0.0,), -limit, limit)
        centre, half = self._features(x)
        own = FixedPoint(tuple(float(h) / limit for h in half), tuple(map(float, centre)), -limit, limit)
        rounding = self._rounding_share(node, shared.scale[0])
        # as much as the rounding of activations may add; then one range for all features is the more robust choice
        alike = rounding <= 2.0**-self.activation_bits
        decision = Decision(
            self.name,
            "shared scale" if alike else "scale per feature",
            (
                Candidate("shared scale", 0.0, f"rounding shows as {rounding:.2g} of the next layer's range"),
                Candidate(
                    "scale per feature",
                    0.0,
                    "not needed" if alike else "keeps features precise that vary little",
                ),
            ),
        )
        return (shared if alike else own), decision

    def _features(self, x: F64) -> tuple[F64, F64]:
        """Centres and half widths of the formats of single features, from their values on the calibration samples."""
        lo, hi = x.min(axis=0), x.max(axis=0)
        # of a constant feature, room for values of its size
        half = np.where(hi > lo, 0.0, np.maximum(np.abs(hi), 1.0))
        low, high = outward(lo - half, hi + half)
        centre = (low + high) / 2
        if len(x) >= _MANY:
            # what so many samples have in common is no secret of one of them, and may be large beside its steps
            centre = np.where(hi > lo, centre, lo)
        return centre, (high - low) / 2 * self.input_margin

    def of_result(self, node: Node, bits: int) -> tuple[FixedPoint, Guard]:
        """Format of a dense map's result: the allowed range fills the torus' usable half.

        Where nothing but outputs reads it and its columns are of different size, each has a scale of its own: the
        map's rows are scaled, and the client's decoding undoes it.
        """
        band = self._band(node)
        limit = int(HALF_RANGE * 2**bits)
        middle, half = (band.lo + band.hi) / 2, (band.hi - band.lo) / 2
        if self._is_result(node) and len(self._flat(node)) >= _SEVERAL:
            lo, hi = self._columns(node, half)
            if np.any(hi - lo < 2 * half * _SHARED):
                scales, offsets = (hi - lo) / 2 / limit, (lo + hi) / 2
                own = FixedPoint(tuple(map(float, scales)), tuple(map(float, offsets)), -limit, limit)
                return own, band.guard
        return FixedPoint((half / limit,), (middle,), -limit, limit), band.guard

    def of_activation(self, node: Node, op: Apply, source: FixedPoint) -> FixedPoint:
        """Format of a nonlinearity's result: what it can give over the whole allowed input range."""
        y = compose(op.functions, np.linspace(source.real_lo, source.real_hi, 20001))
        if not np.all(np.isfinite(y)):
            raise ParameterError(
                f"{' then '.join(map(str, op.functions))} is not finite on its input range "
                f"[{source.real_lo:.4g}, {source.real_hi:.4g}]"
            )
        limit = 2 ** (self.width(node, self.activation_bits) - 1) - 1
        scale = float(np.abs(y).max()) / limit or 1.0
        # the largest value is ``limit`` steps, but for rounding errors
        lo, hi = y.min() / scale + _ROUNDING, y.max() / scale - _ROUNDING
        return FixedPoint((scale,), (0.0,), int(np.floor(lo)), int(np.ceil(hi)))

    def accumulator_bits(self) -> int:
        """The narrowest accumulator whose weight rounding error stays below the wanted precision in every layer."""
        # activations must come out of a bootstrap at most at half of what its series may reach
        widest = max([self.activation_bits, *(self.width(n, 0) for n, _ in self.graph.of(Apply))])
        bits = widest + OUTPUT_BITS - LARGEST_BITS
        for node, op in self.graph.of(Dense):
            energy = np.zeros(node.type.size)
            for operand, weight in zip(self.graph.operands(node), op.weights, strict=True):
                x = quantize(self.values[operand.id].astype(np.float64), self._of_operand(operand))
                # zeros are exact: a convolution's rows have few weights
                energy += self.graph.matrix(weight).reached((x.astype(np.float64) ** 2).mean(axis=0))
            norm = up(max(float(np.sqrt(energy.max())), 1.0))
            # rounding every weight errs by 1/sqrt(12) of a unit, so the sum by norm/sqrt(12)
            units = norm / np.sqrt(12) * 2.0**self.weight_precision
            bits = max(bits, int(np.ceil(np.log2(units / HALF_RANGE))))
        return min(bits, _MAX_ACCUMULATOR_BITS)

    def _of_operand(self, node: Node) -> FixedPoint:
        if isinstance(node.op, Input):
            return self.of_input(node)[0]
        operand = self.graph.operands(node)[0]
        if isinstance(node.op, Reshape):
            return self._of_operand(operand)
        if not isinstance(node.op, Apply):
            raise ParameterError(f"{node} is read by a dense layer, which is not the canonical form; run 'fold' first")
        return self.of_activation(node, node.op, self.of_result(operand, 24)[0])

    def _band(self, node: Node) -> Allowed:
        if node.id not in self._allowed:
            self._allowed[node.id] = allowed(node, self.graph, self._flat(node), self.margin, self.reserve)
        return self._allowed[node.id]

    def _columns(self, node: Node, half: float) -> tuple[F64, F64]:
        """Ranges of a result's columns, with twice the share of margin that the whole has; rounded outward.

        Results are precise enough for that, and a column shows less of what there is than all together.
        """
        x = self._flat(node)
        lo, hi = x.min(axis=0), x.max(axis=0)
        seen = (float(hi.max()) - float(lo.min())) / 2
        more = (hi - lo) / 2 * max(2 * half / seen - 1 if seen else 0.0, 0.0)
        # what the map's operands may err must fit in, too; of a constant column there may be nothing else
        more = more + _DEVIATIONS * self._passed_on(node)
        more = np.where(hi - lo + more > _NOTHING * (np.abs(hi) + np.abs(lo)), more, half)
        low, high = outward(lo - more, hi + more)
        return low, high

    def _passed_on(self, node: Node) -> F64:
        """Rms error of every row of a dense map from what its operands may err: by rounding, and by their series."""
        assert isinstance(node.op, Dense)
        variance = np.zeros(node.type.size)
        for operand, weight in zip(self.graph.operands(node), node.op.weights, strict=True):
            fixed = self._of_operand(operand)
            step = np.array(fixed.scale) / np.sqrt(12)
            if not isinstance(operand.op, Input | Reshape):
                step = np.maximum(step, _SERIES * (fixed.hi - fixed.lo) * np.array(fixed.scale))
            variance += self.graph.matrix(weight).energies(step)
        return np.asarray(np.sqrt(variance))

    def _is_result(self, node: Node) -> bool:
        """Whether nothing but outputs reads a value."""
        users = self.graph.users(node)
        return all(
            isinstance(u.op, Output) or (isinstance(u.op, Reshape | Softmax | ArgMax) and self._is_result(u))
            for u in users
        )

    def _rounding_share(self, node: Node, step: float) -> float:
        """Rms error that rounding to ``step`` makes in dense maps that read ``node``, as a share of their ranges."""
        share = 0.0
        for user in self.graph.users(node):
            if isinstance(user.op, Reshape):
                share = max(share, self._rounding_share(user, step))
            elif isinstance(user.op, Dense):
                guard = self._band(user).guard
                span = guard.hi - guard.lo
                for operand, weight in zip(user.operands, user.op.weights, strict=True):
                    if operand == node.id:
                        norm = np.sqrt(self.graph.matrix(weight).energies().max())
                        share = max(share, float(norm) * step / np.sqrt(12) / span)
        return share

    def _flat(self, node: Node) -> F64:
        x = self.values[node.id].astype(np.float64)
        return np.asarray(x.reshape(len(x), -1))
