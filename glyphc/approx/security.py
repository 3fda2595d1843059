"""Bounds on moduli for 128-bit security."""

from __future__ import annotations

# Largest log2(QP) for 128-bit classical security with a ternary secret, by ring dimension: the homomorphic encryption
# standard (Albrecht et al. 2018) to 32768, extended to 65536 by Bossuat et al., "Security Guidelines for Implementing
# Homomorphic Encryption" (2024). OpenFHE makes its own check when contexts are made; this one does not depend on it.
MAX_LOG_QP = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881, 65536: 1772}
