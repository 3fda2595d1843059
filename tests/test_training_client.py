"""The client of a training run: what it refuses, what it leaves behind, and where its secret lies (small rings)."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glyphc.backends.openfhe.residues import Uniform, pack
from glyphc.backends.openfhe.ring import Ring
from glyphc.backends.openfhe.training_fresh import FreshCiphertexts, stored_client
from glyphc.errors import ArtifactError, EnvironmentSetupError, GlyphcError, ParameterError, SecretError
from glyphc.exchange.client import SECRET_FILE
from glyphc.exchange.secret import check_apart
from glyphc.exchange.training_client import JOB_FILE, TrainingClientFiles, finish, plan_steps, prepare
from glyphc.exchange.training_files import (
    CHECKPOINT,
    INITIAL,
    KEYS,
    PROGRAM,
    TRAINED,
)
from glyphc.exchange.training_room import folder_bytes
from glyphc.exchange.training_server import run_training
from glyphc.storage.container import Reader
from glyphc.storage.headers import (
    TrainingSecretHeader,
)
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job
from tests.training_runs import (
    OPTIONS,
    RING,
    changed,
    copied,
    flip,
    invoke,
    job,
    prepared_run,
    write_inputs,
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


# -- the client --


def test_states_of_others_are_not_decrypted(run: Path, other: Path, tmp_path: Path) -> None:
    run_training(other / "server", 1)
    (other / "server" / CHECKPOINT).rename(tmp_path / "strange")
    with pytest.raises(ArtifactError, match="encrypted with other keys"):
        finish(run / "client", tmp_path / "strange", steps=1)
    changed(tmp_path / "strange", key=TrainingClientFiles.load(run / "client" / JOB_FILE).key)
    with pytest.raises(ArtifactError, match="it does not decrypt to weights"):
        finish(run / "client", tmp_path / "strange", steps=1)
    flip(tmp_path / "strange")
    with pytest.raises(ArtifactError, match="is not usable"):
        finish(run / "client", tmp_path / "strange", steps=1)
    shutil.copy(other / "client" / SECRET_FILE, run / "client" / SECRET_FILE)
    run_training(run / "server", 1)
    with pytest.raises(ArtifactError, match="is the secret key of another run"):
        finish(run / "client", run / "server" / CHECKPOINT, steps=1)


def test_a_job_of_another_version(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(run / "client" / JOB_FILE, program="0" * 64)
    with pytest.raises(ArtifactError, match="made by another version of glyphc"):
        TrainingClientFiles.load(run / "client" / JOB_FILE)


@pytest.mark.parametrize("error", [TrainingError("no such layout"), ParameterError("no secure parameters")])
def test_a_job_that_this_version_cannot_plan(error: Exception, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glyphc.exchange import training_client

    def refuse(job: Job) -> None:
        raise error

    monkeypatch.setattr(training_client, "plan_of", refuse)
    with pytest.raises(ArtifactError, match="made by another version of glyphc") as caught:
        TrainingClientFiles.load(run / "client" / JOB_FILE)
    assert caught.value.__cause__ is error


def test_the_room_that_files_take(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = plan_steps(job())[1]
    size = sum(p.stat().st_size for p in (prepared / "server").rglob("*") if p.is_file())
    assert 1 < folder_bytes(program, "kernels") / size < 1.15
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(EnvironmentSetupError, match=r"0.0 GB are free in .*server'; make room, or choose"):
        prepare(job(), tmp_path / "client", tmp_path / "server")
    assert not list(tmp_path.iterdir())


def test_a_passphrase(tmp_path: Path) -> None:
    inputs, secret = write_inputs(tmp_path), {"GLYPHC_PASSPHRASE": "correct horse"}
    client, server = tmp_path / "client", tmp_path / "server"
    options = (*OPTIONS, "--steps", 1)
    invoke("training", "prepare", *inputs, *options, "--client", client, "--server", server, "--passphrase", **secret)
    invoke("training", "run", "--server", server)
    finishing = ("training", "finish", "--client", client, "--server", server, "-o", tmp_path / "out.onnx")
    assert "wrong passphrase" in invoke(*finishing, code=2, GLYPHC_PASSPHRASE="x").stderr
    assert not (tmp_path / "out.onnx").exists()
    invoke(*finishing, **secret)
    with pytest.raises(SecretError, match="needs its passphrase"):
        finish(client, server / TRAINED)


def test_what_the_client_cannot_do(prepared: Path, tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    client, server = prepared / "client", prepared / "server"
    again = invoke("training", "prepare", *inputs, *OPTIONS, "--client", client, "--server", tmp_path / "s", code=2)
    assert "exists already" in again.stderr
    again = invoke("training", "prepare", *inputs, *OPTIONS, "--client", tmp_path / "c", "--server", server, code=2)
    assert "exists already" in again.stderr
    same = ("--client", tmp_path / "z", "--server", tmp_path / "z")
    assert "must be two" in invoke("training", "prepare", *inputs, *OPTIONS, *same, code=2).stderr
    inside = ("--client", tmp_path / "z" / "mine", "--server", tmp_path / "z")
    assert "lies in the server's" in invoke("training", "prepare", *inputs, *OPTIONS, *inside, code=2).stderr
    folders = ("--client", tmp_path / "c", "--server", tmp_path / "s")
    wild = invoke("training", "prepare", *inputs, *OPTIONS, "--learning-rate", 90, *folders, code=2)
    assert "--logit-range" in wild.stderr or "diverges" in wild.stderr
    assert not (tmp_path / "c").exists() and not (tmp_path / "s").exists()
    finishing = ("training", "finish", "--client", client)
    assert "--server FOLDER or --state FILE" in invoke(*finishing, "-o", tmp_path / "o.onnx", code=2).stderr
    wrong = invoke(*finishing, "--server", server, "-o", tmp_path / "o.npz", code=2)
    assert "must end in .onnx" in wrong.stderr
    none = invoke(*finishing, "--server", server, "-o", tmp_path / "o.onnx", code=2)
    assert "trained.state" in none.stderr
    strange = invoke("training", "finish", "--client", tmp_path, "--server", server, "-o", tmp_path / "o.onnx", code=2)
    assert "there is no secret.key" in strange.stderr


@pytest.mark.parametrize("option", ["--data", "--labels"])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.float64(3), "bad.npy' holds a single number"),
        (np.zeros((0, 4)), "bad.npy' holds no samples (an array of shape [0, 4])"),
    ],
)
def test_data_without_samples(option: str, array: Any, message: str, tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    np.save(tmp_path / "bad.npy", array)
    for command in (("train", "-o", tmp_path / "t.onnx"), ("training", "prepare", "--client", "c", "--server", "s")):
        # the last --data or --labels is the one that counts
        result = invoke(*command, *inputs, "--insecure-ring", RING, option, tmp_path / "bad.npy", code=2)
        assert message in result.stderr


def test_the_secret_never_lies_in_what_is_sent(tmp_path: Path) -> None:
    server, link = tmp_path / "out", tmp_path / "link"
    link.symlink_to(server)
    for client in (server / "mine", server / "a" / ".." / "b", link / "mine", tmp_path / "x" / ".." / "out" / "mine"):
        with pytest.raises(GlyphcError, match=r"lies in the server's.*Use two folders side by side"):
            prepare(job(), client, server)
    for client in (server, link, server / "a" / ".."):
        with pytest.raises(GlyphcError, match="must be two"):
            prepare(job(), client, server)
    assert not server.exists()
    # these are apart, whatever their names begin with; and what lies in the client's folder is not the danger
    check_apart(tmp_path / "out-of-reach", server)
    check_apart(tmp_path, server)


def test_nothing_stays_behind_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def write(self: FreshCiphertexts, message: Any, limbs: int, stream: Uniform) -> bytes:
        calls.append(limbs)
        if len(calls) == 15:
            raise ValueError("a message is too large for its scale")
        return original(self, message, limbs, stream)

    original = FreshCiphertexts.write
    monkeypatch.setattr(FreshCiphertexts, "write", write)
    with pytest.raises(GlyphcError, match="too large for its scale, so it cannot be encrypted"):
        prepare(job(), tmp_path / "client", tmp_path / "server")
    assert not list(tmp_path.iterdir())


# -- secrets --


def secret_forms(client: Path) -> dict[str, bytes]:
    """The secret in every form that the code uses: enough bytes of each to be found nowhere by chance."""
    from glyphc.exchange.secret import read_secret

    files = TrainingClientFiles.load(client / JOB_FILE)
    with Reader(client / SECRET_FILE, TrainingSecretHeader) as reader:
        stored = read_secret(reader, None)
    from glyphc.backends.openfhe.bridge import Mould, ring_in
    from glyphc.backends.openfhe.client import ternary_secret

    secret = stored_client(files.plan.parameters, stored).secret
    mould = Mould.of(secret, RING)
    rings: list[Ring] = [ring_in(mould.blob, RING, q) for q in mould.moduli]
    ternary = ternary_secret(secret, tuple(rings))
    first = int(np.flatnonzero(ternary)[0])
    window = slice(max(0, first - 8), first + 120)
    forms = {
        "int8": ternary[window].astype(np.int8).tobytes(),
        "int64": ternary[window].tobytes(),
        "stored": stored[len(stored) // 2 :][:400],
    }
    for ring in rings:
        tower = ring.to_evaluation(ring.reduce(ternary))[:64]
        forms |= {f"evaluation {ring.q}": tower.tobytes(), f"packed {ring.q}": pack(tower, ring.q)}
        forms[f"coefficients {ring.q}"] = ring.reduce(ternary)[window].tobytes()
    return forms


def test_the_servers_folder_holds_no_secret(run: Path) -> None:
    server = run / "server"
    invoke("training", "run", "--server", server, "--steps", 2)
    (server / CHECKPOINT).rename(server / "kept")
    invoke("training", "run", "--server", server)
    forms = secret_forms(run / "client")
    paths = [p for p in server.rglob("*") if p.is_file()]
    assert {PROGRAM, KEYS, INITIAL, TRAINED, "kept"} <= {p.name for p in paths}
    for path in paths:
        content = path.read_bytes()
        assert b"secret" not in content
        assert [name for name, form in forms.items() if form in content] == []
    # the search finds them where they are
    stored = (run / "client" / SECRET_FILE).read_bytes()
    assert sum(form in stored for form in forms.values()) > 3


def test_modes_of_the_clients_files(prepared: Path) -> None:
    for name in (SECRET_FILE, JOB_FILE):
        assert stat.S_IMODE((prepared / "client" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((prepared / "client").stat().st_mode) == 0o700


def test_a_secret_that_others_may_read_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "client" / SECRET_FILE).chmod(0o644)
    folders = ("--client", run / "client", "--server", run / "server")
    result = invoke("training", "finish", *folders, "-o", tmp_path / "o.onnx", code=2)
    assert "chmod 600" in result.stderr
