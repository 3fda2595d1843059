"""What a network would be on words of bits: how many gates, for how many seconds."""

from __future__ import annotations

from glyphc.analysis.word_cost import word_estimate
from glyphc.errors import GlyphcError
from glyphc.gates.lowering import word_schedule
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Shorten
from glyphc.ir.types import Encoding, Scheme
from glyphc.ir.word_parameters import WordParameters
from glyphc.ways.base import WordPlan

from .base import Context
from .fit_words import FitWords
from .plan_slots import COMPUTED, in_slots


def plan_words(graph: Graph, context: Context, fitting: FitWords) -> WordPlan | str:
    """The plan for a quantized graph, or why there is none."""
    other = next((n for n in graph if not isinstance(n.op, COMPUTED)), None)
    if other is not None:
        return f"{other}: a {other.op.mnemonic} is not computed on words of bits"
    if not context.samples:
        return "what words lose is simulated on calibration samples, and there are none"
    try:
        made = fitting.run(in_slots(graph, Scheme.FHEW, Encoding.BITS), context)
        found = word_estimate(word_schedule(made))
    except GlyphcError as e:
        return str(e)
    assert isinstance(made.parameters, WordParameters)
    passes = graph.batch
    by_origin: dict[int, float] = {}
    added, origin = 0, 0
    for node in made:
        # a word's rounding stands behind the sum that it is of, and is the only op that is added
        added += isinstance(node.op, Shorten)
        origin = node.id - added
        by_origin[origin] = by_origin.get(origin, 0.0) + passes * found.node_seconds.get(node.id, 0.0)
    return WordPlan(made.parameters, by_origin, passes * found.client_seconds, passes * found.upload_bytes)
