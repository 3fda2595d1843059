"""From floats to fixed point: integer dense maps, formats with a guard band."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.approx.series import HALF_RANGE
from glyphc.errors import CalibrationError, GlyphcError, ParameterError
from glyphc.ir.errors import IRError
from glyphc.ir.evaluate import evaluate_all, quantize
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.ops import Apply, ArgMax, Const, Dense, Input, Linear, Output, Reshape, Softmax
from glyphc.ir.series import LARGEST_BITS, OUTPUT_BITS
from glyphc.ir.types import FixedPoint, Level

from .base import Context, Pass, check_option

F64 = npt.NDArray[np.float64]

# BGV in OpenFHE takes plaintext moduli of 31 bits at most; one bit is kept in reserve.
_MAX_ACCUMULATOR_BITS = 29
_MAX_ACTIVATION_BITS = 16
# Share of a value below which its differences are rounding errors of float64 sums.
_ROUNDING = 2.0**-40


@dataclass(frozen=True)
class Quantize(Pass):
    """Fixed-point formats and integer weights.

    Weights get the scale that lets a layer's result fill the plaintext modulus: calibrated range, widened by
    ``margin``, onto +-HALF_RANGE * 2^accumulator_bits; so no later scaling is needed before a bootstrap. The
    accumulator is
    as narrow as keeps the error of weight rounding below 2^-weight_precision of a layer's range (rms).

    input_bits, activation_bits: width of signed integers. input_margin: factor by which inputs may leave their
    calibrated
    range (inputs are cheap to represent); margin: the same for values inside the network (the guard band).
    node_bits: widths of single inputs and activations, e.g. ``relu1:14;relu2:10``.
    """

    name: ClassVar[str] = "quantize"
    requires: ClassVar[Level] = Level.SOURCE
    ensures: ClassVar[Level] = Level.QUANTIZED
    input_bits: int = 13
    activation_bits: int = 12
    weight_precision: int = 13
    margin: float = 1.25
    input_margin: float = 2.0
    node_bits: str = ""

    def __post_init__(self) -> None:
        check_option(self.name, "input_bits", self.input_bits, 2, 20)
        check_option(self.name, "activation_bits", self.activation_bits, 2, _MAX_ACTIVATION_BITS)
        check_option(self.name, "weight_precision", self.weight_precision, 1, 24)
        check_option(self.name, "margin", self.margin, 1.0, 1000.0)
        check_option(self.name, "input_margin", self.input_margin, 1.0, 1000.0)
        for node, bits in self._widths.items():
            check_option(self.name, f"node_bits of {node}", bits, 2, 20)

    def run(self, graph: Graph, context: Context) -> Graph:
        if any(n.type.calibration is None for n in graph):
            raise CalibrationError("value ranges are unknown; run 'calibrate' before 'quantize'")
        self._check_widths(graph)
        bits = self._accumulator_bits(graph, context)
        rewriter = Rewriter(graph, Level.QUANTIZED)
        for node in graph:
            self._node(node, rewriter, bits, context)
        return rewriter.new

    # -- widths --

    @property
    def _widths(self) -> dict[str, int]:
        """``node_bits`` by source name."""
        widths = {}
        for item in filter(None, self.node_bits.split(";")):
            node, colon, bits = item.rpartition(":")
            if not colon or not bits.strip().isdecimal():
                raise GlyphcError(f"pass {self.name!r}: node_bits={item!r} is not NAME:BITS")
            widths[node.strip()] = int(bits)
        return widths

    def _width(self, node: Node, default: int) -> int:
        """Bits of a node: of the last source name among those it came from that has a width of its own."""
        names = [node.op.name] if isinstance(node.op, Input) else node.location.split("+")
        return next((self._widths[n] for n in reversed(names) if n in self._widths), default)

    def _check_widths(self, graph: Graph) -> None:
        kinds = (Input, Apply)
        names = {
            name
            for node in graph
            if isinstance(node.op, kinds)
            for name in ([node.op.name] if isinstance(node.op, Input) else node.location.split("+"))
        }
        for name, bits in self._widths.items():
            if name not in names:
                raise GlyphcError(
                    f"pass {self.name!r}: there is no input or activation {name!r} to give {bits} bits (dense layers "
                    f"are as precise as what they read); there are: {', '.join(sorted(names - {''}))}"
                )
        for node in graph:
            if isinstance(node.op, Apply) and self._width(node, 2) > _MAX_ACTIVATION_BITS:
                raise GlyphcError(
                    f"pass {self.name!r}: {node} cannot have {self._width(node, 2)} bits; activations have "
                    f"{_MAX_ACTIVATION_BITS} at most"
                )

    # -- formats --

    def _input_format(self, node: Node, graph: Graph, context: Context) -> tuple[FixedPoint, tuple[Decision, ...]]:
        """One scale for all features, or one for each where its steps would show in what is computed from them."""
        assert isinstance(node.op, Input) and node.type.calibration is not None
        x = context.samples[node.op.name].reshape(-1, node.type.size)
        limit = 2 ** (self._width(node, self.input_bits) - 1) - 1
        magnitude = node.type.calibration.magnitude * self.input_margin or 1.0
        shared = FixedPoint((magnitude / limit,), (0.0,), -limit, limit)
        lo, hi = x.min(axis=0), x.max(axis=0)
        rounding = _rounding_share(node, graph, shared.scale[0])
        # as much as the rounding of activations may add; then one range for all features is the more robust choice
        alike = rounding <= 2.0**-self.activation_bits
        half = np.where(hi > lo, (hi - lo) / 2, np.maximum(np.abs(hi), 1.0)) * self.input_margin
        own = FixedPoint(tuple(float(h) / limit for h in half), tuple(float(c) for c in (lo + hi) / 2), -limit, limit)
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
        return (shared if alike else own), (decision,)

    def _result_format(self, node: Node, graph: Graph, bits: int) -> FixedPoint:
        """Format of a dense map's result: the calibrated range, centred and widened, fills the torus' usable half.

        Towards the edge of the domain of a function that reads it (log, reciprocal), the range grows by a part of
        what is left.
        """
        calibration = node.type.calibration
        assert calibration is not None
        limit = int(HALF_RANGE * 2**bits)
        middle, half = (calibration.lo + calibration.hi) / 2, (calibration.hi - calibration.lo) / 2
        # equal values differ by how numpy sums them up: a range of that size is none
        constant = half <= _ROUNDING * abs(middle)
        widened = max(abs(middle), 1.0) if constant else half * self.margin
        lo, hi = middle - widened, middle + widened
        for user in graph.users(node):
            if isinstance(user.op, Apply):
                try:
                    left, right = _domain(user.op.functions, calibration.lo, calibration.hi)
                except IRError as e:
                    raise CalibrationError(f"{user} cannot be computed: {e}, where calibration saw values") from None
                lo = max(lo, left + (calibration.lo - left) / 2)
                hi = min(hi, right - (right - calibration.hi) / 2)
        return FixedPoint(((hi - lo) / 2 / limit,), ((lo + hi) / 2,), -limit, limit)

    def _activation_format(self, node: Node, op: Apply, source: FixedPoint) -> FixedPoint:
        """Format of a nonlinearity's result: what it can give over the whole allowed input range."""
        y = compose(op.functions, np.linspace(source.real_lo, source.real_hi, 20001))
        if not np.all(np.isfinite(y)):
            raise ParameterError(
                f"{' then '.join(map(str, op.functions))} is not finite on its input range "
                f"[{source.real_lo:.4g}, {source.real_hi:.4g}]"
            )
        limit = 2 ** (self._width(node, self.activation_bits) - 1) - 1
        scale = float(np.abs(y).max()) / limit or 1.0
        return FixedPoint((scale,), (0.0,), int(np.floor(y.min() / scale)), int(np.ceil(y.max() / scale)))

    # -- weights --

    def _accumulator_bits(self, graph: Graph, context: Context) -> int:
        """The narrowest accumulator whose weight rounding error stays below the wanted precision in every layer."""
        # activations must come out of a bootstrap at most at half of what its series may reach
        widest = max([self.activation_bits, *(self._width(n, 0) for n, _ in graph.of(Apply))])
        bits = widest + OUTPUT_BITS - LARGEST_BITS
        values = evaluate_all(graph, context.samples)
        for node, op in graph.of(Dense):
            energy = np.zeros(node.type.size)
            for operand, weight in zip(graph.operands(node), op.weights, strict=True):
                fixed = self._operand_format(graph, operand, context)
                x = quantize(values[operand.id].astype(np.float64), fixed).astype(np.float64)
                # zeros are exact: a convolution's rows have few weights
                energy += (graph.constant(weight.name) != 0) @ (x**2).mean(axis=0)
            norm = float(np.sqrt(energy.max()))
            # rounding every weight errs by 1/sqrt(12) of a unit, so the sum by norm/sqrt(12)
            units = max(norm, 1.0) / np.sqrt(12) * 2.0**self.weight_precision
            bits = max(bits, int(np.ceil(np.log2(units / HALF_RANGE))))
        return min(bits, _MAX_ACCUMULATOR_BITS)

    def _operand_format(self, graph: Graph, node: Node, context: Context) -> FixedPoint:
        if isinstance(node.op, Input):
            return self._input_format(node, graph, context)[0]
        operand = graph.operands(node)[0]
        if isinstance(node.op, Reshape):
            return self._operand_format(graph, operand, context)
        if not isinstance(node.op, Apply):
            raise ParameterError(f"{node} is read by a dense layer, which is not the canonical form; run 'fold' first")
        return self._activation_format(node, node.op, self._result_format(operand, graph, 24))

    def _node(self, node: Node, rewriter: Rewriter, bits: int, context: Context) -> None:
        if isinstance(node.op, Input):
            fixed, decisions = self._input_format(node, rewriter.old, context)
            rewriter.keep(node, replace(node.type, fixed=fixed), decisions)
            return
        operands = rewriter.operands(node)
        source = operands[0].type.fixed
        if isinstance(node.op, Softmax | ArgMax | Output) or source is None:
            rewriter.keep(node)
        elif isinstance(node.op, Reshape):
            rewriter.keep(node, replace(node.type, fixed=source))
        elif isinstance(node.op, Apply):
            rewriter.keep(node, replace(node.type, fixed=self._activation_format(node, node.op, source)))
        elif isinstance(node.op, Dense):
            self._dense(node, node.op, operands, rewriter, bits)
        else:
            raise ParameterError(f"{node} has no fixed-point form")

    def _dense(self, node: Node, op: Dense, operands: tuple[Node, ...], rewriter: Rewriter, bits: int) -> None:
        fixed = self._result_format(node, rewriter.old, bits)
        constant = rewriter.old.constant(op.bias.name).astype(np.float64) - fixed.offset[0]
        weights = []
        for operand, const in zip(operands, op.weights, strict=True):
            source = operand.type.fixed
            assert source is not None
            weight = rewriter.old.constant(const.name).astype(np.float64)
            constant = constant + (weight * np.array(source.offset)).sum(axis=1)
            weights.append(np.rint(weight * np.array(source.scale) / fixed.scale[0]).astype(np.int64))
        bias = np.rint(constant / fixed.scale[0]).astype(np.int64)
        names = [
            Const(rewriter.new.add_constant(c.name, value))
            for c, value in zip((*op.weights, op.bias), (*weights, bias), strict=True)
        ]
        type = replace(node.type, fixed=fixed)
        linear = Linear(tuple(names[:-1]), names[-1])
        rewriter.replace(node, rewriter.new.add(linear, operands, type, node.location, node.decisions))


