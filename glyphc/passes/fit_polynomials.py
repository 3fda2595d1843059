"""Polynomials in place of the nonlinearities of a network whose numbers stand in slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.errors import CalibrationError, ParameterError
from glyphc.ir.accuracy import Loss
from glyphc.ir.evaluate import Value, evaluate_all
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.ops import Apply, Fit, Linear, Output, Polynomial
from glyphc.ir.types import Encoding, Level
from glyphc.measures import Judge, worst
from glyphc.measures import text as loss_text
from glyphc.slots.depth import network_depth
from glyphc.slots.parameters import deepest
from glyphc.slots.polynomials import DEGREES, fit

from .base import Context, check_option
from .float_maps import FloatMaps
from .tolerance import Halves, TolerancePass

F64 = npt.NDArray[np.floating[Any]]

# Calibration samples of either half that are simulated at most: here that is fast.
SAMPLES = 2048
# Nonlinearities that are each tried with a lower degree once one degree for all is known to do.
_TRIED = 16
# Errors of the outputs count so many times. Calibration samples are often those that a network was trained on, and lie
# farther from its decisions than others; with series' small errors that means little, with polynomials' it does.
_CAUTION = 2.0


@dataclass(frozen=True)
class FitPolynomials(TolerancePass):
    """A polynomial for every nonlinearity, of as low a degree as the tolerated loss of accuracy allows.

    degree: of all of them, whatever is lost; 0: as the tolerance asks. samples: as of ``assign-budget``. Degrees are
    chosen on one half of the calibration samples; what is lost with them ``select-slots`` simulates on the other one,
    when there are parameters.
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
        check_option(self.name, "samples", self.samples, 1, 1_000_000)

    def run(self, graph: Graph, context: Context) -> Graph:
        nodes = [node for node, _ in graph.of(Apply) if node.type.encoding is Encoding.SLOTS]
        if not nodes:
            return graph
        if not context.samples:
            raise CalibrationError(
                "polynomials are fitted to calibration samples, and their degree is found by simulating the network on "
                "them: pass --calibration (calibration=...)"
            )
        halves = Halves.of(context.samples, self.samples)
        judge = self.judge(context.source or graph, halves.both)
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
