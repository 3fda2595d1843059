"""Training by client and server as separate commands: round trips, kill -9, ciphertexts as bytes (small rings)."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from glyphc.backends.openfhe.ckks_client import generate_training_keys
from glyphc.backends.openfhe.library import fhe
from glyphc.backends.openfhe.residues import ResidueError, Uniform
from glyphc.backends.openfhe.training_fresh import FreshCiphertexts
from glyphc.backends.openfhe.training_wire import TrainingWire
from glyphc.errors import ArtifactError, GlyphcError
from glyphc.exchange.training_client import JOB_FILE, TrainingClientFiles, finish, plan_steps, prepare
from glyphc.exchange.training_files import (
    CHECKPOINT,
    PROGRAM,
    TRAINED,
    ProgramFile,
    TrainingProgram,
)
from glyphc.exchange.training_server import run_training
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.instructions.text import CKKS, parse_code
from glyphc.storage.container import Reader
from glyphc.storage.headers import (
    TrainingStateHeader,
)
from glyphc.train.job import Options, make_job
from glyphc.train.linear_models import linear_model
from glyphc.train.optimizers import SGD, Cosine
from glyphc.trainer.loop import train
from tests.commands import succeeding as glyphc
from tests.roles import environment
from tests.training_runs import (
    RING,
    STEPS,
    TOLERANCE,
    copied,
    invoke,
    job,
    make_job_of_steps,
    prepared_run,
    samples,
    state,
    weights,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return prepared_run(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    return copied(prepared, tmp_path)


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


@pytest.mark.slow
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


# -- ciphertexts as bytes --


def to_bytes(ciphertext: Any) -> bytes:
    """OpenFHE's own form."""
    return bytes(fhe.Serialize(ciphertext, fhe.BINARY))


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
