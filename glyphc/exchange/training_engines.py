"""Which engine computes a training run, and what a server needs of it. No secret.

The engines of training are those that have keys in files. Ciphertexts in files are the same for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from glyphc.backends.engine import best_engine, engine
from glyphc.errors import ArtifactError, GlyphcError
from glyphc.ir.parameters import Parameters
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingKeysHeader

from .engines import KEY_ENGINES, check_engine, key_form

if TYPE_CHECKING:
    from glyphc.backends.openfhe.residues import Uniform

Read = Callable[[str], bytes]
F64 = npt.NDArray[np.float64]


class Machine(Protocol):
    """Executes training's instructions (``glyphc.ir.instructions.ckks``)."""

    def with_public(self, source: Any, message: F64) -> Any:
        """A ciphertext plus N numbers in the clear; ValueError for what is too large."""


class Wire(Protocol):
    """Training's ciphertexts on so many limbs as bytes, and back; files are the same for all engines."""

    def fresh_size(self, limbs: int) -> int:
        """Bytes of a fresh ciphertext."""

    def state_size(self, limbs: int) -> int:
        """Bytes of a ciphertext of the state."""

    def read_fresh(self, data: bytes, limbs: int, stream: Uniform) -> Any:
        """A fresh ciphertext from its c0 and the stream that c1 comes from; ResidueError for other bytes."""

    def read(self, data: bytes, limbs: int) -> Any:
        """The inverse of :meth:`write`; ResidueError for other bytes."""

    def write(self, ciphertext: Any, limbs: int) -> bytes:
        """Both elements of a ciphertext, exactly."""


def training_engine(parameters: Parameters, asked: str | None = None, here: bool = True) -> tuple[str, str]:
    """The name of the engine that computes, and in a sentence why it is not an earlier one, or nothing.

    asked: that one, or GlyphcError where it cannot be. here: see ``best_engine``.
    """
    if asked is None:
        found, reason = best_engine(parameters, here)
        return found.name, reason
    check_engine(asked, parameters)
    found = engine(asked)
    problem = found.refusal(parameters) or (found.problem() if here else found.processor_problem())
    if problem is not None:
        raise GlyphcError(f"the engine {asked!r} cannot be used for this run: {problem}")
    return asked, ""


def check_form(reader: Reader[TrainingKeysHeader], parameters: Parameters, asked: str | None = None) -> str:
    """The engine that evaluation keys serve; ArtifactError unless it is known, and they have the form that it reads.

    asked: it must be that one.
    """
    name = reader.header.engine
    if asked not in (None, name):
        raise ArtifactError(
            f"{reader.name} holds keys for the engine {name[:40]!r}, not for {asked!r}; leave --engine out, or prepare "
            "the run again for that engine"
        )
    if name not in KEY_ENGINES:
        raise ArtifactError(
            f"{reader.name} holds keys for the engine {name[:40]!r}, which this glyphc reads none of; prepare the run "
            "again"
        )
    if reader.header.shape != key_form(name, parameters):
        raise ArtifactError(
            f"{reader.name} holds keys for the engine {name!r} in another form than this glyphc's; prepare the run "
            "again, or use the glyphc that made them"
        )
    return name


def part_names(name: str, parameters: Parameters, periods: tuple[int, ...]) -> tuple[str, ...]:
    """All parts of a run's evaluation keys for an engine, in the order in which they are written and read.

    BackendError when OpenFHE is missing, or refuses the parameters.
    """
    if name == "kernels":
        from glyphc.backends.kernels import training_load as kernels

        return kernels.training_part_names(parameters, periods)
    from glyphc.backends.openfhe.training_load import training_part_names

    return training_part_names(parameters, periods)


def warm_up(name: str, stage: Callable[[str], object]) -> None:
    """What an engine does once in a process; ``stage`` is told its name. BackendError when it cannot be used."""
    if name == "kernels":
        from glyphc.backends.kernels.warm import ready

        ready(stage)


def loaded(
    name: str, parameters: Parameters, periods: tuple[int, ...], seed: bytes, read: Read, observe: Callable[[str], None]
) -> tuple[Machine, Wire]:
    """The machine, and the form of its ciphertexts in files, from the parts of :func:`part_names`.

    ResidueError when a part does not hold what it should, BackendError when the parameters are refused.
    """
    if name == "kernels":
        from glyphc.backends.kernels import training_load as kernels
        from glyphc.backends.kernels.ckks_machine import KernelsCKKS
        from glyphc.backends.kernels.ckks_wire import KernelsWire

        both = kernels.load_training_keys(parameters, periods, seed, read, observe)
        return KernelsCKKS(both), KernelsWire.of(both.linear.contexts, both.linear.basis)
    from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS
    from glyphc.backends.openfhe.training_load import load_training_keys
    from glyphc.backends.openfhe.training_wire import TrainingWire

    keys = load_training_keys(parameters, periods, seed, read, observe)
    return OpenFHECKKS(keys), TrainingWire.of(keys)
