"""Passes on several worker processes: the same bits as on one, whoever dies meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from glyphc.cli import main
from glyphc.cluster import coordinator, worker
from glyphc.cluster.coordinator import Address, ClusterError, Files
from glyphc.exchange.artifacts import KEYS_FILE, PROGRAM_FILE
from glyphc.exchange.server import Evaluator
from glyphc.progress import Silent
from glyphc.storage.container import Reader
from glyphc.storage.headers import KeysHeader, OutputsHeader
from tests.roles import Setting, compiled, environment, make_setting, samples
from tests.services import certificate

PASSES = 6


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("alice"), compiled())


@pytest.fixture(scope="module")
def request_file(setting: Setting) -> Path:
    path = setting.server / "request.in"
    setting.account.encrypt(samples(4 * PASSES - 1), path)
    return path


@pytest.fixture(scope="module")
def alone(setting: Setting, request_file: Path) -> dict[str, bytes]:
    """The outputs of one machine."""
    with Evaluator(setting.half, setting.keys) as evaluator:
        evaluator.evaluate(request_file, setting.server / "alone")
    return parts(setting.server / "alone")


def parts(path: Path) -> dict[str, bytes]:
    with Reader(path, OutputsHeader) as reader:
        reader.verify()
        return {name: reader.read(name) for name in reader.parts}


def files(setting: Setting) -> Files:
    return Files(setting.server / PROGRAM_FILE, setting.server / KEYS_FILE)


class Watch(Silent):
    """Does something when so many passes are done."""

    def __init__(self, after: int, action: object) -> None:
        self.after, self.action, self.passes = after, action, 0

    def advance(self, amount: float, what: str = "") -> None:
        self.passes += what.startswith("pass ")
        if self.passes == self.after and what.startswith("pass "):
            assert callable(self.action)
            self.action()


class Processes:
    """A scheduler and workers, each a process that was started as an operator would."""

    def __init__(self, folder: Path, scheme: str = "tcp", tls: Path | None = None) -> None:
        self.folder, self.scheme = folder, scheme
        self.options = (
            []
            if tls is None
            else [f"--tls-ca-file={tls}/ca.pem", f"--tls-cert={tls}/cert.pem", f"--tls-key={tls}/key.pem"]
        )
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        log = open(self.folder / "log", "ab")  # noqa: SIM115
        module = [sys.executable, "-m", "distributed.cli." + command[0], *command[1:], *self.options]
        return subprocess.Popen(module, env=environment(), stdout=log, stderr=log, cwd=self.folder)

    def start_scheduler(self) -> None:
        import socket

        if not self.port:
            with socket.socket() as found:
                found.bind(("127.0.0.1", 0))
                self.port = found.getsockname()[1]
        self.scheduler = self._start(
            "dask_scheduler", "--host", f"{self.scheme}://127.0.0.1:{self.port}", "--no-dashboard", "--no-show"
        )

    def start_worker(self) -> subprocess.Popen[bytes]:
        process = self._start(
            "dask_worker", self.url, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"
        )
        self.workers.append(process)
        return process

    def stop(self) -> None:
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            process.kill()
            process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    found = Processes(tmp_path)
    yield found
    found.stop()


def test_two_processes_give_the_bits_of_one(
    setting: Setting, request_file: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "request.out"
    call = ["eval", "--server", setting.server, "--input", request_file, "--output", output, "--cluster", "local:2"]
    result = CliRunner().invoke(main, list(map(str, call)))
    assert result.exit_code == 0, result.output
    assert parts(output) == alone
    assert len(setting.account.decrypt(output)) == 1


def test_a_worker_that_is_killed_and_a_scheduler_that_starts_anew(
    setting: Setting, request_file: Path, alone: dict[str, bytes], processes: Processes, tmp_path: Path
) -> None:
    processes.start_scheduler()
    first = processes.start_worker()
    processes.start_worker()
    workers = iter(processes.workers)

    def fail() -> None:
        first.send_signal(signal.SIGKILL)

    report = coordinator.evaluate(
        Address.read(processes.url), files(setting), request_file, tmp_path / "one", reporter=Watch(1, fail)
    )
    assert report.passes == PASSES
    assert parts(tmp_path / "one") == alone
    assert next(workers).wait(10) == -signal.SIGKILL

    def restart() -> None:
        assert processes.scheduler is not None
        processes.scheduler.kill()
        processes.scheduler.wait()
        threading.Thread(target=again).start()

    def again() -> None:
        time.sleep(1.0)
        processes.start_scheduler()
        processes.start_worker()

    coordinator.evaluate(
        Address.read(processes.url), files(setting), request_file, tmp_path / "two", reporter=Watch(2, restart)
    )
    assert parts(tmp_path / "two") == alone


def test_beyond_this_machine_certificates_are_asked_for() -> None:
    with pytest.raises(ClusterError, match="have to show certificates"):
        Address.read("tcp://example.org:8786")
    with pytest.raises(ClusterError, match="--cluster-tls"):
        Address.read("tls://example.org:8786")
    with pytest.raises(ClusterError, match="neither local"):
        Address.read("example.org")
    with pytest.raises(ClusterError, match="1 to 64"):
        Address.read("local:0")
    assert Address.read("tcp://127.0.0.1:8786").url == "tcp://127.0.0.1:8786"
    assert Address.read("local:3").local == 3


def test_a_cluster_with_certificates(
    setting: Setting, request_file: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    chain, key = certificate(tmp_path)
    for name, source in (("ca", chain), ("cert", chain), ("key", key)):
        if source.name != f"{name}.pem":
            (tmp_path / f"{name}.pem").write_bytes(source.read_bytes())
    processes = Processes(tmp_path, "tls", tmp_path)
    try:
        processes.start_scheduler()
        processes.start_worker()
        address = Address.read(processes.url, tmp_path)
        coordinator.evaluate(address, files(setting), request_file, tmp_path / "out")
    finally:
        processes.stop()
    assert parts(tmp_path / "out") == alone


def test_workers_that_do_not_fit_into_memory_are_refused(
    setting: Setting, request_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "estimate", lambda *_: type("E", (), {"memory_bytes": 1e15}))
    with pytest.raises(ClusterError, match=r"1 workers on \S+ need about 1000000.0 GB"):
        coordinator.evaluate(Address.read("local:1"), files(setting), request_file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_are_sent_to_hosts_that_lack_them(
    setting: Setting, request_file: Path, alone: dict[str, bytes], processes: Processes, tmp_path: Path
) -> None:
    """A worker that cannot see the coordinator's folders, as on another machine."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    processes.start_scheduler()
    os.environ["TMPDIR"] = str(tmp_path)
    try:
        processes.start_worker()
    finally:
        del os.environ["TMPDIR"]
    real = coordinator._Job._asked

    def asked(cluster: object, name: str, function: object, *arguments: object) -> object:
        changed = [
            str(hidden / "none") if isinstance(a, str) and a.startswith(str(setting.server)) else a for a in arguments
        ]
        return real(cluster, name, function, *changed)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinator._Job, "_asked", staticmethod(asked))
        coordinator.evaluate(Address.read(processes.url), files(setting), request_file, tmp_path / "out")
    assert parts(tmp_path / "out") == alone
    folder = tmp_path / f"glyphc-cluster-{os.getuid()}"
    assert sorted(p.stat().st_size for p in folder.iterdir()) == sorted(
        p.stat().st_size for p in (setting.server / PROGRAM_FILE, setting.server / KEYS_FILE)
    )


