"""Switching keys as the server keeps them: whole, ready for use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .basis import F64, Basis
from .keyswitch import SwitchingKey
from .shape import EngineShape, KeySpec
from .uniform import UniformRows


@dataclass(frozen=True, eq=False)
class ServerKeys:
    """The keys of one client, by name (``EngineShape.keys``)."""

    shape: EngineShape
    basis: Basis
    switching: Mapping[str, SwitchingKey]


def make_basis(shape: EngineShape) -> Basis:
    """The primes of a program and their tables."""
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
