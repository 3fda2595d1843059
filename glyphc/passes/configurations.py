"""A laid-out program in each configuration that its bootstraps could have: seconds, memory, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

from glyphc.analysis.configurations import Way, cheapest, priced
from glyphc.analysis.cost import Configuration
from glyphc.analysis.estimate import estimate, peak_bytes
from glyphc.ir.graph import Candidate, Decision, Graph
from glyphc.ir.instructions import Schedule
from glyphc.ir.parameters import Parameters

from .base import Context
from .layout_search import MEMORY
from .schedule import schedule


def weighed(graph: Graph, made: Mapping[Configuration, Parameters], context: Context) -> tuple[Way, ...]:
    """What the graph takes with the parameters of each configuration.

    There must be room on the engine that is planned for, as much as a run may take, and the usual room on every one.
    """
    plan = schedule(graph)
    ways = []
    for configuration, parameters in made.items():
        own = _with_parameters(plan, parameters)
        found = estimate(own, context.prices)
        everywhere = max(peak_bytes(own, model) for model in context.models)
        fits = found.memory_bytes <= context.memory and everywhere <= MEMORY * 1e9
        ways.append(Way(configuration, parameters, found.seconds, found.memory_bytes, fits))
    return tuple(ways)


def decision(made_by: str, ways: Sequence[Way], context: Context) -> Decision:
    """Why the cheapest of several was taken."""
    best = cheapest(ways)
    allowed = f" of {context.memory / 1e9:.2f} GB" if context.memory < inf else ""
    candidates = []
    for way in ways:
        room = f"{way.memory_bytes / 1e9:.2f} GB at the peak" + ("" if way.fits else f": beyond the memory{allowed}")
        keys = priced(context.prices, way.parameters).key_bytes(way.parameters)
        reason = f"engine {context.planned_for}: {room}, keys {keys / 1e9:.2f} GB"
        candidates.append(Candidate(way.label, way.seconds, reason))
    warning = "" if best.fits else f"no configuration of its bootstraps fits into the memory{allowed}"
    return Decision(made_by, best.label, tuple(candidates), warning)


def _with_parameters(plan: Schedule, parameters: Parameters) -> Schedule:
    return replace(plan, client=replace(plan.client, parameters=parameters))
