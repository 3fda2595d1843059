"""A laid-out program in each configuration that its bootstraps could have: seconds, memory, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from glyphc.analysis.configurations import Way, cheapest, priced
from glyphc.analysis.cost import Configuration
from glyphc.analysis.estimate import estimate
from glyphc.ir.graph import Candidate, Decision, Graph
from glyphc.ir.instructions import Schedule
from glyphc.ir.parameters import Parameters

from .base import Context
from .schedule import schedule


def weighed(graph: Graph, made: Mapping[Configuration, Parameters], context: Context) -> tuple[Way, ...]:
    """What the graph takes with the parameters of each configuration, and whether every engine has room for it."""
    plan = schedule(graph)
    ways = []
    for configuration, parameters in made.items():
        own = _with_parameters(plan, parameters)
        found = estimate(own, context.prices)
        ways.append(Way(configuration, parameters, found.seconds, found.memory_bytes, _beyond(own, context)))
    return tuple(ways)


def decision(made_by: str, ways: Sequence[Way], context: Context) -> Decision:
    """Why the cheapest of several was taken."""
    best = cheapest(ways)
    candidates = []
    for way in ways:
        keys = priced(context.prices, way.parameters).key_bytes(way.parameters)
        reason = f"engine {context.planned_for}: {way.memory_bytes / 1e9:.2f} GB at the peak, keys {keys / 1e9:.2f} GB"
        candidates.append(Candidate(way.label, way.seconds, reason + (f": {way.beyond}" if way.beyond else "")))
    warning = "" if best.fits else f"no configuration of its bootstraps fits: {best.label} takes {best.beyond}"
    return Decision(made_by, best.label, tuple(candidates), warning)


def _beyond(plan: Schedule, context: Context) -> str:
    """What a schedule takes beyond the limit of some engine, in words; empty where there is room on all of them."""
    for model in context.models:
        needed, limit = estimate(plan, model).memory_bytes, context.limit(model.engine)
        if needed > limit:
            return (
                f"{needed / 1e9:.2f} GB on the engine {model.engine}, more than the {limit / 1e9:.2f} GB that a run "
                "may take there (--memory)"
            )
    return ""


def _with_parameters(plan: Schedule, parameters: Parameters) -> Schedule:
    return replace(plan, client=replace(plan.client, parameters=parameters))
