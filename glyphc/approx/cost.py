"""Predicted time, memory and key size of what a program does.

The figures are measurements of OpenFHE on 2 cores at N = 65536 (``benchmarks/``). They rank alternatives
and give users an idea before a run; they are no promise about another machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glyphc.ir.parameters import Parameters, series_levels

_REFERENCE_RING = 65536


@dataclass(frozen=True)
class Configuration:
    """A way to set up bootstraps of up to ``slots`` slots, as measured at N = 65536, degree 27, on 2 cores.

    seconds: one bootstrap with one function; keys and memory: bytes of the evaluation keys, and at the peak of a
    process.
    """

    slots: int
    level_budget: tuple[int, int]
    large_digits: int
    seconds: float
    keys: float
    memory: float


# The fastest of each size in a sweep over level budgets and digits (``benchmarks/sweep.py`` measures them again):
# small transforms
# (many levels) win when there are many slots, since every diagonal of a transform is a product over all limbs.
CONFIGURATIONS = (
    Configuration(64, (2, 2), 2, 5.6, 2.2e9, 3.1e9),
    Configuration(256, (3, 3), 3, 6.8, 3.0e9, 4.6e9),
    Configuration(2048, (4, 4), 3, 9.5, 3.9e9, 6.0e9),
    Configuration(8192, (5, 5), 4, 10.5, 5.9e9, 8.5e9),
    Configuration(32768, (5, 5), 4, 14.2, 4.7e9, 7.5e9),
)


@dataclass(frozen=True)
class CostModel:
    """Seconds and bytes of the primitives, at N = 65536; all scale with N log N or N."""

    product: float = 0.30e-3  # BGV ciphertext x cached plaintext, and its addition
    automorphism: float = 6.5e-3  # BGV automorphism with its addition, subtraction and shift
    switch: float = 0.05  # scheme switch, either way
    configurations: tuple[Configuration, ...] = CONFIGURATIONS
    series_share: float = 0.2  # of a bootstrap: one series and SlotsToCoeffs; the rest is shared by all functions
    level: float = 0.06  # relative cost of one more level in the bootstrapping context
    degree: float = 0.0018  # relative cost of one more term of the series
    key_generation: float = 3.0e-9  # seconds per byte of key, set-up of the transforms included

    def configuration(self, slots: int) -> Configuration:
        """The configuration for bootstraps of so many slots."""
        return next((c for c in self.configurations if c.slots >= slots), self.configurations[-1])

    def bootstrap_seconds(self, slots: int, degree: int, ring: int = _REFERENCE_RING) -> float:
        """One full bootstrap with one function."""
        levels = series_levels(degree) - series_levels(27)
        factor = (1 + self.level * levels) * (1 + self.degree * (degree - 27))
        return self._interpolate("seconds", slots) * factor * self._ring_factor(ring)

    def key_bytes(self, parameters: Parameters) -> float:
        if not parameters.slots:
            return 0.0
        return self._interpolate("keys", parameters.slots) * parameters.ring / _REFERENCE_RING

    def key_seconds(self, parameters: Parameters) -> float:
        return 0.5 + self.key_bytes(parameters) * self.key_generation

    def memory_bytes(self, parameters: Parameters, ciphertexts: int, polynomials: int) -> float:
        """Peak resident memory of a run: contexts and keys, live ciphertexts, encoded weights."""
        limb = parameters.ring * 8
        base = self._interpolate("memory", parameters.slots) if parameters.slots else 0.3e9
        return base * parameters.ring / _REFERENCE_RING + limb * (2 * ciphertexts + polynomials)

    def scaled(self, seconds: float, ring: int) -> float:
        """A cost at N = 65536 for another ring dimension."""
        return seconds * self._ring_factor(ring)

    def _interpolate(self, field: str, slots: int) -> float:
        x = np.log2([c.slots for c in self.configurations])
        y = [float(getattr(c, field)) for c in self.configurations]
        return float(np.interp(np.log2(max(slots, 1)), x, y))

    @staticmethod
    def _ring_factor(ring: int) -> float:
        return float(ring * np.log2(ring) / (_REFERENCE_RING * np.log2(_REFERENCE_RING)))
