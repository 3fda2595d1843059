"""Series, moduli and keys: everything the cryptography needs, from ranges, error budget and noise model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.approx import noise
from glyphc.approx.cost import Configuration
from glyphc.approx.security import largest_modulus
from glyphc.approx.series import HALF_RANGE, fit
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.ops import Apply, Bootstrap, Linear, Unpack
from glyphc.ir.parameters import INSECURE, MAX_DEGREES, SECURE, Parameters
from glyphc.ir.series import OUTPUT_BITS, Series
from glyphc.ir.types import FixedPoint, Level, Scheme

from .base import Context, Pass, check_option

F64 = npt.NDArray[np.floating[Any]]

# Degrees worth considering: the highest of each depth; the first is about the cheapest that any function can use.
_DEGREES = tuple(MAX_DEGREES.values())
_MAX_PLAINTEXT_BITS = 30
# A series fills at most this much of the slots' [-1, 1]: headroom for the half that OpenFHE adds while taking real
# parts.
_SERIES_MAGNITUDE = 0.5


@dataclass(frozen=True)
class SelectParameters(Pass):
    """Choose plaintext modulus, series and degree, BGV modulus; turn nonlinearities into bootstraps.

    max_error, rms_error: budget of a fit, as bits below the function's range; the rms error is weighted by where
    calibration saw values. security: "insecure" allows rings that only tests use.
    """

    name: ClassVar[str] = "select-parameters"
    requires: ClassVar[Level] = Level.LAIDOUT
    ensures: ClassVar[Level] = Level.LAIDOUT
    max_error: float = 7.5
    rms_error: float = 10.0
    security: str = SECURE

    def __post_init__(self) -> None:
        check_option(self.name, "max_error", self.max_error, 0, 30)
        check_option(self.name, "rms_error", self.rms_error, 0, 30)
        if self.security not in (SECURE, INSECURE):
            raise GlyphcError(f"pass {self.name!r}: security={self.security!r} is neither {SECURE!r} nor {INSECURE!r}")

    def run(self, graph: Graph, context: Context) -> Graph:
        ring = next(n.type.layout.ring for n in graph if n.type.layout is not None)
        bits = self._plaintext_bits(graph)
        fits = {node.id: self._series(graph, node, op, bits) for node, op in graph.of(Apply)}
        degree = max((f.degree for f, _ in fits.values()), default=0)
        divisors = {i: self._divisor(graph, graph.node(i)) for i in fits}
        grids = [n.type.layout.grid for n, _ in graph.of(Apply) if n.type.layout is not None]
        slots = ring // (2 * min(grids)) if grids else 0
        configuration = context.cost.configuration(slots)
        parameters = Parameters(
            ring=ring,
            plaintext_bits=bits,
            bgv_bits=noise.bgv_bits(graph, bits),
            unpack_strides=self._strides(graph),
            slots=slots,
            degree=degree,
            level_budget=self._level_budget(configuration, slots),
            large_digits=configuration.large_digits,
            security=self.security,
        )
        parameters = self._secure_digits(parameters)
        rewriter = Rewriter(graph)
        rewriter.new.parameters = parameters
        for node in graph:
            if isinstance(node.op, Apply):
                self._bootstrap(graph, node, node.op, parameters, divisors[node.id], fits[node.id][1], rewriter)
            else:
                rewriter.keep(node)
        return rewriter.new

    def _plaintext_bits(self, graph: Graph) -> int:
        """The smallest power of two that holds every sum: within the usable half of the torus where bootstrapped."""
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

    def _level_budget(self, configuration: Configuration, slots: int) -> tuple[int, int]:
        """A transform of 2^k slots has at most k levels."""
        most = max(1, slots.bit_length() - 1)
        encode, decode = configuration.level_budget
        return min(encode, most), min(decode, most)

    def _secure_digits(self, parameters: Parameters) -> Parameters:
        """More digits in key switching need a smaller auxiliary modulus: take as many as 128-bit security asks for."""
        limit = largest_modulus(parameters.ring, sparse=parameters.slots > 0)
        while parameters.secure and parameters.modulus_bits > limit and parameters.large_digits < 6:
            parameters = replace(parameters, large_digits=parameters.large_digits + 1)
        return parameters

    # -- series --

    def _series(self, graph: Graph, node: Node, op: Apply, bits: int) -> tuple[Series, Decision]:
        """The cheapest series within the error budget, or the most precise one, with the reasons."""
        (source,) = graph.operands(node)
        assert source.type.fixed is not None and node.type.fixed is not None
        target = phase_function(op.functions, source.type.fixed, node.type.fixed, 1 << bits)
        weights = self._phase_histogram(source)
        candidates: list[Candidate] = []
        best: Series | None = None
        good = False
        for degree in _DEGREES:
            series = fit(target, degree, source.type.fixed.magnitude / 2.0**bits, weights)
            good = series.max_error <= 2**-self.max_error and series.rms_error <= 2**-self.rms_error
            reason = f"error at most {_power(series.max_error)}, rms {_power(series.rms_error)} of the range"
            candidates.append(Candidate(f"degree {degree}", None, reason + ("" if good else ": over the budget")))
            best = series
            if good:
                break
        assert best is not None
        warning = "" if good else f"even degree {best.degree} misses the error budget; {candidates[-1].reason}"
        return best, Decision(self.name, f"degree {best.degree}", tuple(candidates), warning)

    def _phase_histogram(self, source: Node) -> tuple[int, ...]:
        """Where calibration saw the operand's values, as a histogram over the usable phases."""
        calibration, fixed = source.type.calibration, source.type.fixed
        if calibration is None or fixed is None or not calibration.histogram:
            return ()
        counts = np.array(calibration.histogram)
        centres = calibration.lo + (np.arange(len(counts)) + 0.5) / len(counts) * (calibration.hi - calibration.lo)
        edge = fixed.scale[0] * fixed.magnitude
        share = np.histogram(centres - fixed.offset[0], bins=64, range=(-edge, edge), weights=counts)[0]
        return tuple(int(c) for c in share)

    # -- scales --

    def _divisor(self, graph: Graph, node: Node) -> int:
        """The factor by which the value's unpacking will multiply it."""
        parts = [u.op.parts for u in self._readers(graph, node) if isinstance(u.op, Unpack)]
        return max(parts, default=1)

    def _readers(self, graph: Graph, node: Node) -> list[Node]:
        readers: list[Node] = []
        for user in graph.users(node):
            readers += [user] if user.op.mnemonic not in ("switch", "reshape") else self._readers(graph, user)
        return readers

    def _strides(self, graph: Graph) -> tuple[int, ...]:
        """Strides at which unpackings split: each needs one automorphism key."""
        strides: set[int] = set()
        for node, op in graph.of(Unpack):
            (source,) = graph.operands(node)
            assert source.type.layout is not None
            stride = source.type.layout.stride
            strides |= {stride << level for level in range(op.parts.bit_length() - 1)}
        return tuple(sorted(strides))

    def _bootstrap(
        self,
        graph: Graph,
        node: Node,
        op: Apply,
        parameters: Parameters,
        divisor: int,
        decision: Decision,
        rewriter: Rewriter,
    ) -> None:
        (source,) = graph.operands(node)
        assert source.type.fixed is not None and node.type.fixed is not None
        if source.type.scheme is not Scheme.TFHE:
            raise ParameterError(f"{node} reads a value that is not in the bootstrapping scheme")
        factor = 2.0**OUTPUT_BITS / divisor
        unit = phase_function(op.functions, source.type.fixed, node.type.fixed, parameters.plaintext_modulus)
        # every series of a program uses the program's degree: the powers are computed up to it anyway
        half_range = source.type.fixed.magnitude / parameters.plaintext_modulus
        weights = self._phase_histogram(source)
        series = fit(lambda x: factor * unit(x), parameters.degree, half_range, weights)
        bootstrap = Bootstrap(op.functions, divisor, parameters.slots, series)
        rewriter.replace(
            node,
            rewriter.new.add(
                bootstrap,
                rewriter.operands(node),
                node.type,
                node.location,
                (*node.decisions, replace(decision, chosen=f"degree {parameters.degree}")),
            ),
        )


def phase_function(
    functions: tuple[Function, ...], source: FixedPoint, target: FixedPoint, modulus: int
) -> Callable[[F64], F64]:
    """The map of phases that a bootstrap has to compute: phase -> integer -> real -> functions -> integer -> phase."""

    def phase(x: F64) -> F64:
        value = compose(functions, x * (modulus * source.scale[0]) + source.offset[0])
        return np.asarray((value - target.offset[0]) / target.scale[0] / modulus)

    return phase


def _power(value: float) -> str:
    """A number as a power of two."""
    return f"2^{np.log2(value):.1f}" if value > 0 else "0"
