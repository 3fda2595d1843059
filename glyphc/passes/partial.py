"""The part of a schedule that a batch takes which is not full: nothing is computed of chunks that hold no sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from glyphc.errors import ParameterError
from glyphc.ir.instructions import (
    Dot,
    EncryptedDot,
    Evaluate,
    Free,
    FromTorus,
    Instruction,
    Load,
    Powers,
    Register,
    Schedule,
    Split,
    Store,
    ToTorus,
)
from glyphc.ir.instructions.slots import Drop, SlotDot, SlotProduct


@dataclass(frozen=True, eq=False)
class PartialSchedule:
    """schedule: what is executed. numbers: of each of its instructions, in the schedule of a full batch."""

    schedule: Schedule
    numbers: tuple[int, ...]


def for_samples(schedule: Schedule, samples: int) -> PartialSchedule:
    """What so many samples of one batch take, where they stand as :meth:`ClientSpec.places` says.

    The same instructions in the same order, less those of the chunks that are left empty. Each linear map adds the
    bias chunk by chunk, so nothing else changes.
    """
    chunks = schedule.client.chunks_for(samples)
    if chunks == schedule.client.chunks:
        return PartialSchedule(schedule, tuple(range(len(schedule.instructions))))
    parts = {port.name: port.layout.parts for port in schedule.client.inputs}
    rest = _Rest({name: chunks * p for name, p in parts.items()})
    kept = [(number, i) for number, whole in enumerate(schedule.instructions) if (i := rest.instruction(whole))]
    return PartialSchedule(replace(schedule, instructions=tuple(i for _, i in kept)), tuple(n for n, _ in kept))


@dataclass
class _Rest:
    """Goes through the instructions of a full batch.

    loaded: how many ciphertexts of each input there are. names: of every register, which one holds its value now;
    none for what is empty. held: how many registers have their value there.
    """

    loaded: dict[str, int]
    names: dict[Register, Register | None] = field(default_factory=dict)
    held: Counter[Register] = field(default_factory=Counter)

    def instruction(self, whole: Instruction) -> Instruction | None:
        """What is left of an instruction."""
        match whole:
            case Load(target=target, name=name, part=part):
                return self._made(whole, (target,), empty=part >= self.loaded[name])
            case Dot() | EncryptedDot():
                return self._dot(whole)
            case Split(targets=targets, source=source):
                return self._made(replace(whole, source=self._now(source)), targets, self._empty(source))
            case ToTorus(target=target, source=source) | FromTorus(target=target, source=source):
                return self._made(replace(whole, source=self._now(source)), (target,), self._empty(source))
            case Powers(target=target, source=source):
                return self._made(replace(whole, source=self._now(source)), (target,), self._empty(source))
            case Evaluate(target=target, powers=powers):
                return self._made(replace(whole, powers=self._now(powers)), (target,), self._empty(powers))
            case Store(source=source):
                return None if self._empty(source) else replace(whole, source=self._now(source))
            case SlotDot() | SlotProduct() | Drop():
                raise AssertionError("programs in slots have one chunk")
            case Free(registers=registers):
                dead = tuple(self._dead(registers))
                return replace(whole, registers=dead) if dead else None
            case _:
                raise ParameterError(f"a batch that is not full cannot take a {whole.mnemonic}")

    def _dot(self, whole: Dot | EncryptedDot) -> Dot | EncryptedDot | None:
        """The sources are parts of one chunk: all there, or all empty; then the sum is what it was before."""
        before = None if whole.total is None else self.names[whole.total]
        if not any(map(self._empty, whole.sources)):
            sources = tuple(map(self._now, whole.sources))
            self._hold(whole.target, whole.target)
            return replace(whole, sources=sources, total=before)
        assert all(map(self._empty, whole.sources))
        self._hold(whole.target, before)
        return None

    def _made(self, instruction: Instruction, targets: Sequence[Register], empty: bool) -> Instruction | None:
        for target in targets:
            self._hold(target, None if empty else target)
        return None if empty else instruction

    def _hold(self, name: Register, register: Register | None) -> None:
        self.names[name] = register
        if register is not None:
            self.held[register] += 1

    def _empty(self, register: Register) -> bool:
        return self.names[register] is None

    def _now(self, register: Register) -> Register:
        """Where the value is; of what is empty, the register itself."""
        now = self.names[register]
        return register if now is None else now

    def _dead(self, registers: Sequence[Register]) -> list[Register]:
        dead = []
        for register in registers:
            now = self.names[register]
            if now is not None:
                self.held[now] -= 1
                dead += [now] if not self.held[now] else []
        return dead
