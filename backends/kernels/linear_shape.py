"""What the kernels make of the linear context of training: its primes, which are OpenFHE's, and the keys of its own.

The client encrypts and decrypts in OpenFHE's context, so ciphertexts have its moduli. These are small enough for the
kernels; keys have auxiliary primes of 48 bits, as those of bootstraps. There are keys for each number of limbs: on one
limb, where most of packing happens, a switch takes two primes instead of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log2

from glyphc.ir.parameters import Parameters

from ..errors import BackendError
from ..openfhe.ckks_contexts import LinearContexts
from ..openfhe.ckks_linear import automorphisms_of
from .basis import primes_below
from .keyswitch import KeyShape
from .shape import WIDE_BITS, KeySpec, inverse_automorphism, largest_modulus

# A conversion reads at most 15 primes, one of which is a dropped level's.
_LARGEST_DIGIT = 8
# P exceeds a digit by so many bits: the errors of keys then stay below what divisions by P round.
_MARGIN = 8


@dataclass(frozen=True)
class LinearShape:
    """moduli: of the context, bottom first. periods: of packing (``automorphisms_of``)."""

    parameters: Parameters
    moduli: tuple[int, ...]
    periods: tuple[int, ...]

    @property
    def n(self) -> int:
        return self.parameters.ring

    @cached_property
    def primes(self) -> tuple[int, ...]:
        """The basis: the context's, and the auxiliary ones."""
        more = primes_below(WIDE_BITS, self.n)
        count = max(len(spec.shape.special) for spec in self.specs())
        return (*self.moduli, *(next(more) for _ in range(count)))

    @staticmethod
    def of(contexts: LinearContexts, periods: Sequence[int]) -> LinearShape:
        """BackendError where keys would not be secure."""
        shape = LinearShape(contexts.parameters, tuple(r.q for r in contexts.linear_rings), tuple(periods))
        shape.check()
        return shape

    def check(self) -> None:
        """BackendError where the keys' modulus is too large for 128 bits, which OpenFHE does not see."""
        bits, limit = sum(map(log2, self.primes)), largest_modulus(self.n, sparse=True)
        if self.parameters.secure and bits > limit:
            raise BackendError(f"keys for products would have a modulus of 2^{bits:.0f}, beyond 2^{limit}")

    def specs(self) -> Iterator[KeySpec]:
        """All keys."""
        return linear_specs(self.parameters, self.periods)


def key_shape(parameters: Parameters, limbs: int) -> KeyShape:
    """Of keys for ciphertexts on so many limbs: one digit, unless there are many."""
    digits = -(-limbs // _LARGEST_DIGIT)
    each = -(-limbs // digits)
    special = -(-(each * parameters.linear_bits + _MARGIN) // WIDE_BITS)
    first = parameters.linear_limbs
    return KeyShape(tuple(range(limbs)), each, tuple(range(first, first + special)))


def linear_specs(parameters: Parameters, periods: Sequence[int]) -> Iterator[KeySpec]:
    """All keys, from what a program says."""
    for limbs in range(1, parameters.linear_limbs + 1):
        shape = key_shape(parameters, limbs)
        if limbs > 1:  # a product costs one
            yield KeySpec(multiplication_name(limbs), "s^2", "s", shape)
        for index in automorphisms_of(parameters.ring, periods):
            inverse = inverse_automorphism(index, parameters.ring)
            yield KeySpec(automorphism_name(index, limbs), "s", f"s(X^{inverse})", shape)


def multiplication_name(limbs: int) -> str:
    """Of the key for products on so many limbs."""
    return f"linear/multiplication-{limbs}"


def automorphism_name(index: int, limbs: int) -> str:
    """Of the key for X -> X^index on so many limbs."""
    return f"linear/automorphism-{index}-{limbs}"
