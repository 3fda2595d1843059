"""Where values stand in slots: a ciphertext for each feature, a slot for each sample."""

from __future__ import annotations

from dataclasses import replace

from glyphc.ir.graph import Graph, Rewriter
from glyphc.ir.layout import Layout
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Encoding, Level


def laid_out(graph: Graph, parameters: SlotParameters, batch: int = 0) -> Graph:
    """The graph with layouts and these parameters.

    batch: by default that of the graph, but at most as many samples as there are slots.
    """
    batch = batch or min(graph.batch, parameters.slots)
    rewriter = Rewriter(graph, Level.LAIDOUT, batch)
    for node in graph:
        layout = None
        if node.type.encoding is Encoding.SLOTS:
            size = node.type.size
            layout = Layout(parameters.slots, batch, size, size, 1, 1, 1, True)
        rewriter.keep(node, replace(node.type, layout=layout))
    rewriter.new.parameters = parameters
    return rewriter.new
