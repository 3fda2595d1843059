"""The cheapest image layouts of a network, among groups of channels, chunks and configurations of bootstraps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy

from glyphc.analysis.cost import CostModel
from glyphc.ir.graph import Graph
from glyphc.ir.layout import next_power_of_two
from glyphc.ir.ops import Apply

from .image_plan import ImagePlan
from .layout_search import Room, Search, configurations
from .pictures import Pictures

# What other engines than the one that a program is for may take beside its limit: 16 GB where that is 14.
_ELSEWHERE = 16 / 14


def image_plan(graph: Graph, room: Room, cost: CostModel, models: Sequence[CostModel] = ()) -> ImagePlan | str:
    """The cheapest image layouts for as much of the graph's batch as there is room for, or why there are none; an empty
    reason where nothing has pixels.

    cost, models: as of other plans (:meth:`.layout_search.Search.over`).
    """
    if not any(True for _ in graph.of(Apply)):
        return ""
    pictures = Pictures.of(graph)
    if isinstance(pictures, str):
        return pictures
    batch, problem = graph.batch, ""
    while batch >= 1:
        plans = list(_plans(graph, pictures, room, batch))
        good = [way for p in plans if not p.problem for way in _ways(p, cost)]
        fitting = [p for p in good if _fits(p, room.memory, cost, models)]
        if fitting:
            return min(fitting, key=lambda p: p.rank(cost))
        problem = f"none fits into {room.memory / 1e9:g} GB" if good else plans[0].problem
        batch //= 2
    return problem


def _fits(plan: ImagePlan, memory: float, cost: CostModel, models: Sequence[CostModel]) -> bool:
    """Whether a plan keeps to a limit on the engine that the program is for, and on the others to that of a machine."""
    most = max(map(plan.memory_bytes, models or (cost,)))
    return plan.memory_bytes(cost) <= memory and most <= memory * _ELSEWHERE


def _plans(graph: Graph, pictures: Pictures, room: Room, batch: int) -> Iterator[ImagePlan]:
    most = max(image[0] for image in pictures.images.values())
    group = 1
    while group <= next_power_of_two(most):
        chunks = 1
        while chunks <= min(room.max_chunks, next_power_of_two(batch)):
            yield ImagePlan(graph, pictures, room.ring, batch, group, chunks)
            if not pictures.enlarged:
                yield ImagePlan(graph, pictures, room.ring, batch, group, chunks, seamless=True)
            chunks *= 2
        if group < most and not pictures.enlarged:
            yield ImagePlan(graph, pictures, room.ring, batch, group, 1, spread=True)
        group *= 2


def _ways(plan: ImagePlan, cost: CostModel) -> Iterator[ImagePlan]:
    """The plan in each configuration of its bootstraps."""
    for configuration in configurations(cost, plan.ring, plan.slots, masks=True):
        way = copy(plan)
        way.configuration = configuration
        yield way


def better(images: ImagePlan, search: Search, cost: CostModel) -> bool:
    """Whether images are the cheaper way for a sample, beside the best plan with features apart; noise that shows comes
    last, as there."""
    (noise, seconds), (other_noise, other_seconds) = images.rank(cost), search.best.rank(cost)
    return (noise, seconds / images.batch) < (other_noise, other_seconds / search.best.batch)
