"""Checks between the passes. They look at the result alone, change nothing, and refuse it or let it pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.analysis import noise
from glyphc.analysis.security import modulus_bits, modulus_limit
from glyphc.errors import ParameterError
from glyphc.ir.evaluate import evaluate_all
from glyphc.ir.graph import Graph, Node
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Bootstrap, Fold, Interleave, Linear, Output, Pixels, Reshape, Switch, Unpack
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import LARGEST_BITS, evaluate_series
from glyphc.ir.types import Level, Scheme

from .base import Context, Pass
from .validate_images import check_masks, check_pixels

Occupied = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ValidateRange(Pass):
    """No calibration sample leaves a format's allowed range in the quantized network."""

    name: ClassVar[str] = "validate-range"
    requires: ClassVar[Level] = Level.QUANTIZED
    ensures: ClassVar[Level] = Level.QUANTIZED

    def run(self, graph: Graph, context: Context) -> Graph:
        values = evaluate_all(graph, context.samples) if context.samples else {}
        for node in graph:
            fixed = node.type.fixed
            if fixed is None or node.id not in values or isinstance(node.op, Output):
                continue
            x = values[node.id]
            if np.issubdtype(x.dtype, np.integer) and (x.min() < fixed.lo or x.max() > fixed.hi):
                raise ParameterError(
                    f"{node}: calibration samples reach [{x.min()}, {x.max()}] in fixed point, outside the allowed "
                    f"[{fixed.lo}, {fixed.hi}]; use a larger margin"
                )
        return graph


