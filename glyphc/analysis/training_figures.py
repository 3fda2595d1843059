"""Measured seconds of what training does beside the bootstraps that networks have, too."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class TrainingRow:
    """Seconds at N = 65536 on ciphertexts of so many limbs of training's linear context.

    product: of two ciphertexts, and its addition; relinearise: a sum of products, with its rescaling; key_switch: an
    automorphism; rescale: with the product with a constant before it; addition; branch: an automorphism in packing or
    unpacking, with its product with a monomial and additions; public: a product with another public polynomial; load:
    of a fresh ciphertext from its file. What takes a limb is measured on at least two.
    """

    limbs: int
    product: float
    relinearise: float
    key_switch: float
    rescale: float
    addition: float
    branch: float
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

# CPU seconds of one thread at N = 16384 (the fastest of three laps, on a machine with much other work), scaled to 65536
# as N log N, times 0.43: that is what bootstraps take on two idle cores, which the rows of ``cost`` are of, beside what
# they took when measured so. Parts that do not run in parallel (public, load, to_torus, from_torus) take twice that.
TRAINING_FIGURES = TrainingFigures(
    rows=(
        TrainingRow(2, 0.0012, 0.019, 0.011, 0.008, 0.0026, 0.022, 0.018, 0.0083),
        TrainingRow(3, 0.0017, 0.031, 0.019, 0.012, 0.0036, 0.033, 0.025, 0.013),
        TrainingRow(4, 0.0022, 0.038, 0.022, 0.016, 0.0051, 0.04, 0.032, 0.017),
    ),
    to_torus=0.026,
    from_torus=0.087,
    series=0.7,
    mask=0.032,
    slot_product=0.06,
)


def scaled(figures: TrainingFigures, ratio: float) -> TrainingFigures:
    """All seconds times a ratio."""
    rows = tuple(replace(row, **{name: getattr(row, name) * ratio for name in ROW_FIGURES}) for row in figures.rows)
    return TrainingFigures(rows, **{name: getattr(figures, name) * ratio for name in TORUS_FIGURES})


@lru_cache(maxsize=4096)
def row_seconds(rows: tuple[TrainingRow, ...], name: str, limbs: int) -> float:
    """One of ``ROW_FIGURES``: linear in the limbs, at the ends as in the nearest row."""
    return float(np.interp(limbs, [row.limbs for row in rows], [float(getattr(row, name)) for row in rows]))
