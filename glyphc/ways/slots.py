"""Leveled CKKS with the batch in slots, one ciphertext per feature: products with weights, polynomials for functions.

What a node costs here depends on the levels of the whole network, so its price comes from a plan for all of it
(``glyphc.passes.plan_slots``); its lowering and noise are in ``glyphc.slots``.
"""

from __future__ import annotations

from glyphc.ir.graph import Node

from .base import BGV, SLOTS, TORUS, Conversion, Offer, Question, Refusal, SlotPlan, Way
from .planned import Planned, PlannedDecryption, PlannedFunction, PlannedInput, PlannedLinear, PlannedReshape


class _InSlots(Planned[SlotPlan]):
    space = SLOTS

    def plan(self, question: Question) -> SlotPlan | str:
        return question.slots

    def terms(self, plan: SlotPlan) -> str:
        return f"N = {plan.parameters.ring}, {plan.parameters.depth} levels"


class SlotInput(_InSlots, PlannedInput[SlotPlan]):
    """The client encrypts a ciphertext for each feature."""

    name = "ckks slots, fresh"


class SlotReshape(_InSlots, PlannedReshape[SlotPlan]):
    """Moves nothing."""

    name = "in place, slots"


class SlotLinear(_InSlots, PlannedLinear[SlotPlan]):
    """Sums of ciphertexts times plaintext numbers."""

    name = "ckks slots"
    factors = "numbers, a level"


class SlotPolynomial(_InSlots, PlannedFunction[SlotPlan]):
    """A polynomial in place of the function, without retraining."""

    name = "ckks polynomial in slots"

    def replacement(self, question: Question) -> str:
        plan = question.slots
        degrees = plan.degrees if isinstance(plan, SlotPlan) else ""
        return f"polynomials of {degrees}, fitted to the calibration data"


class SlotDecryption(PlannedDecryption):
    """Numbers, with the noise of their arithmetic."""

    name = "decryption of slots"
    source = SLOTS


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
