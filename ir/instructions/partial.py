"""The part of a schedule that a batch takes which is not full: nothing is computed of chunks that hold no sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..errors import IRError
from .base import Free, Instruction, Load, Register, Store
from .coefficients import DotProduct
from .program import ClientSpec, Schedule


@dataclass(frozen=True, eq=False)
class PartialSchedule:
    """schedule: what is executed. numbers: of each of its instructions, in the schedule of a full batch."""

    schedule: Schedule
    numbers: tuple[int, ...]


def for_samples(schedule: Schedule, samples: int) -> PartialSchedule:
    """What so many samples of one batch take, where they stand as :meth:`ClientSpec.places` says.

    The same instructions in the same order, less those of the chunks that are left empty. Each linear map adds the
    bias chunk by chunk, so nothing else changes. IRError for a schedule, which must come from a stranger then, whose
    chunks are not computed one apart from the other.
    """
    chunks = schedule.client.chunks_for(samples)
    if chunks == schedule.client.chunks:
        return PartialSchedule(schedule, tuple(range(len(schedule.instructions))))
    parts = {port.name: port.layout.parts for port in schedule.client.inputs}
    rest = _Rest({name: chunks * p for name, p in parts.items()})
    kept = [(number, i) for number, whole in enumerate(schedule.instructions) if (i := rest.instruction(whole))]
    partial = replace(schedule, instructions=tuple(i for _, i in kept))
    _check_stores(schedule.client, partial.instructions, chunks)
    return PartialSchedule(partial, tuple(n for n, _ in kept))


def _check_stores(client: ClientSpec, code: Sequence[Instruction], chunks: int) -> None:
    """IRError unless of each output the first chunks are there, each whole."""
    stored = Counter(i.name for i in code if isinstance(i, Store))
    for port in client.outputs:
        wanted = min(chunks, port.layout.chunks) * port.stored_parts
        if stored[port.name] != wanted:
            raise IRError(f"{chunks} chunks give {stored[port.name]} ciphertexts of output {port.name!r}, not {wanted}")


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
        """What is left of an instruction: as long as a register that it reads holds something, all of it."""
        match whole:
            case Load():
                return self._made(whole, whole.part >= self.loaded[whole.name])
            case DotProduct():
                return self._sum(whole)
            case Free():
                dead = tuple(self._dead(whole.registers))
                return replace(whole, registers=dead) if dead else None
        empty = set(map(self._empty, whole.reads))
        if len(empty) != 1:
            raise IRError(f"a {whole.mnemonic} reads a chunk that holds samples and one that holds none")
        return self._made(whole if empty == {True} else whole.reading(self._now), empty == {True})

    def _sum(self, whole: DotProduct) -> DotProduct | None:
        """The sources are parts of one chunk: all there, or all empty; then the sum is what it was before."""
        before = None if whole.total is None else self.names[whole.total]
        empty = set(map(self._empty, whole.sources))
        if empty == {False}:
            self._hold(whole.target, whole.target)
            return replace(whole, sources=tuple(map(self._now, whole.sources)), total=before)
        if empty != {True}:
            raise IRError(f"a {whole.mnemonic} sums up parts of several chunks")
        self._hold(whole.target, before)
        return None

    def _made(self, instruction: Instruction, empty: bool) -> Instruction | None:
        for target in instruction.writes:
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
