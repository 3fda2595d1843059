"""Engines by name: those that come with glyphc, those of other packages, and what is said of names that are none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from pass_networks import mlp

import glyphc
from glyphc.analysis.cost import CostModel
from glyphc.backends import engine as registry
from glyphc.backends.kernels import selftest
from glyphc.backends.simulate import SimulatedMachine, SimulateEngine
from glyphc.cli import main
from glyphc.diagnostics import predicted, summary
from glyphc.errors import GlyphcError
from glyphc.ir.instructions import Instruction, Schedule
from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.program import Program
from glyphc.runtime import run

X = np.random.default_rng(5).uniform(-1, 1, (200, 2, 3))


class Pretender(SimulateEngine):
    """Of another package: says that it encrypts, and keeps the names of what it executes."""

    name = "pretender"
    encrypts = True
    seen: list[str] = []  # noqa: RUF012

    def unsupported(self, code: Iterable[Instruction]) -> set[str]:
        self.seen.extend(instruction.mnemonic for instruction in code)
        return super().unsupported(code)


class WithoutSplit(SimulateEngine):
    """Cannot execute all instructions."""

    name = "poor"
    encrypts = True

    @property
    def machine(self) -> type:  # type: ignore[override]
        names = [n for n in dir(SimulatedMachine) if n != "dot" and not n.startswith("__")]
        return type("Poor", (), {n: getattr(SimulatedMachine, n) for n in names})


PRETENDER, POOR, NONE = Pretender(), WithoutSplit(), object()


@pytest.fixture
def program() -> Program:
    graph = mlp()
    return glyphc.compile(graph, X, 4, insecure_ring=1024)


@pytest.fixture
def plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"pretender": "PRETENDER", "poor": "POOR", "bad": "NONE"}
    points = [EntryPoint(name, f"{__name__}:{value}", registry.GROUP) for name, value in named.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else [])


@pytest.mark.usefixtures("plug_ins")
def test_an_engine_of_another_package_executes(program: Program) -> None:
    assert "pretender" in registry.engine_names()
    outputs = run(program, X[:4], engine="pretender").outputs
    expected = run(program, X[:4], "simulate").outputs
    for name, values in expected.items():
        np.testing.assert_array_equal(outputs[name], values)
    assert "evaluate" in PRETENDER.seen


@pytest.mark.usefixtures("plug_ins")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fast", "there is no engine 'fast'; there are: openfhe, "),
        ("simulate", "does not encrypt; use mode 'simulate'"),
        ("poor", "has no dot; choose another"),
        ("bad", "is no instance of"),
    ],
)
def test_engines_that_cannot_be_used(program: Program, name: str, message: str) -> None:
    with pytest.raises(GlyphcError, match=message):
        run(program, X[:4], engine=name)


def test_an_engine_is_for_encrypted_runs(program: Program) -> None:
    with pytest.raises(GlyphcError, match="is for encrypted runs"):
        run(program, X[:4], "clear", engine="openfhe")


def test_clear_execution_of_the_schedule_is_the_graph(program: Program) -> None:
    schedule: Schedule = program.schedule
    assert registry.engine("clear").unsupported(schedule.instructions) == set()


def test_the_list(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["engines"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == ["engine", *registry.engine_names()]


def test_the_best_engine_is_the_first_that_takes_a_program(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = program.client.parameters
    assert isinstance(parameters, Parameters)
    assert registry.best_engine(parameters)[0].name == "kernels"
    kept = replace(parameters, levels_kept=2)
    found, reason = registry.best_engine(kept)
    assert (found.name, reason) == ("openfhe", "kernels: it keeps levels after a bootstrap in training alone")
    in_slots = SlotParameters(16384, 7, 28, 32, 2)
    assert registry.best_engine(in_slots)[0].name == "kernels"
    found, reason = registry.best_engine(replace(in_slots, first_bits=50))
    assert (found.name, reason) == ("openfhe", "kernels: its primes have up to 47 bits, not 50")
    found, reason = registry.best_engine(replace(in_slots, depth=14))
    assert (found.name, reason) == ("openfhe", "kernels: no keys for products keep to 2^430")
    monkeypatch.setattr(selftest.llvm, "get_host_cpu_features", lambda: {"avx2": True})
    report = run(program, X[:4])
    assert report.engine == "openfhe"
    assert "fused multiply-add" in report.engine_reason
    # what is predicted is predicted of it
    assert registry.best_engine(parameters, here=False)[0].name == "openfhe"
    assert predicted(program, CostModel()) == predicted(program, CostModel(), "openfhe")
    assert " on the engine openfhe, as measured on " in summary(program, CostModel())
    assert "on the engine kernels, as measured" not in summary(program, CostModel())
