"""Parameters of a program on exact integers in slots: a BFV context for each prime of the plaintext modulus."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from .parameters import INSECURE, SECURE, Parameters
from .slot_parameters import SlotParameters
from .word_parameters import WordParameters

# Of the ciphertext modulus. Beyond 30 bits of a plaintext prime, OpenFHE decrypts wrongly.
PRIME_BITS = 60
MOST_PLAINTEXT_BITS = 30


def is_prime(number: int) -> bool:
    """Of numbers below 2^30: strong probable primes to four bases are primes there (Jaeschke 1993)."""
    if number < 2 or any(number % p == 0 for p in (2, 3, 5, 7)):
        return number in (2, 3, 5, 7)
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7):
        powers = [pow(base, odd << k, number) for k in range(twos)]
        if powers[0] != 1 and number - 1 not in powers:
            return False
    return True


@dataclass(frozen=True)
class IntegerParameters:
    """What a backend needs to make its contexts.

    ring: N; a ciphertext has N slots. moduli: primes, 1 modulo 2N; a value is known modulo their product, and has a
    ciphertext for each of them. limbs: primes of 60 bits of a ciphertext's modulus. products: whether ciphertexts are
    multiplied, which takes a relinearisation key. block: slots of a block where blocks are summed up, which takes keys
    of automorphisms; 0 where none are. Secrets are uniform ternary. security: as in ``Parameters``.
    """

    ring: int
    moduli: tuple[int, ...]
    limbs: int
    products: bool
    security: str = SECURE
    block: int = 0

    def __post_init__(self) -> None:
        if self.security not in (SECURE, INSECURE):
            raise ValueError(f"security must be {SECURE!r} or {INSECURE!r}, not {self.security!r}")
        if self.ring < 8 or self.ring & (self.ring - 1) or self.ring > 1 << 17:
            raise ValueError(f"the ring dimension must be a power of two, not {self.ring}")
        if not 1 <= len(self.moduli) <= 2 or len(set(self.moduli)) < len(self.moduli):
            raise ValueError(f"one plaintext prime or two different ones are possible, not {self.moduli}")
        for t in self.moduli:
            if t % (2 * self.ring) != 1 or not 2 * self.ring < t < 1 << MOST_PLAINTEXT_BITS or not is_prime(t):
                raise ValueError(f"{t} is no plaintext modulus for slots at ring dimension {self.ring}")
        if not 1 <= self.limbs <= 16:
            raise ValueError(f"a ciphertext has 1 to 16 limbs, not {self.limbs}")
        if self.block < 0 or self.block > self.ring // 2 or self.block & (self.block - 1):
            raise ValueError(f"a block is a power of two of slots of one row, not {self.block}")

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
    def automorphisms(self) -> tuple[int, ...]:
        """Exponents k of X -> X^k that a sum over all blocks takes, one after another: rotations of both rows by 5^r,
        each twice as far as the one before, and the exchange of the rows."""
        if not self.block:
            return ()
        steps = range(self.block.bit_length() - 1, (self.ring // 2).bit_length() - 1)
        return (*(pow(5, 1 << k, 2 * self.ring) for k in steps), 2 * self.ring - 1)

    @property
    def inner_automorphisms(self) -> tuple[int, ...]:
        """The same of a sum over the slots of each block."""
        return ()

    @property
    def key_automorphisms(self) -> tuple[int, ...]:
        """All that there are keys for."""
        return (*self.automorphisms, *self.inner_automorphisms)

    @property
    def element_bytes(self) -> int:
        """Of one element of a ciphertext in one context, as it is sent."""
        return self.ring * self.limbs * -(-PRIME_BITS // 8)

    @property
    def fresh_bytes(self) -> int:
        """Of a fresh ciphertext for each prime: one element, the other is expanded from a seed."""
        return self.element_bytes * len(self.moduli)

    @property
    def output_bytes(self) -> int:
        """Of any other ciphertext."""
        return 2 * self.fresh_bytes

    @property
    def modulus(self) -> int:
        """Modulo what values are known."""
        return prod(self.moduli)

    @property
    def modulus_bits(self) -> int:
        """log2 of the ciphertext modulus. Keys have no larger one: key switching decomposes by primes (BV)."""
        return self.limbs * PRIME_BITS


@dataclass(frozen=True)
class IntegerStepParameters(IntegerParameters):
    """Of a training step. within: slots of the blocks whose own slots are summed up, each into the first one."""

    within: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.within < 1 or self.within > self.ring // 2 or self.within & (self.within - 1):
            raise ValueError(f"a block is a power of two of slots of one row, not {self.within}")

    @property
    def inner_automorphisms(self) -> tuple[int, ...]:
        return tuple(pow(5, 1 << k, 2 * self.ring) for k in range(self.within.bit_length() - 1))


# Of whichever family a program is.
ProgramParameters = Parameters | SlotParameters | IntegerParameters | WordParameters
