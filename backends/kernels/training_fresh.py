"""A training client's keys for the kernels. Holds the secret; never imported by the server's modules."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from glyphc.ir.parameters import Parameters

from ..gaussian import gaussian
from ..openfhe.ckks_client import TrainingClient, client_of
from ..openfhe.ckks_contexts import make_linear_contexts
from ..openfhe.keygen import Once
from .basis import Basis
from .ckks_machine import KernelsTrainingKeys, LinearKeys
from .client import fresh_secret
from .keyfiles import key_part, pack_key
from .keygen import KeyMaker
from .keys import ServerKeys, make_basis
from .linear_shape import LinearShape
from .shape import EngineShape, KeySpec, check_shape
from .training_load import training_part_names


class KernelsTrainingKeyMaker:
    """A fresh secret and the evaluation keys that follow from it, for bootstraps on the kernels.

    BackendError for a shape that 128 bits of security do not allow.
    """

    def __init__(self, parameters: Parameters, periods: Sequence[int]) -> None:
        self._shape = EngineShape(parameters)
        check_shape(self._shape)
        self._once = Once()
        self._periods = tuple(periods)
        self._ternary = fresh_secret(parameters)
        self.client = client_of(make_linear_contexts(parameters), self._ternary)

    def names(self) -> tuple[str, ...]:
        """Of all parts."""
        return training_part_names(self._shape.parameters, self._periods)

    def parts(self, seed: bytes) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of all keys, in the order of :meth:`names`.

        seed: 32 fresh random bytes, public. BackendError the second time.
        """
        self._once.use()
        for basis, specs in _bases(self._shape, LinearShape.of(self.client.contexts, self._periods)):
            maker = KeyMaker(basis, self._ternary, lambda: gaussian(self._shape.n))
            for spec in specs:
                yield key_part(spec), pack_key(basis, maker.make(spec, seed))


def generate_training_keys(
    parameters: Parameters, periods: Sequence[int]
) -> tuple[TrainingClient, KernelsTrainingKeys]:
    """Fresh keys in memory, as ``openfhe.ckks_client.generate_training_keys``."""
    shape, seed = EngineShape(parameters), os.urandom(32)
    check_shape(shape)
    ternary, contexts = fresh_secret(parameters), make_linear_contexts(parameters)
    linear = LinearShape.of(contexts, periods)
    (basis, _), (small, specs) = _bases(shape, linear)
    torus = dict(KeyMaker(basis, ternary, lambda: gaussian(shape.n)).keys(shape, seed))
    maker = KeyMaker(small, ternary, lambda: gaussian(shape.n))
    switching = {spec.name: maker.make(spec, seed) for spec in specs}
    keys = KernelsTrainingKeys(LinearKeys(contexts, linear, small, switching), ServerKeys(shape, basis, torus))
    return client_of(contexts, ternary), keys


def _bases(shape: EngineShape, linear: LinearShape) -> list[tuple[Basis, Iterator[KeySpec]]]:
    """The two sets of primes, and the keys that are made modulo each."""
    return [(make_basis(shape), shape.specs()), (Basis.of(linear.n, linear.primes), linear.specs())]
