"""Batches that are not full: their samples stand in as few chunks as hold them, and nothing else is computed."""

from __future__ import annotations

import functools
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from strategies import drawn
from test_chunks import mlp, two_heads

import glyphc
from glyphc.backends.base import execute
from glyphc.codec import decode, encode
from glyphc.exchange.artifacts import _check_ports
from glyphc.exchange.server import Evaluator
from glyphc.ir.errors import IRError
from glyphc.ir.instructions import ClientSpec, Free, Load, Port, Powers, Store
from glyphc.ir.instructions.partial import for_samples
from glyphc.ir.layout import Layout
from glyphc.ir.parameters import Parameters
from glyphc.ir.types import FixedPoint
from glyphc.program import Program
from glyphc.runtime import run
from glyphc.storage.container import Reader
from glyphc.storage.headers import InputsHeader, OutputsHeader
from tests.roles import compiled, make_setting, samples
from tests.schedule_cases import F64, Case, CheckedMachine, cases, check_registers, relaxed, run_clear

RING = 1024


def client_of(batch: int, chunks: list[int]) -> ClientSpec:
    """One feature per sample, in so many ciphertexts; the first is an input, all are outputs."""
    ports = []
    for number, count in enumerate(chunks):
        layout = Layout(RING, batch, 1, 1, 1, 1, 1, zero_elsewhere=True, chunks=count)
        ports.append(Port(f"p{number}", (1,), FixedPoint((1.0,), (0.0,), -8, 7), layout))
    return ClientSpec(Parameters(RING, 20, 40), (ports[0],), tuple(ports), batch)


@given(st.integers(0, 5), st.integers(0, 5), st.data())
def test_samples_stand_in_as_few_chunks_as_hold_them(wide: int, narrow: int, data: st.DataObject) -> None:
    chunks, fewer = 1 << wide, 1 << min(wide, narrow)
    batch = data.draw(st.integers(chunks, 200))
    client = client_of(batch, [chunks, fewer])
    count = data.draw(st.integers(1, batch))
    places, used = client.places(count), client.chunks_for(count)
    assert len(places) == count
    assert np.all(np.diff(places) > 0)
    assert places[-1] < batch
    assert set(places % chunks) == set(range(used))
    # the tensor of fewer chunks has them in its first ones, too
    assert set(places % fewer) == set(range(min(used, fewer)))
    room = [len(range(chunk, batch, chunks)) for chunk in range(chunks)]
    assert sum(room[: used - 1]) < count <= sum(room[:used])
    if used == chunks:
        assert places.tolist() == list(range(count))


def run_partly(program: Program, inputs: dict[str, F64]) -> dict[str, F64]:
    """Encode, execute what the samples take, decode; all on plain polynomials."""
    client, count = program.client, len(next(iter(inputs.values())))
    partial = for_samples(program.schedule, count)
    check_registers(partial.schedule)
    machine, places = CheckedMachine(program.schedule), client.places(count)
    ciphertexts = {p.name: list(map(machine.encrypt, encode(p, inputs[p.name], places))) for p in client.inputs}
    # the schedule reads nothing of the others
    for port in client.inputs:
        ciphertexts[port.name][min(client.chunks_for(count), port.layout.chunks) * port.layout.parts :] = []
    results = execute(partial.schedule.instructions, machine, ciphertexts)
    return {
        p.name: decode(p, np.array([machine.decrypt(c) for c in results[p.name]]), count, places)
        for p in client.outputs
    }


def assert_exact(program: Program, inputs: dict[str, F64]) -> None:
    wanted, got = run_clear(program, inputs), run_partly(program, inputs)
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@given(cases(), st.data())
@settings(relaxed, max_examples=drawn(60))
def test_few_samples_give_exactly_what_the_quantized_graph_says(case: Case, data: st.DataObject) -> None:
    program = case.compile()
    available = len(next(iter(case.samples.values())))
    count = data.draw(st.integers(1, min(program.client.batch, available)))
    chunks = [n.type.layout.chunks for n in program.graph if n.type.layout]
    event(f"{program.client.chunks_for(count)} of {sorted(set(chunks), reverse=True)} chunks")
    assert program.client.chunks == max(chunks), "an input has as many chunks as any tensor"
    assert_exact(program, {name: x[:count] for name, x in case.samples.items()})


