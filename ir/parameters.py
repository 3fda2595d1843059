"""Cryptographic parameters of a program, chosen by the compiler, never by the user."""

from __future__ import annotations

from dataclasses import dataclass

INSECURE = "insecure"
SECURE = "HEStd_128_classic"

# Size of the primes of the auxiliary modulus in hybrid key switching (OpenFHE's choice).
AUXILIARY_PRIME_BITS = 60

# Of the context for training's products: what engines are tested with; plans have four.
MOST_LINEAR_LIMBS = 16

# In which keys of the context for training's products are cut.
LINEAR_DIGITS = 2

# Of a level of the transforms on the kernels: their sums of products hold no more terms.
MOST_BABY_STEPS = 15

# Of keys for BGV sums on the kernels: two limbs and as many auxiliary primes. The kernels' primes have at most so many
# bits.
MOST_SUM_PRIMES, SUM_PRIME_BITS = 4, 48

# Bits by which OpenFHE may overestimate a digit before it has chosen its primes: measured, see the tests.
_DIGIT_SLACK_BITS = 5

# Largest log2(QP) at N = 65536 for the sparse secret of Hamming weight 192 that bootstraps use, for 128 bits. OpenFHE's
# check does not see the weight. The best attack known to the lattice-estimator (hybrid, meeting in the middle) takes
# 2^141.06 operations here, and 13 bits are kept for attacks on sparse secrets that it does not know (ePrint 2026/366).
# The estimates are made by scripts/estimate_security.py and shown in docs/security.md.
MAX_LOG_QP_SPARSE = 1462

# By ring, for uniform ternary secrets below N = 65536: where the newer model of the estimates still gives 128 bits (at
# the standard's bounds, made with an older one, it gives 126).
MAX_LOG_QP_UNIFORM = {16384: 430, 32768: 864}

# Levels that a series costs -> highest degree at that price (Paterson-Stockmeyer evaluation in OpenFHE). Degrees in
# between are rarely worth choosing. A test compares with ``CryptoContext.GetFBTDepth``.
MAX_DEGREES = {3: 13, 4: 27, 5: 59, 6: 119, 7: 247}


def series_levels(degree: int) -> int:
    """Levels that a series of this degree takes; ValueError above the highest degree."""
    for levels, highest in MAX_DEGREES.items():
        if degree <= highest:
            return levels
    raise ValueError(f"no series of degree {degree}: at most {max(MAX_DEGREES.values())}")


# What each field may be, ends included: far beyond what the compiler chooses, and below what overflows or fills the
# memory somewhere. Parameters come out of files, and a stranger may have written those.
_BOUNDS: dict[str, tuple[int, int]] = {
    "ring": (1, 1 << 17),
    "plaintext_bits": (0, 60),
    "bgv_bits": (0, 4096),
    "unpack_strides": (1, 1 << 17),
    "conjugates": (3, (1 << 18) - 1),
    "slots": (0, 1 << 16),
    "degree": (0, max(MAX_DEGREES.values())),
    "level_budget": (1, 17),
    "scaling_bits": (1, 60),
    "large_digits": (1, 100),
    "levels_kept": (0, 100),
    "slot_levels": (0, 100),
    "folded_levels": (0, 1),
    "table_bits": (0, 8),
    "linear_bits": (0, 60),
    "linear_limbs": (0, 100),
    "decoded_limbs": (0, 100),
    "baby_steps": (0, MOST_BABY_STEPS),
    "sum_primes": (2, MOST_SUM_PRIMES),
}
# Strides are powers of two.
_MOST_STRIDES = 18
# Of the sums over conjugates of a program: those of one with 2^16 parts are 510.
_MOST_CONJUGATES = 1024


