"""The listing of instructions that 'glyphc inspect --stage schedule' shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_merge import branches

import glyphc
from glyphc.cli import main
from glyphc.diagnostics import schedule_text
from glyphc.ir.instructions import ClientSpec, Dot, Free, Instruction, Schedule
from glyphc.ir.parameters import Parameters


def listed(instruction: Instruction, wide: bool = False) -> str:
    client = ClientSpec(Parameters(1024, 20, 40), (), (), 1)
    return schedule_text(Schedule(client, (instruction,), {}), wide).splitlines()[1]


@pytest.mark.parametrize(
    ("registers", "shown"),
    [
        ((3,), "r3"),
        ((3, 4), "r3 r4"),
        ((3, 4, 5, 9), "r3..r5 r9"),
        ((5, 4, 3), "r5 r4 r3"),
        (tuple(range(64)), "r0..r63"),
        (tuple(range(0, 100, 2)), "r0 r2 r4 r6 r8 r10 r12 r14 r16 ... r98"),
    ],
)
def test_lists_of_registers(registers: tuple[int, ...], shown: str) -> None:
    assert f" {shown} " in listed(Free(registers, 0))
    if "... " in shown:
        full = listed(Free(registers, 0), wide=True)
        assert f" {' '.join(f'r{r}' for r in registers)} " in full


def test_long_names_lose_their_middle() -> None:
    name = "/encoder/layers.0/attention/" + "x" * 40 + "/MatMul+fc1%12"
    dot = Dot(7, (1, 2), name, 3, 4)
    assert name in listed(dot, wide=True)
    short = listed(dot)
    assert name not in short
    assert "2 x /encoder" in short
    assert "%12 + r3" in short


def test_inspect_shortens_unless_asked_not_to(tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(200, 4))
    glyphc.compile(branches(40, 41, 42), x, 64, insecure_ring=2048).save(tmp_path / "p.glyphc")

    def shown(*options: str) -> str:
        result = CliRunner().invoke(main, ["inspect", str(tmp_path / "p.glyphc"), *options])
        assert result.exit_code == (2 if options == ("--wide",) else 0), result.output
        return result.output

    short, wide = shown("--stage", "schedule").splitlines(), shown("--stage", "schedule", "--wide").splitlines()
    assert len(short) == len(wide)
    assert max(map(len, short)) <= 150
    assert max(map(len, short)) <= max(map(len, wide))
    assert "goes with --stage schedule" in shown("--wide")
