"""Series, moduli and keys: everything the cryptography needs, from ranges, error budgets and noise model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from glyphc.analysis import noise
from glyphc.analysis.configurations import cheapest, possible
from glyphc.analysis.lookups import least_degree
from glyphc.analysis.security import largest_modulus, modulus_bits
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.ops import Apply, Bootstrap, ErrorBudget, Linear
from glyphc.ir.parameters import INSECURE, SECURE, Parameters
from glyphc.ir.series import LARGEST_REACH, OUTPUT_BITS, reach
from glyphc.ir.tables import lookup_levels
from glyphc.ir.types import Level, Scheme
from glyphc.ir.unpackings import conjugates, split_strides

from .base import Context, Pass, check_option
from .configurations import decision, weighed
from .fit_series import DEGREES, SeriesFits, plaintext_bits, scaled, shared_degrees


@dataclass(frozen=True)
class SelectParameters(Pass):
    """Choose plaintext modulus, series and degrees, BGV modulus; turn nonlinearities into bootstraps.

    Every value gets the lowest degree that keeps all functions of it within their error budgets. The highest of them
    decides how deep the bootstrapping context is; lower ones take less time in it. Where the cost model knows several
    configurations of bootstraps of that size, the whole program is priced in each, and the cheapest that fits is taken.
    BGV sums have one prime on the kernels where that adds little to the noise that bootstraps bring anyway.

    max_error, rms_error: budget of a nonlinearity that has none of its own, as bits below the function's range; the
    rms error is weighted by where calibration saw values. security: "insecure" allows rings that only tests use.
    """

    name: ClassVar[str] = "select-parameters"
    requires: ClassVar[Level] = Level.LAIDOUT
    ensures: ClassVar[Level] = Level.LAIDOUT
    slots: ClassVar[bool | None] = False
    max_error: float = 7.5
    rms_error: float = 10.0
    security: str = SECURE

    def __post_init__(self) -> None:
        check_option(self.name, "max_error", self.max_error, 0, 30)
        check_option(self.name, "rms_error", self.rms_error, 0, 30)
        if self.security not in (SECURE, INSECURE):
            raise GlyphcError(f"pass {self.name!r}: security={self.security!r} is neither {SECURE!r} nor {INSECURE!r}")

    def run(self, graph: Graph, context: Context) -> Graph:
        bits = plaintext_bits(graph)
        fits = SeriesFits(graph, bits)
        affordable = affordable_degrees(graph, context, self.security)
        decisions = {node.id: self._degree(node, op, fits, affordable) for node, op in graph.of(Apply)}
        degrees = shared_degrees(graph, {i: degree for i, (degree, _) in decisions.items()})
        deepest = replace(_unconfigured(graph, self.security), degree=max(degrees.values(), default=0))
        made = possible(context.prices, deepest)
        usual = next(iter(made.values()))

        def rewritten(parameters: Parameters, *more: Decision) -> Graph:
            rewriter = Rewriter(graph)
            rewriter.new.parameters = parameters
            for node in graph:
                if isinstance(node.op, Apply):
                    degree = replace(decisions[node.id][1], chosen=f"degree {degrees[node.id]}")
                    self._bootstrap(node, node.op, fits, degrees[node.id], (degree, *more), usual.slots, rewriter)
                else:
                    rewriter.keep(node)
            return rewriter.new

        if context.planned_for == "kernels" and _sums_may_shrink(graph, usual):
            sums = noise.on_one_prime(rewritten(usual), usual)
            made = {c: replace(p, bgv_bits=sums.bgv_bits, sum_primes=sums.sum_primes) for c, p in made.items()}
            usual = next(iter(made.values()))
        if len(made) == 1:
            return rewritten(usual)
        ways = weighed(rewritten(usual), made, context)
        return rewritten(cheapest(ways).parameters, decision(self.name, ways, context))

    # -- series --

    def _degree(self, node: Node, op: Apply, fits: SeriesFits, affordable: tuple[int, ...]) -> tuple[int, Decision]:
        """The lowest degree within the error budget, or the most precise one there is room for, with the reasons."""
        budget = op.budget or ErrorBudget(2**-self.max_error, 2**-self.rms_error)
        candidates: list[Candidate] = []
        degree, good = affordable[0], False
        for degree in affordable:
            series = fits.series(node, degree)
            good = budget.holds(series)
            reason = f"error at most {_power(series.max_error)}, rms {_power(series.rms_error)} of the range"
            candidates.append(Candidate(f"degree {degree}", None, reason + ("" if good else ": over the budget")))
            if good:
                break
        warning = "" if good else f"even degree {degree} misses the error budget; {candidates[-1].reason}"
        room = f"degree {DEGREES[DEGREES.index(degree) + 1]} has no parameters" if degree != DEGREES[-1] else ""
        if not good and room:
            candidates.append(Candidate(f"degree {DEGREES[DEGREES.index(degree) + 1]}", None, f"{room} at 128 bits"))
            warning += f"; {room} at 128-bit security (a smaller --batch may leave room)"
        return degree, Decision(self.name, f"degree {degree}", tuple(candidates), warning)

    def _bootstrap(
        self,
        node: Node,
        op: Apply,
        fits: SeriesFits,
        degree: int,
        made: tuple[Decision, ...],
        slots: int,
        rewriter: Rewriter,
    ) -> None:
        (source,) = fits.graph.operands(node)
        if source.type.scheme is not Scheme.TORUS:
            raise ParameterError(f"{node} reads a value that is not in the bootstrapping scheme")
        divisor = noise.divisor(fits.graph, node)
        series = scaled(fits.series(node, degree), 2.0**OUTPUT_BITS / divisor)
        if reach(series) > LARGEST_REACH:
            raise ParameterError(
                f"{node}: a series of degree {degree} rises to {reach(series):.0f} between the ends of its range, more "
                f"than the {LARGEST_REACH:.0f} that bootstraps hold; a larger --tolerance takes a lower degree"
            )
        bootstrap = Bootstrap(op.functions, divisor, slots, series, op.mask)
        operands, decisions = rewriter.operands(node), (*node.decisions, *made)
        rewriter.replace(node, rewriter.new.add(bootstrap, operands, node.type, node.location, decisions))


# -- parameters --


def affordable_degrees(graph: Graph, context: Context, security: str = "") -> tuple[int, ...]:
    """The degrees of series that 128-bit security leaves room for, in ascending order; all of them in insecure rings.
    Of tables, those that tell neighbouring entries apart.

    ParameterError when there are none: it names the node whose bootstraps ask for most, and what to change.
    """
    bootstrapped = [node for node, _ in graph.of(Apply)]
    least = least_degree(_table_bits(graph)) if _table_bits(graph) else 0
    wanted = tuple(d for d in DEGREES if d >= least)
    if not bootstrapped or security == INSECURE or not largest_modulus(_ring(graph)):
        return wanted
    shared = _unconfigured(graph, security or SECURE)
    # in the configuration that asks for least
    needed = {d: min(map(modulus_bits, possible(context.prices, replace(shared, degree=d)).values())) for d in wanted}
    limit = largest_modulus(_ring(graph))
    found = tuple(d for d in wanted if needed[d] <= limit)
    if not found:
        widest = max(bootstrapped, key=lambda n: n.type.size)
        raise ParameterError(
            f"no parameters fit: bootstraps of {2 * _slots(graph):,} values need moduli of "
            f"{needed[wanted[0]]:.0f} bits even for series of degree {wanted[0]}, 128-bit security allows {limit} "
            f"at ring dimension {_ring(graph)}. {widest} has most values; use a smaller --batch or a narrower layer, "
            "so that bootstraps have fewer slots"
        )
    return found


def _unconfigured(graph: Graph, security: str) -> Parameters:
    """Parameters whose degree and configuration are still to be chosen."""
    bits, table = plaintext_bits(graph), _table_bits(graph)
    masks = any(op.mask is not None for _, op in graph.of(Apply))
    return Parameters(
        ring=_ring(graph),
        plaintext_bits=bits,
        bgv_bits=noise.bgv_bits(graph, bits),
        unpack_strides=split_strides(graph),
        conjugates=conjugates(graph),
        slots=_slots(graph),
        slot_levels=int(masks) + (lookup_levels(table) if table else 0),
        # a table is no series
        folded_levels=int(masks and not table),
        table_bits=table,
        security=security,
    )


def _sums_may_shrink(graph: Graph, parameters: Parameters) -> bool:
    """Whether BGV sums may have one prime: behind bootstraps that the kernels execute, with weights in the clear."""
    encrypted = any(op.encrypted for _, op in graph.of(Linear))
    return bool(parameters.slots) and not parameters.table_bits and not encrypted


def _ring(graph: Graph) -> int:
    return next(n.type.layout.ring for n in graph if n.type.layout is not None)


def _table_bits(graph: Graph) -> int:
    """Of the largest table that stands for a function; 0 without any."""
    return max((op.table_bits for _, op in graph.of(Apply)), default=0)


def _slots(graph: Graph) -> int:
    grids = [n.type.layout.grid for n, _ in graph.of(Apply) if n.type.layout is not None]
    return _ring(graph) // (2 * min(grids)) if grids else 0


def _power(value: float) -> str:
    """A number as a power of two."""
    return f"2^{np.log2(value):.1f}" if value > 0 else "0"
