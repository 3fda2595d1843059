"""Circuits of gates on bits: constants are folded away, and a gate that is there already is not made again.

A bit is a constant or a signal: a wire, possibly negated. Negation costs nothing (``EvalNOT`` is an addition); every
other gate is one bootstrap of an FHEW ciphertext, a majority of three bits, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import GateKind

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, order=True)
class Signal:
    """A wire, or its negation. wire: of an input, or behind all inputs, of a gate."""

    wire: int
    negated: bool = False

    def __invert__(self) -> Signal:
        return Signal(self.wire, not self.negated)


Bit = bool | Signal


@dataclass(frozen=True)
class Gate:
    """One bootstrap: its kind, and the signals that it reads. node: of the graph that it is made for, which does not
    count when gates are compared."""

    kind: GateKind
    operands: tuple[Signal, ...]
    node: int = field(default=-1, compare=False)


@dataclass
class Circuit:
    """inputs: how many bits come from outside; they are wires 0, 1, ..., and gates follow in the order of ``gates``.

    node: of the graph that gates are made for now.
    """

    inputs: int = 0
    node: int = -1
    gates: list[Gate] = field(default_factory=list)
    _known: dict[Gate, Signal] = field(default_factory=dict, repr=False)

    def word(self, width: int) -> tuple[Bit, ...]:
        """Fresh inputs, the lowest bit first. ValueError once there are gates: inputs have the first wires."""
        if self.gates:
            raise ValueError("inputs come before gates")
        self.inputs += width
        return tuple(Signal(wire) for wire in range(self.inputs - width, self.inputs))

    def both(self, a: Bit, b: Bit) -> Bit:
        """a and b."""
        for x, y in ((a, b), (b, a)):
            if isinstance(x, bool):
                return y if x else False
        assert isinstance(a, Signal) and isinstance(b, Signal)
        if a.wire == b.wire:
            return a if a == b else False
        return self._gate(GateKind.AND, a, b)

    def either(self, a: Bit, b: Bit) -> Bit:
        """a or b."""
        return invert(self.both(invert(a), invert(b)))

    def xor(self, a: Bit, b: Bit) -> Bit:
        """a or b, and not both."""
        for x, y in ((a, b), (b, a)):
            if isinstance(x, bool):
                return invert(y) if x else y
        assert isinstance(a, Signal) and isinstance(b, Signal)
        if a.wire == b.wire:
            return a != b
        # a negation of an operand is one of the result
        found = self._gate(GateKind.XOR, Signal(a.wire), Signal(b.wire))
        return found if a.negated == b.negated else ~found

    def majority(self, a: Bit, b: Bit, c: Bit) -> Bit:
        """What at least two of them are: the carry of a sum."""
        for x, y, z in ((a, b, c), (b, a, c), (c, a, b)):
            if isinstance(x, bool):
                return self.either(y, z) if x else self.both(y, z)
        assert isinstance(a, Signal) and isinstance(b, Signal) and isinstance(c, Signal)
        for p, q, r in ((a, b, c), (a, c, b), (b, c, a)):
            if p.wire == q.wire:
                return p if p == q else r
        return self._gate(GateKind.MAJORITY, a, b, c)

    def choose(self, condition: Bit, one: Bit, other: Bit) -> Bit:
        """One where the condition holds, else the other: three gates at most, none where both are the same."""
        if one == other:
            return one
        if isinstance(one, Signal) and isinstance(other, Signal) and one.wire == other.wire:
            return self.xor(condition, other)
        if isinstance(one, bool) or isinstance(other, bool):
            return self.either(self.both(condition, one), self.both(invert(condition), other))
        return self.xor(other, self.both(condition, self.xor(one, other)))

    def _gate(self, kind: GateKind, *operands: Signal) -> Signal:
        gate = Gate(kind, tuple(sorted(operands)), self.node)
        if gate not in self._known:
            self.gates.append(gate)
            self._known[gate] = Signal(self.inputs + len(self.gates) - 1)
        return self._known[gate]

    def needed(self, outputs: Sequence[Bit]) -> list[int]:
        """Numbers of the gates that outputs depend on, in order."""
        wanted = {bit.wire for bit in outputs if isinstance(bit, Signal)}
        found = []
        for number in reversed(range(len(self.gates))):
            if self.inputs + number in wanted:
                found.append(number)
                wanted.update(operand.wire for operand in self.gates[number].operands)
        return found[::-1]


def invert(bit: Bit) -> Bit:
    """The other value."""
    return not bit if isinstance(bit, bool) else ~bit


def evaluate(circuit: Circuit, outputs: Sequence[Bit], inputs: Bools) -> Bools:
    """The definition: bits of the outputs, shape (outputs, samples), from those of the inputs, (inputs, samples)."""
    values: dict[int, Bools] = dict(enumerate(inputs))

    def value(bit: Bit) -> Bools:
        if isinstance(bit, bool):
            return np.full(inputs.shape[1], bit)
        return values[bit.wire] ^ bit.negated

    for number in circuit.needed(outputs):
        gate = circuit.gates[number]
        a, b, *more = (value(operand) for operand in gate.operands)
        match gate.kind:
            case GateKind.AND:
                found = a & b
            case GateKind.XOR:
                found = a ^ b
            case GateKind.MAJORITY:
                found = (a & b) | (more[0] & (a | b))
        values[circuit.inputs + number] = found
    return np.array([value(bit) for bit in outputs]).reshape(len(outputs), inputs.shape[1])
