"""Client and server as processes: the commands, an evaluation that is killed, and the search for secrets."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from glyphc.backends.openfhe.residues import pack
from glyphc.storage.container import Reader
from glyphc.storage.headers import CheckpointHeader, OutputsHeader
from tests.commands import succeeding as glyphc
from tests.roles import ONE_BOOTSTRAP, Setting, compiled, environment, make_setting, samples


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("processes"), compiled(name=ONE_BOOTSTRAP))


@pytest.fixture(scope="module")
def request_file(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("request") / "in"
    setting.account.encrypt(samples(6, ONE_BOOTSTRAP), path)
    return path


@pytest.fixture(scope="module")
def whole(setting: Setting, request_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of an evaluation that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "out"
    glyphc("eval", "--server", setting.server, "--input", request_file, "--output", path)
    return path


def parts(path: Path) -> dict[str, bytes]:
    with Reader(path, OutputsHeader) as reader:
        return {name: reader.read(name) for name in reader.parts}


# -- commands --


def test_the_commands_of_the_documentation(setting: Setting, tmp_path: Path) -> None:
    program, x = tmp_path / "p.glyphc", tmp_path / "x.npy"
    setting.program.save(program)
    np.save(x, samples(3, ONE_BOOTSTRAP))
    client, server = tmp_path / "client", tmp_path / "server"
    secret = {"GLYPHC_PASSPHRASE": "correct horse"}
    result = glyphc("keygen", program, "--client", client, "--server", server, "--passphrase", **secret)
    assert {p.name for p in client.iterdir()} == {"secret.key", "client.spec", "client.names"}
    assert {p.name for p in server.iterdir()} == {"evaluation.keys", "program.server"}
    assert "NOT SECURE" in result.stderr
    glyphc("encrypt", "--client", client, "--input", x, "--output", tmp_path / "in", **secret)
    glyphc("eval", "--server", server, "--input", tmp_path / "in", "--output", tmp_path / "out")
    arguments = ("decrypt", "--client", client, "--input", tmp_path / "out", "--output", tmp_path / "y.npy")
    glyphc(*arguments, "--request", tmp_path / "in", **secret)
    clear = np.asarray(setting.program.run(samples(3, ONE_BOOTSTRAP), mode="clear"))
    assert np.abs(np.load(tmp_path / "y.npy") - clear).max() < 0.05 * np.ptp(clear)
    assert "wrong passphrase" in glyphc(*arguments, code=2, GLYPHC_PASSPHRASE="x").stderr
    # a second key would make everything unreadable that the first encrypted
    again = glyphc("keygen", program, "--client", client, "--server", server, code=2)
    assert "there is a secret key" in again.stderr
    same = glyphc("keygen", program, "--client", tmp_path / "z", "--server", tmp_path / "z", code=2)
    assert "must be two" in same.stderr
    inside = glyphc("keygen", program, "--client", server / "mine", "--server", server, code=2)
    assert "lies in the server's" in inside.stderr
    assert not (server / "mine").exists()


def test_keys_from_a_specification_alone(setting: Setting, tmp_path: Path) -> None:
    """The model's owner is the server: the client never sees the program."""
    program = tmp_path / "p.glyphc"
    setting.program.save(program)
    glyphc("split", program, "--client", tmp_path / "p.spec", "--server", tmp_path / "p.server")
    keygen = ("keygen", tmp_path / "p.spec", "--client", tmp_path / "client", "--server", tmp_path / "server")
    assert "protect nothing" in glyphc(*keygen, code=2).stderr
    glyphc(*keygen, "--insecure")
    assert [p.name for p in (tmp_path / "server").iterdir()] == ["evaluation.keys"]
    x = tmp_path / "x.npy"
    np.save(x, samples(1, ONE_BOOTSTRAP))
    glyphc("encrypt", "--client", tmp_path / "client", "--input", x, "--output", tmp_path / "in")
    folder = ("--server", tmp_path / "server", "--program", tmp_path / "p.server")
    glyphc("eval", *folder, "--input", tmp_path / "in", "--output", tmp_path / "out")


# -- kill -9 --

KILLED = """
import os, signal, sys
from pathlib import Path
from glyphc.progress import Silent
from glyphc.exchange.artifacts import ServerProgram
from glyphc.exchange.server import Evaluator

class Killer(Silent):
    left = int(sys.argv[5])
    def advance(self, amount, what=""):
        if what != "resumed" and "/" not in what:
            self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

server, inputs, output, checkpoint = map(Path, sys.argv[1:5])
program = ServerProgram.load(server / "program.server")
evaluator = Evaluator(program, server / "evaluation.keys")
evaluator.evaluate(inputs, output, checkpoint, reporter=Killer(), checkpoint_seconds=0.0)
"""


def kill_after(instructions: int, setting: Setting, inputs: Path, output: Path, checkpoint: Path) -> None:
    arguments = [setting.server, inputs, output, checkpoint, instructions]
    result = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, arguments)], env=environment(), capture_output=True, timeout=120
    )
    assert result.returncode == -signal.SIGKILL, result.stderr


