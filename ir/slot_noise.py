"""Noise of CKKS with numbers in slots: one place for predictions and the simulation.

An error polynomial whose coefficients have the deviation s shows in a slot as the real part of a sum of N terms on the
unit circle: with deviation s * sqrt(N/2), divided by the scale 2^scaling_bits (Cheon, Kim, Kim, Song, "Homomorphic
Encryption for Arithmetic of Approximate Numbers", 2017, section 3; Kim, Papadimitriou, Polyakov, "Approximate
Homomorphic Encryption with Reduced Approximation Error", 2022). Secrets have uniform ternary coefficients.
"""

from __future__ import annotations

from math import sqrt

from .noise import SIGMA
from .slot_parameters import SlotParameters

# OpenFHE's decoder adds noise of the size that it finds, so that decrypted results tell nothing of the secret: in the
# end every noise counts as if it were so much larger.
DECODED = sqrt(2)


def _in_slots(p: SlotParameters, deviation: float) -> float:
    return DECODED * deviation * sqrt(p.ring / 2) / 2.0**p.scaling_bits


def fresh(p: SlotParameters) -> float:
    """Deviation of a fresh ciphertext's slots: the encryption's error, and that of rounding when encoding."""
    return _in_slots(p, sqrt(SIGMA**2 + 1 / 12))


def rescaling(p: SlotParameters) -> float:
    """Deviation that a rescaling adds: both elements are rounded, one of them is multiplied by the secret."""
    return _in_slots(p, sqrt((1 + 2 * p.ring / 3) / 12))


def key_switch(p: SlotParameters) -> float:
    """Deviation that a relinearisation adds to a product, as it shows after the rescaling.

    The division by the auxiliary modulus rounds like a rescaling, but at the square of the scale.
    """
    return rescaling(p) / 2.0**p.scaling_bits
