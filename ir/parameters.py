"""Cryptographic parameters of a program, chosen by the compiler, never by the user."""

from __future__ import annotations

from dataclasses import dataclass

INSECURE = "insecure"

# Levels that a series costs -> highest degree at that price (Paterson-Stockmeyer evaluation in OpenFHE). Degrees in
# between are never worth choosing. A test compares with ``CryptoContext.GetFBTDepth``.
MAX_DEGREES = {3: 13, 4: 27, 5: 59, 6: 119, 7: 247}


@dataclass(frozen=True)
class Parameters:
    """What a backend needs to make its contexts.

    ring: N. plaintext_bits: log2 of the plaintext modulus t. bgv_bits: least size of the BGV modulus in bits.
    unpack_strides: strides of the splits, whose automorphism keys the server needs. slots: half of the values that one
    bootstrap refreshes; 0 when the program has none. degree: of the series. output_bits: log2 of the factor by which the
    bootstrap's output stands below its series. level_budget, scaling_bits, large_digits: of the bootstrapping context.
    security: name of OpenFHE's security level, or "insecure" for the small rings of tests.
    """

    ring: int
    plaintext_bits: int
    bgv_bits: int
    unpack_strides: tuple[int, ...] = ()
    slots: int = 0
    degree: int = 0
    output_bits: int = 0
    level_budget: tuple[int, int] = (3, 3)
    scaling_bits: int = 47
    large_digits: int = 3
    security: str = "HEStd_128_classic"

    @property
    def secure(self) -> bool:
        return self.security != INSECURE

    @property
    def plaintext_modulus(self) -> int:
        return 1 << self.plaintext_bits

    @property
    def depth(self) -> int:
        """Levels of one bootstrap: both transforms, e^{ix} with two doublings, the series.

        The series' share grows only at certain degrees (OpenFHE's ``GetFBTDepth``), see ``MAX_DEGREES``.
        """
        return sum(self.level_budget) + 10 + next(i for i, d in MAX_DEGREES.items() if d >= self.degree)
