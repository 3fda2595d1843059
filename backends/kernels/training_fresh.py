"""A training client's keys for the kernels. Holds the secret; never imported by the server's modules."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from glyphc.ir.parameters import Parameters

from ..gaussian import gaussian
from ..openfhe.ckks_client import TrainingClient, client_of, generate_linear_keys
from ..openfhe.ckks_contexts import make_linear_contexts
from ..openfhe.keygen import Once
from ..openfhe.training_fresh import linear_parts
from .ckks_machine import KernelsTrainingKeys
from .client import fresh_secret
from .keyfiles import key_part, pack_key
from .keygen import KeyMaker
from .keys import ServerKeys, make_basis
from .shape import EngineShape, check_shape
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
        basis = make_basis(self._shape)
        maker = KeyMaker(self._shape, basis, self._ternary, lambda: gaussian(self._shape.n))
        for spec in self._shape.specs():
            yield key_part(spec), pack_key(basis, maker.make(spec, seed))
        yield from linear_parts(self.client, self._ternary, self._periods, seed)


def generate_training_keys(
    parameters: Parameters, periods: Sequence[int]
) -> tuple[TrainingClient, KernelsTrainingKeys]:
    """Fresh keys in memory, as ``openfhe.ckks_client.generate_training_keys``."""
    shape = EngineShape(parameters)
    check_shape(shape)
    ternary = fresh_secret(parameters)
    client, linear = generate_linear_keys(make_linear_contexts(parameters), ternary, periods)
    basis = make_basis(shape)
    maker = KeyMaker(shape, basis, ternary, lambda: gaussian(shape.n))
    return client, KernelsTrainingKeys(linear, ServerKeys(shape, basis, dict(maker.keys(os.urandom(32)))))