NETWORKS = {
    "as wide all along": mlp(8, 64, 64, 4, function="tanh"),
    "narrower": mlp(8, 64, 16, 4, function="tanh"),
    "twice narrower": mlp(8, 64, 16, 4, 2, function="tanh"),
    "two functions that meet in a narrower one": two_heads(narrow=True),
}


X = np.random.default_rng(3).normal(size=(200, 8))


@functools.cache
def compiled_for_64(name: str) -> Program:
    return glyphc.compile(NETWORKS[name], X, 64, insecure_ring=RING)


@pytest.mark.parametrize("count", [1, 17, 33, 64])
@pytest.mark.parametrize("name", NETWORKS)
def test_only_chunks_with_samples_are_computed(name: str, count: int) -> None:
    """64 samples in four chunks of sixteen."""
    graph, program = NETWORKS[name], compiled_for_64(name)
    assert program.client.chunks == 4
    assert_exact(program, {graph.inputs[0].op.name: X[:count]})  # type: ignore[attr-defined]
    used = -(-count // 16)
    whole, partial = program.schedule, for_samples(program.schedule, count)
    for node in program.graph:
        made = [i for i in partial.schedule.instructions if isinstance(i, Powers) and i.node == node.id]
        if of_full := [i for i in whole.instructions if isinstance(i, Powers) and i.node == node.id]:
            assert len(made) == min(used, len(of_full))
    loaded = [i.part for i in partial.schedule.instructions if isinstance(i, Load)]
    parts = program.client.inputs[0].layout.parts
    assert sorted(loaded) == list(range(used * parts))
    # the same instructions but for the names of registers
    registers = {"target", "targets", "source", "sources", "total", "powers", "registers"}
    for instruction, number in zip(partial.schedule.instructions, partial.numbers, strict=True):
        full = whole.instructions[number]
        assert type(full) is type(instruction)
        for f in fields(full):
            assert f.name in registers or getattr(full, f.name) is getattr(instruction, f.name)


def test_a_full_batch_takes_the_whole_schedule() -> None:
    schedule = compiled_for_64("narrower").schedule
    for count in (49, 64):
        assert for_samples(schedule, count).schedule is schedule


def test_a_run_computes_what_its_samples_take() -> None:
    """Simulated: 70 samples are a full pass, and six of one chunk; the record names instructions of the schedule."""
    program = compiled_for_64("as wide all along")
    report = run(program, X[:70], "simulate")
    instructions = program.schedule.instructions
    bootstraps = [number for number, _, _ in report.timeline if isinstance(instructions[number], Powers)]
    assert len(bootstraps) == 2 * 4 + 2
    # the second pass begins where numbers fall
    assert sorted(bootstraps[:8]) == bootstraps[:8]
    assert bootstraps[8:] == bootstraps[:2]
    assert all(not isinstance(instructions[number], Load) for number, _, _ in report.timeline)
    assert sum(isinstance(instructions[n], Store | Free) for n, _, _ in report.timeline) > 0
    clear = run(program, X[:70], "clear").outputs["y"]
    assert np.abs(report.outputs["y"] - clear).max() < 0.05 * np.ptp(clear)


def test_files_hold_what_their_samples_take(tmp_path: Path) -> None:
    """Encrypted, on files: 65 samples of 64 in two chunks; the last pass is one sample in one chunk."""
    program = compiled(64)
    assert program.client.chunks == 2
    setting = make_setting(tmp_path / "setting", program)
    setting.account.encrypt(samples(65), tmp_path / "in")
    with Reader(tmp_path / "in", InputsHeader) as reader:
        assert len(reader.parts) == 3 * program.client.inputs[0].layout.parts
    with Evaluator(setting.half, setting.keys) as evaluator:
        evaluator.evaluate(tmp_path / "in", tmp_path / "out", tmp_path / "checkpoint")
    with Reader(tmp_path / "out", OutputsHeader) as reader:
        full = program.client.outputs[0].layout.chunks
        assert len(reader.parts) == full + 1
    (found,) = setting.account.decrypt(tmp_path / "out").values()
    clear = np.asarray(program.run(samples(65), mode="clear"))
    assert np.abs(found - clear).max() < 0.03 * np.ptp(clear)


def test_chunks_that_do_not_divide_one_another_are_no_specification() -> None:
    client = client_of(12, [4, 2])
    ports = tuple(replace(p, layout=replace(p.layout, chunks=3)) for p in client.outputs[1:])
    with pytest.raises(IRError, match="chunks"):
        _check_ports(replace(client, outputs=ports))
