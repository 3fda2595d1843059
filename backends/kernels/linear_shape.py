"""What the kernels make of the linear context of training: its primes, which are OpenFHE's, and the keys of its own.

The client encrypts and decrypts in OpenFHE's context, so ciphertexts have its moduli. These are small enough for the
kernels; keys have auxiliary primes of 48 bits, as those of bootstraps.
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
from .shape import MARGIN, WIDE_BITS, KeySpec, inverse_automorphism, largest_modulus

MULTIPLICATION = "linear/multiplication"
# A conversion reads at most 15 primes, one of which is a dropped level's.
_LARGEST_DIGIT = 8


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
    def key_shape(self) -> KeyShape:
        """Of all keys: one digit, for moduli of usual length."""
        return key_shape(self.parameters)

    @cached_property
    def primes(self) -> tuple[int, ...]:
        """The basis: the context's, and the auxiliary ones."""
        more = primes_below(WIDE_BITS, self.n)
        return (*self.moduli, *(next(more) for _ in self.key_shape.special))

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

    def automorphism_key(self, index: int) -> KeySpec:
        """X -> X^index."""
        return automorphism_spec(self.parameters, index)

    def specs(self) -> Iterator[KeySpec]:
        """All keys."""
        return linear_specs(self.parameters, self.periods)


def key_shape(parameters: Parameters) -> KeyShape:
    """Of all keys: from the parameters alone."""
    limbs = parameters.linear_limbs
    digits = -(-limbs // _LARGEST_DIGIT)
    each = -(-limbs // digits)
    # OpenFHE's primes may be a little larger than it was asked for
    special = -(-(each * (parameters.linear_bits + 1) + MARGIN) // WIDE_BITS)
    return KeyShape(tuple(range(limbs)), each, tuple(range(limbs, limbs + special)))


def linear_specs(parameters: Parameters, periods: Sequence[int]) -> Iterator[KeySpec]:
    """All keys, from what a program says."""
    yield KeySpec(MULTIPLICATION, "s^2", "s", key_shape(parameters))
    for index in automorphisms_of(parameters.ring, periods):
        yield automorphism_spec(parameters, index)


def automorphism_spec(parameters: Parameters, index: int) -> KeySpec:
    """Of the key for X -> X^index."""
    inverse = inverse_automorphism(index, parameters.ring)
    return KeySpec(f"linear/automorphism-{index}", "s", f"s(X^{inverse})", key_shape(parameters))
