"""Ring, moduli and layouts of a network whose numbers stand in slots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from glyphc.analysis.slot_cost import slot_work
from glyphc.errors import ParameterError
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Input, Output, Polynomial
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Encoding, Level
from glyphc.slots.depth import network_depth
from glyphc.slots.lowering import slot_schedule
from glyphc.slots.noise import predict_slots
from glyphc.slots.parameters import RINGS, smallest_scale

from .base import Context, Pass, check_option, check_ring


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
