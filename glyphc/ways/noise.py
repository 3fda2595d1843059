"""Predicted errors of every value of a compiled graph, whichever family its instructions will be of."""

from __future__ import annotations

from glyphc.analysis.noise import Noise, predict
from glyphc.ir.graph import Graph
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.word_parameters import WordParameters
from glyphc.slots.noise import predict_slots


def predicted_noise(graph: Graph) -> dict[int, Noise]:
    """Noise of every encrypted value of a laid-out graph with parameters, by node id, in units of its integers.

    Exact integers have none.
    """
    match graph.parameters:
        case SlotParameters():
            return predict_slots(graph, graph.parameters)
        case Parameters():
            return predict(graph, graph.parameters, graph.parameters.bgv_bits)
        case IntegerParameters() | WordParameters() | None:
            return {}
