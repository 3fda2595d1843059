"""Why a value is unpacked as it is: sums over Galois conjugates, or its parts one by one, whatever is cheaper."""

from __future__ import annotations

from glyphc.analysis.cost import CostModel
from glyphc.ir.graph import Candidate, Decision, Node
from glyphc.ir.ops import Reshape, Switch
from glyphc.ir.unpackings import takes_sums
from glyphc.text_tables import counted

from .layout_search import LayoutPlan
from .readers import linear_users

_SUMS, _PARTS = "sums over conjugates", "parts one by one"


def decision(made_by: str, plan: LayoutPlan, node: Node, cost: CostModel) -> Decision:
    """Of a value that the plan unpacks; seconds are those of unpacking all its chunks, with the products behind it."""
    chosen = _SUMS if plan.babies(node) else _PARTS
    apart = Candidate(_PARTS, plan.reading_seconds(node, None, cost), "a tree of automorphisms down to each part")
    return Decision(made_by, chosen, (_sums(plan, node, cost), apart))


def _sums(plan: LayoutPlan, node: Node, cost: CostModel) -> Candidate:
    summed = plan.summable(node)
    if summed is None:
        readers = [u for u in plan.graph.users(node) if not isinstance(u.op, Switch)]
        reader = next(u for u in readers if not takes_sums(plan.graph, u))
        return Candidate(_SUMS, None, f"{reader.op.mnemonic} {reader.location} reads the parts themselves")
    steps, maps = summed.steps, linear_users(node, plan.graph, Reshape)
    reason = (
        f"{steps.parts} conjugates of {counted(summed.sources, 'ciphertext')} a chunk: {steps.babies} baby steps, and "
        f"{counted(steps.giants, 'giant step')} for {counted(len(maps), 'linear map')} each"
    )
    return Candidate(_SUMS, plan.reading_seconds(node, summed, cost), reason)
