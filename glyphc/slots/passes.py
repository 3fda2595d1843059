"""The passes that only slot programs take: from a quantized graph to one with parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.analysis.slot_cost import slot_work
from glyphc.errors import CalibrationError, ParameterError
from glyphc.ir.accuracy import Loss
from glyphc.ir.evaluate import Value, evaluate_all
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.ops import Apply, Fit, Input, Linear, Output, Polynomial
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Encoding, Level
from glyphc.measures import Judge, worst
from glyphc.measures import text as loss_text
from glyphc.passes.base import Context, check_option, check_ring
from glyphc.passes.float_maps import FloatMaps
from glyphc.passes.judged import JudgedPass

from .depth import network_depth
from .layout import laid_out
from .lowering import slot_schedule
from .noise import predict_slots
from .parameters import RINGS, deepest, smallest_scale
from .polynomials import DEGREES, fit
from .trial import simulated

F64 = npt.NDArray[np.floating[Any]]

# Calibration samples of either half that are simulated at most: here that is fast.
SAMPLES = 2048
# Nonlinearities that are each tried with a lower degree once one degree for all is known to do.
_TRIED = 16
# Errors of the outputs count so many times. Calibration samples are often those that a network was trained on, and lie
# farther from its decisions than others; with series' small errors that means little, with polynomials' it does.
_CAUTION = 2.0


@dataclass(frozen=True)
class FitPolynomials(JudgedPass):
    """A polynomial for every nonlinearity, of as low a degree as the tolerated loss of accuracy allows.

    degree: of all of them, whatever is lost; 0: as the tolerance asks. Degrees are chosen on one half of the
    calibration samples; what is lost with them ``select-slots`` simulates on the other one, when there are parameters.
    """

    name: ClassVar[str] = "fit-polynomials"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.ASSIGNED
    slots: ClassVar[bool | None] = True
    samples: int = SAMPLES
    degree: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(self.name, "degree", self.degree, 0, DEGREES[-1])

    def run(self, graph: Graph, context: Context) -> Graph:
        nodes = [node for node, _ in graph.of(Apply) if node.type.encoding is Encoding.SLOTS]
        if not nodes:
            return graph
        if not context.samples:
            raise CalibrationError(
                "polynomials are fitted to calibration samples, and their degree is found by simulating the network on "
                "them: pass --calibration (calibration=...)"
            )
        halves, judge = self.judged(graph, context)
        search = _Search(_Trial(graph, bool(self.degree)), judge.on(halves.first), halves.first)
        chosen = search.one(nodes, self.degree) if self.degree else search.run(nodes)
        warning = ""
        if not chosen.kept and not self.degree:
            warning = f"polynomials of {chosen.name}: with errors counted twice, {loss_text(worst(chosen.losses))}"
        candidates = tuple(Candidate(t.name, None, t.reason) for t in search.tried)
        decision = Decision(self.name, chosen.name, candidates, warning)
        rewriter = Rewriter(graph)
        for node in graph:
            if node.id in chosen.degrees:
                assert isinstance(node.op, Apply)
                op = Polynomial(node.op.functions, search.trial.fit(node, chosen.degrees[node.id]))
                decisions = (*node.decisions, decision)
                new = rewriter.new.add(op, rewriter.operands(node), node.type, node.location, decisions)
                rewriter.replace(node, new)
            else:
                rewriter.keep(node)
        return rewriter.new


@dataclass(frozen=True)
class _Try:
    """Degrees by node id, and what the outputs lose then, errors counted ``_CAUTION`` times; none: too many levels."""

    degrees: Mapping[int, int]
    losses: tuple[Loss, ...]

    @property
    def kept(self) -> bool:
        return bool(self.losses) and all(loss.kept for loss in self.losses)

    @property
    def name(self) -> str:
        """In words, e.g. "degree 4" or "degrees 4, 8"."""
        used = list(self.degrees.values())
        return f"degree {used[0]}" if len(set(used)) == 1 else "degrees " + ", ".join(map(str, used))

    @property
    def reason(self) -> str:
        if not self.losses:
            return f"takes more than {deepest()} levels, which no ring holds securely"
        return "errors counted twice: " + loss_text(worst(self.losses))


@dataclass
class _Search:
    """For the lowest degrees that keep to the limits on samples."""

    trial: _Trial
    judge: Judge
    samples: Mapping[str, F64]
    tried: list[_Try] = field(default_factory=list)

    def run(self, nodes: list[Node]) -> _Try:
        """First one degree for all, then lower ones for single nonlinearities as long as the limits are kept."""
        for degree in DEGREES:
            found = self._try({node.id: degree for node in nodes})
            self.tried.append(found)
            if found.kept or not found.losses:
                break
        possible = [t for t in self.tried if t.losses]
        if not possible:
            raise ParameterError(f"the network takes too many levels for numbers in slots: it {self.tried[0].reason}")
        best = possible[-1] if possible[-1].kept else min(possible, key=lambda t: worst(t.losses).excess)
        if not best.kept or len(nodes) > _TRIED:
            return best
        whole = best
        for node in nodes:
            while best.degrees[node.id] > DEGREES[0]:
                lower = DEGREES[DEGREES.index(best.degrees[node.id]) - 1]
                found = self._try({**best.degrees, node.id: lower})
                if not found.kept:
                    break
                best = found
        if best is not whole:
            self.tried.append(best)
        return best

    def one(self, nodes: list[Node], degree: int) -> _Try:
        """The same degree for all; ParameterError where that takes too many levels."""
        found = self._try({node.id: degree for node in nodes})
        if not found.losses:
            raise ParameterError(f"polynomials of degree {degree}: the network {found.reason}")
        return found

    def _try(self, degrees: Mapping[int, int]) -> _Try:
        if network_depth(self.trial.graph, lambda node: degrees[node.id]) > deepest():
            return _Try(degrees, ())
        outputs = self.trial.outputs(self.samples, degrees)
        for measure in self.judge.measures:
            if not measure.labels:
                truth = self.judge.truth[measure.output].values
                outputs[measure.output] = truth + _CAUTION * (outputs[measure.output] - truth)
        return _Try(degrees, self.judge.losses(outputs))


@dataclass
class _Trial:
    """The network with polynomials for functions, by node id and degree."""

    graph: Graph
    exactly: bool = False
    _fits: dict[tuple[int, int], Fit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._maps = FloatMaps(self.graph)

    def fit(self, node: Node, degree: int) -> Fit:
        if (node.id, degree) not in self._fits:
            self._fits[node.id, degree] = fit(self.graph, node, degree, self.exactly)
        return self._fits[node.id, degree]

    def outputs(self, samples: Mapping[str, F64], degrees: Mapping[int, int]) -> dict[str, F64]:
        """Real outputs by name, as the client sees them."""

        def approximate(node: Node, args: tuple[Value, ...]) -> Value | None:
            if isinstance(node.op, Linear):
                return self._maps.value(node.op, args)
            if node.id not in degrees:
                return None
            source = self.graph.operands(node)[0].type.fixed
            assert source is not None and node.type.fixed is not None
            coefficients = np.array(self.fit(node, degrees[node.id]).coefficients)
            # a polynomial that explodes is seen by the judge
            with np.errstate(over="ignore", invalid="ignore"):
                y = np.polynomial.chebyshev.chebval(args[0] / source.magnitude, coefficients)
            return np.asarray(np.nan_to_num(y * node.type.fixed.magnitude, posinf=1e30, neginf=-1e30))

        values = evaluate_all(self.graph, samples, approximate)
        return {op.name: np.asarray(values[n.id], dtype=np.float64) for n, op in self.graph.of(Output)}


@dataclass(frozen=True)
class SelectSlots(JudgedPass):
    """Layouts, and the cheapest ring and moduli at which every output's noise stays below 2^-precision of its range.

    With these it simulates what the outputs lose, all noise included, on calibration samples that no degree was chosen
    with. ring: 0 for a choice among the secure ones; security as in ``select-parameters``.
    """

    name: ClassVar[str] = "select-slots"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.LAIDOUT
    slots: ClassVar[bool | None] = True
    samples: int = SAMPLES
    precision: float = 15.0
    ring: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(self.name, "precision", self.precision, 4.0, 30.0)
        if self.ring:
            check_ring(self.name, self.ring)

    def run(self, graph: Graph, context: Context) -> Graph:
        depth = network_depth(graph, _degree)
        # the instructions are the same in all rings
        work = None
        found: list[tuple[float, Graph, SlotParameters]] = []
        candidates: list[Candidate] = []
        for ring in (self.ring,) if self.ring else RINGS:
            sized = smallest_scale(ring, depth, lambda p: self._precise(graph, p), bool(self.ring))
            if not sized:
                reason = f"{depth} levels of enough precision are not 128-bit secure"
                candidates.append(Candidate(f"N = {ring}", None, reason))
            priced = []
            for parameters in sized:
                placed = laid_out(graph, parameters)
                passes = -(-graph.batch // placed.batch)
                work = work or slot_work(slot_schedule(placed))
                priced.append((passes * work.seconds(parameters, context.cost), placed, parameters))
            if priced:
                found.append(min(priced, key=lambda item: item[0]))
                seconds, placed, p = found[-1]
                passes = -(-graph.batch // placed.batch)
                reason = (
                    f"{p.modulus_bits} bits of moduli, {p.scaling_bits} of them a level, {p.large_digits} digits"
                    + (f", {passes} passes" if passes > 1 else "")
                )
                candidates.append(Candidate(f"N = {ring}", seconds, reason))
        if not found:
            raise ParameterError(f"no ring holds the {depth} levels of this network in slots: " + candidates[-1].reason)
        _, best, parameters = min(found, key=lambda item: item[0])
        losses = self.promised(graph, parameters, context)
        warning = ""
        if not all(loss.kept for loss in losses):
            warning = f"numbers in slots: {loss_text(worst(losses))}"
        decision = Decision(self.name, f"N = {parameters.ring}", tuple(candidates), warning, losses)
        rewriter = Rewriter(best)
        for node in best:
            rewriter.keep(node, decisions=(decision,) if isinstance(node.op, Input) else ())
        rewriter.new.parameters = parameters
        return rewriter.new

    def promised(self, graph: Graph, parameters: SlotParameters, context: Context) -> tuple[Loss, ...]:
        """What the outputs lose; nothing where there are no samples."""
        if not context.samples:
            return ()
        halves, judge = self.judged(_with_functions(graph), context)
        losses = judge.on(halves.second).losses(simulated(graph, parameters, halves.second))
        return tuple(replace(loss, held_out=halves.held_out) for loss in losses)

    def _precise(self, graph: Graph, parameters: SlotParameters) -> bool:
        noise = predict_slots(graph, parameters)
        for node, _ in graph.of(Output):
            source = graph.operands(node)[0]
            while source.id not in noise:
                source = graph.operands(source)[0]
            assert source.type.fixed is not None
            if noise[source.id].white > source.type.fixed.magnitude * 2.0**-self.precision:
                return False
        return True


def _with_functions(graph: Graph) -> Graph:
    """The graph with the functions that polynomials stand for: what to judge by where the network is not at hand."""
    rewriter = Rewriter(graph)
    for node in graph:
        if isinstance(node.op, Polynomial):
            new = rewriter.new.add(Apply(node.op.functions), rewriter.operands(node), node.type, node.location)
            rewriter.replace(node, new)
        else:
            rewriter.keep(node)
    return rewriter.new


def _degree(node: Node) -> int:
    assert isinstance(node.op, Polynomial)
    return node.op.fit.degree
