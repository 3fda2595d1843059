"""Sizes of the elementary noises: part of the instructions' definition, shared by the noise model and the simulator.

Measured on OpenFHE 1.6.1; ``tests/test_noise_model.py`` measures them again.
"""

from __future__ import annotations

from math import hypot, sqrt

from .galois import Conjugation
from .parameters import AUXILIARY_PRIME_BITS, Parameters

# Standard deviation of fresh encryption noise, in units of the modulus' last place: the homomorphic encryption
# standard's.
SIGMA = 3.19
# Hamming weight of OpenFHE's secret in contexts with SPARSE_ENCAPSULATED keys.
SECRET_WEIGHT = 192
# Rounding both elements of a ciphertext to another modulus: 1 + weight uniform errors of variance 1/12.
ROUNDING = sqrt((1 + SECRET_WEIGHT) / 12)
# One key switch in the bootstrapping context, in units of the modulus' last place, measured: more than ROUNDING, since
# OpenFHE's conversion from the auxiliary modulus of several primes is an approximate one.
HYBRID_KEY_SWITCH = 16.0
# Noise of a bootstrap at N = 65536 and this scale, proportional to N, measured from N = 1024 to 65536: of the phase
# that the series is evaluated at (from CoeffsToSlots and the exponential), and of the series' value whatever its slope
# and size (from SlotsToCoeffs).
MEASURED_AT = 65536
SCALING_BITS = 47
PHASE_NOISE = 1.0e-6
VALUE_NOISE = 3.3e-7
# Absolute noise of a decoded phase, whatever factor the transform scales with: from its last key switches. Coefficients
# between those that hold values count with as much. OpenFHE has 2^-45 there. On the kernels it depends on what stood
# there before: 2^-39 where that filled the plaintext modulus, much less in programs.
DECODING_FLOOR = 2.0**-43


def fresh(parameters: Parameters) -> float:
    """Standard deviation of a fresh ciphertext's noise, in units of the modulus' last place.

    Kernels bring those of files from OpenFHE's modulus to their own, which rounds where it is no larger.
    """
    return SIGMA if parameters.sum_limbs > 1 else hypot(SIGMA, ROUNDING)


def key_switch(ring: int, bgv_bits: float, auxiliary_bits: float = AUXILIARY_PRIME_BITS) -> float:
    """Standard deviation of one key switch in BGV, in units of the modulus' last place.

    A uniform element modulo q times the key's noise, divided by the auxiliary modulus, and the rounding of that
    division.
    """
    return hypot(ROUNDING, SIGMA * sqrt(ring / 12) * 2.0 ** (bgv_bits - auxiliary_bits))


def baby_step_noise(switch: float, steps: Conjugation) -> float:
    """Standard deviation of what baby steps add to a sum over conjugates at most, for weights of energy 1.

    switch: of one key switch. The energy is the sum of the squares of all coefficients of the w_r. The W_k have P times
    as much together, and all but those that meet the source itself, which are as many as giant steps, multiply the
    noise of a key switch. Which of them have the energy depends on the weights: this is where none of it meets the
    source. Where all have as much, it is sqrt(1 - 1/babies) of this, half a bit less at two baby steps.
    """
    return switch * sqrt(steps.parts)


def giant_step_noise(switch: float, steps: Conjugation) -> float:
    """The same of giant steps, whatever the weights: a key switch each, behind the products."""
    return switch * sqrt(steps.giants - 1)


def external_products(ring: int, bgv_bits: float, products: float) -> float:
    """Standard deviation of a sum of products with encrypted weights, beside what each product makes of its operand's.

    A product is two key switches; the bias is a fresh encryption. OpenFHE rounds down when it divides by the auxiliary
    prime, half a unit on average. Times the secret, this is much the same in every key switch, so of many it counts
    most: it grows with their number, not with its root.
    """
    offset = products * sqrt(SECRET_WEIGHT)
    return hypot(offset, sqrt(2 * products) * key_switch(ring, bgv_bits), SIGMA)


def bootstrap(ring: int, slope: float, scaling_bits: int = SCALING_BITS) -> float:
    """Standard deviation of a series' value after a bootstrap, for a series of this rms slope."""
    return hypot(PHASE_NOISE * slope, VALUE_NOISE) * ring / MEASURED_AT * 2.0 ** (SCALING_BITS - scaling_bits)


def bootstrap_bits(scaling_bits: int, engine: str) -> int:
    """The scale that :func:`bootstrap` takes for an engine, of parameters with this one.

    The kernels have primes of their own, whatever the parameters say, and no more noise than OpenFHE at 47 bits.
    """
    return SCALING_BITS if engine == "kernels" else scaling_bits


def public_encryption(ring: int) -> float:
    """Deviation of the error of an encryption under a public key, in units of the modulus' last place.

    e0 + v e + e1 s: v has N coefficients of variance 2/3, s is sparse.
    """
    return SIGMA * sqrt(1 + 2 * ring / 3 + SECRET_WEIGHT)
