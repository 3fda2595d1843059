"""Measured seconds of what training does beside the bootstraps that networks have, too."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class TrainingRow:
    """Seconds at N = 65536 on ciphertexts of so many limbs of training's linear context.

    product: of two ciphertexts, and its addition; key_switch: a relinearisation or an automorphism; rescale: with the
    product with a constant before it; addition; shift: a product with a monomial, and an addition; public: a product
    with another public polynomial; load: of a fresh ciphertext from its file.
    """

    limbs: int
    product: float
    key_switch: float
    rescale: float
    addition: float
    shift: float
    public: float
    load: float


@dataclass(frozen=True)
class TrainingFigures:
    """rows: by ascending limbs. The others are of the bootstrapping context, at N = 65536.

    to_torus, from_torus: from the linear context and back; series: of degree 13, in slots; mask, slot_product: of what
    a series leaves.
    """

    rows: tuple[TrainingRow, ...]
    to_torus: float
    from_torus: float
    series: float
    mask: float
    slot_product: float


ROW_FIGURES = tuple(f.name for f in fields(TrainingRow) if f.name != "limbs")
TORUS_FIGURES = tuple(f.name for f in fields(TrainingFigures) if f.name != "rows")

TRAINING_FIGURES = TrainingFigures(
    rows=(
        TrainingRow(2, 0.003, 0.010, 0.004, 0.0005, 0.003, 0.03, 0.02),
        TrainingRow(3, 0.0045, 0.015, 0.006, 0.0007, 0.0045, 0.04, 0.03),
        TrainingRow(4, 0.006, 0.020, 0.008, 0.001, 0.006, 0.05, 0.04),
    ),
    to_torus=0.05,
    from_torus=0.3,
    series=0.8,
    mask=0.15,
    slot_product=0.2,
)


@lru_cache(maxsize=4096)
def row_seconds(rows: tuple[TrainingRow, ...], name: str, limbs: int) -> float:
    """One of ``ROW_FIGURES``: linear in the limbs, at the ends as in the nearest row."""
    return float(np.interp(limbs, [row.limbs for row in rows], [float(getattr(row, name)) for row in rows]))
