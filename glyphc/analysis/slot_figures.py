"""Measured seconds of CKKS in slots, by ring and limbs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

# Towers that a digit of key switching had in the measurements.
MEASURED_TOWERS = 3


@dataclass(frozen=True)
class SlotRow:
    """Seconds on ciphertexts of so many limbs: a term of a weighted sum; a tensor product and its addition; a
    relinearisation with ``MEASURED_TOWERS`` towers a digit; a rescaling; encryption and decryption."""

    ring: int
    limbs: int
    weighted: float
    product: float
    relinearise: float
    rescale: float
    encrypt: float
    decrypt: float


FIGURES = tuple(f.name for f in fields(SlotRow) if f.name not in ("ring", "limbs"))

# Wall seconds of the fastest laps, as ``glyphc measure`` measures them (``glyphc/measure_slots.py``), on the machine
# that the shipped bootstraps were measured on, with priority over other work there. Printed by
# ``benchmarks/shipped_costs.py``. Encryption on fewer limbs than all is from later: the fastest of 120 laps, beside
# other work, where encryption on all of them took what stands here.
SLOT_ROWS: tuple[SlotRow, ...] = (
    SlotRow(16384, 2, 0.000306, 0.000619, 0.00423, 0.00111, 0.0042, 0.0086),
    SlotRow(16384, 5, 0.000723, 0.00165, 0.00963, 0.0025, 0.0081, 0.02),
    SlotRow(16384, 8, 0.00123, 0.00404, 0.0171, 0.00342, 0.0123, 0.0324),
    SlotRow(32768, 2, 0.000571, 0.00162, 0.00768, 0.00311, 0.0085, 0.0199),
    SlotRow(32768, 8, 0.00326, 0.00837, 0.0465, 0.00869, 0.0244, 0.0771),
    SlotRow(32768, 15, 0.00747, 0.0151, 0.128, 0.0174, 0.0463, 0.12),
)


@lru_cache(maxsize=4096)
def slot_seconds(rows: tuple[SlotRow, ...], name: str, ring: int, limbs: int) -> float:
    """One of ``FIGURES``: linear in the limbs, beyond the rows as their ends go on, but no less; of other rings as
    N log N goes."""
    rings = sorted({row.ring for row in rows})
    nearest = min(rings, key=lambda r: abs(np.log2(r / ring)))
    known = sorted((row for row in rows if row.ring == nearest), key=lambda row: row.limbs)
    x = np.array([float(row.limbs) for row in known])
    y = np.array([float(getattr(row, name)) for row in known])
    if limbs > x[-1] and len(x) > 1:
        # where the figures of both are about the same, the deeper one may have been measured as the quicker
        seconds = y[-1] + (limbs - x[-1]) * max(0.0, y[-1] - y[-2]) / (x[-1] - x[-2])
    else:
        seconds = np.interp(limbs, x, y)
    return float(seconds * ring * np.log2(ring) / (nearest * np.log2(nearest)))