def test_a_worker_that_comes_later_gets_the_files(
    setting: Setting, request_file: Path, alone: dict[str, bytes], processes: Processes, tmp_path: Path
) -> None:
    """The first worker dies when another one has begun, which no file was handed out to."""
    processes.start_scheduler()
    first = processes.start_worker()

    def replace() -> None:
        processes.start_worker()
        time.sleep(4.0)
        first.send_signal(signal.SIGKILL)

    coordinator.evaluate(
        Address.read(processes.url), files(setting), request_file, tmp_path / "out", reporter=Watch(1, replace)
    )
    assert parts(tmp_path / "out") == alone


def test_a_file_that_arrives_damaged_is_not_kept(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = bytearray((setting.server / KEYS_FILE).read_bytes())
    with Reader(setting.server / KEYS_FILE, KeysHeader) as reader:
        digest = reader.digest
    data[1000] ^= 1
    problem = worker.receive(worker.FileKind.KEYS.value, digest, "me", 0, bytes(data), len(data))
    assert "damaged" in problem or "usable" in problem
    assert list((tmp_path / f"glyphc-cluster-{os.getuid()}").iterdir()) == []
    data[1000] ^= 1
    assert worker.receive(worker.FileKind.KEYS.value, digest, "me", 0, bytes(data), len(data)) == ""
    assert worker.holds(worker.FileKind.KEYS.value, digest, "nowhere")
