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

SLOT_ROWS: tuple[SlotRow, ...] = (
    SlotRow(16384, 2, 4.0e-4, 8e-4, 1.5e-2, 2.0e-3, 1.5e-2, 2.5e-2),
    SlotRow(16384, 6, 1.2e-3, 2.5e-3, 3.5e-2, 6.0e-3, 2.2e-2, 4.0e-2),
    SlotRow(16384, 10, 2.0e-3, 5e-3, 6.0e-2, 1.0e-2, 3.0e-2, 6.0e-2),
)


@lru_cache(maxsize=4096)
def slot_seconds(rows: tuple[SlotRow, ...], name: str, ring: int, limbs: int) -> float:
    """One of ``FIGURES``: linear in the limbs, beyond the rows as their ends go on; of other rings as N log N goes."""
    rings = sorted({row.ring for row in rows})
    nearest = min(rings, key=lambda r: abs(np.log2(r / ring)))
    known = sorted((row for row in rows if row.ring == nearest), key=lambda row: row.limbs)
    x = np.array([float(row.limbs) for row in known])
    y = np.array([float(getattr(row, name)) for row in known])
    if limbs > x[-1] and len(x) > 1:
        seconds = y[-1] + (limbs - x[-1]) * (y[-1] - y[-2]) / (x[-1] - x[-2])
    else:
        seconds = np.interp(limbs, x, y)
    return float(seconds * ring * np.log2(ring) / (nearest * np.log2(nearest)))
