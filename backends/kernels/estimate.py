"""Memory of bootstraps from the shape alone."""

from __future__ import annotations

from glyphc.ir.parameters import Parameters

from .basis import SMALLEST_RING
from .images import ROWS
from .linear_shape import key_shape
from .shape import EngineShape, LevelPlan

# Beside what is counted: intermediate results of a bootstrap, in polynomials modulo all primes of its largest key.
_WORK = 24


def bootstrap_bytes(parameters: Parameters) -> float:
    """Diagonals of the transforms, tables, and what a bootstrap works on at its peak."""
    shape = EngineShape(parameters)
    limb = 8.0 * shape.n
    rows = len(shape.key_shape(shape.limbs).primes)
    diagonals = sum(_diagonal_bytes(shape, plan) for plan in (*shape.encoding, *shape.decoding))
    tables = 4 * len(shape.primes) * limb
    return diagonals + tables + _WORK * 2 * rows * limb


def thread_bytes(parameters: Parameters) -> float:
    """What each thread keeps for itself where threads take whole pieces: of unpacking, or of training's packing (see
    ``Arithmetic.automorphism``)."""
    rows = ROWS if parameters.unpack_strides or parameters.conjugates else 0
    # what giant steps add up: the products of both elements, and the first elements twice (see ``Images.total``)
    rows += 2 * (parameters.sum_primes + parameters.sum_limbs) if parameters.conjugates else 0
    if parameters.linear_limbs:
        limbs = parameters.linear_limbs
        shape = key_shape(parameters, limbs)
        # a decomposition, sums, and what a division takes
        rows = (shape.digits + 4) * len(shape.primes) + 2 * limbs
    return 8.0 * parameters.ring * rows


def _diagonal_bytes(shape: EngineShape, plan: LevelPlan) -> float:
    """Of a level's plaintexts, which are kept in the ring of their period (see :mod:`.linear_transform`)."""
    period = max(len(diagonal) for diagonal in plan.level.diagonals.values())
    if not shape.packed_fully and plan in (shape.encoding[-1], shape.decoding[0]):
        period = max(period, 2 * shape.parameters.slots)
    positions = min(shape.n, max(SMALLEST_RING, 2 * period))
    return 8.0 * positions * len(plan.giants) * len(plan.babies) * len(plan.shape.primes)
