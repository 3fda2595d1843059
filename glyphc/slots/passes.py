"""The passes that only slot programs take: from a quantized graph to one with parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.approx.slot_cost import slot_work
from glyphc.errors import CalibrationError, ParameterError
from glyphc.ir.evaluate import Value, evaluate_all
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Apply, Fit, Input, Output, Polynomial
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Encoding, Level
from glyphc.passes.base import Context, Pass, check_option
from glyphc.passes.judge import Judge, Loss, real_outputs

from .depth import network_depth
from .lowering import slot_schedule
from .noise import predict_slots
from .parameters import RINGS, deepest, smallest_scale
from .polynomials import DEGREES, fit

F64 = npt.NDArray[np.floating[Any]]

# Nonlinearities that are each tried with a lower degree once one degree for all is known to do.
_TRIED = 16
# Errors of the outputs count so many times. Calibration samples are often those that a network was trained on, and lie
# farther from its decisions than others; with series' small errors that means little, with polynomials' it does.
_CAUTION = 2.0


@dataclass(frozen=True)
class FitPolynomials(Pass):
    """A polynomial for every nonlinearity, of as low a degree as the tolerated loss of accuracy allows.

    points, logits, samples: as in ``assign-budget``.
    """

    name: ClassVar[str] = "fit-polynomials"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.ASSIGNED
    slots: ClassVar[bool | None] = True
    points: float = 0.5
    logits: float = 0.0
    samples: int = 2048

    def __post_init__(self) -> None:
        check_option(self.name, "points", self.points, 0.0, 100.0)
        check_option(self.name, "logits", self.logits, 0.0, 1e15)
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
        few = {name: x[: self.samples] for name, x in context.samples.items()}
        trial = _Trial(graph, few, Judge(graph, few, context.source, self.points, self.logits))
        degrees, candidates, loss = self._same_degree(trial, nodes)
        if trial.judge.keeps(loss) and len(nodes) <= _TRIED:
            degrees, loss = self._lowered(trial, nodes, degrees, loss)
        chosen = _names(nodes, degrees)
        if chosen != candidates[-1].name:
            candidates.append(Candidate(chosen, None, trial.judge.reason(loss)))
        warning = "" if trial.judge.keeps(loss) else f"polynomials of {chosen}: {trial.judge.reason(loss)}"
        decision = Decision(self.name, chosen, tuple(candidates), warning)
        rewriter = Rewriter(graph)
        for node in graph:
            if node.id in degrees:
                assert isinstance(node.op, Apply)
                op = Polynomial(node.op.functions, trial.fit(node, degrees[node.id]))
                decisions = (*node.decisions, decision)
                new = rewriter.new.add(op, rewriter.operands(node), node.type, node.location, decisions)
                rewriter.replace(node, new)
            else:
                rewriter.keep(node)
        return rewriter.new

    @staticmethod
    def _same_degree(trial: _Trial, nodes: list[Node]) -> tuple[dict[int, int], list[Candidate], Loss]:
        """The lowest degree for all that keeps to the tolerance, or the one that loses least."""
        tried: list[tuple[dict[int, int], Loss]] = []
        candidates = []
        for degree in DEGREES:
            degrees = {node.id: degree for node in nodes}
            depth = network_depth(trial.graph, lambda node, d=degree: d)  # type: ignore[misc]
            if depth > deepest():
                reason = f"takes {depth} levels, at most {deepest()} are secure"
                candidates.append(Candidate(_names(nodes, degrees), None, reason))
                break
            loss = trial.loss(degrees)
            tried.append((degrees, loss))
            candidates.append(Candidate(_names(nodes, degrees), None, trial.judge.reason(loss)))
            if trial.judge.keeps(loss):
                break
        if not tried:
            raise ParameterError(f"the network takes too many levels for numbers in slots: {candidates[-1].reason}")
        best = tried[-1] if trial.judge.keeps(tried[-1][1]) else min(tried, key=lambda t: t[1].value)
        return best[0], candidates, best[1]

    @staticmethod
    def _lowered(trial: _Trial, nodes: list[Node], degrees: dict[int, int], loss: Loss) -> tuple[dict[int, int], Loss]:
        """Lower degrees for single nonlinearities, as long as the tolerance is kept."""
        for node in nodes:
            while degrees[node.id] > DEGREES[0]:
                lower = degrees | {node.id: DEGREES[DEGREES.index(degrees[node.id]) - 1]}
                found = trial.loss(lower)
                if not trial.judge.keeps(found):
                    break
                degrees, loss = lower, found
        return degrees, loss


@dataclass
class _Trial:
    """The network on calibration samples, with polynomials for functions."""

    graph: Graph
    samples: Mapping[str, F64]
    judge: Judge

    def __post_init__(self) -> None:
        self._fits: dict[tuple[int, int], Fit] = {}

    def fit(self, node: Node, degree: int) -> Fit:
        if (node.id, degree) not in self._fits:
            self._fits[node.id, degree] = fit(self.graph, node, degree)
        return self._fits[node.id, degree]

    def loss(self, degrees: Mapping[int, int]) -> Loss:
        def approximate(node: Node, args: tuple[Value, ...]) -> Value | None:
            if node.id not in degrees:
                return None
            source = self.graph.operands(node)[0].type.fixed
            assert source is not None and node.type.fixed is not None
            coefficients = np.array(self.fit(node, degrees[node.id]).coefficients)
            # a polynomial that explodes is seen by the judge
            with np.errstate(over="ignore", invalid="ignore"):
                y = np.polynomial.chebyshev.chebval(args[0] / source.magnitude, coefficients)
            return np.asarray(np.nan_to_num(y * node.type.fixed.magnitude, posinf=1e30, neginf=-1e30))

        values = evaluate_all(self.graph, self.samples, approximate)
        outputs = real_outputs({op.name: values[node.id] for node, op in self.graph.of(Output)})
        return self.judge.loss(self.judge.exaggerated(outputs, _CAUTION))


@dataclass(frozen=True)
class SelectSlots(Pass):
    """Layouts, and the cheapest ring and moduli at which every output's noise stays below 2^-precision of its range.

    ring: 0 for a choice among the secure ones; security as in ``select-parameters``.
    """

    name: ClassVar[str] = "select-slots"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.LAIDOUT
    slots: ClassVar[bool | None] = True
    precision: float = 15.0
    ring: int = 0

    def __post_init__(self) -> None:
        check_option(self.name, "precision", self.precision, 4.0, 30.0)

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
                laid_out = _laid_out(graph, parameters)
                passes = -(-graph.batch // laid_out.batch)
                work = work or slot_work(slot_schedule(laid_out))
                priced.append((passes * work.seconds(parameters, context.cost), laid_out, parameters))
            if priced:
                found.append(min(priced, key=lambda item: item[0]))
                seconds, laid_out, p = found[-1]
                passes = -(-graph.batch // laid_out.batch)
                reason = (
                    f"{p.modulus_bits} bits of moduli, {p.scaling_bits} of them a level, {p.large_digits} digits"
                    + (f", {passes} passes" if passes > 1 else "")
                )
                candidates.append(Candidate(f"N = {ring}", seconds, reason))
        if not found:
            raise ParameterError(f"no ring holds the {depth} levels of this network in slots: " + candidates[-1].reason)
        _, best, parameters = min(found, key=lambda item: item[0])
        decision = Decision(self.name, f"N = {parameters.ring}", tuple(candidates))
        rewriter = Rewriter(best)
        for node in best:
            rewriter.keep(node, decisions=(decision,) if isinstance(node.op, Input) else ())
        rewriter.new.parameters = parameters
        return rewriter.new

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


def _degree(node: Node) -> int:
    assert isinstance(node.op, Polynomial)
    return node.op.fit.degree


def _laid_out(graph: Graph, parameters: SlotParameters) -> Graph:
    """One ciphertext per feature, a sample in each slot; a batch of at most as many samples as there are slots."""
    batch = min(graph.batch, parameters.slots)
    rewriter = Rewriter(graph, Level.LAIDOUT, batch)
    for node in graph:
        layout = None
        if node.type.encoding is Encoding.SLOTS:
            size = node.type.size
            layout = Layout(parameters.slots, batch, size, size, 1, 1, 1, True)
        rewriter.keep(node, replace(node.type, layout=layout))
    rewriter.new.parameters = parameters
    return rewriter.new


def _names(nodes: list[Node], degrees: Mapping[int, int]) -> str:
    """Degrees in words, e.g. "degree 4" or "degrees 4, 8"."""
    used = [degrees[node.id] for node in nodes]
    return f"degree {used[0]}" if len(set(used)) == 1 else "degrees " + ", ".join(map(str, used))