@dataclass(frozen=True)
class ValidateLayout(Pass):
    """In every linear map, exactly one term of a product lands on each position that is read.

    Checked on exponents alone: for a useful output position and every term of the weight polynomial, the input
    position that would land there must be the wanted feature of the same sample or be zero.
    """

    name: ClassVar[str] = "validate-layout"
    requires: ClassVar[Level] = Level.LAIDOUT
    ensures: ClassVar[Level] = Level.LAIDOUT
    slots: ClassVar[bool | None] = False

    def run(self, graph: Graph, context: Context) -> Graph:
        check_masks(graph)
        for node, _ in graph.of(Unpack):
            before, after = graph.operands(node)[0].type.layout, node.type.layout
            assert before is not None
            assert after is not None
            if (before.chunks, before.batch_stride) != (after.chunks, after.batch_stride):
                raise ParameterError(f"{node}: samples that stand as in {before} cannot become those of {after}")
        for node, _ in graph.of(Linear):
            for number, operand in enumerate(graph.operands(node)):
                if node.type.layout is not None and node.type.layout.image is not None:
                    check_pixels(graph, node, number)
                else:
                    self._check(node, operand)
        return graph

    def _check(self, node: Node, operand: Node) -> None:
        source, target = operand.type.layout, node.type.layout
        assert source is not None and target is not None
        if source.chunks % target.chunks:
            raise ParameterError(f"{node}: {source.chunks} chunks cannot become {target.chunks}")
        # the first and the last part and chunk, and a few samples, stand for all: the layout is the same for each
        last = min(target.batch, target.chunks * target.per_chunk)
        samples = {0, 1, last // 2, last - 2, last - 1} & set(range(last))
        for part in {0, min(source.parts, source.features) - 1}:
            occupied = self._occupied(operand, part)
            for chunk in {0, source.chunks - 1}:
                for sample in samples:
                    if sample % target.chunks == chunk % target.chunks:
                        self._check_terms(node, source, target, occupied, part, chunk, sample)

    def _check_terms(
        self, node: Node, source: Layout, target: Layout, occupied: Occupied, part: int, chunk: int, sample: int
    ) -> None:
        """What the products with one part of one chunk put on the results of one sample.

        Term (k', feature) of the weights puts on output k what stands (k - k') strides before the feature's place, so
        what an output meets follows from that difference: there are as many as outputs, twice, not outputs squared.
        """
        place = chunk // target.chunks * target.batch_stride
        first = target.exponent_of(0, sample) - place
        own = sample % source.chunks == chunk
        differences = np.arange(1 - target.features, target.features, dtype=np.int64)
        others = differences[differences != 0] if own else differences
        even = target.parts == 1 or target.features == 1  # outputs are as far apart as the terms of the weights
        for feature in source.features_of(part):
            at = first + (feature // source.parts) * source.stride
            met = occupied[(at + others * target.stride) % source.ring]
            if not even or met.any() or (own and at % source.ring != source.exponent_of(feature, sample)):
                raise ParameterError(
                    f"{node}: products of feature {feature} (sample {sample}) collide in the layout {target}; this is "
                    "a bug of the layout planner, please report it"
                )

    def _occupied(self, operand: Node, part: int) -> Occupied:
        """Positions of an operand's part that may be non-zero: useful ones, or all of the part's stride."""
        layout = operand.type.layout
        assert layout is not None
        out = np.zeros(layout.ring, dtype=bool)
        if layout.zero_elsewhere:
            out[layout.positions(part).ravel()] = True
        else:
            out[:: layout.stride if layout.parts > 1 else min(layout.stride, layout.grid)] = True
        return out


@dataclass(frozen=True)
class ValidateNoise(Pass):
    """Ciphertext noise stays far below the values, and every series keeps to the usable part of the torus.

    precision: bits that noise must stay below the largest value, at ``deviations`` standard deviations.
    """

    name: ClassVar[str] = "validate-noise"
    requires: ClassVar[Level] = Level.LAIDOUT
    ensures: ClassVar[Level] = Level.LAIDOUT
    slots: ClassVar[bool | None] = False
    deviations: float = noise.DEVIATIONS
    precision: float = noise.PRECISION

    def run(self, graph: Graph, context: Context) -> Graph:
        parameters = graph.parameters
        if not isinstance(parameters, Parameters):
            raise ParameterError("no parameters; run 'select-parameters' before 'validate-noise'")
        for id, estimate in noise.predict(graph, parameters, parameters.bgv_bits).items():
            node = graph.node(id)
            if noise.shows(node, estimate.white, self.deviations, self.precision):
                assert node.type.fixed is not None
                magnitude = node.type.fixed.magnitude
                limit = magnitude * 2.0**-self.precision / self.deviations
                raise ParameterError(
                    f"{node}: predicted ciphertext noise of {estimate.white:.3g} units would show in a value of at "
                    f"most {magnitude} units (limit {limit:.3g}); quantize with fewer bits or split the layer"
                )
        for node, op in graph.of(Bootstrap):
            self._check_divisor(graph, node, op.divisor)
            (operand,) = graph.operands(node)
            assert operand.type.fixed is not None
            reach = operand.type.fixed.magnitude / parameters.plaintext_modulus
            if reach > op.series.half_range * (1 + 1e-9) or reach >= 0.5:
                raise ParameterError(
                    f"{node}: values reach phase {reach:.4f}, the series holds to {op.series.half_range:.4f}"
                )
            x = np.linspace(-op.series.half_range, op.series.half_range, 1001)
            if np.abs(evaluate_series(op.series, x)).max() > 2.0**LARGEST_BITS:
                largest = 1 << LARGEST_BITS
                raise ParameterError(f"{node}: the series leaves [-{largest}, {largest}] and would overflow its slots")
        return graph

    def _check_divisor(self, graph: Graph, node: Node, divisor: int, gain: int = 1) -> None:
        """Every way from a bootstrap to a linear map or an output multiplies by its divisor, once."""
        for user in graph.users(node):
            factor = gain * (user.op.gain if isinstance(user.op, Unpack) else 1)
            if (
                isinstance(user.op, Switch | Reshape | Unpack | Pixels | Interleave | Fold)
                and user.type.scheme is not Scheme.CLIENT
            ):
                self._check_divisor(graph, user, divisor, factor)
            elif factor != divisor:
                raise ParameterError(
                    f"{user} reads a value that its bootstrap divides by {divisor}, but that is multiplied by "
                    f"{factor} on "
                    "the way; this is a bug of the layout planner, please report it"
                )


@dataclass(frozen=True)
class ValidateSecurity(Pass):
    """The moduli fit 128-bit security at the ring dimension; insecure rings must have been asked for by name."""

    name: ClassVar[str] = "validate-security"
    requires: ClassVar[Level] = Level.LAIDOUT
    ensures: ClassVar[Level] = Level.LAIDOUT

    def run(self, graph: Graph, context: Context) -> Graph:
        parameters = graph.parameters
        if parameters is None:
            raise ParameterError("no parameters; run 'select-parameters' before 'validate-security'")
        if not parameters.secure:
            return graph
        limit = modulus_limit(parameters)
        if not limit:
            raise ParameterError(
                f"128-bit security is not to be had at ring dimension {parameters.ring}; leave the ring to the "
                f"compiler, or ask "
                "for an insecure one by name (--insecure-ring) in tests"
            )
        if (needed := modulus_bits(parameters)) > limit:
            raise ParameterError(
                f"the moduli need {needed:.0f} bits; 128-bit security allows {limit} at ring dimension "
                f"{parameters.ring}"
            )
        return graph
