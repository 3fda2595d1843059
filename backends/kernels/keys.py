"""Switching keys as the server keeps them: whole, ready for use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .basis import F64, Basis
from .keyswitch import SwitchingKey
from .shape import EngineShape, KeySpec
from .uniform import UniformRows


@dataclass(frozen=True, eq=False)
class WeightKeys:
    """The encrypted weights of one step of a linear map, as external products take them.

    products: for each polynomial w the keys from w and from w*s to the secret s. bias: a sum (see :mod:`.linear`).
    """

    products: tuple[tuple[SwitchingKey, SwitchingKey], ...]
    bias: F64 | None


@dataclass(frozen=True, eq=False)
class ServerKeys:
    """The keys of one client, by name (``EngineShape.specs``), and its encrypted weights, by the names of the maps."""

    shape: EngineShape
    basis: Basis
    switching: dict[str, SwitchingKey]
    weights: Mapping[str, WeightKeys] = field(default_factory=dict)


def make_basis(shape: EngineShape) -> Basis:
    """The primes of a program and their tables."""
    return Basis.of(shape.n, shape.primes)


def whole_key(basis: Basis, spec: KeySpec, b: F64, seed: bytes) -> SwitchingKey:
    """A key from its b, (digits, primes, n), centred; its a are those of the seed."""
    values = np.empty((2, *b.shape))
    values[0] = b
    UniformRows(seed, spec.name).fill(basis, spec.shape, values[1])
    return SwitchingKey(spec.shape, values)
