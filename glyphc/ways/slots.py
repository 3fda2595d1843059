"""Leveled CKKS with the batch in slots, one ciphertext per feature: products with weights, polynomials for functions.

What a node costs here depends on the levels of the whole network, so its price comes from a plan for all of it
(``glyphc.passes.plan_slots``); its lowering and noise are in ``glyphc.slots``.
"""

from __future__ import annotations

from collections.abc import Sequence

from glyphc.ir.graph import Node
from glyphc.ir.ops import Apply, Input, Linear, Reshape

from .base import BGV, CLIENT, SLOTS, TORUS, Conversion, Offer, Question, Refusal, SlotPlan, Way


class _InSlots(Way):
    """A way that a plan prices."""

    def planned(self, node: Node, question: Question, what: str) -> Offer | Refusal:
        plan = question.slots
        if not isinstance(plan, SlotPlan):
            return Refusal(plan)
        p = plan.parameters
        reason = f"{what}; N = {p.ring}, {p.depth} levels, the same for up to {p.slots:,} samples"
        return Offer(SLOTS, SLOTS, plan.node_seconds.get(node.id, 0.0), reason)


class SlotInput(_InSlots):
    """The client encrypts a ciphertext for each feature."""

    name = "ckks slots, fresh"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Input):
            return None
        plan = question.slots
        if not isinstance(plan, SlotPlan):
            return Refusal(plan)
        seconds = plan.client_seconds + question.cost.upload_seconds(plan.upload_bytes)
        reason = f"{plan.client_seconds:.1f} s to encrypt and decrypt, {plan.upload_bytes / 1e6:.1f} MB to send"
        return Offer(SLOTS, SLOTS, seconds, reason)


class SlotReshape(_InSlots):
    """Moves nothing."""

    name = "in place, slots"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        return self.planned(node, question, "moves nothing") if isinstance(node.op, Reshape) else None


class SlotLinear(_InSlots):
    """Sums of ciphertexts times plaintext numbers."""

    name = "ckks slots"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Linear):
            return None
        if node.op.encrypted:
            return Refusal("the server would see the weights")
        products = node.type.size * sum(o.type.size for o in operands)
        return self.planned(node, question, f"{products:,} products with numbers, a level")


class SlotPolynomial(_InSlots):
    """A polynomial in place of the function, without retraining."""

    name = "ckks polynomial in slots"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Apply):
            return None
        plan = question.slots
        degrees = plan.degrees if isinstance(plan, SlotPlan) else ""
        return self.planned(node, question, f"polynomials of {degrees}, fitted to the calibration data")


class SlotDecryption(Conversion):
    """Results leave the server in slots."""

    name = "decryption of slots"
    source = SLOTS
    target = CLIENT

    def offer(self, value: Node, question: Question) -> Offer | Refusal:
        return Offer(self.source, self.target, 0.0, "decrypted by the client")


class _NoWayBack(Conversion):
    """Between slots and the coefficient layouts."""

    def offer(self, value: Node, question: Question) -> Offer | Refusal:
        return Refusal(
            "takes the transforms of a bootstrap (CoeffsToSlots, SlotsToCoeffs) with their keys and levels, in a ring "
            "of another size with another secret"
        )


class SlotsToCoefficients(_NoWayBack):
    """Not offered."""

    name = "slots to coefficients"
    source = SLOTS
    target = TORUS


class CoefficientsToSlots(_NoWayBack):
    """Not offered."""

    name = "coefficients to slots"
    source = BGV
    target = SLOTS


WAYS: tuple[Way, ...] = (SlotInput(), SlotReshape(), SlotLinear(), SlotPolynomial())
CONVERSIONS: tuple[Conversion, ...] = (SlotDecryption(), SlotsToCoefficients(), CoefficientsToSlots())
