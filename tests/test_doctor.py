"""What ``glyphc doctor`` finds on machines that lack something, and ``glyphc --help`` by roles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from glyphc import doctor, free_memory
from glyphc.analysis import cost_file
from glyphc.analysis.cost import CostModel
from glyphc.analysis.kernels_cost import KERNELS
from glyphc.backends.engine import engine
from glyphc.backends.kernels import selftest
from glyphc.cli import main
from glyphc.commands.grouping import GROUPS
from glyphc.measure import this_machine


def test_this_machine_passes() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "openfhe" in result.output
    assert "missing" not in result.output


def test_without_openfhe_encrypted_runs_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(engine("openfhe")), "problem", lambda _self: "no library of that name")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "no library of that name" in result.output
    assert "install glyphc again" in result.output


def test_without_fused_multiply_add_it_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "problem", lambda: "this processor has no fused multiply-add")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    assert "kernels: programs run on the engine 'openfhe'" in result.output


@pytest.mark.parametrize(
    ("limit", "state"), [(2e9, doctor.State.MISSING), (6e9, doctor.State.NOTE), (64e9, doctor.State.OK)]
)
def test_a_container_s_limit_counts(monkeypatch: pytest.MonkeyPatch, limit: float, state: doctor.State) -> None:
    monkeypatch.setattr(free_memory, "container_limit", lambda: int(limit))
    monkeypatch.setattr(free_memory, "_taken", lambda: 0)
    monkeypatch.setattr(free_memory.psutil, "virtual_memory", lambda: type("M", (), {"available": 100e9}))
    found = next(f for f in doctor.examine() if f.subject == "memory")
    assert found.state is state
    assert f"{limit / 1e9:.1f} GB" in found.found


@pytest.mark.parametrize(
    "names",
    [
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ],
)
def test_what_a_container_has_taken_is_not_free(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, used, stat, cached = names
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text("6000000000\n")
    (tmp_path / used).write_text("5000000000\n")
    (tmp_path / stat).write_text(f"anon 4000000000\n{cached} 1000000000\n")
    monkeypatch.setattr(free_memory, "_CGROUP", tmp_path)
    memory = type("M", (), {"available": 100e9, "total": 200e9})
    monkeypatch.setattr(free_memory.psutil, "virtual_memory", memory)
    assert free_memory.available_bytes() == 2e9


def test_a_broken_cost_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    path.write_text("{")
    monkeypatch.setenv("GLYPHC_COST_MODEL", str(path))
    found = next(f for f in doctor.examine() if f.subject == "cost model")
    assert found.state is doctor.State.NOTE
    assert "cost.json" in found.found
    assert "glyphc measure" in found.remedy


def test_what_the_kernels_take_is_what_counts_as_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    cost_file.save(path, CostModel(kernels=replace(KERNELS, machine=this_machine())))
    monkeypatch.setenv("GLYPHC_COST_MODEL", str(path))
    found = next(f for f in doctor.examine() if f.subject == "cost model")
    assert found.state is doctor.State.OK
    assert "measured here" in found.found


def test_help_lists_every_command_under_its_role() -> None:
    assert {name for _, names in GROUPS for name in names} == set(main.commands)
    text = CliRunner().invoke(main, ["--help"]).output
    assert text.index("Client, who") < text.index("  keygen ") < text.index("Server, which") < text.index("  serve ")
