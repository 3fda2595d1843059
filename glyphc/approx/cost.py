"""Predicted time, memory and key size of what a program does.

The figures are measurements of OpenFHE on 2 cores at N = 65536 (see ``benchmarks/primitives.py``). They rank alternatives
and give users an idea before a run; they are no promise about another machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glyphc.ir.parameters import Parameters

_REFERENCE_RING = 65536


@dataclass(frozen=True)
class CostModel:
    """Seconds and bytes of the primitives, at N = 65536; all scale with N log N or N."""

    product: float = 0.30e-3  # BGV ciphertext x cached plaintext, and its addition
    plaintext: float = 4.0e-3  # encoding one weight polynomial (once per program and server start)
    automorphism: float = 6.5e-3  # BGV automorphism with its addition, subtraction and shift
    switch: float = 0.05  # scheme switch, either way
    encrypt: float = 6.0e-3
    decrypt: float = 2.0e-3
    # packed functional bootstrap of degree 59: (slots, seconds), interpolated in log(slots)
    bootstrap: tuple[tuple[int, float], ...] = ((64, 9.0), (1024, 11.0), (8192, 15.0), (32768, 20.0))
    # bytes of the bootstrapping keys, by slots
    keys: tuple[tuple[int, float], ...] = ((64, 2.2e9), (1024, 4.0e9), (8192, 4.4e9), (32768, 4.7e9))
    # peak bytes of a process that bootstraps, keys included
    memory: tuple[tuple[int, float], ...] = ((64, 4.0e9), (1024, 8.0e9), (8192, 9.0e9), (32768, 9.7e9))
    lwe_lookup: float = 0.285  # BinFHE EvalFunc, one value, 3-bit table
    level: float = 0.045  # relative cost of one more level in the bootstrapping context

    def bootstrap_seconds(self, parameters: Parameters) -> float:
        """One full evaluation (powers, one series, decoding)."""
        base = _interpolate(self.bootstrap, parameters.slots) * self._ring_factor(parameters.ring)
        return base * (1 + self.level * (parameters.depth - 21))

    def key_bytes(self, parameters: Parameters) -> float:
        if not parameters.slots:
            return 0.0
        return _interpolate(self.keys, parameters.slots) * parameters.ring / _REFERENCE_RING

    def memory_bytes(self, parameters: Parameters, ciphertexts: int, polynomials: int) -> float:
        """Peak resident memory of a run: contexts and keys, live ciphertexts, encoded weights."""
        limb = parameters.ring * 8
        base = _interpolate(self.memory, parameters.slots) if parameters.slots else 0.3e9
        return base * parameters.ring / _REFERENCE_RING + limb * (2 * ciphertexts + polynomials)

    def scaled(self, seconds: float, ring: int) -> float:
        """A cost at N = 65536 for another ring dimension."""
        return seconds * self._ring_factor(ring)

    @staticmethod
    def _ring_factor(ring: int) -> float:
        return ring * np.log2(ring) / (_REFERENCE_RING * np.log2(_REFERENCE_RING))


def _interpolate(table: tuple[tuple[int, float], ...], slots: int) -> float:
    x, y = np.log2([s for s, _ in table]), [v for _, v in table]
    return float(np.interp(np.log2(max(slots, 1)), x, y))
