"""Switching keys as the server keeps them: whole, ready for use."""

from __future__ import annotations

import numpy as np

from .basis import F64, Basis
from .keyswitch import SwitchingKey
from .shape import EngineShape, KeySpec
from .uniform import UniformRows


def make_basis(shape: EngineShape) -> Basis:
    return Basis.of(shape.n, shape.primes)


def whole_key(basis: Basis, spec: KeySpec, b: F64, seed: bytes) -> SwitchingKey:
    """A key from its b, (digits, primes, n), centred; its a are those of the seed."""
    shape = spec.shape
    stream = UniformRows(seed, spec.name)
    values = np.empty((2, *b.shape))
    values[0] = b
    q = basis.moduli[list(shape.primes)][:, None]
    for d in range(shape.digits):
        a = stream.draw(basis, shape)
        values[1, d] = np.where(a > q / 2, a - q, a)
    return SwitchingKey(shape, values)


def specs_by_name(shape: EngineShape) -> dict[str, KeySpec]:
    return {spec.name: spec for spec in shape.keys()}
