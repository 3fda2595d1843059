"""Parameters of a program on exact integers in slots: a BFV context for each prime of the plaintext modulus."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from .parameters import INSECURE, SECURE, Parameters
from .slot_parameters import SlotParameters

# Of the ciphertext modulus. Beyond 30 bits of a plaintext prime, OpenFHE decrypts wrongly.
PRIME_BITS = 60
MOST_PLAINTEXT_BITS = 30


@dataclass(frozen=True)
class IntegerParameters:
    """What a backend needs to make its contexts.

    ring: N; a ciphertext has N slots. moduli: primes, 1 modulo 2N; a value is known modulo their product, and has a
    ciphertext for each of them. limbs: primes of 60 bits of a ciphertext's modulus. products: whether ciphertexts are
    multiplied, which takes a relinearisation key. Secrets are uniform ternary. security: as in ``Parameters``.
    """

    ring: int
    moduli: tuple[int, ...]
    limbs: int
    products: bool
    security: str = SECURE

    def __post_init__(self) -> None:
        if self.security not in (SECURE, INSECURE):
            raise ValueError(f"security must be {SECURE!r} or {INSECURE!r}, not {self.security!r}")
        if self.ring < 8 or self.ring & (self.ring - 1) or self.ring > 1 << 17:
            raise ValueError(f"the ring dimension must be a power of two, not {self.ring}")
        if not 1 <= len(self.moduli) <= 2 or len(set(self.moduli)) < len(self.moduli):
            raise ValueError(f"one plaintext prime or two different ones are possible, not {self.moduli}")
        for t in self.moduli:
            if t % (2 * self.ring) != 1 or not 2 * self.ring < t < 1 << MOST_PLAINTEXT_BITS:
                raise ValueError(f"{t} is no plaintext modulus for slots at ring dimension {self.ring}")
        if not 1 <= self.limbs <= 16:
            raise ValueError(f"a ciphertext has 1 to 16 limbs, not {self.limbs}")

    def check_powers(self) -> None:
        """As of ``Parameters``; here they are refused when they are made."""

    @property
    def secure(self) -> bool:
        return self.security != INSECURE

    @property
    def slots(self) -> int:
        """Numbers in a ciphertext."""
        return self.ring

    @property
    def modulus(self) -> int:
        """Modulo what values are known."""
        return prod(self.moduli)

    @property
    def modulus_bits(self) -> int:
        """log2 of the ciphertext modulus. Keys have no larger one: key switching decomposes by primes (BV)."""
        return self.limbs * PRIME_BITS


# Of whichever family a program is.
ProgramParameters = Parameters | SlotParameters | IntegerParameters
