"""What a network would be in slots, worked out as a whole, since its levels decide its price."""

from __future__ import annotations

from dataclasses import replace

from glyphc.analysis.cost import CostModel
from glyphc.analysis.slot_cost import slot_estimate
from glyphc.analysis.slot_figures import slot_seconds
from glyphc.errors import GlyphcError
from glyphc.ir.graph import Graph, Node, Rewriter
from glyphc.ir.ops import Apply, ArgMax, Input, Linear, Output, Polynomial, Reshape, Softmax
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Encoding, Level, Scheme
from glyphc.slots.lowering import slot_schedule
from glyphc.slots.parameters import RINGS
from glyphc.slots.polynomials import DEGREES, fit
from glyphc.ways.base import SlotPlan

from .base import Context
from .fit_polynomials import FitPolynomials
from .select_slots import SelectSlots

# Of the operand of a product: one is left behind it.
_FEWEST_LIMBS = 2


def plan_slots(graph: Graph, context: Context, fitting: FitPolynomials, most_seconds: float) -> SlotPlan | str:
    """The plan for a quantized graph, or why there is none.

    most_seconds: beyond which the cheapest polynomials would not do, so that others need not be tried.
    """
    if problem := not_in_slots(graph):
        return problem
    if not context.samples:
        return "polynomials are fitted to calibration samples, and there are none"
    least = _least_seconds(graph, context.prices)
    if least > most_seconds:
        return f"its products with numbers alone take {least:.1f} s"
    inside = in_slots(graph)
    try:
        selecting = SelectSlots(fitting.points, fitting.spread, fitting.logits, fitting.measures, fitting.samples)
        unheard = replace(context, samples={})  # what these polynomials lose does not matter
        cheapest = _planned(selecting.run(_with_degree(inside, DEGREES[0]), unheard), context, graph.batch)
        if cheapest.seconds > most_seconds:
            return f"takes {cheapest.seconds:.1f} s with polynomials of degree {DEGREES[0]} already"
        selected = selecting.run(fitting.run(inside, context), context)
        own = (fitting.name, selecting.name)
        warnings = [d.warning for n in selected for d in n.decisions if d.made_by in own and d.warning]
        return warnings[0] if warnings else _planned(selected, context, graph.batch)
    except GlyphcError as e:
        return str(e)


def _least_seconds(graph: Graph, cost: CostModel) -> float:
    """What the products of linear maps take at least, before anything is laid out: networks may have millions."""
    products = sum(graph.matrix(w).count for _, op in graph.of(Linear) for w in op.weights)
    return products * min(
        -(-graph.batch // (ring // 2)) * slot_seconds(cost.slots, "weighted", ring, _FEWEST_LIMBS) for ring in RINGS
    )


def not_in_slots(graph: Graph) -> str:
    """Why a network cannot be computed in slots; empty where it can."""
    other = next((n for n in graph if not isinstance(n.op, COMPUTED) or _hidden(n)), None)
    if other is None:
        return ""
    what = "weights that the server must not see are" if _hidden(other) else f"a {other.op.mnemonic} is"
    return f"{other}: {what} not computed in slots, and half a network neither: there is no way back and forth"


COMPUTED = (Input, Linear, Apply, Reshape, Output, Softmax, ArgMax)


def _hidden(node: Node) -> bool:
    return isinstance(node.op, Linear) and node.op.encrypted


def in_slots(graph: Graph, scheme: Scheme = Scheme.CKKS, encoding: Encoding = Encoding.SLOTS) -> Graph:
    """The graph with every encrypted value in slots, under a scheme that has it there."""
    rewriter = Rewriter(graph, Level.ASSIGNED)
    for node in graph:
        operands = rewriter.operands(node)
        behind = bool(operands) and operands[0].type.scheme is Scheme.CLIENT
        if isinstance(node.op, Softmax | ArgMax | Output) or behind:
            rewriter.keep(node, replace(node.type, scheme=Scheme.CLIENT))
        else:
            rewriter.keep(node, replace(node.type, scheme=scheme, encoding=encoding))
    return rewriter.new


def _with_degree(graph: Graph, degree: int) -> Graph:
    """All nonlinearities as polynomials of one degree, whatever they lose."""
    rewriter = Rewriter(graph)
    for node in graph:
        if isinstance(node.op, Apply) and node.type.encoding is Encoding.SLOTS:
            op = Polynomial(node.op.functions, fit(graph, node, degree))
            new = rewriter.new.add(op, rewriter.operands(node), node.type, node.location, node.decisions)
            rewriter.replace(node, new)
        else:
            rewriter.keep(node)
    return rewriter.new


def _planned(graph: Graph, context: Context, batch: int) -> SlotPlan:
    assert isinstance(graph.parameters, SlotParameters)
    found = slot_estimate(slot_schedule(graph), context.prices)
    passes = -(-batch // graph.batch)
    degrees = sorted({op.fit.degree for _, op in graph.of(Polynomial)})
    return SlotPlan(
        graph.parameters,
        {id: passes * seconds for id, seconds in found.node_seconds.items()},
        passes * found.client_seconds,
        passes * found.upload_bytes,
        found.memory_bytes,
        f"degree {', '.join(map(str, degrees))}" if degrees else "no polynomial",
    )
