"""Files of training that are mixed up or damaged are found out before anything is computed (small rings)."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glyphc import free_memory
from glyphc.backends.ckks_clear import ClearCKKS
from glyphc.backends.step_loop import train_steps
from glyphc.errors import ArtifactError, EnvironmentSetupError
from glyphc.exchange.training_client import prepare
from glyphc.exchange.training_files import (
    CHECKPOINT,
    INITIAL,
    KEYS,
    PROGRAM,
    TRAINED,
    batch_path,
)
from glyphc.exchange.training_server import run_training
from glyphc.ir.instructions import Free, Instruction, Load, Store
from glyphc.ir.instructions.ckks import Code, Sum
from glyphc.ir.parameters import Parameters
from glyphc.storage.container import MANIFEST, Reader, Writer
from glyphc.storage.headers import (
    TrainingBatchHeader,
    TrainingKeysHeader,
)
from tests.training_runs import (
    RING,
    changed,
    copied,
    flip,
    invoke,
    job,
    prepared_run,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return prepared_run(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same job again: the same program, other keys."""
    folder = tmp_path_factory.mktemp("other")
    prepare(job(), folder / "client", folder / "server")
    return folder


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    return copied(prepared, tmp_path)


# -- mix-ups and damage, each found before anything is computed --


def take(name: str) -> Callable[[Path, Path], object]:
    return lambda server, stranger: shutil.copy(stranger / name, server / name)