@dataclass(frozen=True)
class Parameters:
    """What a backend needs to make its contexts.

    ring: N. plaintext_bits: log2 of the plaintext modulus t. bgv_bits: the BGV modulus is at least 2^bgv_bits.
    unpack_strides: strides of the splits, whose automorphism keys the server needs. conjugates: g of the automorphisms
    X -> X^g of sums over conjugates, whose keys it needs, too. slots: half of the values that one bootstrap refreshes;
    0 when the program has none. degree: of the series. level_budget, scaling_bits, large_digits:
    of the bootstrapping context. levels_kept: levels that are left after a bootstrap. slot_levels: levels for products
    in the middle of a bootstrap, where values stand in slots; folded_levels: how many of them an engine leaves out that
    multiplies masks into series, as the kernels do (``backends/kernels/polynomials.py``); table_bits: of the index of
    the largest table that is looked up there, 0 without any. linear_bits, linear_limbs: of the CKKS context in which
    training multiplies ciphertexts; decoded_limbs: those that a bootstrap's result has there. baby_steps: rotations of
    a level of the transforms that share one decomposition, at most, itself among them; 0 leaves that to the engine, and
    OpenFHE always decides itself. sum_primes: of a key for BGV sums on the kernels: two limbs and two auxiliary primes,
    or one limb, which has bgv_bits at least, and two or one; OpenFHE has one limb and one auxiliary prime of 60 bits at
    any rate. security: OpenFHE's security level, or "insecure" for the small rings of tests. ValueError for a value out
    of its bounds, or more folded levels than levels.
    """

    ring: int
    plaintext_bits: int
    bgv_bits: int
    unpack_strides: tuple[int, ...] = ()
    slots: int = 0
    degree: int = 0
    level_budget: tuple[int, int] = (3, 3)
    scaling_bits: int = 47
    large_digits: int = 3
    levels_kept: int = 0
    slot_levels: int = 0
    table_bits: int = 0
    linear_bits: int = 0
    linear_limbs: int = 0
    decoded_limbs: int = 0
    baby_steps: int = 0
    security: str = SECURE
    conjugates: tuple[int, ...] = ()
    sum_primes: int = MOST_SUM_PRIMES
    folded_levels: int = 0

    def __post_init__(self) -> None:
        if self.security not in (SECURE, INSECURE):
            raise ValueError(f"security must be {SECURE!r} or {INSECURE!r}, not {self.security!r}")
        for name, (lowest, highest) in _BOUNDS.items():
            given = getattr(self, name)
            for value in given if isinstance(given, tuple) else (given,):
                if not lowest <= value <= highest:
                    raise ValueError(f"{name}={value} is out of range; {lowest} to {highest} are possible")
        if self.folded_levels > self.slot_levels:
            raise ValueError(f"folded_levels={self.folded_levels} are more than slot_levels={self.slot_levels}")
        if len(self.unpack_strides) > _MOST_STRIDES:
            raise ValueError(f"unpack_strides are {len(self.unpack_strides)}, at most {_MOST_STRIDES} are possible")
        if len(self.conjugates) > _MOST_CONJUGATES:
            raise ValueError(f"conjugates are {len(self.conjugates)}, at most {_MOST_CONJUGATES} are possible")

    def check_powers(self) -> None:
        """ValueError unless ring and slots are powers of two that fit each other, and the levels of transforms these.

        Parameters of files, before their use. Those of training may ask for more levels, which OpenFHE lowers.
        """
        if self.ring & (self.ring - 1):
            raise ValueError(f"ring={self.ring} is not a power of two")
        if any(g % 2 == 0 or g >= 2 * self.ring for g in self.conjugates):
            raise ValueError(f"conjugates are odd numbers below {2 * self.ring}")
        if self.sum_limbs == 1 and self.bgv_bits >= SUM_PRIME_BITS:
            raise ValueError(
                f"sum_primes={self.sum_primes} keep BGV sums on one prime of {SUM_PRIME_BITS} bits, too few for "
                f"bgv_bits={self.bgv_bits}"
            )
        if self.slots & (self.slots - 1) or 2 * self.slots > self.ring:
            raise ValueError(f"slots={self.slots} is neither 0 nor a power of two of at most {self.ring // 2}")
        # a single slot has one level that does nothing
        most = max(1, self.slots.bit_length() - 1)
        if self.slots and not self.linear_limbs and max(self.level_budget) > most:
            raise ValueError(
                f"level_budget={list(self.level_budget)} is out of range; "
                f"transforms of {self.slots} slots have 1 to {most} levels"
            )

    @property
    def secure(self) -> bool:
        return self.security != INSECURE

    @property
    def plaintext_modulus(self) -> int:
        return 1 << self.plaintext_bits

    @property
    def sum_limbs(self) -> int:
        """Limbs of a BGV sum on the kernels."""
        return 2 if self.sum_primes == MOST_SUM_PRIMES else 1

    @property
    def sum_auxiliary_bits(self) -> int:
        """log2 of the auxiliary modulus of keys for BGV sums: the smallest of all engines."""
        return min(AUXILIARY_PRIME_BITS, (self.sum_primes - self.sum_limbs) * SUM_PRIME_BITS)

    @property
    def depth(self) -> int:
        """Levels of the context: a bootstrap's (``GetFBTDepth``) and those that it leaves.

        A bootstrap takes both transforms, e^{ix} with two doublings, and the series.
        """
        return sum(self.level_budget) + 10 + series_levels(self.degree) + self.slot_levels + self.levels_kept

    @property
    def towers(self) -> int:
        """Limbs of the bootstrapping context; 0 without one."""
        return self.depth + 1 if self.slots else 0

    @property
    def auxiliary_primes(self) -> int:
        """Limbs of the auxiliary modulus P of the bootstrapping context, which exceeds every digit; maybe one less."""
        digit = -(-self.towers // self.large_digits)
        return -(-(digit * self.scaling_bits + _DIGIT_SLACK_BITS) // AUXILIARY_PRIME_BITS) if digit else 0

    @property
    def digits_divide(self) -> bool:
        """Whether OpenFHE can cut the limbs into this many digits: all of one size, the last one not empty."""
        return not self.slots or -(-self.towers // self.large_digits) * (self.large_digits - 1) < self.towers

    @property
    def torus_key_bytes(self) -> int:
        """Of one evaluation key of the bootstrapping context in memory: two elements modulo Q P for every digit."""
        return 2 * 8 * self.ring * self.large_digits * (self.towers + self.auxiliary_primes)

    @property
    def modulus_bits(self) -> int:
        """log2 of the largest modulus that any key of the program uses (Q times the auxiliary modulus P)."""
        torus = self.towers * self.scaling_bits + self.auxiliary_primes * AUXILIARY_PRIME_BITS
        return max(torus, self.bgv_bits + AUXILIARY_PRIME_BITS, self.linear_modulus_bits)

    @property
    def linear_modulus_bits(self) -> int:
        """The same of the context that training multiplies in, whose keys have two digits; 0 without one."""
        if not self.linear_limbs:
            return 0
        digit = -(-self.linear_limbs // LINEAR_DIGITS) * self.linear_bits + _DIGIT_SLACK_BITS
        return self.linear_limbs * self.linear_bits - (-digit // AUXILIARY_PRIME_BITS) * AUXILIARY_PRIME_BITS
