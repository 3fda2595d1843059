"""What the kernels make of numbers in slots: keys for products of ciphertexts on OpenFHE's primes.

The client encrypts and decrypts in OpenFHE's context, so ciphertexts have its moduli; keys have auxiliary primes of 48
bits. There is one for all limbs and one for half of them: with few limbs, fewer auxiliary primes do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import log2

from glyphc.ir.slot_parameters import SlotParameters

from .arithmetic import PRIME_BITS
from .basis import LARGEST_RING, SMALLEST_RING, primes_below
from .keyswitch import KeyShape
from .shape import KEY_FORMAT, WIDE_BITS, KeySpec, largest_modulus, refuse

# Primes lie on both sides of the power of two that they are named by.
_LARGEST_BITS = PRIME_BITS - 1
# P exceeds a digit by so many bits; a digit's primes may each be a little larger than they are named.
_MARGIN = 8
# A conversion reads at most 15 primes, one of which is the dropped level's.
_MOST_SOURCES = 14


@dataclass(frozen=True)
class SlotShape:
    """moduli: of the context, the one that is left at the end first."""

    parameters: SlotParameters
    moduli: tuple[int, ...]

    @cached_property
    def primes(self) -> tuple[int, ...]:
        """The basis: the context's, and the auxiliary ones."""
        more = primes_below(WIDE_BITS, self.parameters.ring)
        count = max(len(spec.shape.special) for spec in slot_specs(self.parameters))
        return (*self.moduli, *(next(more) for _ in range(count)))

    def check(self) -> None:
        """BackendError where the keys' modulus is too large for 128 bits, which OpenFHE does not see."""
        bits = max(sum(log2(self.primes[p]) for p in s.shape.primes) for s in slot_specs(self.parameters))
        limit = largest_modulus(self.parameters.ring, sparse=False)
        if self.parameters.secure and bits > limit:
            refuse(f"its keys would have a modulus of 2^{bits:.0f}, beyond 2^{limit}")


def slots_problem(parameters: SlotParameters) -> str | None:
    """Why the kernels take no such program, in a sentence; None when they do. Loads no library."""
    if not SMALLEST_RING <= parameters.ring <= LARGEST_RING:
        return f"its ring dimensions are {SMALLEST_RING} to {LARGEST_RING}, not {parameters.ring}"
    if parameters.first_bits > _LARGEST_BITS:
        return f"its primes have up to {_LARGEST_BITS} bits, not {parameters.first_bits}"
    if _fitting(parameters, parameters.limbs) is None:
        return f"no keys for products keep to 2^{largest_modulus(parameters.ring, sparse=False)}"
    return None


def slot_specs(parameters: SlotParameters) -> Iterator[KeySpec]:
    """All keys, from what a program says. BackendError for what :func:`slots_problem` finds."""
    refuse(slots_problem(parameters))
    for limbs in key_limbs(parameters):
        shape = _fitting(parameters, limbs)
        assert shape is not None  # fewer limbs fit where all do
        yield KeySpec(product_key(limbs), "s^2", "s", shape)


def key_limbs(parameters: SlotParameters) -> tuple[int, ...]:
    """For how many limbs there is a key; one serves all smaller numbers down to the next. A product takes two."""
    top = max(2, parameters.limbs)
    return tuple(sorted({top, max(2, (top + 1) // 2)}, reverse=True))


def product_key(limbs: int) -> str:
    """The name of the key for so many limbs."""
    return f"multiplication-{limbs}"


def slots_fingerprint(parameters: SlotParameters) -> str:
    """Of everything that the meaning of these parameters' key files depends on, beside the context's primes."""
    parts = [f"format {KEY_FORMAT}", repr(parameters), *map(repr, slot_specs(parameters))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _fitting(parameters: SlotParameters, limbs: int) -> KeyShape | None:
    """As few digits as the bound allows; None where no number does."""
    bits = [parameters.first_bits, *[parameters.scaling_bits] * parameters.depth][:limbs]
    limit = largest_modulus(parameters.ring, sparse=False) if parameters.secure else float("inf")
    first = parameters.limbs
    for digits in range(1, len(bits) + 1):
        each = -(-len(bits) // digits)
        largest = max(sum(bits[at : at + each]) for at in range(0, len(bits), each))
        special = -(-(largest + _MARGIN) // WIDE_BITS)
        # the sum of all that primes may be larger than they are named is below a bit
        fits = sum(bits) + 1 + special * WIDE_BITS <= limit
        if fits and max(special, each) <= _MOST_SOURCES:
            return KeyShape(tuple(range(len(bits))), each, tuple(range(first, first + special)))
    return None
