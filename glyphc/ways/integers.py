"""BFV with the batch in slots, one ciphertext per feature: exact integers modulo t, polynomials without rounding.

Prices come from a plan for the whole network (``glyphc.passes.plan_integers``).
"""

from __future__ import annotations

from .base import INTEGERS, Conversion, IntegerPlan, Question, Way
from .planned import Planned, PlannedDecryption, PlannedFunction, PlannedInput, PlannedLinear, PlannedReshape


class _OnIntegers(Planned[IntegerPlan]):
    space = INTEGERS

    def plan(self, question: Question) -> IntegerPlan | str:
        return question.integers

    def terms(self, plan: IntegerPlan) -> str:
        return f"N = {plan.parameters.ring}, t of {plan.parameters.modulus.bit_length()} bits"


class IntegerInput(_OnIntegers, PlannedInput[IntegerPlan]):
    """The client encrypts a ciphertext for each feature and each plaintext prime."""

    name = "bfv slots, fresh"


class IntegerReshape(_OnIntegers, PlannedReshape[IntegerPlan]):
    """Moves nothing."""

    name = "in place, bfv slots"


class IntegerLinear(_OnIntegers, PlannedLinear[IntegerPlan]):
    """Sums of ciphertexts times plaintext integers."""

    name = "bfv slots"
    factors = "integers"


class IntegerPolynomials(_OnIntegers, PlannedFunction[IntegerPlan]):
    """A function that is a polynomial already."""

    name = "bfv polynomial in slots"

    def replacement(self, question: Question) -> str:
        return "a polynomial with integer coefficients"


class IntegerTables(_OnIntegers, PlannedFunction[IntegerPlan]):
    """A table in place of a function, looked up by bits that the client encrypts."""

    name = "table by the client's bits in slots"

    def replacement(self, question: Question) -> str:
        return "a trip to the client, which sees the values, and products of bits"


class IntegerDecryption(PlannedDecryption):
    """Exact results."""

    name = "decryption of integers"
    source = INTEGERS


# What functions become.
POLYNOMIAL_WAYS: tuple[Way, ...] = (IntegerPolynomials(),)
TABLE_WAYS: tuple[Way, ...] = (IntegerTables(),)
# What every network on integers takes.
COMMON_WAYS: tuple[Way, ...] = (IntegerInput(), IntegerReshape(), IntegerLinear())
WAYS: tuple[Way, ...] = (*COMMON_WAYS, *POLYNOMIAL_WAYS, *TABLE_WAYS)
CONVERSIONS: tuple[Conversion, ...] = (IntegerDecryption(),)