@pytest.fixture(scope="module")
def killed(setting: Setting, request_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's folder with what an evaluation left that was killed in either pass."""
    folder = tmp_path_factory.mktemp("killed") / "server"
    shutil.copytree(setting.server, folder)
    count = len(setting.half.schedule.instructions)
    reached = []
    for instructions in (count // 2, count):
        kill_after(instructions, setting, request_file, folder / "out", folder / "checkpoint")
        assert not (folder / "out").exists()
        with Reader(folder / "checkpoint", CheckpointHeader) as reader:
            reader.verify()
            reached.append((reader.header.pass_number, reader.header.instructions))
    assert (1, 0) <= reached[1] > reached[0] > (0, 0)
    return folder


def test_a_killed_evaluation_is_taken_up_again(
    setting: Setting, killed: Path, request_file: Path, whole: Path, tmp_path: Path
) -> None:
    """Finished by the command: bit for bit what an undisturbed one gives."""
    output, checkpoint = tmp_path / "out", tmp_path / "out.checkpoint"
    shutil.copy(killed / "checkpoint", checkpoint)
    result = glyphc("eval", "--server", setting.server, "--input", request_file, "--output", output)
    assert "resumed after" in result.stdout
    assert parts(output) == parts(whole)
    assert not checkpoint.exists()
    # what a killed writer leaves beside a file never takes its place
    left = {p.name for p in killed.iterdir()} - {"checkpoint", *os.listdir(setting.server)}
    assert all(name.endswith(".part") for name in left)


def test_a_checkpoint_of_another_request_is_refused(setting: Setting, killed: Path, tmp_path: Path) -> None:
    setting.account.encrypt(samples(6, ONE_BOOTSTRAP), tmp_path / "in")
    arguments = ("--server", setting.server, "--output", tmp_path / "out", "--checkpoint", killed / "checkpoint")
    result = glyphc("eval", *arguments, "--input", tmp_path / "in", code=2)
    assert "is the checkpoint of another evaluation" in result.stderr


# -- secrets --


def secret_forms(setting: Setting) -> dict[str, bytes]:
    """The secret key in every form that the code uses: enough bytes of each to be found nowhere by chance."""
    keys, ternary = setting.account.engine.keys, setting.account.secret.ternary
    ring = keys.contexts.bgv_ring
    tower = keys.factor.values
    first = int(np.flatnonzero(ternary)[0])
    window = slice(max(0, first - 8), first + 120)
    forms = {
        "int8": ternary[window].astype(np.int8).tobytes(),
        "int64": ternary[window].tobytes(),
        "residues": ring.reduce(ternary)[window].tobytes(),
        "packed": pack(ring.reduce(ternary)[window], ring.q),
        "evaluation": tower[:64].tobytes(),
        "evaluation, packed": pack(tower[:64], ring.q),
        "quotients": keys.factor.quotients[:64].tobytes(),
    }
    from glyphc.backends.openfhe.contexts import make_contexts

    for k, torus in enumerate(make_contexts(setting.account.secret.parameters).torus_rings):
        forms[f"evaluation, prime {k}"] = torus.to_evaluation(torus.reduce(ternary))[:64].tobytes()
    return forms


def test_the_servers_folder_holds_no_secret(setting: Setting, killed: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    shutil.copytree(killed, folder)
    shutil.copy(whole, folder)
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert {"evaluation.keys", "program.server", "out", "checkpoint"} <= {p.name for p in files}
    forms = secret_forms(setting)
    for path in files:
        content = path.read_bytes()
        assert b"secret" not in content
        assert [name for name, form in forms.items() if form in content] == []
    # the search finds it where it is
    assert forms["int8"] in (setting.client / "secret.key").read_bytes()


SERVING = """
import sys
from pathlib import Path
from glyphc.exchange.artifacts import ServerProgram
from glyphc.exchange.server import Evaluator

server, inputs, output = map(Path, sys.argv[1:4])
evaluator = Evaluator(ServerProgram.load(server / "program.server"), server / "evaluation.keys")
evaluator.evaluate(inputs, output)
wanted = {"glyphc.backends.openfhe.client", "glyphc.backends.openfhe.keygen", "glyphc.exchange.client",
          "glyphc.backends.openfhe.weight_keys",
          "glyphc.exchange.secret", "glyphc.runtime", "glyphc.codec"}
print(" ".join(sorted(wanted & set(sys.modules))), flush=True)
sys.stdin.read()
"""


def memory(pid: int) -> Iterator[bytes]:
    """The writable memory of a process in pieces that overlap by more than any form is long."""
    piece, overlap = 1 << 20, 4096
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for line in maps:
            span, mode, *_ = line.split()
            start, end = (int(x, 16) for x in span.split("-"))
            while "w" in mode and start < end:
                try:
                    mem.seek(start)
                    data = mem.read(min(piece, end - start))
                    # what was never touched reads as zeros
                    if data.count(0) < len(data):
                        yield data
                except OSError:  # such as [vvar], or reserved and never touched
                    pass
                start += piece - overlap


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="reads a process's memory through /proc")
def test_the_servers_process_holds_no_secret_and_never_loads_decryption(
    setting: Setting, request_file: Path, tmp_path: Path
) -> None:
    arguments = [setting.server, request_file, tmp_path / "out"]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVING, *map(str, arguments)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        forms, known, found = secret_forms(setting), known_residues(setting), set()
        try:
            for region in memory(process.pid):
                found |= {name for name, form in forms.items() if form in region}
                found |= {"what must be there"} if known in region else set()
        except PermissionError:
            pytest.skip("this system does not let a parent read its child's memory")
        # residues of the last BGV automorphism key, as OpenFHE holds them: the search finds what is there
        assert found == {"what must be there"}
    finally:
        process.kill()
        process.wait()


def known_residues(setting: Setting) -> bytes:
    from glyphc.backends.openfhe.keymoulds import bgv_automorphisms, bgv_part
    from glyphc.backends.openfhe.residues import unpack, width
    from glyphc.storage.headers import KeysHeader

    q = setting.account.engine.keys.contexts.bgv_ring.q
    with Reader(setting.keys, KeysHeader) as reader:
        name = bgv_part(bgv_automorphisms(setting.account.secret.parameters)[-1])
        return unpack(reader.read(name)[: 64 * width(q)], 64, q).tobytes()
