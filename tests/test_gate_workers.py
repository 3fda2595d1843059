"""Gates computed by several processes: the same bits as one after another, and no process or file left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glyphc.backends import processors
from glyphc.backends.errors import BackendError
from glyphc.backends.openfhe.gates import GateClient, GateEvaluator, gate_session
from glyphc.ir.instructions import Gate, GateKind, Register

RIGHT: dict[GateKind, Callable[[int, int, int], int]] = {
    GateKind.AND: lambda a, b, c: a & b,
    GateKind.XOR: lambda a, b, c: a ^ b,
    GateKind.MAJORITY: lambda a, b, c: int(a + b + c >= 2),
}


def gate(kind: GateKind, negated: tuple[bool, ...]) -> Gate:
    return Gate(Register(0), kind, tuple(map(Register, range(kind.inputs))), negated, 0)


def some_gates(owner: GateClient, machine: GateEvaluator, count: int) -> tuple[list[Any], list[int]]:
    """Of fresh bits and of each other, at random, with their right values."""
    rng = np.random.default_rng(1)
    values = [0, 1, 1, 0]
    bits: list[Any] = [owner.encrypt(np.array([v])) for v in values]
    for _ in range(count):
        kind = (GateKind.AND, GateKind.XOR, GateKind.MAJORITY)[int(rng.integers(3))]
        at = [int(i) for i in rng.choice(len(bits), kind.inputs, replace=False)]
        negated = tuple(bool(n) for n in rng.integers(2, size=kind.inputs))
        bits.append(machine.gate([bits[i] for i in at], gate(kind, negated)))
        a, b, *c = (values[i] ^ no for i, no in zip(at, negated, strict=True))
        values.append(RIGHT[kind](a, b, *(c or [0])))
        if rng.random() < 0.3:
            bits[-1], values[-1] = machine.opposite(bits[-1]), 1 - values[-1]
    return bits, values


@pytest.mark.parametrize("processes", [1, 3])
def test_gates_of_gates(processes: int) -> None:
    try:
        processors.set_threads(processes)
        with gate_session(secure=False) as (owner, machine):
            bits, values = some_gates(owner, machine, 60)
            machine.settle()
            assert [int(owner.decrypt(bit)[0]) for bit in bits] == values
            workers = machine._workers
            folder = None if workers is None else Path(workers._folder.name)
        assert folder is None or not folder.exists()
    finally:
        processors.set_threads(0)


def test_a_process_that_was_killed_is_told() -> None:
    try:
        processors.set_threads(2)
        with gate_session(secure=False) as (owner, machine):
            some_gates(owner, machine, 2)
            machine.settle()
            assert machine._workers is not None
            for process in machine._workers._processes:
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                process.join()
            # more of them than are taken ahead
            with pytest.raises(BackendError, match="has ended"):
                some_gates(owner, machine, 300)
    finally:
        processors.set_threads(0)
