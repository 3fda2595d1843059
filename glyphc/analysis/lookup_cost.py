"""What tables in bootstraps cost on the kernels, which alone look them up, in terms of what functions cost there."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from glyphc.ir.parameters import MAX_DEGREES, Parameters
from glyphc.ir.series import Lookup
from glyphc.ir.tables import parted

from .cost import CostModel, deepest

_LOWEST = min(MAX_DEGREES.values())
_TYPICAL = 27
# Of a function of the lowest degree: what SlotsToCoeffs takes, and not the series.
_TRANSFORM = 0.6
# A product of ciphertexts where look-ups make them, and the key switch that makes a bit real, beside a series of the
# typical degree, which has three products.
_PRODUCT, _REAL = 1 / 3, 1 / 4


def lookup_seconds(lookup: Lookup, parameters: Parameters, cost: CostModel) -> float:
    """Of the half of a bootstrap that looks one table up."""

    def function(degree: int) -> float:
        return cost.evaluate_seconds(parameters.slots, degree, parameters.ring, deepest(parameters, cost.engine))

    transform = _TRANSFORM * function(_LOWEST)
    series, typical = function(lookup.degree) - transform, function(_TYPICAL) - transform
    low, high = parted(len(lookup.bits))
    products = (1 << low) - 1 - low + (1 << high) - 1 - high + 1
    return transform + len(lookup.bits) * (series + _REAL * typical) + products * _PRODUCT * typical


def lookup_bytes(parameters: Parameters) -> float:
    """At the peak of a look-up, beside what other functions take: bits, products and sums, of both halves."""
    low, high = parted(parameters.table_bits)
    halves = 2 if 2 * parameters.slots == parameters.ring else 1
    limbs = 1 + parameters.level_budget[1] + parameters.slot_levels
    return halves * 16.0 * parameters.ring * limbs * ((1 << low) + 2 * (1 << high))


def key_bytes(parameters: Parameters, cost: CostModel) -> float:
    """All evaluation keys in memory."""
    return _key_bytes(parameters) if parameters.table_bits else cost.key_bytes(parameters)


def idle_bytes(parameters: Parameters, cost: CostModel) -> float:
    """Resident memory of a process that holds contexts and keys and no ciphertext."""
    if not parameters.table_bits:
        return cost.idle_bytes(parameters)
    usual = replace(parameters, slot_levels=0, table_bits=0)
    return cost.idle_bytes(usual) - cost.key_bytes(usual) + _key_bytes(parameters)


@lru_cache(maxsize=16)
def _key_bytes(parameters: Parameters) -> float:
    from glyphc.backends.kernels.shape import EngineShape  # loads compiled code

    specs = EngineShape(parameters).specs()
    return sum(16.0 * parameters.ring * spec.shape.digits * len(spec.shape.primes) for spec in specs)
