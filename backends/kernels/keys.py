"""Switching keys as the server keeps them: whole, ready for use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class KeyRoom:
    """Memory for the keys of a program: those of a level's baby steps side by side, as they are read."""

    def __init__(self, shape: EngineShape) -> None:
        self._n = shape.n
        levels = (*shape.encoding, *shape.decoding) if shape.parameters.slots else ()
        stacks = [shape.baby_keys(plan) for plan in levels]
        self._places = {name: (names, at) for names in stacks for at, name in enumerate(names)}
        self._stacks: dict[tuple[str, ...], F64] = {}

    def of(self, spec: KeySpec) -> F64:
        """Where the values of a key go, (2, digits, primes, n): of any content."""
        size = (2, spec.shape.digits, len(spec.shape.primes), self._n)
        if spec.name not in self._places:
            return np.empty(size)
        names, at = self._places[spec.name]
        if names not in self._stacks:
            self._stacks[names] = np.empty((len(names), *size))
        room: F64 = self._stacks[names][at]
        return room


def stacked(keys: Mapping[str, SwitchingKey], names: Sequence[str]) -> F64:
    """Keys as one array, (keys, 2, digits, primes, n): not copied where they lie side by side (:class:`KeyRoom`)."""
    values = [keys[name].values for name in names]
    base = values[0].base
    if base is not None and base.shape == (len(values), *values[0].shape):
        rows = [base[at].ctypes.data for at in range(len(values))]
        if [v.ctypes.data for v in values] == rows:
            return np.asarray(base)
    return np.stack(values)


def whole_key(basis: Basis, spec: KeySpec, b: F64, seed: bytes, values: F64) -> SwitchingKey:
    """A key from its b, (digits, primes, n), centred; its a are those of the seed. values: its memory."""
    values[0] = b
    UniformRows(seed, spec.name).fill(basis, spec.shape, values[1])
    return SwitchingKey(spec.shape, values)
