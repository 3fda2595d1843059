"""Training by client and server as separate commands: round trips, kill -9, mix-ups, secrets (small rings)."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from glyphc.backends.ckks_clear import ClearCKKS
from glyphc.backends.openfhe.ckks_client import generate_training_keys
from glyphc.backends.openfhe.ckks_files import to_bytes
from glyphc.backends.openfhe.residues import ResidueError, Uniform, pack
from glyphc.backends.openfhe.ring import Ring
from glyphc.backends.openfhe.training_fresh import FreshCiphertexts, stored_client
from glyphc.backends.openfhe.training_wire import TrainingWire
from glyphc.backends.step_loop import train_steps
from glyphc.cli import main
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
    ProgramFile,
    TrainingProgram,
    batch_path,
    check_parameters,
)
from glyphc.exchange.training_room import folder_bytes
from glyphc.exchange.training_server import run_training
from glyphc.frontends.from_onnx import read_onnx
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.errors import IRError
from glyphc.ir.instructions import Free, Instruction, Load, Store
from glyphc.ir.instructions.ckks import Code, Raise, Scaled, Sum
from glyphc.ir.instructions.text import CKKS, code_text, parse_code
from glyphc.ir.parameters import Parameters
from glyphc.storage.container import MANIFEST, Reader, Writer
from glyphc.storage.headers import (
    TrainingBatchHeader,
    TrainingKeysHeader,
    TrainingProgramHeader,
    TrainingSecretHeader,
    TrainingStateHeader,
)
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job, Options, make_job
from glyphc.train.linear_models import linear_model
from glyphc.train.loop import train
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD, Cosine
from glyphc.train.plan import make_plan
from tests.roles import environment
from tests.test_train_chain import chain

RING = 1024
STEPS = 5
# Of weights, against simulation: another draw of the same noise.
TOLERANCE = 1e-4
OPTIONS = ("--steps", STEPS, "--batch", 24, "--learning-rate", 0.5, "--momentum", 0.5, "--insecure-ring", RING)


def samples() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    x = random.normal(2.0, 3.0, size=(60, 4))
    return x, (x @ np.arange(1, 5) + random.normal(size=60) > 20).astype(np.int64)


def job() -> Job:
    x, y = samples()
    options = Options(SGD(0.5, 0.5), STEPS, 24, insecure_ring=RING)
    return make_job(linear_model(x, 1, "sigmoid"), x, y, options)


def glyphc(*arguments: object, code: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "glyphc", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(**changes), timeout=120)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


def invoke(*arguments: object, code: int = 0, **changes: str) -> Result:
    """The same in this process, which is faster."""
    result = CliRunner().invoke(main, [str(a) for a in arguments], env=changes)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result


def write_inputs(folder: Path) -> tuple[object, ...]:
    """A model and its data; the options that name them."""
    x, y = samples()
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    (folder / "model.onnx").write_bytes(to_onnx(linear_model(x, 1, "sigmoid")).SerializeToString())
    return (folder / "model.onnx", "--data", folder / "x.npy", "--labels", folder / "y.npy")


def weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the command, with the folders "client" and "server"; not to be changed."""
    folder = tmp_path_factory.mktemp("prepared")
    inputs = write_inputs(folder)
    folders = ("--client", folder / "client", "--server", folder / "server")
    result = glyphc("training", "prepare", *inputs, *OPTIONS, *folders)
    assert "NOT SECURE" in result.stderr and "NOT SECURE" in result.stdout
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same job again: the same program, other keys."""
    folder = tmp_path_factory.mktemp("other")
    prepare(job(), folder / "client", folder / "server")
    return folder


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    for name in ("client", "server"):
        shutil.copytree(prepared / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The state after a run that nothing disturbed: by the command, in a process that loads nothing that decrypts."""
    server = tmp_path_factory.mktemp("whole") / "server"
    shutil.copytree(prepared / "server", server)
    wanted = (
        "glyphc.backends.openfhe.ckks_client glyphc.backends.openfhe.training_fresh glyphc.backends.openfhe.client "
        "glyphc.exchange.training_client glyphc.exchange.secret glyphc.train.job glyphc.train.planning "
        "glyphc.train.plan onnx"
    )
    code = (
        f"import sys; from glyphc.cli import main; main(['training', 'run', '--server', {str(server)!r}], "
        f"standalone_mode=False); print('loaded', sorted(set({wanted!r}.split()) & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("loaded []\n"), result.stdout
    assert "NOT SECURE" in result.stderr
    return state(server / TRAINED)


def state(path: Path) -> dict[str, bytes]:
    with Reader(path, TrainingStateHeader) as reader:
        return {name: reader.read(name) for name in reader.parts}


# -- round trips --


def test_the_commands_train_as_glyphc_train_does(run: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    glyphc("training", "run", "--server", run / "server")
    assert state(run / "server" / TRAINED) == whole
    assert not (run / "server" / CHECKPOINT).exists()
    # the server may send this one file alone
    shutil.copy(run / "server" / TRAINED, tmp_path / "sent")
    glyphc("training", "finish", "--client", run / "client", "--state", tmp_path / "sent", "-o", tmp_path / "a.onnx")
    glyphc("training", "finish", "--client", run / "client", "--server", run / "server", "-o", tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    simulated = train(job(), "simulate").network
    found = read_onnx(onnx.load(tmp_path / "a.onnx"))
    assert np.abs(simulated.constant("weight")).max() > 0.1
    assert np.abs(found.constant("weight") - simulated.constant("weight")).max() < TOLERANCE
    assert np.abs(found.constant("bias") - simulated.constant("bias")).max() < TOLERANCE
    again = glyphc("training", "run", "--server", run / "server", code=2)
    assert "there is a trained state already" in again.stderr


def test_two_layers_and_a_schedule(tmp_path: Path) -> None:
    """A step with several bootstraps, another code for every step."""
    random = np.random.default_rng(0)
    from onnx_models import build, node, randoms

    constants = {"w0": randoms(4, 4), "b0": randoms(4), "w1": randoms(2, 4, seed=2), "b1": randoms(2, seed=3)}
    nodes = [
        node("Gemm", ["x", "w0", "b0"], ["h"], name="hidden", transB=1),
        node("Tanh", ["h"], ["a"]),
        node("Gemm", ["a", "w1", "b1"], ["z"], name="head", transB=1),
        node("Sigmoid", ["z"], ["y"]),
    ]
    network = read_onnx(build(nodes, constants))
    x = random.normal(size=(8, 4))
    options = Options(
        SGD(0.3, 0.5, schedule=Cosine(4, 0.123456789)), 3, loss="binary-cross-entropy", insecure_ring=RING
    )
    network_job = make_job(network, x, (x[:, 0] > 0).astype(int), options)
    prepare(network_job, tmp_path / "client", tmp_path / "server")
    with ProgramFile(tmp_path / "server" / PROGRAM) as program:
        assert len(program.outline.codes) == 3
        assert program.code(2) == plan_steps(network_job)[0].server.code(2)
    report = run_training(tmp_path / "server")
    assert (report.steps, report.first, len(report.seconds)) == (3, 0, 3)
    found, _ = finish(tmp_path / "client", tmp_path / "server" / TRAINED)
    simulated = train(network_job, "simulate").network
    for name in simulated.constants:
        assert np.abs(found.constant(name) - simulated.constant(name)).max() < 1e-3


def test_a_job_survives_its_file(prepared: Path) -> None:
    files = TrainingClientFiles.load(prepared / "client" / JOB_FILE)
    assert files.job.options == job().options
    assert files.program.fingerprint == plan_steps(job())[1].fingerprint
    with Reader(prepared / "client" / JOB_FILE, headers("TrainingJobHeader")) as reader:
        assert set(reader.parts) == {"network", "job", "model"}


def headers(name: str) -> Any:
    from glyphc.storage import headers as module

    return getattr(module, name)


def test_steps_that_share_their_code_store_it_once(tmp_path: Path) -> None:
    x, y = samples()
    options = Options(SGD(0.5), 50, 24, insecure_ring=RING)
    plan, program = plan_steps(make_job(linear_model(x, 1, "sigmoid"), x, y, options))
    assert (len(program.codes), program.outline.steps, program.outline.batches) == (1, 50, 3)
    assert program.outline.step_batches[:5] == (0, 1, 2, 0, 1)
    program.save(tmp_path / "p", 0)
    with ProgramFile(tmp_path / "p") as file:
        assert file.outline == program.outline
        assert file.parameters == plan.parameters
        assert file.code(0) == file.code(49) == plan.server.code(49)
    assert (tmp_path / "p").stat().st_size < 5000


# -- kill -9 --

KILLED = """
import os, signal, sys
from pathlib import Path
import glyphc.backends.step_loop as server
from glyphc.exchange import training_server

left = int(sys.argv[2])
def execute(code, machine, inputs, observe):
    def counting(instruction, seconds):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return whole(code, machine, inputs, counting)
whole, server.execute_named = server.execute_named, execute
training_server.run_training(Path(sys.argv[1]), resume=True)
"""


def test_a_killed_run_goes_on_to_the_same_bits(run: Path, whole: dict[str, bytes]) -> None:
    """Killed in the middle of three steps, the first included, then finished by the command."""
    server = run / "server"
    with ProgramFile(server / PROGRAM) as program:
        counts = [len(program.code(step)) for step in range(STEPS)]
    reached = []
    for instructions in (counts[0] // 2, counts[0] + counts[1] + 5, counts[2] + counts[3] // 2):
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(server), str(instructions)],
            env=environment(),
            capture_output=True,
            timeout=120,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        if (server / CHECKPOINT).exists():
            with Reader(server / CHECKPOINT, TrainingStateHeader) as reader:
                reached.append(reader.header.step)
    assert reached == [2, 3]
    assert "Go on with it (--resume)" in glyphc("training", "run", "--server", server, code=2).stderr
    (server / f".{TRAINED}x.part").write_bytes(b"what a killed writer leaves")
    result = glyphc("training", "run", "--server", server, "--resume")
    assert "resumed after      3 steps" in result.stdout
    assert state(server / TRAINED) == whole
    assert not list(server.glob(".*"))


def test_a_run_in_parts(run: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """--steps: some now, the rest later; the client may look at what there is."""
    server, client = run / "server", run / "client"
    invoke("training", "run", "--server", server, "--steps", 2)
    finishing = ("training", "finish", "--client", client, "--server", server, "-o", tmp_path / "early.onnx")
    assert "there is no file" not in invoke(*finishing, code=2).stderr
    invoke(*finishing, "--steps", 2)
    early = train(make_job_of_steps(2), "simulate").network
    assert np.abs(weights(tmp_path / "early.onnx")["weight"] - early.constant("weight")).max() < TOLERANCE
    with pytest.raises(ArtifactError, match="holds the weights after 2 steps, not 5; ask for that with --steps 2"):
        finish(client, server / CHECKPOINT)
    with pytest.raises(ArtifactError, match="has 2 steps already; 2 are asked for"):
        run_training(server, 2, resume=True)
    with pytest.raises(GlyphcError, match="the program has 5 steps, not 6"):
        run_training(server, 6, resume=True)
    run_training(server, resume=True)
    assert state(server / TRAINED) == whole


def make_job_of_steps(steps: int) -> Job:
    x, y = samples()
    return make_job(linear_model(x, 1, "sigmoid"), x, y, Options(SGD(0.5, 0.5), steps, 24, insecure_ring=RING))


# -- mix-ups and damage, each found before anything is computed --


def changed(path: Path, **header: object) -> None:
    """Make a file's header say something else."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    manifest = json.loads(entries[MANIFEST])
    manifest["header"].update(header)
    entries[MANIFEST] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as new:
        for name, content in entries.items():
            new.writestr(name, content)


def flip(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)


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
    from glyphc.exchange import training_machine

    monkeypatch.setattr(training_machine.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(EnvironmentSetupError, match=r"needs about .* GB of memory"):
        run_training(run / "server")


# -- programs that no client made --


def forged(path: Path, text: str | None = None, parameters: str | None = None, **outline: object) -> None:
    """A program whose fingerprints are right, with another code, other parameters or another outline."""
    with Reader(path, TrainingProgramHeader) as reader:
        header = reader.header
        old = json.loads(reader.read("outline"))
        codes = [zlib.decompress(reader.read(f"code/{i:06d}")).decode() for i in range(len(old["codes"]))]
    if text is not None:
        codes[0] = text
    old["codes"] = [hashlib.sha256(c.encode()).hexdigest() for c in codes]
    new = json.dumps({**old, **outline}, separators=(",", ":"))
    declared = parameters or header.parameters
    fingerprint = hashlib.sha256(f"{declared}\n{new}".encode()).hexdigest()
    with Writer(path, TrainingProgramHeader(fingerprint, declared, header.memory_bytes)) as writer:
        writer.add("outline", new.encode())
        for i, code in enumerate(codes):
            writer.add(f"code/{i:06d}", zlib.compress(code.encode()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os", "line 1: instructions begin with"),
        ("glyphc-code 2 ckks\n", "does not store the ciphertexts of the next state"),
        (code_text((Load(0, "nothing"),), CKKS), "loads 'nothing', which is no input"),
        (code_text((Load(0, "STATE"), Store(0, "other")), CKKS), "does not store"),
        (code_text((Store(7, "STATE"),), CKKS), "reads register 7, which holds nothing"),
        ('glyphc-code 2 ckks\n{"system":{"command":"true"}}\n', "line 2: 'system' is none of load"),
        ('glyphc-code 2 ckks\n{"load":{"target":0,"name":["x"]}}\n', "line 2: Load: name"),
    ],
)
def test_hostile_code_is_refused(text: str, message: str, run: Path) -> None:
    with ProgramFile(run / "server" / PROGRAM) as program:
        text = text.replace("STATE", program.outline.state[0][0])
    forged(run / "server" / PROGRAM, text)
    with pytest.raises(ArtifactError, match=rf"part code/000000: .*{message}"):
        run_training(run / "server")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_batches": [0, 1, 2, 0, 9]}, "a step has no batch"),
        ({"step_codes": [0, 0, 0, 0, 99]}, "a step has no code"),
        ({"step_codes": [0]}, "its steps are not as many as their batches"),
        ({"step_codes": [], "step_batches": []}, "its steps are not as many"),
        ({"state": []}, "there is no state"),
        ({"data": [["a", 1], ["a", 1]]}, "named twice"),
        ({"data": [["a", 1000]]}, "too many"),
        ({"data": [["a", 5]]}, "a ciphertext has no limbs, or too many"),
        ({"data": [["a", 0]]}, "a ciphertext has no limbs, or too many"),
        ({"periods": [2 * RING]}, "beyond the ring"),
        ({"periods": [64, 48]}, "no power of two"),
        ({"periods": [0]}, "no power of two"),
        ({"data": [["a"]]}, "1 values where 2 belong"),
        ({"periods": [2**50]}, "no power of two"),
        ({"batches": "3"}, "not an integer"),
        ({"more": 1}, "Outline has the fields"),
    ],
)
def test_hostile_outlines_are_refused(changes: dict[str, object], message: str, run: Path) -> None:
    forged(run / "server" / PROGRAM, **changes)
    with pytest.raises(ArtifactError, match=f"its outline is unreadable .*{message}"):
        run_training(run / "server")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ring=1024", "ring=1099511627776", "out of range"),
        ("ring=1024", "ring=1000", "not a power of two"),
        ("slots=", "slots=1", "neither 0 nor a power of two"),
        ("degree=", "degree=9", "out of range"),
        ("Parameters(", "Layout(", "parameters are unreadable"),
        ("level_budget=[2", "level_budget=[-2", "out of range"),
        ("level_budget=[2", "level_budget=[0", "out of range"),
        ("decoded_limbs=", "decoded_limbs=1", "leave more limbs than there are"),
        ("linear_bits=", "linear_bits=1", "out of range"),
        ("levels_kept=1", "levels_kept=9", "leaves too many levels"),
        # OpenFHE would end the process
        ("levels_kept=1", "levels_kept=0", "leave too few levels for their results"),
    ],
)
def test_hostile_parameters_are_refused(old: str, new: str, message: str, run: Path) -> None:
    path = run / "server" / PROGRAM
    with Reader(path, TrainingProgramHeader) as reader:
        text = reader.header.parameters
    assert old in text
    forged(path, parameters=text.replace(old, new, 1))
    with pytest.raises(ArtifactError, match=message):
        run_training(run / "server")


@pytest.mark.parametrize("optimizer", [SGD(20.0), SGD(0.001, 0.9, True, 0.01, Cosine(100, 0.001))])
@pytest.mark.parametrize(
    ("widths", "end", "batch"),
    [
        ((4, 1), "sigmoid", 13),
        ((30, 3), "softmax", 4),
        ((200, 2), "sigmoid", 3),
        ((4, 4, 2), "sigmoid", 8),
        ((40, 16, 8, 4), "sigmoid", 8),
        ((8, 8, 4), "softmax", 8),
    ],
)
def test_the_programs_of_plans_are_well_inside_the_bounds(
    widths: tuple[int, ...], end: str, batch: int, optimizer: SGD, tmp_path: Path
) -> None:
    """Of every kind of layer: what is asked of strangers' programs refuses none of ours, up to the last step."""
    loss = "softmax-cross-entropy" if end == "softmax" else "binary-cross-entropy"
    plan = make_plan(chain(widths, end), LOSSES[loss], optimizer, batch, 4.0, (), 2048)
    later = SimpleNamespace(
        **{n: getattr(plan.server, n) for n in ("parameters", "periods", "data_names", "state_names", "fresh_limbs")},
        code=lambda step: plan.server.code(step * 50),
    )
    TrainingProgram.of(later, (0, 0, 0)).save(tmp_path / "program", 0)
    with ProgramFile(tmp_path / "program") as program:
        code = program.code(2)
    assert code == plan.server.code(100)
    assert max((abs(i.factor) for i in code if isinstance(i, Scaled)), default=0) < 2.0**30
    assert max((abs(i.value) for i in code if isinstance(i, Raise)), default=0) < 2.0**16


@functools.cache
def job_parameters() -> Parameters:
    return plan_steps(job())[0].parameters


ALLOWED = {
    "linear_bits": range(20, 61),
    "scaling_bits": range(20, 61),
    "large_digits": range(1, 17),
    "levels_kept": range(7),
    "linear_limbs": range(3, 17),
    "decoded_limbs": range(1, 5),
}


@settings(deadline=None)
@given(st.sampled_from(sorted(ALLOWED)), st.integers(-3, 100))
def test_parameters_are_accepted_within_bounds_alone(name: str, value: int) -> None:
    start = replace(job_parameters(), linear_limbs=4, decoded_limbs=3)
    p = {f.name: getattr(start, f.name) for f in fields(start)} | {name: value}
    headroom = (p["levels_kept"] + 1) * p["scaling_bits"] - p["linear_bits"] * (p["decoded_limbs"] - 1)
    # some values make no parameters at all
    with nullcontext() if value in ALLOWED[name] and headroom >= 8 else pytest.raises((IRError, ValueError)):
        check_parameters(replace(start, **{name: value}))


@settings(deadline=None)
@given(st.tuples(st.integers(-1, 10), st.integers(-1, 10)))
def test_both_transforms_have_levels(budget: tuple[int, int]) -> None:
    with nullcontext() if min(budget) >= 1 and max(budget) <= 8 else pytest.raises((IRError, ValueError)):
        check_parameters(replace(job_parameters(), level_budget=budget))


def test_parameters_that_openfhe_refuses_are_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds some of them only when it prepares its transforms."""
    from glyphc.backends.openfhe import training_load

    def refuse(*arguments: object) -> None:
        raise RuntimeError("no such transform")

    monkeypatch.setattr(training_load, "setup_training_bootstrap", refuse)
    with pytest.raises(ParameterError, match="OpenFHE cannot execute this training program: no such transform"):
        run_training(run / "server")


def test_a_bomb_of_code_is_not_unpacked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glyphc.exchange import code_parts

    monkeypatch.setattr(code_parts, "MOST_BYTES", 1000)
    with pytest.raises(ArtifactError, match="inflates to more than"):
        run_training(run / "server")


def test_what_openfhe_refuses_in_the_middle_is_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS

    def refuse(*arguments: object) -> None:
        raise RuntimeError("no such key")

    monkeypatch.setattr(OpenFHECKKS, "product", refuse)
    with pytest.raises(ParameterError, match="OpenFHE cannot execute this training program: no such key"):
        run_training(run / "server")


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
    assert 1 < folder_bytes(program) / size < 1.15
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10_000_000}))
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


# -- ciphertexts as bytes --


def test_ciphertexts_keep_every_bit() -> None:
    from glyphc.backends.openfhe.keys import release_all_keys

    parameters, zero, seed = plan_steps(job())[0].parameters, np.zeros(RING), bytes(range(32))
    client, keys = generate_training_keys(parameters, (64,))
    try:
        wire = TrainingWire.of(keys)
        fresh = FreshCiphertexts(client, RING)
        for limbs in (1, 2, 3):
            message = np.random.default_rng(limbs).uniform(-0.4, 0.4, RING)
            data = fresh.write(message, limbs, Uniform(seed, "a"))
            assert len(data) == wire.fresh_size(limbs) < len(to_bytes(client.encrypt(zero, limbs))) / 2
            ciphertext = wire.read_fresh(data, limbs, Uniform(seed, "a"))
            assert np.abs(client.decrypt(ciphertext) - message).max() < 1e-8
            again = wire.read(wire.write(ciphertext, limbs), limbs)
            assert to_bytes(again) == to_bytes(ciphertext)
            assert np.array_equal(client.decrypt(again), client.decrypt(ciphertext))
            # another stream, another message
            other = client.decrypt(wire.read_fresh(data, limbs, Uniform(seed, "b")))
            assert limbs > 1 or np.abs(other - message).mean() > 0.1
            for damaged in (data[:-1], data + b"x", b"\xff" * len(data)):
                with pytest.raises(ResidueError):
                    wire.read_fresh(damaged, limbs, Uniform(seed, "a"))
    finally:
        release_all_keys()


def test_programs_are_a_function_of_the_job() -> None:
    programs: list[TrainingProgram] = [plan_steps(job())[1] for _ in range(2)]
    assert programs[0].fingerprint == programs[1].fingerprint
    assert programs[0].codes == programs[1].codes
    texts = [zlib.decompress(code).decode() for code in programs[0].codes]
    assert [parse_code(text, CKKS) for text in texts] == [plan_steps(job())[0].server.code(s) for s in range(STEPS)]
