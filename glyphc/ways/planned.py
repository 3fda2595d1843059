"""Ways that a plan for the whole network prices: the batch in slots, one ciphertext for each feature.

What a node costs in slots depends on the levels, or on the bits, of the whole network. Three families are made of
these: ``slots`` (CKKS numbers), ``integers`` (exact ones) and ``words`` (bits); they say where they are, by which plan,
and on what terms.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from glyphc.ir.graph import Node
from glyphc.ir.ops import Apply, Input, Linear, Reshape

from .base import CLIENT, Conversion, IntegerPlan, Offer, Question, Refusal, SlotPlan, Space, Way, WordPlan

PlanT = TypeVar("PlanT", SlotPlan, IntegerPlan, WordPlan)


class Planned(Way, Generic[PlanT]):
    """A way of one family. space: where its values are."""

    space: ClassVar[Space]

    @abstractmethod
    def plan(self, question: Question) -> PlanT | str:
        """What the network would be there, or why it cannot be."""

    @abstractmethod
    def terms(self, plan: PlanT) -> str:
        """Parameters, in a few words."""

    def planned(self, node: Node, question: Question, what: str) -> Offer | Refusal:
        """The plan's price of a node."""
        plan = self.plan(question)
        if isinstance(plan, str):
            return Refusal(plan)
        slots = plan.parameters.slots
        reason = f"{what}; {self.terms(plan)}" + (f", the same for up to {slots:,} samples" if slots > 1 else "")
        return Offer(self.space, self.space, plan.node_seconds.get(node.id, 0.0), reason)


class PlannedInput(Planned[PlanT]):
    """The client encrypts all features and sends them."""

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Input):
            return None
        plan = self.plan(question)
        if isinstance(plan, str):
            return Refusal(plan)
        seconds = plan.client_seconds + question.cost.upload_seconds(plan.upload_bytes)
        reason = f"{plan.client_seconds:.1f} s to encrypt and decrypt, {plan.upload_bytes / 1e6:.1f} MB to send"
        return Offer(self.space, self.space, seconds, reason)


class PlannedReshape(Planned[PlanT]):
    """Moves nothing."""

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        return self.planned(node, question, "moves nothing") if isinstance(node.op, Reshape) else None


class PlannedLinear(Planned[PlanT]):
    """Sums of ciphertexts times plaintexts. factors: what these are, in words."""

    factors: ClassVar[str]

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Linear):
            return None
        if node.op.encrypted:
            return Refusal("the server would see the weights")
        products = node.type.size * sum(o.type.size for o in operands)
        return self.planned(node, question, f"{products:,} products with {self.factors}")


class PlannedFunction(Planned[PlanT]):
    """Something else in place of a function of one value."""

    @abstractmethod
    def replacement(self, question: Question) -> str:
        """What, in words."""

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        return self.planned(node, question, self.replacement(question)) if isinstance(node.op, Apply) else None


class PlannedDecryption(Conversion):
    """Results leave the server in slots."""

    target = CLIENT

    def offer(self, value: Node, question: Question) -> Offer | Refusal:
        return Offer(self.source, self.target, 0.0, "decrypted by the client")
