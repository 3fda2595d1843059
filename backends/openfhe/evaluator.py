"""The server's side: executes a schedule with evaluation keys. It has no secret and no way to decrypt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from glyphc.ir.instructions import ConjugateDot, Conjugates, Evaluate, Schedule, weighted
from glyphc.ir.series import Series

from ..errors import BackendError
from .bootstrap import Bootstrapper
from .bridge import CiphertextMould
from .keys import EvaluationKeys
from .linear import LinearEngine
from .switch import Switcher
from .wire import read_live, write_live


class OpenFHEMachine:
    """OpenFHE behind the instructions (``glyphc.ir.instructions.coefficients``)."""

    def __init__(self, schedule: Schedule, keys: EvaluationKeys) -> None:
        if schedule.parameters != keys.contexts.parameters:
            raise ValueError("the evaluation keys were made for other parameters than the program's")
        missing = sorted({m.name for m in schedule.client.encrypted} - set(keys.weights))
        if missing:
            raise ValueError(f"the evaluation keys come without the encrypted weights of {missing[0]}")
        self._schedule = schedule
        self._keys = keys
        self._linear = LinearEngine(keys, schedule.polynomials)
        self._switcher = Switcher(keys)

    @cached_property
    def _bootstrapper(self) -> Bootstrapper:
        contexts = self._keys.contexts
        return Bootstrapper(contexts.torus, contexts.torus_ring, contexts.parameters)

    def prepare(self, observe: Callable[[str], None] = lambda name: None) -> None:
        """Encode all weights ahead of the first evaluation; ``observe`` is told each linear map when done."""
        for name, instruction in weighted(self._schedule.instructions).items():
            if isinstance(instruction, ConjugateDot):
                self._linear.prepare_conjugates(instruction)
            else:
                self._linear.prepare(name)
            observe(name)

    def write(self, ciphertext: Any, torus: bool) -> bytes:
        """A live ciphertext as bytes, to go on with it in another process. torus: whether it is one of that context."""
        return write_live(self._live_mould(torus), ciphertext)

    def read(self, data: bytes, torus: bool) -> Any:
        """The inverse of :meth:`write`; ResidueError when the bytes are none of a ciphertext."""
        return read_live(self._live_mould(torus), data)

    def _live_mould(self, torus: bool) -> CiphertextMould:
        return self._switcher.mould(self._schedule.parameters.slots) if torus else self._keys.bgv_mould

    def dot(self, sources: Sequence[Any], weights: str, total: Any | None = None) -> Any:
        return self._linear.dot(sources, weights, total)

    def transient_dot(self, sources: Sequence[Any], weights: str, total: Any | None = None) -> Any:
        return self._linear.transient_dot(sources, weights, total)

    def encrypted_dot(self, sources: Sequence[Any], weights: str, total: Any | None = None) -> Any:
        return self._linear.encrypted_dot(sources, weights, total)

    def split(self, source: Any, parts: int, stride: int, count: int) -> Sequence[Any]:
        return self._linear.split(source, parts, stride, count)

    def conjugates(self, source: Any, instruction: Conjugates) -> Sequence[Any]:
        return self._linear.conjugates(source, instruction)

    def conjugate_dot(self, sources: Sequence[Any], instruction: ConjugateDot, total: Any | None = None) -> Any:
        return self._linear.conjugate_dot(sources, instruction, total)

    def divided(self, source: Any, factor: int) -> Any:
        return self._linear.divided(source, factor)

    def to_torus(self, source: Any, slots: int) -> Any:
        return self._switcher.to_torus(source, slots)

    def from_torus(self, source: Any) -> Any:
        return self._switcher.from_torus(source)

    def powers(self, source: Any, slots: int, degree: int) -> Any:
        return self._bootstrapper.powers(source, degree)

    def evaluate(self, powers: Any, instruction: Evaluate) -> Any:
        if not isinstance(instruction.series, Series):
            raise BackendError("OpenFHE looks up no tables in the middle of a bootstrap; use the engine 'kernels'")
        return self._bootstrapper.evaluate(powers, instruction.series, instruction.mask)
