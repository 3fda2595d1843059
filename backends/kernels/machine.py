"""The server's side: executes instructions with switching keys. It has no secret and no way to decrypt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from glyphc.ir.instructions import ConjugateDot, Conjugates, Evaluate, Schedule, masks_of, weighted

from .basis import F64
from .bootstrap import Bootstrapper, PhasePowers
from .evaluator import Ciphertext, Evaluator
from .keys import ServerKeys
from .linear import LinearAlgebra, Sum


class KernelsMachine:
    """The kernels behind the instructions. BGV registers hold sums (see :mod:`.linear`), torus registers (2, 1, n)."""

    def __init__(self, schedule: Schedule, keys: ServerKeys) -> None:
        if schedule.parameters != keys.shape.parameters:
            raise ValueError("the evaluation keys were made for other parameters than the program's")
        missing = sorted({m.name for m in schedule.client.encrypted} - set(keys.weights))
        if missing:
            raise ValueError(f"the evaluation keys come without the encrypted weights of {missing[0]}")
        self._schedule = schedule
        self._evaluator = Evaluator(keys.shape, keys.basis, keys.switching)
        self._linear = LinearAlgebra(self._evaluator, schedule.polynomials, keys.weights)

    @cached_property
    def _bootstrapper(self) -> Bootstrapper:
        return Bootstrapper(self._evaluator)

    def prepare(self, observe: Callable[[str], None] = lambda name: None) -> None:
        """Encode all weights, the transforms of bootstraps and their masks ahead of the first evaluation."""
        for weights, instruction in weighted(self._schedule.instructions).items():
            if isinstance(instruction, ConjugateDot):
                self._linear.prepare_conjugates(instruction)
            else:
                self._linear.prepare(weights, len(instruction.sources))
            observe(weights)
        if self._schedule.parameters.slots:
            self._bootstrapper.prepare(masks_of(self._schedule.instructions))

    def dot(self, sources: Sequence[Sum], weights: str, total: Sum | None = None) -> Sum:
        return self._linear.dot(sources, weights, total)

    def transient_dot(self, sources: Sequence[Sum], weights: str, total: Sum | None = None) -> Sum:
        return self._linear.transient_dot(sources, weights, total)

    def encrypted_dot(self, sources: Sequence[Sum], weights: str, total: Sum | None = None) -> Sum:
        return self._linear.encrypted_dot(sources, weights, total)

    def split(self, source: Sum, parts: int, stride: int, count: int) -> Sequence[Sum]:
        return self._linear.split(source, parts, stride, count)

    def conjugates(self, source: Sum, instruction: Conjugates) -> Sequence[Sum]:
        return self._linear.conjugates(source, instruction)

    def conjugate_dot(self, sources: Sequence[Sum], instruction: ConjugateDot, total: Sum | None = None) -> Sum:
        return self._linear.conjugate_dot(sources, instruction, total)

    def divided(self, source: Sum, factor: int) -> Sum:
        return self._linear.divided(source, factor)

    def to_torus(self, source: Sum, slots: int) -> F64:
        return self._linear.to_torus(source)

    def from_torus(self, source: F64) -> Sum:
        return self._linear.from_torus(source)

    def powers(self, source: F64, slots: int, degree: int) -> PhasePowers:
        return self._bootstrapper.powers(Ciphertext(source, 1.0), degree)

    def evaluate(self, powers: PhasePowers, instruction: Evaluate) -> F64:
        return self._bootstrapper.evaluate(powers, instruction.series, instruction.mask).elements
