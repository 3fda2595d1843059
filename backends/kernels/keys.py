"""Switching keys as the server keeps them: whole, ready for use."""

from __future__ import annotations

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
    switching: dict[str, SwitchingKey]


def make_basis(shape: EngineShape) -> Basis:
    """The primes of a program and their tables."""
    return Basis.of(shape.n, shape.primes)


def whole_key(basis: Basis, spec: KeySpec, b: F64, seed: bytes) -> SwitchingKey:
    """A key from its b, (digits, primes, n), centred; its a are those of the seed."""
    values = np.empty((2, *b.shape))
    values[0] = b
    UniformRows(seed, spec.name).fill(basis, spec.shape, values[1])
    return SwitchingKey(spec.shape, values)
