"""The cheapest ways for a network, and why each of the others lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from glyphc.ir.graph import Candidate, Decision, Graph, Node
from glyphc.ir.ops import Input
from glyphc.ways.base import Offer
from glyphc.ways.choice import Answer, Choice, Paths, choose, more_seconds
from glyphc.ways.client import ClientTail
from glyphc.ways.integers import WAYS as INTEGER_WAYS
from glyphc.ways.slots import WAYS as SLOT_WAYS

# No conversion leads from one of these to another, or to all other ways, which are a family of their own.
_FAMILIES: Mapping[str, frozenset[str]] = {
    "with numbers in slots": frozenset(way.name for way in SLOT_WAYS),
    "with integers in slots": frozenset(way.name for way in INTEGER_WAYS),
}
_OTHERS = "with bootstraps"

_Said = Mapping[int, Sequence[Answer]]


@dataclass(frozen=True)
class SchemeChoice:
    """The cheapest way of every node (``best``), beside the cheapest ones of each family alone.

    said: what all ways say of each node. families: by name; None where the family cannot compute all of the network.
    """

    graph: Graph
    said: _Said
    paths: Paths
    best: Choice
    families: Mapping[str, Choice | None]

    @staticmethod
    def cheapest(graph: Graph, said: _Said, paths: Paths) -> SchemeChoice | None:
        """Of all ways together, and of each family, as improving a choice node by node does not cross from one to the
        other; None where no ways go together."""
        families = {
            name: choose(graph, {id: [a for a in of if _in(a.way, name)] for id, of in said.items()}, paths)
            for name in (*_FAMILIES, _OTHERS)
        }
        found = [c for c in (choose(graph, said, paths), *families.values()) if c is not None]
        if not found:
            return None
        return SchemeChoice(graph, said, paths, min(found, key=lambda choice: choice.seconds), families)

    def decisions(self, made_by: str, node: Node) -> tuple[Decision, ...]:
        """The decision for a node, where there was one to make."""
        if len(self.said[node.id]) < 2:
            return ()
        candidates = tuple(self._candidate(node, answer) for answer in self.said[node.id])
        return (Decision(made_by, self.best.chosen[node.id].way, candidates),)

    def _candidate(self, node: Node, answer: Answer) -> Candidate:
        if not isinstance(answer.answer, Offer):
            return Candidate(answer.way, None, answer.answer.reason)
        reason, chosen = answer.answer.reason, self.best.chosen[node.id].answer
        assert isinstance(chosen, Offer)
        if answer.answer.seconds < chosen.seconds:
            reason += f"; {self._why_not(node, answer)}"
        return Candidate(answer.way, answer.answer.seconds, reason)

    def _why_not(self, node: Node, answer: Answer) -> str:
        """Why the network does without an offer that is the cheaper one for its node."""
        more = more_seconds(self.graph, self.best, self.paths, node, answer)
        if more < inf:
            return f"with the conversions around it {more:.3g} s more for the network"
        family = next(name for name in (*_FAMILIES, _OTHERS) if _in(answer.way, name))
        other = self.families[family]
        if other is None:
            return f"the network cannot be computed {family} alone, and no conversion leads there"
        return (
            f"no conversion leads there, and the network takes {self._total(other)} {family}, "
            f"{self._total(self.best)} as chosen"
        )

    def _total(self, choice: Choice) -> str:
        """Seconds of the network, and how many of them are its inputs': the client's and the upload's."""
        inputs = [choice.chosen[node.id].answer for node, _ in self.graph.of(Input)]
        seconds = sum(offer.seconds for offer in inputs if isinstance(offer, Offer))
        return f"{choice.seconds:.3g} s ({seconds:.3g} s of them client and upload)"


def _in(way: str, family: str) -> bool:
    """Whether a way belongs to a family; what the client does at the end goes with all of them."""
    if way == ClientTail.name:
        return True
    if family in _FAMILIES:
        return way in _FAMILIES[family]
    return not any(way in names for names in _FAMILIES.values())
