"""Ring, moduli and layouts of a network whose numbers stand in slots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from glyphc.analysis.slot_cost import slot_work
from glyphc.errors import ParameterError
from glyphc.ir.accuracy import Loss
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.ops import Apply, Input, Output, Polynomial
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Level
from glyphc.measures import text as loss_text
from glyphc.measures import worst
from glyphc.slots.depth import network_depth
from glyphc.slots.layout import laid_out
from glyphc.slots.lowering import slot_schedule
from glyphc.slots.noise import predict_slots
from glyphc.slots.parameters import RINGS, smallest_scale
from glyphc.slots.trial import simulated

from .base import Context, check_option, check_ring
from .fit_polynomials import SAMPLES
from .tolerance import Halves, TolerancePass


@dataclass(frozen=True)
class SelectSlots(TolerancePass):
    """Layouts, and the cheapest ring and moduli at which every output's noise stays below 2^-precision of its range.

    With these it simulates what the outputs lose, all noise included, on calibration samples that no degree was chosen
    with; samples: on how many at most. ring: 0 for a choice among the secure ones; security as in
    ``select-parameters``.
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
        check_option(self.name, "samples", self.samples, 1, 1_000_000)
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
                # by OpenFHE's prices: the context is its, and the kernels' do not tell numbers of digits apart
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
        halves = Halves.of(context.samples, self.samples)
        judge = self.judge(context.source or _with_functions(graph), halves.both)
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
