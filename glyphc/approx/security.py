"""Bounds on moduli for 128-bit security."""

from __future__ import annotations

from dataclasses import replace

from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters

# Largest log2(QP) for 128-bit classical security by ring dimension, for secrets with uniform ternary coefficients: the
# homomorphic encryption standard (Albrecht et al. 2018) up to 32768, OpenFHE's bound for 65536. OpenFHE enforces these.
MAX_LOG_QP = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881, 65536: 1747}

# The same for the sparse secret of Hamming weight 192 that bootstraps use; OpenFHE's check does not see the weight.
# After Bossuat, Troncoso-Pastoriza, Hubaux, "Bootstrapping for Approximate Homomorphic Encryption with Negligible
# Failure-Probability by Using Sparse-Secret Encapsulation" (2022): parameters at N = 65536, weight 192, log QP up to
# 1553 are given there and in Lattigo as 128-bit secure.
MAX_LOG_QP_SPARSE = {65536: 1553}


def largest_modulus(ring: int, sparse: bool) -> int:
    """The bound in bits; 0 for rings that 128-bit security is not known for."""
    return (MAX_LOG_QP_SPARSE if sparse else MAX_LOG_QP).get(ring, 0)


def modulus_limit(parameters: Parameters | SlotParameters) -> int:
    """The bound for these parameters' ring and secret: the one that bootstraps use is sparse."""
    return largest_modulus(parameters.ring, isinstance(parameters, Parameters) and parameters.slots > 0)


def with_secure_digits(parameters: Parameters) -> Parameters:
    """More digits in key switching need a smaller auxiliary modulus: take as many as 128-bit security asks for.

    At most 6 digits are tried; when that is not enough, ``modulus_bits`` of the result still exceeds the bound.
    """
    limit = largest_modulus(parameters.ring, sparse=parameters.slots > 0)
    while parameters.secure and parameters.modulus_bits > limit and parameters.large_digits < 6:
        parameters = replace(parameters, large_digits=parameters.large_digits + 1)
    return parameters
