"""What a network would be on integers in slots: bits, primes, ring, price."""

from __future__ import annotations

from glyphc.analysis.integer_cost import integer_estimate
from glyphc.errors import GlyphcError
from glyphc.ir.graph import Graph
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.types import Encoding, Scheme
from glyphc.slots.integer_lowering import integer_schedule
from glyphc.ways.base import IntegerPlan

from .base import Context
from .fit_integers import FitIntegers
from .plan_slots import in_slots, not_in_slots
from .select_integers import SelectIntegers


def plan_integers(graph: Graph, context: Context, fitting: FitIntegers, strict: bool = False) -> IntegerPlan | str:
    """The plan for a quantized graph, or why there is none.

    strict: none where results lose more than is tolerated.
    """
    if problem := not_in_slots(graph):
        return problem
    if not context.samples:
        return "bits of integers are chosen on calibration samples, and there are none"
    try:
        fitted = fitting.run(in_slots(graph, Scheme.BFV, Encoding.INTEGERS), context)
        made = SelectIntegers().run(fitted, context)
    except GlyphcError as e:
        return str(e)
    if strict and (lost := next((d.warning for n in fitted for d in n.decisions if d.warning), "")):
        return lost
    assert isinstance(made.parameters, IntegerParameters)
    found = integer_estimate(integer_schedule(made))
    passes = -(-graph.batch // made.batch)
    return IntegerPlan(
        made.parameters,
        {id: passes * seconds for id, seconds in found.node_seconds.items()},
        passes * found.client_seconds,
        passes * found.upload_bytes,
    )