BATCH = "batches/000001.batch"
MISTAKES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "another run's keys": (take(KEYS), "encrypted with other keys"),
    "another run's batch": (take(BATCH), "000001.batch' was encrypted with other keys"),
    "another run's state": (take(INITIAL), "initial.state' was encrypted with other keys"),
    "another place": (lambda s, o: shutil.copy(batch_path(s, 0), s / BATCH), "holds batch 0, not 1"),
    "no batch": (lambda s, o: (s / BATCH).unlink(), "cannot read .*000001.batch"),
    "no program": (lambda s, o: (s / PROGRAM).unlink(), "cannot read .*program.training"),
    "no keys": (lambda s, o: (s / KEYS).unlink(), "cannot read .*evaluation.keys"),
    "no state": (lambda s, o: (s / INITIAL).unlink(), "cannot read .*initial.state"),
    "a bit in a batch": (lambda s, o: flip(s / BATCH), "000001.batch' is not usable"),
    "a bit in the keys": (lambda s, o: flip(s / KEYS, 0.3), "evaluation.keys' is not usable"),
    "a bit in the state": (lambda s, o: flip(s / INITIAL), "initial.state' is not usable"),
    "a bit in the program": (lambda s, o: flip(s / PROGRAM, 0.2), "program.training' is not usable"),
    "a batch cut short": (lambda s, o: (s / BATCH).write_bytes((s / BATCH).read_bytes()[:50_000]), "cut short"),
    "keys cut short": (lambda s, o: (s / KEYS).write_bytes((s / KEYS).read_bytes()[:-5000]), "cut short"),
    "keys of another kind": (lambda s, o: shutil.copy(s / INITIAL, s / KEYS), "a file of evaluation keys for training"),
    "a later state": (lambda s, o: changed(s / INITIAL, step=2), "it is the state after 2 steps"),
    "an unknown key": (lambda s, o: changed(s / BATCH, key="0" * 64), "encrypted with other keys"),
    "an unknown program": (lambda s, o: changed(s / BATCH, program="0" * 64), "belongs to another training program"),
    "another kind": (lambda s, o: shutil.copy(s / INITIAL, s / BATCH), "holds an encrypted state of training; a file"),
    "an unknown seed": (lambda s, o: changed(s / BATCH, seed="x"), "its seed is not one of 32 bytes"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_before_the_first_step(
    mistake: str, run: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glyphc.exchange import training_server

    change, message = MISTAKES[mistake]
    change(run / "server", other / "server")
    monkeypatch.setattr(training_server, "train_steps", lambda *a: pytest.fail("a step was done"))
    with pytest.raises(ArtifactError, match=message):
        run_training(run / "server")
    assert not (run / "server" / TRAINED).exists()


def test_the_command_says_what_is_wrong(run: Path) -> None:
    flip(run / "server" / BATCH)
    result = invoke("training", "run", "--server", run / "server", code=2)
    assert result.stderr.count("error: ") == 1
    assert "000001.batch" in result.stderr
    assert "Make it again with 'glyphc training prepare'" in result.stderr


def test_a_damaged_state_may_be_the_clients(run: Path) -> None:
    """initial.state comes from 'prepare', the later ones from 'run'."""
    flip(run / "server" / INITIAL)
    makers = r"Make it again with 'glyphc training prepare' \(initial.state\) or 'glyphc training run'$"
    with pytest.raises(ArtifactError, match=makers):
        run_training(run / "server")


def test_a_newer_version_is_refused(run: Path) -> None:
    path = run / "server" / PROGRAM
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    entries[MANIFEST] = entries[MANIFEST].replace(b'"version": 3', b'"version": 4')
    with zipfile.ZipFile(path, "w") as new:
        for name, content in entries.items():
            new.writestr(name, content)
    with pytest.raises(ArtifactError, match="has format version 4; this glyphc reads version 3"):
        run_training(run / "server")


def test_residues_out_of_range_never_reach_openfhe(run: Path) -> None:
    path = run / "server" / BATCH
    with Reader(path, TrainingBatchHeader) as reader:
        header, sizes = reader.header, {p.name: p.size for p in reader.parts.values()}
    with Writer(path, header) as writer:
        for name, size in sizes.items():
            writer.add(name, b"\xff" * size)
    with pytest.raises(ArtifactError, match="a residue is not below its modulus"):
        run_training(run / "server")
    (run / "server" / CHECKPOINT).unlink()  # after the step with batch 0
    with Writer(path, header) as writer:
        for name, size in sizes.items():
            writer.add(name, b"\x00" * (size - 1))
    with pytest.raises(ArtifactError, match=r"part 000000 has .* bytes, not"):
        run_training(run / "server")


def test_keys_out_of_range_never_reach_openfhe(run: Path) -> None:
    """Keys whose hashes are right but whose numbers are not below their moduli, or too few; batches follow them."""
    path = run / "server" / KEYS
    with Reader(path, TrainingKeysHeader) as reader:
        header, parts = reader.header, {name: reader.read(name) for name in reader.parts}
    last = list(parts)[-1]
    for damage, message in (
        (lambda data: b"\xff" * len(data), "a residue is not below its modulus"),
        (lambda data: data[:-1], "bytes where"),
    ):
        with Writer(path, header) as writer:
            for name, data in parts.items():
                writer.add(name, damage(data) if name == last else data)
        changed(run / "server" / INITIAL, key=writer.digest)
        for number in range(3):
            changed(batch_path(run / "server", number), key=writer.digest)
        with pytest.raises(ArtifactError, match=f"evaluation.keys' is not usable: .*{message}"):
            run_training(run / "server")
    with Writer(path, header) as writer:
        for name, data in parts.items():
            if name != last:
                writer.add(name, data)
    changed(run / "server" / INITIAL, key=writer.digest)
    for number in range(3):
        changed(batch_path(run / "server", number), key=writer.digest)
    with pytest.raises(ArtifactError, match=f"part {last} is missing"):
        run_training(run / "server")


def test_ciphertexts_are_read_when_they_are_loaded() -> None:
    """One after another, as instructions ask for them: a batch need not fit into memory."""
    seen: list[str] = []

    class Batch(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            seen.append(name)
            return np.ones(RING)

    class Plan:
        def code(self, step: int) -> Code:
            sums = (Load(0, "state"), Load(1, "a"), Sum(2, ((0, 1), (1, 1))), Free((0, 1)))
            return (*sums, Load(3, "b"), Sum(4, ((2, 1), (3, 1))), Store(4, "state"))

    def observe(instruction: Instruction, seconds: float) -> None:
        seen.append(type(instruction).__name__)

    machine = ClearCKKS(Parameters(RING, 20, 44, slots=8, degree=27))
    state, batch = {"state": np.zeros(RING)}, Batch(a=None, b=None, unused=None)
    state = train_steps(Plan(), lambda s: machine, lambda s: batch, state, range(1), lambda *a: None, observe)
    assert state["state"][0] == 2
    assert seen == ["Load", "a", "Load", "Sum", "Free", "b", "Load", "Sum", "Store"]


def test_a_server_without_memory_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "available_bytes", lambda: 1000.0)
    with pytest.raises(EnvironmentSetupError, match=r"needs about .* GB of memory"):
        run_training(run / "server")
