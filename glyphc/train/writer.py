"""Writes training's instructions, one after another, with registers that are never used twice.

A step may take its batch in several micro-batches, one after another. Then the state is stored after the last of them,
and until then the state with the gradients so far is kept in registers: products still read the state before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from glyphc.ir.functions import Function
from glyphc.ir.instructions import Instruction, Load, Register, Store
from glyphc.ir.instructions.ckks import (
    Bootstrap,
    Convolve,
    Decode,
    Masked,
    Pack,
    Product,
    Raise,
    Reduce,
    Refresh,
    Reverse,
    Scaled,
    SlotProduct,
    Sum,
    Unpack,
)
from glyphc.ir.series import Series


def data_name(name: str, micro: int) -> str:
    """Of a micro-batch's ciphertext: the first one's are called as a whole batch's."""
    return f"{micro}/{name}" if micro else name


class Writer:
    """Appends instructions; every result is a new register. micros: micro-batches of a step; micro: the one at hand."""

    def __init__(self, micros: int = 1) -> None:
        self.code: list[Instruction] = []
        self.micro = 0
        self._micros = micros
        self._moved: dict[str, Register] = {}
        self._next: Register = 0

    def load(self, name: str) -> Register:
        return self._emit(lambda t: Load(t, name))

    def load_data(self, name: str) -> Register:
        """What the client has encrypted of the micro-batch at hand."""
        return self.load(data_name(name, self.micro))

    def moved(self, name: str) -> Register:
        """A ciphertext of the state, with what earlier micro-batches of the step have added to it."""
        return self._moved[name] if name in self._moved else self.load(name)

    def move(self, source: Register, name: str) -> None:
        """A ciphertext of the state with this micro-batch's gradient: stored after the last one."""
        if self.micro == self._micros - 1:
            self.store(source, name)
        else:
            self._moved[name] = source

    def store(self, source: Register, name: str) -> None:
        self.code.append(Store(source, name))

    def scaled(self, source: Register, factor: float) -> Register:
        """The source itself for a factor of 1, which costs no limb."""
        return source if factor == 1.0 else self.rescaled(source, factor)

    def rescaled(self, source: Register, factor: float) -> Register:
        """Scaled, by 1 too: costs a limb in any case."""
        return self._emit(lambda t: Scaled(t, source, factor))

    def sum(self, *terms: tuple[Register, int]) -> Register:
        return self._emit(lambda t: Sum(t, terms))

    def total(self, registers: Sequence[Register]) -> Register:
        """Their sum; of one, itself."""
        return registers[0] if len(registers) == 1 else self.sum(*((register, 1) for register in registers))

    def product(self, *pairs: tuple[Register, Register]) -> Register:
        return self._emit(lambda t: Product(t, pairs))

    def reverse(self, source: Register) -> Register:
        return self._emit(lambda t: Reverse(t, source))

    def convolved(self, source: Register, exponents: tuple[int, ...], weight: int) -> Register:
        return self._emit(lambda t: Convolve(t, source, exponents, weight))

    def raised(self, source: Register, value: float) -> Register:
        return self._emit(lambda t: Raise(t, source, value))

    def reduced(self, source: Register, limbs: int) -> Register:
        return self._emit(lambda t: Reduce(t, source, limbs))

    def refresh(self, source: Register, series: Series, functions: tuple[Function, ...]) -> Register:
        return self._emit(lambda t: Refresh(t, source, series, functions))

    def unpack(self, source: Register, count: int, parts: int, stride: int) -> tuple[Register, ...]:
        targets = self._new(count)
        self.code.append(Unpack(targets, source, parts, stride))
        return targets

    def pack(self, sources: Sequence[Register | None], parts: int, stride: int) -> Register:
        return self._emit(lambda t: Pack(t, tuple(sources), parts, stride))

    def bootstrap(self, source: Register, *each: tuple[Series, tuple[Function, ...]]) -> tuple[Register, ...]:
        targets = self._new(len(each))
        self.code.append(Bootstrap(targets, source, tuple(s for s, _ in each), tuple(f for _, f in each)))
        return targets

    def masked(self, source: Register, *conditions: tuple[int, int, int]) -> Register:
        return self._emit(lambda t: Masked(t, source, conditions))

    def slot_product(self, a: Register, b: Register) -> Register:
        return self._emit(lambda t: SlotProduct(t, a, b))

    def decode(self, source: Register) -> Register:
        return self._emit(lambda t: Decode(t, source))

    def _new(self, count: int) -> tuple[Register, ...]:
        self._next += count
        return tuple(range(self._next - count, self._next))

    def _emit(self, make: Callable[[Register], Instruction]) -> Register:
        (register,) = self._new(1)
        self.code.append(make(register))
        return register
