"""The comparison with peers: its table, glyphc's part on a small ring, and the peers that have an environment here."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TextIO

import numpy as np
import pytest

PEERS = Path(__file__).resolve().parents[1] / "benchmarks" / "peers"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PEERS))
    return importlib.import_module("measured")


@pytest.fixture
def runs(measured: ModuleType) -> Iterator[ModuleType]:
    sys.modules.pop("run", None)  # benchmarks/run.py has the same name
    yield importlib.import_module("run")
    sys.modules.pop("run")


def rows(page: str) -> list[dict[str, str]]:
    """The table's lines by heading."""
    head, _, *lines = ([c.strip() for c in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|")
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_the_table(measured: ModuleType) -> None:
    """Seconds are those of a sample, wall before CPU; the last column is relative to the quickest."""
    wall = {"compile": 2.0, "keys": 10.0, "encrypt": 1.0, "evaluate": 6.0, "decrypt": 1.0}
    cpu = {stage: 2 * seconds for stage, seconds in wall.items()}
    quick = measured.Measured("a", "batch", {"a": "1"}, "128 bits", wall, cpu, 4 * 10**9, 200, 1000, 0.9, 1.0, 0.95)
    quick.key_bytes, quick.input_bytes, quick.output_bytes = 3 * 10**9, 300_000, 100_000
    slow = measured.Measured("b", "one by one", {}, "128 bits", wall, cpu, 0, 2, 1000, 1.0, 0.5, 0.9, 10**6)
    first, second = rows(measured.table([quick, slow]))
    assert first["evaluate, s a sample"] == "0.03 / 0.06"
    assert first["encrypt + decrypt, s a sample"] == "0.01 / 0.02"
    assert (first["keys, s"], first["compile, s"], first["keys, MB"]) == ("10 / 20", "2 / 4", "3,000")
    assert (first["up + down, kB a sample"], first["peak GB"]) == ("2.0", "4.00")
    assert (first["correct in clear"], first["correct encrypted"]) == ("95.00% of 1,000", "90.00% of 200")
    assert second["as in clear"] == "50.00%"
    assert [r["times the quickest (CPU)"] for r in (first, second)] == ["1.0", "100.0"]
    assert measured.read("other lines\n" + json.dumps(asdict(slow))) == slow
    assert "b, one by one: 128 bits" in measured.notes([quick, slow])


@pytest.mark.parametrize(
    ("steps", "began", "step"), [(0, False, "none began"), (0, True, "over 1"), (2, True, "1.5 / 3")]
)
def test_a_run_that_is_stopped_has_a_row(
    steps: int, began: bool, step: str, measured: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has done by then, and how long the step took that it was at: the last line that it wrote, and when."""
    encrypt = {"encrypt": 1.0} if began else {}
    wall, cpu = {"step": 3.0, **encrypt}, {"step": 6.0, **encrypt}
    so_far = measured.Training("c", "slow", {}, "", wall, cpu, steps=steps, batch=8, tested=9, clear=0.5)

    def killed(command: list[str], check: bool, stdout: TextIO, env: dict[str, str], timeout: float) -> None:
        stdout.write(f"other lines\n{json.dumps(asdict(so_far))}\n")
        stdout.flush()
        os.utime(stdout.fileno(), (time.time() - 100.0,) * 2)
        raise subprocess.TimeoutExpired(command, timeout)

    train = importlib.import_module("train")
    monkeypatch.setattr(subprocess, "run", killed)
    found = train.measure(Path(sys.executable), "concrete_ml_sgd.py", seconds=300.0)
    assert found.stopped >= 100.0
    (row,) = rows(measured.training_table([found]))
    assert row["steps"] == f"{steps}, then stopped"
    assert row["s a step"].startswith(step)
    assert (row["correct encrypted"], row["correct in clear"]) == ("not decrypted", "50.00%")
    what = "a step" if began else "what comes before its first step"
    assert f"stopped when {what} had taken 1" in measured.notes([found])


def case(folder: Path) -> Path:
    """A network of the same architecture and a few samples, of random numbers: figures mean nothing."""
    random = np.random.default_rng(0)
    arrays = {f"x_{part}": random.random((20, 784), dtype=np.float32) for part in ("train", "test")}
    labels = {f"y_{part}": random.integers(0, 10, 20) for part in ("train", "test")}
    sizes = [(128, 784), (32, 128), (10, 32)]
    weights = {f"w{i}": random.normal(0, s[1] ** -0.5, s).astype(np.float32) for i, s in enumerate(sizes)}
    biases = {f"b{i}": np.zeros(s[0], np.float32) for i, s in enumerate(sizes)}
    np.savez(folder / "case.npz", **arrays, **labels, **weights, **biases)
    return folder / "case.npz"


@pytest.mark.slow
def test_glyphc_with_files(tmp_path: Path, measured: ModuleType) -> None:
    options = ["--batch", "1", "--samples", "1", "--ring", "2048"]
    command = [sys.executable, PEERS / "glyphc_mlp.py", case(tmp_path), *options]
    done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
    found = measured.read(done.stdout)
    assert found.agreement == 1.0
    assert found.security == "NOT SECURE"
    assert set(found.wall) == set(measured.STAGES)
    assert min(found.key_bytes, found.input_bytes, found.output_bytes) > 1000


@pytest.mark.slow
@pytest.mark.xdist_group("128-bit")
@pytest.mark.parametrize(("name", "options"), [("concrete-ml", ["--epochs", "0"]), ("tenseal", []), ("heir", [])])
def test_peers(name: str, options: list[str], tmp_path: Path, runs: ModuleType) -> None:
    peer = runs.PEERS[name]
    if not peer.here:
        pytest.skip(f"make peers has made no environment of {name}")
    found = runs.measure(peer, peer.configurations[0], case(tmp_path), 1, options)
    assert set(found.wall) >= {"keys", "encrypt", "evaluate", "decrypt"}
    assert min(found.key_bytes, found.input_bytes, found.output_bytes) > 1000


def test_a_peer_without_an_environment_is_left_out_and_named(
    runs: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(runs, "write_case", lambda path: None)
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "tenseal", "--output", str(tmp_path / "page.md")])
    runs.main()
    assert "want of an environment (`make peers`): tenseal." in capsys.readouterr().out
    assert "tenseal" in (tmp_path / "page.md").read_text()


def test_the_case_is_the_network(runs: ModuleType, tmp_path: Path) -> None:
    """Its weights give the class that onnxruntime gives."""
    import onnxruntime

    runs.write_case(tmp_path / "case.npz")
    with np.load(tmp_path / "case.npz") as archive:
        value = x = archive["x_test"][:50]
        for i in range(3):
            value = value @ archive[f"w{i}"].T + archive[f"b{i}"]
            value = np.maximum(value, 0) if i < 2 else value
        session = onnxruntime.InferenceSession(str(PEERS.parents[1] / "models" / "mnist-mlp.onnx"))
        (wanted, *_) = session.run(None, {session.get_inputs()[0].name: (255 * x).astype(np.float32)})
        np.testing.assert_allclose(value, wanted, atol=1e-3)
        assert np.mean(value.argmax(axis=1) == archive["y_test"][:50]) > 0.8