def _domain(functions: tuple[Function, ...], lo: float, hi: float) -> tuple[float, float]:
    """Open interval around [lo, hi] where a composition is defined; IRError if it is not on [lo, hi] itself.

    Exact as far as the first function but scalings tells; what those behind it leave of that is searched for.
    """
    domains: list[tuple[float, float]] = []
    values = np.linspace(lo, hi, 4097)
    factor, shift, exact = 1.0, 0.0, (-np.inf, np.inf)
    first = True
    for function in functions:
        domains.append(function.domain(float(values.min()), float(values.max())))
        values = compose((function,), values)
        if first and function.name == "affine":
            a, b = function.parameters
            factor, shift = a * factor, a * shift + b
        elif first:
            first = False
            if factor:
                left, right = sorted((edge - shift) / factor for edge in domains[-1])
                exact = left, right
    reach = 8 * ((hi - lo) or max(abs(lo), 1.0))
    below, above = (_edge(functions, domains, end, end + way) for end, way in ((lo, -reach), (hi, reach)))
    return max(exact[0], below), min(exact[1], above)


def _edge(functions: tuple[Function, ...], domains: list[tuple[float, float]], inside: float, outside: float) -> float:
    """Where between a point inside the domain and one that may be outside a composition ceases to be defined."""

    def defined(x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
        good = np.ones(x.shape, dtype=bool)
        with np.errstate(all="ignore"):
            for function, (left, right) in zip(functions, domains, strict=True):
                good &= np.isfinite(x) & (left < x) & (x < right)
                x = np.asarray(compose((function,), x), dtype=np.float64)
        return np.asarray(good & np.isfinite(x))

    x = np.linspace(inside, outside, 4097)
    wrong = np.flatnonzero(~defined(x))
    if not len(wrong) or wrong[0] == 0:
        return float(np.copysign(np.inf, outside - inside))
    good, bad = float(x[wrong[0] - 1]), float(x[wrong[0]])
    for _ in range(60):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if defined(np.array([middle]))[0] else (good, middle)
    return good


def _rounding_share(node: Node, graph: Graph, step: float) -> float:
    """Rms error that rounding to ``step`` makes in the dense maps that read ``node``, as a share of their ranges."""
    share = 0.0
    for user in graph.users(node):
        if isinstance(user.op, Reshape):
            share = max(share, _rounding_share(user, graph, step))
        elif isinstance(user.op, Dense):
            assert user.type.calibration is not None
            span = user.type.calibration.hi - user.type.calibration.lo
            for operand, weight in zip(user.operands, user.op.weights, strict=True):
                if operand == node.id:
                    norm = np.sqrt((graph.constant(weight.name).astype(np.float64) ** 2).sum(axis=1).max())
                    share = max(share, float(norm) * step / np.sqrt(12) / (span or np.inf))
    return share
