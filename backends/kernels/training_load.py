"""A training run's evaluation keys for the kernels, from parts of plain residues. No secret; for the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from glyphc.ir.parameters import Parameters

from ..openfhe.ckks_contexts import make_linear_contexts
from ..openfhe.training_load import LinearLoader, linear_part_names
from .ckks_machine import KernelsTrainingKeys
from .keyfiles import key_part, load_bootstrap_keys
from .keys import make_basis
from .shape import EngineShape, check_shape


def training_part_names(parameters: Parameters, periods: Sequence[int]) -> tuple[str, ...]:
    """All parts of a run's evaluation keys, in the order in which they are written and read."""
    torus = map(key_part, EngineShape(parameters).specs())
    return (*torus, *linear_part_names(parameters, periods))


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
    loader = LinearLoader(make_linear_contexts(parameters), periods)
    torus = load_bootstrap_keys(shape, make_basis(shape), seed, read, observe)
    return KernelsTrainingKeys(loader.load(seed, read, observe), torus)
