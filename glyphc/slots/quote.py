"""What a network would cost with its numbers in slots: for a comparison with other ways before one is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from glyphc.approx.slot_cost import SlotEstimate, slot_estimate
from glyphc.errors import CalibrationError, ParameterError
from glyphc.ir.graph import Graph
from glyphc.passes.base import Context
from glyphc.ways.base import Refusal

from .lowering import slot_schedule
from .passes import AssignSlots, FitPolynomials, SelectSlots


@dataclass(frozen=True)
class Quote:
    """stages: graphs by the pass that made them, the last one whole. passes: that the batch takes; estimate: of one."""

    stages: dict[str, Graph]
    passes: int
    estimate: SlotEstimate

    @property
    def seconds(self) -> float:
        """Of the whole batch, on both sides, encryption and decryption included."""
        return self.passes * self.estimate.total_seconds

    @property
    def upload_bytes(self) -> float:
        """Of the whole batch."""
        return self.passes * self.estimate.upload_bytes


def quote(
    graph: Graph, context: Context, fits: FitPolynomials | None = None, select: SelectSlots | None = None
) -> Quote | Refusal:
    """The price of a quantized graph in slots, or why it cannot be, e.g. that no polynomials keep to the tolerance.

    fits, select: the passes with their options.
    """
    stages: dict[str, Graph] = {}
    last = graph
    try:
        for step in (AssignSlots(), fits or FitPolynomials(), select or SelectSlots()):
            last = stages[step.name] = step.run(last, context)
    except (CalibrationError, ParameterError) as e:
        return Refusal(str(e))
    lost = next((d.warning for n in last for d in n.decisions if d.made_by == FitPolynomials.name and d.warning), None)
    if lost is not None:
        return Refusal(lost)
    return Quote(stages, -(-graph.batch // last.batch), slot_estimate(slot_schedule(last), context.cost))
