"""Parameters of a program whose numbers stand in slots: one CKKS context, chosen by the compiler."""

from __future__ import annotations

from dataclasses import dataclass

from .parameters import AUXILIARY_PRIME_BITS, INSECURE, SECURE


@dataclass(frozen=True)
class SlotParameters:
    """What a backend needs to make its context.

    ring: N; a ciphertext has N/2 slots. depth: levels of a fresh ciphertext. scaling_bits: log2 of the scale, and of
    the primes that rescalings divide by. first_bits: of the prime that is left at the end. large_digits: of key
    switching. The secret's coefficients are uniform in -1, 0, 1. security: as in ``Parameters``.
    """

    ring: int
    depth: int
    scaling_bits: int
    first_bits: int
    large_digits: int
    security: str = SECURE

    def __post_init__(self) -> None:
        if self.security not in (SECURE, INSECURE):
            raise ValueError(f"security must be {SECURE!r} or {INSECURE!r}, not {self.security!r}")
        if self.ring < 8 or self.ring & (self.ring - 1) or self.ring > 1 << 17:
            raise ValueError(f"the ring dimension must be a power of two, not {self.ring}")
        if not 1 <= self.depth <= 64 or not 1 <= self.large_digits <= self.depth + 1:
            raise ValueError(f"{self.depth} levels with {self.large_digits} digits are not possible")
        if not 20 <= self.scaling_bits <= self.first_bits <= 60:
            raise ValueError(f"primes of {self.first_bits} and {self.scaling_bits} bits are not possible")

    def check_powers(self) -> None:
        """As of ``Parameters``; here they are refused when they are made."""

    @property
    def secure(self) -> bool:
        return self.security != INSECURE

    @property
    def slots(self) -> int:
        """Numbers in a ciphertext."""
        return self.ring // 2

    @property
    def limbs(self) -> int:
        """Primes of a fresh ciphertext's modulus."""
        return self.depth + 1

    @property
    def ciphertext_bits(self) -> int:
        """log2 of the modulus of a fresh ciphertext."""
        return self.first_bits + self.depth * self.scaling_bits

    @property
    def residue_bytes(self) -> tuple[int, ...]:
        """Bytes of a residue modulo each prime as it is sent, that which is left at the end first.

        Primes lie on both sides of 2^bits: what they take does not depend on which ones OpenFHE finds.
        """
        return tuple(-(-(bits + 1) // 8) for bits in (self.first_bits, *[self.scaling_bits] * self.depth))

    @property
    def fresh_bytes(self) -> int:
        """Bytes of a fresh ciphertext as it is sent: one of its elements; the other is expanded from a seed."""
        return self.ring * sum(self.residue_bytes)

    @property
    def output_bytes(self) -> int:
        """Bytes of an output as it is sent: both elements modulo the prime that is left."""
        return 2 * self.ring * self.residue_bytes[0]

    @property
    def towers_per_digit(self) -> int:
        return -(-self.limbs // self.large_digits)

    @property
    def auxiliary_primes(self) -> int:
        """Primes of key switching's auxiliary modulus P: as large as the largest digit, whose primes may each be a bit
        longer than they are named: so OpenFHE counts.
        """
        digit = self.first_bits + (self.towers_per_digit - 1) * self.scaling_bits + self.towers_per_digit
        return -(-(digit + 1) // AUXILIARY_PRIME_BITS)

    @property
    def modulus_bits(self) -> int:
        """log2 of Q times P, as OpenFHE counts it for its check: primes alternate about powers of two."""
        return self.ciphertext_bits + 1 + self.auxiliary_primes * AUXILIARY_PRIME_BITS

    @property
    def digits_possible(self) -> bool:
        """Whether OpenFHE can distribute the primes over so many digits: none may be left without one."""
        return self.limbs > self.towers_per_digit * (self.large_digits - 1)
