"""The cheapest path of offers through a network: one way for every node, conversions wherever spaces meet.

Exact on trees; where a value has several readers, the choice is improved node by node until nothing gets cheaper. A
conversion of a value is paid for once, however many read it, and so is a context.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, combinations
from math import inf

from glyphc.ir.graph import Graph, Node

from .base import Context, Conversion, Offer, Question, Refusal, Space, Way

# Programs with more contexts than this to choose from are not searched over all subsets of them.
_MOST_CONTEXTS = 6


@dataclass(frozen=True)
class Answer:
    """What a way says of a node."""

    way: str
    answer: Offer | Refusal


@dataclass(frozen=True)
class Choice:
    """A way for every node, by id, and what the whole costs in seconds of one evaluation."""

    chosen: Mapping[int, Answer]
    seconds: float

    @cached_property
    def contexts(self) -> Counter[Context]:
        """Those that there are, by how many nodes need them."""
        return Counter(context for answer in self.chosen.values() for context in _offer(answer).contexts)


class Paths:
    """Conversions of values, also by way of other spaces."""

    def __init__(self, conversions: Sequence[Conversion], question: Question) -> None:
        self._conversions = conversions
        self._question = question
        self._known: dict[tuple[int, Space, Space], tuple[float, tuple[Conversion, ...]]] = {}

    def path(self, value: Node, source: Space, target: Space) -> tuple[float, tuple[Conversion, ...]]:
        """Seconds and steps of the cheapest way from one space to another; infinity when there is none."""
        if source == target:
            return 0.0, ()
        key = (value.id, source, target)
        if key not in self._known:
            self._known[key] = self._find(value, source, target)
        return self._known[key]

    def _find(self, value: Node, source: Space, target: Space) -> tuple[float, tuple[Conversion, ...]]:
        best: dict[Space, tuple[float, tuple[Conversion, ...]]] = {source: (0.0, ())}
        # as many rounds as a path without circles can have steps
        for _ in self._conversions:
            for each in self._conversions:
                offer = each.offer(value, self._question) if each.source in best else Refusal("not reached")
                if isinstance(offer, Offer):
                    seconds, steps = best[each.source]
                    if seconds + offer.seconds < best.get(each.target, (inf, ()))[0]:
                        best[each.target] = (seconds + offer.seconds, (*steps, each))
        return best.get(target, (inf, ()))


def answers(graph: Graph, ways: Sequence[Way], question: Question) -> dict[int, tuple[Answer, ...]]:
    """What all ways say of every node; those that are not about its op are left out."""
    said: dict[int, tuple[Answer, ...]] = {}
    for node in graph:
        asked = ((way.name, way.offer(node, graph.operands(node), question)) for way in ways)
        said[node.id] = tuple(Answer(name, answer) for name, answer in asked if answer is not None)
    return said


def choose(graph: Graph, said: Mapping[int, Sequence[Answer]], paths: Paths) -> Choice | None:
    """The cheapest choice; None when the offers do not lead from the inputs to the outputs."""
    offers = {id: [a for a in of if isinstance(a.answer, Offer)] for id, of in said.items()}
    contexts = {context for of in offers.values() for a in of for context in _offer(a).contexts}
    found = [
        choice
        for allowed in _subsets(contexts)
        if (choice := _Search(graph, _within(offers, allowed), paths).run(allowed)) is not None
    ]
    return min(found, key=lambda choice: choice.seconds, default=None)


def more_seconds(graph: Graph, choice: Choice, paths: Paths, node: Node, answer: Answer) -> float:
    """How much more the whole takes where one node is computed by another offer and all others as they were chosen;
    infinity where no conversion leads there and back."""
    search = _Search(graph, {}, paths, chosen=dict(choice.chosen))
    before = search.near_seconds(node)
    search.chosen[node.id] = answer
    old, new = _offer(choice.chosen[node.id]).contexts, _offer(answer).contexts
    added = sum(context.seconds for context in new if context not in choice.contexts)
    spared = sum(context.seconds for context in old - new if choice.contexts[context] == 1)
    return search.near_seconds(node) - before + added - spared


def _subsets(contexts: set[Context]) -> Iterator[frozenset[Context]]:
    ordered = sorted(contexts, key=lambda c: c.name)
    if len(ordered) > _MOST_CONTEXTS:
        return iter([frozenset(ordered)])
    sizes = range(len(ordered) + 1)
    return map(frozenset, chain.from_iterable(combinations(ordered, size) for size in sizes))


def _within(offers: Mapping[int, list[Answer]], allowed: frozenset[Context]) -> dict[int, list[Answer]]:
    return {id: [a for a in of if _offer(a).contexts <= allowed] for id, of in offers.items()}


def _offer(answer: Answer) -> Offer:
    assert isinstance(answer.answer, Offer)
    return answer.answer


@dataclass
class _Search:
    graph: Graph
    offers: Mapping[int, list[Answer]]
    paths: Paths
    # cheapest seconds of a node and all before it, for each of its offers
    before: dict[int, list[float]] = field(default_factory=dict)
    chosen: dict[int, Answer] = field(default_factory=dict)

    def run(self, contexts: frozenset[Context]) -> Choice | None:
        for node in self.graph:
            self.before[node.id] = [self._cheapest(node, _offer(a)) for a in self.offers[node.id]]
            if not any(seconds < inf for seconds in self.before[node.id]):
                return None
        for node in reversed(list(self.graph)):
            self.chosen[node.id] = self._fitting(node)
        self._improve()
        seconds = sum(map(self._node_seconds, self.graph)) + sum(context.seconds for context in contexts)
        return Choice(dict(self.chosen), seconds) if seconds < inf else None

    def _cheapest(self, node: Node, offer: Offer) -> float:
        """Of a node by this offer, its operands by their best ones."""
        seconds = offer.seconds
        for operand in self.graph.operands(node):
            options = zip(self.before[operand.id], self.offers[operand.id], strict=True)
            seconds += min(
                (b + self.paths.path(operand, _offer(a).result, offer.operands)[0] for b, a in options), default=inf
            )
        return seconds

    def _fitting(self, node: Node) -> Answer:
        """The offer that goes best with the readers' offers, which are chosen already."""
        wanted = {_offer(self.chosen[user.id]).operands for user in self.graph.users(node)}

        def total(at: int) -> float:
            result = _offer(self.offers[node.id][at]).result
            return self.before[node.id][at] + sum(self.paths.path(node, result, space)[0] for space in wanted)

        return self.offers[node.id][min(range(len(self.offers[node.id])), key=total)]

    def _node_seconds(self, node: Node) -> float:
        """Of its way, and of the conversions of its result, each step once for all readers."""
        offer = _offer(self.chosen[node.id])
        wanted = {_offer(self.chosen[user.id]).operands for user in self.graph.users(node)}
        found = [self.paths.path(node, offer.result, space) for space in wanted]
        if any(seconds == inf for seconds, _ in found):
            return inf
        steps = {step.name: step for _, path in found for step in path}
        spent = (step.offer(node, self.paths._question) for step in steps.values())
        return offer.seconds + sum(o.seconds for o in spent if isinstance(o, Offer))

    def near_seconds(self, node: Node) -> float:
        """Of a node and its operands: all that the way of this node has a part in."""
        return sum(map(self._node_seconds, (node, *dict.fromkeys(self.graph.operands(node)))))

    def _improve(self) -> None:
        better = True
        while better:
            better = False
            for node in self.graph:
                if len(self.offers[node.id]) < 2:
                    continue
                now = self.near_seconds(node)
                kept = self.chosen[node.id]
                for option in self.offers[node.id]:
                    self.chosen[node.id] = option
                    seconds = self.near_seconds(node)
                    if seconds < now:
                        now, kept, better = seconds, option, True
                self.chosen[node.id] = kept
