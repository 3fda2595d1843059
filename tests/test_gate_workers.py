"""Gates computed by several processes: the same bits as one after another, and no process or file left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import glyphc
from glyphc import comparison_run
from glyphc.backends import processors
from glyphc.backends.errors import BackendError
from glyphc.backends.openfhe.gates import GateClient, GateEvaluator, gate_session
from glyphc.backends.processes import apart
from glyphc.errors import GlyphcError
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import Gate, GateKind, Register
from glyphc.ir.ops import Const, Dense, Input, Output
from glyphc.ir.types import Level
from glyphc.runtime import run

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


def test_gates_in_the_process_of_a_comparison() -> None:
    """It may not have processes of its own if it is a daemon's."""
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (2,)), location="x")
    weights = Const(graph.add_constant("w", np.array([[1.0, -1.0]])))
    dense = graph.add(Dense((weights,), Const(graph.add_constant("b", np.array([0.5])))), (x,), location="fc")
    graph.add(Output("y"), (dense,), location="y")
    samples = np.random.default_rng(0).uniform(-1, 1, (20, 2))
    with pytest.warns(UserWarning, match="PROTECTS NOTHING|NOT SECURE|insecure"):
        program = glyphc.compile(graph, samples, strategy="tbmpnet", word_bits=4, insecure_ring=1024)
    arguments = program.to_bytes(), samples[:1], None
    outputs, measured, _ = apart(comparison_run.encrypted_run, *arguments, errors=GlyphcError)
    np.testing.assert_array_equal(outputs, run(program, samples[:1], "clear").outputs["y"])
    assert measured.cpu_seconds > 0


KILLED = """
import sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_gate_workers import some_gates
import glyphc
from glyphc import comparison_run
from glyphc.backends import processors
from glyphc.backends.openfhe.gates import gate_session
processors.set_threads(2)
with gate_session(secure=False) as (owner, machine):
    some_gates(owner, machine, 5)
    print(machine._workers._folder.name, flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_of_a_killed_process() -> None:
    script = [sys.executable, "-c", KILLED, str(Path(__file__).parent)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        process.kill()
    deadline = time.monotonic() + 60
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not folder.exists()
