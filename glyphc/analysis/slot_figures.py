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

# CPU seconds of two threads (the fastest of four laps, on a machine with much other work): on two idle cores, what is
# parallel takes down to half of it.
SLOT_ROWS: tuple[SlotRow, ...] = (
    SlotRow(16384, 2, 0.000545, 0.00135, 0.00703, 0.00179, 0.0184, 0.00828),
    SlotRow(16384, 6, 0.000996, 0.00285, 0.0171, 0.00532, 0.0141, 0.0191),
    SlotRow(16384, 9, 0.00148, 0.00472, 0.0291, 0.00676, 0.0136, 0.0286),
    SlotRow(32768, 2, 0.000472, 0.00118, 0.0135, 0.00396, 0.0481, 0.0171),
    SlotRow(32768, 6, 0.0028, 0.00522, 0.0371, 0.0117, 0.0528, 0.0599),
    SlotRow(32768, 15, 0.00622, 0.0136, 0.14, 0.0275, 0.0541, 0.138),
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
