"""Choice of a ring and its moduli for a depth and a precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from glyphc.analysis.security import MAX_LOG_QP_SLOTS, modulus_limit
from glyphc.ir.parameters import INSECURE, SECURE
from glyphc.ir.slot_parameters import SlotParameters

# Rings that slot programs may use at 128-bit security.
RINGS = tuple(MAX_LOG_QP_SLOTS)
# log2 of the scale: below, noise of one rescaling shows; above, a prime plus what it takes at the end has no 60 bits.
SCALING_BITS = range(28, 51)
# Bits above the scale that the last prime has: results in units of their range, and what polynomials overshoot.
_HEADROOM = 4
_MOST_DIGITS = 12


def secure(parameters: SlotParameters) -> bool:
    """Whether the moduli keep to 128-bit security for a uniform ternary secret."""
    return parameters.modulus_bits <= modulus_limit(parameters)


def possible(ring: int, depth: int, scaling_bits: int, insecure: bool = False) -> Iterator[SlotParameters]:
    """Parameters of this ring, by ascending digits: fewer are faster, more take a smaller auxiliary modulus."""
    for digits in range(1, min(depth + 1, _MOST_DIGITS) + 1):
        found = SlotParameters(
            ring, depth, scaling_bits, scaling_bits + _HEADROOM, digits, INSECURE if insecure else SECURE
        )
        if found.digits_possible and (insecure or secure(found)):
            yield found


def deepest() -> int:
    """Levels beyond which no ring is secure."""
    return max(depth for depth in range(1, 60) if any(possible(RINGS[-1], depth, SCALING_BITS[0])))


def smallest_scale(
    ring: int, depth: int, precise: Callable[[SlotParameters], bool], insecure: bool = False
) -> list[SlotParameters]:
    """All numbers of digits at the smallest scale at which a ring is precise enough; none where it is never that."""
    for bits in SCALING_BITS:
        found = list(possible(ring, depth, bits, insecure))
        if found and precise(found[0]):
            return found
    return []
