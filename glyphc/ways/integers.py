"""BFV with the batch in slots, one ciphertext per feature: exact integers modulo t, polynomials without rounding.

As for numbers in slots, prices come from a plan for the whole network (``glyphc.passes.plan_integers``).
"""

from __future__ import annotations

from collections.abc import Sequence

from glyphc.ir.graph import Node
from glyphc.ir.ops import Apply, Input, Linear, Reshape

from .base import CLIENT, INTEGERS, Conversion, IntegerPlan, Offer, Question, Refusal, Way


class _OnIntegers(Way):
    """A way that a plan prices."""

    def planned(self, node: Node, question: Question, what: str) -> Offer | Refusal:
        plan = question.integers
        if not isinstance(plan, IntegerPlan):
            return Refusal(plan)
        p = plan.parameters
        reason = f"{what}; N = {p.ring}, t of {p.modulus.bit_length()} bits, the same for up to {p.slots:,} samples"
        return Offer(INTEGERS, INTEGERS, plan.node_seconds.get(node.id, 0.0), reason)


class IntegerInput(_OnIntegers):
    """The client encrypts a ciphertext for each feature and each plaintext prime."""

    name = "bfv slots, fresh"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Input):
            return None
        plan = question.integers
        if not isinstance(plan, IntegerPlan):
            return Refusal(plan)
        seconds = plan.client_seconds + question.cost.upload_seconds(plan.upload_bytes)
        reason = f"{plan.client_seconds:.1f} s to encrypt and decrypt, {plan.upload_bytes / 1e6:.1f} MB to send"
        return Offer(INTEGERS, INTEGERS, seconds, reason)


class IntegerReshape(_OnIntegers):
    """Moves nothing."""

    name = "in place, bfv slots"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        return self.planned(node, question, "moves nothing") if isinstance(node.op, Reshape) else None


class IntegerLinear(_OnIntegers):
    """Sums of ciphertexts times plaintext integers."""

    name = "bfv slots"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Linear):
            return None
        if node.op.encrypted:
            return Refusal("the server would see the weights")
        products = node.type.size * sum(o.type.size for o in operands)
        return self.planned(node, question, f"{products:,} products with integers")


class IntegerPolynomials(_OnIntegers):
    """A function that is a polynomial already."""

    name = "bfv polynomial in slots"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Apply):
            return None
        return self.planned(node, question, "a polynomial with integer coefficients")


class IntegerDecryption(Conversion):
    """Results leave the server in slots."""

    name = "decryption of integers"
    source = INTEGERS
    target = CLIENT

    def offer(self, value: Node, question: Question) -> Offer | Refusal:
        return Offer(self.source, self.target, 0.0, "decrypted by the client")


WAYS: tuple[Way, ...] = (IntegerInput(), IntegerReshape(), IntegerLinear(), IntegerPolynomials())
CONVERSIONS: tuple[Conversion, ...] = (IntegerDecryption(),)
