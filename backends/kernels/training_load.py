"""A training run's evaluation keys for the kernels, from parts of plain residues. No secret; for the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from glyphc.ir.parameters import Parameters

from ..openfhe.ckks_contexts import make_linear_contexts
from .basis import Basis
from .ckks_machine import KernelsTrainingKeys, LinearKeys
from .keyfiles import key_part, load_bootstrap_keys, load_key
from .keys import make_basis
from .linear_shape import LinearShape, linear_specs
from .shape import EngineShape, KeySpec, check_shape


def training_specs(parameters: Parameters, periods: Sequence[int]) -> Iterator[KeySpec]:
    """All keys of a run, those of bootstraps first."""
    return chain(EngineShape(parameters).specs(), linear_specs(parameters, periods))


def training_part_names(parameters: Parameters, periods: Sequence[int]) -> tuple[str, ...]:
    """All parts of a run's evaluation keys, in the order in which they are written and read."""
    return tuple(map(key_part, training_specs(parameters, periods)))


def load_training_keys(
    parameters: Parameters,
    periods: Sequence[int],
    seed: bytes,
    read: Callable[[str], bytes],
    observe: Callable[[str], None] = lambda name: None,
) -> KernelsTrainingKeys:
    """As ``openfhe.training_load.load_training_keys``; BackendError, too, for parameters that the kernels refuse."""
    shape = EngineShape(parameters)
    check_shape(shape)
    contexts = make_linear_contexts(parameters)
    linear = LinearShape.of(contexts, periods)
    torus = load_bootstrap_keys(shape, make_basis(shape), periods, seed, read, observe)
    basis = Basis.of(linear.n, linear.primes)
    switching = {s.name: load_key(basis, s, key_part(s), seed, read, observe) for s in linear.specs()}
    return KernelsTrainingKeys(LinearKeys(contexts, linear, basis, switching), torus)
