"""Bounds on moduli for 128-bit security."""

from __future__ import annotations

# Largest log2(QP) for 128-bit classical security with a ternary secret, by ring dimension: the homomorphic encryption
# standard (Albrecht et al. 2018) up to 32768; for 65536, which it does not cover, the bound that OpenFHE enforces.
# OpenFHE checks again when contexts are made; the compiler's check does not depend on it.
MAX_LOG_QP = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881, 65536: 1747}
