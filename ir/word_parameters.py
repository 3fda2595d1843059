"""Parameters of a program on words of encrypted bits: one of OpenFHE's sets for FHEW with GINX bootstrapping."""

from __future__ import annotations

from dataclasses import dataclass

from .parameters import INSECURE, SECURE

# Of one word.
MOST_WORD_BITS = 16


@dataclass(frozen=True)
class WordParameters:
    """Every bit is an LWE ciphertext of its own, every gate a bootstrap of one.

    bits: of a word. security: as in ``Parameters``; secure is OpenFHE's set STD128, insecure its set TOY, which
    protects nothing. Secrets are uniform ternary.
    """

    bits: int
    security: str = SECURE

    def __post_init__(self) -> None:
        if self.security not in (SECURE, INSECURE):
            raise ValueError(f"security must be {SECURE!r} or {INSECURE!r}, not {self.security!r}")
        if not 2 <= self.bits <= MOST_WORD_BITS:
            raise ValueError(f"words have 2 to {MOST_WORD_BITS} bits, not {self.bits}")

    def check_powers(self) -> None:
        """As of ``Parameters``; here they are refused when they are made."""

    @property
    def secure(self) -> bool:
        return self.security != INSECURE

    @property
    def dimension(self) -> int:
        """n of the LWE ciphertexts, as OpenFHE has it for the set."""
        return 554 if self.secure else 64

    @property
    def ring(self) -> int:
        """N of the ring in which gates are bootstrapped."""
        return 1024 if self.secure else 512

    @property
    def modulus_bits(self) -> int:
        """log2 of the modulus there. Key switching back goes over a smaller one."""
        return 27

    @property
    def slots(self) -> int:
        """Values in a ciphertext: one bit of one sample."""
        return 1

    @property
    def fresh_bytes(self) -> int:
        """Of a ciphertext, with 8 bytes for each of its numbers."""
        return 8 * (self.dimension + 1)

    @property
    def output_bytes(self) -> int:
        return self.fresh_bytes
