"""Words of encrypted bits and circuits of gates (FHEW): every function exactly on its words, a bootstrap for each gate.

Prices come from a plan for the whole network (``glyphc.passes.plan_words``). They are hours where others are seconds,
so these ways are never weighed beside others: a strategy that knows nothing else takes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from glyphc.ir.graph import Node
from glyphc.ir.ops import Apply, Linear

from .base import WORDS, Conversion, Offer, Question, Refusal, Way, WordPlan
from .planned import Planned, PlannedDecryption, PlannedInput, PlannedReshape


class _OnWords(Planned[WordPlan]):
    space = WORDS

    def plan(self, question: Question) -> WordPlan | str:
        return question.words

    def terms(self, plan: WordPlan) -> str:
        return f"words of {plan.parameters.bits} bits"

    def _gates(self, node: Node, question: Question, what: str) -> Offer | Refusal:
        plan = self.plan(question)
        if isinstance(plan, str):
            return Refusal(plan)
        seconds = plan.node_seconds.get(node.id, 0.0)
        return Offer(self.space, self.space, seconds, f"{what} of {self.terms(plan)}, a bootstrap for each gate")


class WordInput(_OnWords, PlannedInput[WordPlan]):
    """The client encrypts every bit of its words."""

    name = "fhew words, fresh"


class WordReshape(_OnWords, PlannedReshape[WordPlan]):
    """Moves nothing."""

    name = "in place, fhew words"


class WordLinear(_OnWords):
    """Sums of products: of public weights the bits fold away, encrypted ones take a multiplier each."""

    name = "fhew words"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Linear):
            return None
        what = "products with encrypted words" if node.op.encrypted else "sums of shifted words"
        return self._gates(node, question, what)


class WordTables(_OnWords):
    """A function as the table of its words."""

    name = "fhew table of words"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        return self._gates(node, question, "choices") if isinstance(node.op, Apply) else None


class WordDecryption(PlannedDecryption):
    """Exact results."""

    name = "decryption of words"
    source = WORDS


WAYS: tuple[Way, ...] = (WordInput(), WordReshape(), WordLinear(), WordTables())
CONVERSIONS: tuple[Conversion, ...] = (WordDecryption(),)
