"""Series, moduli and keys: everything the cryptography needs, from ranges, error budgets and noise model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from glyphc.approx import noise
from glyphc.approx.cost import Configuration
from glyphc.approx.security import secured
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.ops import Apply, Bootstrap, ErrorBudget, Unpack
from glyphc.ir.parameters import INSECURE, SECURE, Parameters
from glyphc.ir.series import OUTPUT_BITS
from glyphc.ir.types import Level, Scheme

from .base import Context, Pass, check_option
from .fit_series import DEGREES, SeriesFits, plaintext_bits, scaled


@dataclass(frozen=True)
class SelectParameters(Pass):
    """Choose plaintext modulus, series and degrees, BGV modulus; turn nonlinearities into bootstraps.

    Every value gets the lowest degree that keeps all functions of it within their error budgets. The highest of them
    decides how deep the bootstrapping context is; lower ones take less time in it.

    max_error, rms_error: budget of a nonlinearity that has none of its own, as bits below the function's range; the
    rms error is weighted by where calibration saw values. security: "insecure" allows rings that only tests use.
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
        bits = plaintext_bits(graph)
        fits = SeriesFits(graph, bits)
        decisions = {node.id: self._degree(node, op, fits) for node, op in graph.of(Apply)}
        degrees = _shared(graph, {i: degree for i, (degree, _) in decisions.items()})
        grids = [n.type.layout.grid for n, _ in graph.of(Apply) if n.type.layout is not None]
        slots = ring // (2 * min(grids)) if grids else 0
        configuration = context.cost.configuration(slots)
        parameters = Parameters(
            ring=ring,
            plaintext_bits=bits,
            bgv_bits=noise.bgv_bits(graph, bits),
            unpack_strides=self._strides(graph),
            slots=slots,
            degree=max(degrees.values(), default=0),
            level_budget=self._level_budget(configuration, slots),
            large_digits=configuration.large_digits,
            security=self.security,
        )
        parameters = secured(parameters)
        rewriter = Rewriter(graph)
        rewriter.new.parameters = parameters
        for node in graph:
            if isinstance(node.op, Apply):
                decision = replace(decisions[node.id][1], chosen=f"degree {degrees[node.id]}")
                self._bootstrap(node, node.op, fits, degrees[node.id], decision, parameters.slots, rewriter)
            else:
                rewriter.keep(node)
        return rewriter.new

    def _level_budget(self, configuration: Configuration, slots: int) -> tuple[int, int]:
        """A transform of 2^k slots has at most k levels."""
        most = max(1, slots.bit_length() - 1)
        encode, decode = configuration.level_budget
        return min(encode, most), min(decode, most)

    # -- series --

    def _degree(self, node: Node, op: Apply, fits: SeriesFits) -> tuple[int, Decision]:
        """The lowest degree within the error budget, or the most precise one, with the reasons."""
        budget = op.budget or ErrorBudget(2**-self.max_error, 2**-self.rms_error)
        candidates: list[Candidate] = []
        for degree in DEGREES:
            series = fits.series(node, degree)
            good = budget.holds(series)
            reason = f"error at most {_power(series.max_error)}, rms {_power(series.rms_error)} of the range"
            candidates.append(Candidate(f"degree {degree}", None, reason + ("" if good else ": over the budget")))
            if good:
                break
        warning = "" if good else f"even degree {degree} misses the error budget; {candidates[-1].reason}"
        return degree, Decision(self.name, f"degree {degree}", tuple(candidates), warning)

    def _bootstrap(
        self,
        node: Node,
        op: Apply,
        fits: SeriesFits,
        degree: int,
        decision: Decision,
        slots: int,
        rewriter: Rewriter,
    ) -> None:
        (source,) = fits.graph.operands(node)
        if source.type.scheme is not Scheme.TFHE:
            raise ParameterError(f"{node} reads a value that is not in the bootstrapping scheme")
        divisor = self._divisor(fits.graph, node)
        series = scaled(fits.series(node, degree), 2.0**OUTPUT_BITS / divisor)
        bootstrap = Bootstrap(op.functions, divisor, slots, series)
        operands, decisions = rewriter.operands(node), (*node.decisions, decision)
        rewriter.replace(node, rewriter.new.add(bootstrap, operands, node.type, node.location, decisions))

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


def _shared(graph: Graph, degrees: dict[int, int]) -> dict[int, int]:
    """Functions of one value share its powers, so they all have the highest degree among them."""
    highest: dict[int, int] = {}
    for id, degree in degrees.items():
        (operand,) = graph.node(id).operands
        highest[operand] = max(degree, highest.get(operand, 0))
    return {id: highest[graph.node(id).operands[0]] for id in degrees}


def _power(value: float) -> str:
    """A number as a power of two."""
    return f"2^{np.log2(value):.1f}" if value > 0 else "0"
