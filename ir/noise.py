"""Sizes of the elementary noises: part of the instructions' definition, shared by the noise model and the simulator.

Measured on OpenFHE 1.6.1; ``tests/test_noise_model.py`` measures them again.
"""

from __future__ import annotations

from math import hypot, sqrt

from .parameters import AUXILIARY_PRIME_BITS

# Standard deviation of fresh encryption noise, in units of the modulus' last place: the homomorphic encryption
# standard's.
SIGMA = 3.19
# Hamming weight of OpenFHE's secret in contexts with SPARSE_ENCAPSULATED keys.
SECRET_WEIGHT = 192
# Rounding both elements of a ciphertext to another modulus: 1 + weight uniform errors of variance 1/12.
ROUNDING = sqrt((1 + SECRET_WEIGHT) / 12)
# Noise of a series' value per unit of its gain (see ``series.noise_gain``), at N = 65536; proportional to N.
BOOTSTRAP = 6.5e-6
# Absolute noise of a decoded phase, from the key switches in SlotsToCoeffs.
DECODING_FLOOR = 2.0**-43


def key_switch(ring: int, bgv_bits: float) -> float:
    """Standard deviation of one key switch in BGV, in units of the modulus' last place.

    A uniform element modulo q times the key's noise, divided by the auxiliary prime, and the rounding of that division.
    """
    return hypot(ROUNDING, SIGMA * sqrt(ring / 12) * 2.0 ** (bgv_bits - AUXILIARY_PRIME_BITS))
