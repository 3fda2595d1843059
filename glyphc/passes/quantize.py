"""From floats to fixed point: integer dense maps, formats with a guard band."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from glyphc.errors import CalibrationError, GlyphcError, ParameterError
from glyphc.ir.graph import Graph, Node, Rewriter
from glyphc.ir.ops import Apply, ArgMax, Const, Dense, Input, Linear, Output, Reshape, Softmax
from glyphc.ir.types import Level

from .base import Context, Pass, check_option
from .formats import Formats

_MAX_ACTIVATION_BITS = 16


@dataclass(frozen=True)
class Quantize(Pass):
    """Fixed-point formats and integer weights.

    Weights get the scale that lets a layer's result fill the plaintext modulus: calibrated range with its guard band
    (``guard_bands``) onto +-HALF_RANGE * 2^accumulator_bits; so no later scaling is needed before a bootstrap. The
    accumulator is as narrow as keeps the error of weight rounding below 2^-weight_precision of a layer's range (rms).

    input_bits, activation_bits: width of signed integers. input_margin: factor by which inputs may leave their
    calibrated range (inputs are cheap to represent); margin: the same for values inside the network, instead of what
    the tails of their distributions ask for (0). reserve: whether formats hold more where a function is nearly
    constant; a table has entries for all that they hold.
    node_bits: widths of single inputs and activations, e.g. ``relu1:14;relu2:10``.
    """

    name: ClassVar[str] = "quantize"
    requires: ClassVar[Level] = Level.SOURCE
    ensures: ClassVar[Level] = Level.QUANTIZED
    input_bits: int = 13
    activation_bits: int = 12
    weight_precision: int = 13
    margin: float = 0.0
    input_margin: float = 2.0
    node_bits: str = ""
    reserve: bool = True

    def __post_init__(self) -> None:
        check_option(self.name, "input_bits", self.input_bits, 2, 20)
        check_option(self.name, "activation_bits", self.activation_bits, 2, _MAX_ACTIVATION_BITS)
        check_option(self.name, "weight_precision", self.weight_precision, 1, 24)
        if self.margin:
            check_option(self.name, "margin", self.margin, 1.0, 1000.0)
        check_option(self.name, "input_margin", self.input_margin, 1.0, 1000.0)
        for node, bits in self._widths.items():
            check_option(self.name, f"node_bits of {node}", bits, 2, 20)

    def run(self, graph: Graph, context: Context) -> Graph:
        if any(n.type.calibration is None for n in graph):
            raise CalibrationError("value ranges are unknown; run 'calibrate' before 'quantize'")
        self._check_widths(graph)
        formats = Formats(
            graph,
            context.samples,
            self.name,
            self.input_bits,
            self.activation_bits,
            self.weight_precision,
            self.margin,
            self.input_margin,
            self._width,
            self.reserve,
        )
        bits = formats.accumulator_bits()
        rewriter = Rewriter(graph, Level.QUANTIZED)
        for node in graph:
            self._node(node, rewriter, bits, formats)
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

    # -- nodes --

    def _node(self, node: Node, rewriter: Rewriter, bits: int, formats: Formats) -> None:
        if isinstance(node.op, Input):
            fixed, decision = formats.of_input(node)
            rewriter.keep(node, replace(node.type, fixed=fixed), (decision,))
            return
        operands = rewriter.operands(node)
        source = operands[0].type.fixed
        if isinstance(node.op, Softmax | ArgMax | Output) or source is None:
            rewriter.keep(node)
        elif isinstance(node.op, Reshape):
            rewriter.keep(node, replace(node.type, fixed=source))
        elif isinstance(node.op, Apply):
            rewriter.keep(node, replace(node.type, fixed=formats.of_activation(node, node.op, source)))
        elif isinstance(node.op, Dense):
            self._dense(node, node.op, operands, rewriter, bits, formats)
        else:
            raise ParameterError(f"{node} has no fixed-point form")

    def _dense(
        self, node: Node, op: Dense, operands: tuple[Node, ...], rewriter: Rewriter, bits: int, formats: Formats
    ) -> None:
        fixed, guard = formats.of_result(node, bits)
        scale = np.array(fixed.scale)
        constant = rewriter.old.constant(op.bias.name).astype(np.float64) - np.array(fixed.offset)
        weights = []
        for operand, weight in zip(operands, op.weights, strict=True):
            source = operand.type.fixed
            assert source is not None
            real = rewriter.old.matrix(weight)
            constant = constant + real.weighted(np.array(source.offset))
            integers = real.scaled(scale, np.array(source.scale)).rounded()
            weights.append(rewriter.new.add_matrix(weight.name, integers))
        bias = Const(rewriter.new.add_constant(op.bias.name, np.rint(constant / scale).astype(np.int64)))
        assert node.type.calibration is not None
        type = replace(node.type, fixed=fixed, calibration=replace(node.type.calibration, guard=guard))
        linear = Linear(tuple(weights), bias)
        rewriter.replace(node, rewriter.new.add(linear, operands, type, node.location, node.decisions))
