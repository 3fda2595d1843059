"""Engines: what executes schedules, by name. ``--engine`` chooses one, ``glyphc engines`` lists them.

An engine brings a machine (the server's side, see :mod:`.base`) and, for a run in one process, the client's side beside
it. Other packages add engines as entry points of the group ``glyphc.engines``, each an instance of :class:`Engine`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol

import numpy.typing as npt

from glyphc.ir.instructions import Instruction, Schedule
from glyphc.ir.integer_parameters import ProgramParameters

from .base import unsupported
from .errors import BackendError

GROUP = "glyphc.engines"
# Loaded when they are asked for: their modules need libraries that take time and memory.
_BUILT_IN: Mapping[str, str] = {
    "openfhe": "glyphc.backends.openfhe.engine:ENGINE",
    "kernels": "glyphc.backends.kernels.engine:ENGINE",
    "simulate": "glyphc.backends.simulate:ENGINE",
    "clear": "glyphc.backends.cleartext:ENGINE",
}
# The stage in which an engine compiles what it computes with, which stays on the machine for later processes.
FIRST_USE = "compile kernels (on first use, half a minute)"
# Which engine encrypts where none is asked for: the first one that takes the program.
PREFERRED = ("kernels", "openfhe")


class Stages(Protocol):
    """Who is told what a run is doing."""

    def stage(self, name: str, total: float = 1.0) -> AbstractContextManager[None]:
        """A part of the work, of so many units."""

    def advance(self, amount: float, what: str = "") -> None:
        """Some of them are done."""


@dataclass(frozen=True, eq=False)
class Session:
    """Keys are made and weights are encoded: what a run in one process needs.

    encrypt: a message, shape (N,) of integers or (slots,) of numbers, to a ciphertext of the machine's; decrypt: the
    inverse. weights: encrypted ones that are loaded like inputs, by the names of their maps (words of bits).
    """

    machine: Any
    encrypt: Callable[[npt.NDArray[Any]], Any]
    decrypt: Callable[[Any], npt.NDArray[Any]]
    weights: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def encrypted_bits(schedule: Schedule, encrypt: Callable[[npt.NDArray[Any]], Any]) -> dict[str, list[Any]]:
    """The encrypted weights of a program on words, a ciphertext for each bit."""
    return {name: [encrypt(bits.dense(row, 1)) for row in range(len(bits))] for name, bits in schedule.secret.items()}


class Engine(ABC):
    """Executes schedules. encrypts: whether its results come from ciphertexts."""

    name: ClassVar[str]
    summary: ClassVar[str]
    encrypts: ClassVar[bool]

    def problem(self) -> str | None:
        """Why it cannot be used on this machine, in a sentence; None when it can."""
        return None

    def processor_problem(self) -> str | None:
        """Why this processor cannot execute it, in a sentence; None when it can. Loads no OpenFHE."""
        return None

    @property
    @abstractmethod
    def machine(self) -> type:
        """The class of its machines for coefficients; BackendError where the engine cannot be used."""

    @property
    def slot_machine(self) -> type | None:
        """The class of its machines for numbers in slots; None where it has none."""
        return None

    @property
    def integer_machine(self) -> type | None:
        """The class of its machines for integers in slots; None where it has none."""
        return None

    @property
    def bit_machine(self) -> type | None:
        """The class of its machines for single bits; None where it has none."""
        return None

    @abstractmethod
    def session(self, schedule: Schedule, stages: Stages) -> AbstractContextManager[Session]:
        """Both roles in one process, for the time of a ``with`` block; BackendError when that cannot be."""

    def refusal(self, parameters: ProgramParameters) -> str | None:
        """Why it takes no program of such parameters, in a sentence; None when it does. Loads no library."""
        return None

    def unsupported(self, code: Iterable[Instruction]) -> set[str]:
        """Names of the instructions that it has no method for."""
        code = tuple(code)
        missing = unsupported(code, self.machine)
        for machine in (self.slot_machine, self.integer_machine, self.bit_machine):
            missing = missing if machine is None else missing & unsupported(code, machine)
        return missing


def best_engine(parameters: ProgramParameters, here: bool = True) -> tuple[Engine, str]:
    """The first of ``PREFERRED`` that executes such programs, and in a sentence why earlier ones do not, or nothing.

    here: with all that it needs; False, for predictions, looks at the parameters and the processor alone, and loads no
    OpenFHE. The last engine is taken in any case: it then says itself what is wrong.
    """
    reasons = []
    for name in PREFERRED:
        found = engine(name)
        reason = found.refusal(parameters) or (found.problem() if here else found.processor_problem())
        if reason is None:
            break
        reasons.append(f"{name}: {reason}")
    return found, "; ".join(reasons)


def engine_names() -> tuple[str, ...]:
    """All there are: ours, then those of other packages."""
    return (*_BUILT_IN, *sorted(point.name for point in entry_points(group=GROUP) if point.name not in _BUILT_IN))


def engine(name: str) -> Engine:
    """The engine of that name; BackendError when there is none."""
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
    else:
        points = [point for point in entry_points(group=GROUP) if point.name == name]
        if not points:
            raise BackendError(f"there is no engine {name!r}; there are: {', '.join(engine_names())}")
        found = points[0].load()
    if not isinstance(found, Engine):
        raise BackendError(f"engine {name!r} is no instance of glyphc.backends.engine.Engine")
    return found
