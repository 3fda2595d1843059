"""Sizes of the elementary noises: part of the instructions' definition, shared by the noise model and the simulator.

Measured on OpenFHE 1.6.1; ``tests/test_noise_model.py`` measures them again.
"""

from __future__ import annotations

from math import sqrt

# Standard deviation of fresh encryption noise, in units of the modulus' last place: the homomorphic encryption
# standard's.
SIGMA = 3.19
# Hamming weight of OpenFHE's secret in contexts with SPARSE_ENCAPSULATED keys.
SECRET_WEIGHT = 192
# Rounding both elements of a ciphertext to another modulus: 1 + weight uniform errors of variance 1/12.
ROUNDING = sqrt((1 + SECRET_WEIGHT) / 12)
# One key switch, in units of the BGV modulus' last place.
KEY_SWITCH = 16.0
# Noise of a series' value per unit of its gain (see ``series.noise_gain``), at N = 65536; proportional to N.
BOOTSTRAP = 6.5e-6
# Absolute noise of a decoded phase, from the key switches in SlotsToCoeffs.
DECODING_FLOOR = 2.0**-43
