"""Types of the values in a graph.

One type describes a value at every level; each stage fills in more of it (see :class:`Level`):
shape at the source level, calibrated range and fixed-point format after quantization, scheme and encoding
after scheme assignment, layout after layout assignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod

from .layout import Layout


class Level(Enum):
    """How far a graph has been compiled. The order of the members is the order of the stages."""

    SOURCE = "source"  # float tensors, ops as in the network
    QUANTIZED = "quantized"  # fixed point: integer linear maps and univariate functions
    ASSIGNED = "assigned"  # every value has a scheme; switches stand between schemes
    LAIDOUT = "laidout"  # every encrypted value has an exponent layout

    def __ge__(self, other: Level) -> bool:
        order = list(Level)
        return order.index(self) >= order.index(other)


class Scheme(Enum):
    """What a value is encrypted under. All schemes of a program share one secret key."""

    BGV = "bgv"  # exact integers modulo t in the coefficients: linear maps
    BFV = "bfv"  # exact integers modulo t in slots
    CKKS = "ckks"  # approximate numbers: products of ciphertexts (training)
    TORUS = "torus"  # TFHE-like: input of a (packed) functional bootstrap
    FHEW = "fhew"  # single bits: gates, each of which is a bootstrap
    CLIENT = "client"  # decrypted, computed by the key holder


class Encoding(Enum):
    """Where the message stands: in a ciphertext's coefficients modulo q (plaintext modulus t), in its slots, or in a
    ciphertext for each bit."""

    LSB = "lsb"  # m + t*e: least significant bits (BGV)
    MSB = "msb"  # (q/t)*m + e: most significant bits (what a bootstrap reads)
    SLOTS = "slots"  # numbers, one of each sample in a slot: products are elementwise (CKKS)
    INTEGERS = "integers"  # the same with exact integers modulo t (BFV)
    BITS = "bits"  # a ciphertext for each bit of an integer (FHEW)


@dataclass(frozen=True)
class Guard:
    """The range of a value that is planned for: what calibration saw, and the margin that its tail asks for.

    Number formats reach farther where all functions of the value are nearly constant. price: by what factor that
    makes the errors of their series larger. left: how many held-out calibration samples would have left a range that
    the others ask for; held_out: of how many.
    """

    lo: float
    hi: float
    price: float = 1.0
    left: int = 0
    held_out: int = 0


@dataclass(frozen=True)
class Calibration:
    """What calibration saw of a value: real range and a histogram of equal bins over [lo, hi].

    reach: in ten equal bins, how many samples' farthest element comes how far from the middle of the range to its end.
    guard: of values that functions are applied to and of results, once their formats are chosen.
    error: simulated rms error beside the float network's value, in real units; None where it was not simulated.
    """

    lo: float
    hi: float
    histogram: tuple[int, ...] = ()
    reach: tuple[int, ...] = ()
    guard: Guard | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        if not self.lo <= self.hi:
            raise ValueError(f"empty range [{self.lo}, {self.hi}]")

    @property
    def magnitude(self) -> float:
        return max(abs(self.lo), abs(self.hi))


@dataclass(frozen=True)
class FixedPoint:
    """real = scale * integer + offset, with integers in [lo, hi]: the *allowed* range, guard band included.

    scale and offset have one entry for the whole tensor, or one for each element (inputs whose features differ in
    magnitude, as in tables).
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    lo: int
    hi: int

    def __post_init__(self) -> None:
        if not self.scale or len(self.scale) != len(self.offset) or not all(s > 0 for s in self.scale):
            raise ValueError("a fixed-point format needs positive scales and as many offsets")
        if self.lo > self.hi:
            raise ValueError(f"empty integer range [{self.lo}, {self.hi}]")

    @property
    def reach(self) -> float:
        """How far from zero its real values lie at most."""
        return max(abs(o) + s * self.magnitude for s, o in zip(self.scale, self.offset, strict=True))

    @property
    def uniform(self) -> bool:
        """Whether one scale holds for all elements."""
        return len(self.scale) == 1

    @property
    def magnitude(self) -> int:
        return max(abs(self.lo), abs(self.hi))

    @property
    def bits(self) -> int:
        """Width of a signed integer that holds the range."""
        return self.magnitude.bit_length() + 1

    @property
    def word_bits(self) -> int:
        """Width of the shortest word in two's complement that holds the range, at least 2."""
        return max((abs(v) - (v < 0)).bit_length() for v in (self.lo, self.hi, 1)) + 1

    @property
    def real_lo(self) -> float:
        return min(s * self.lo + o for s, o in zip(self.scale, self.offset, strict=True))

    @property
    def real_hi(self) -> float:
        return max(s * self.hi + o for s, o in zip(self.scale, self.offset, strict=True))


@dataclass(frozen=True)
class TensorType:
    """A tensor of one sample (the batch axis is implicit) and what is known of its representation."""

    shape: tuple[int, ...]
    calibration: Calibration | None = None
    fixed: FixedPoint | None = None
    scheme: Scheme | None = None
    encoding: Encoding | None = None
    layout: Layout | None = None

    @property
    def size(self) -> int:
        """Number of elements of one sample."""
        return prod(self.shape)
