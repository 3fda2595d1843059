"""Passes on several worker processes: the same bits as on one, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glyphc.backends.kernels.estimate import thread_bytes
from glyphc.cli import main
from glyphc.cluster import connection, coordinator, distribution, worker
from glyphc.cluster.connection import fit
from glyphc.cluster.coordinator import Address, ClusterError, Files
from glyphc.cluster.forecast import Limit, Load, forecast
from glyphc.exchange.artifacts import KEYS_FILE, PROGRAM_FILE
from glyphc.exchange.server import Evaluator
from glyphc.ir.parameters import Parameters
from glyphc.progress import Silent
from glyphc.service.client import Client, JobStatus
from glyphc.service.scheduler import Scheduler, _Clock
from glyphc.service.settings import Settings
from glyphc.service.store import Store
from glyphc.storage.container import Reader
from glyphc.storage.headers import KeysHeader, OutputsHeader
from tests.cluster_processes import Processes
from tests.network_hosts import Hosts
from tests.roles import ONE_BOOTSTRAP, Setting, compiled, make_setting, samples
from tests.services import Place, certificates

PASSES = 6


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("alice"), compiled(name=ONE_BOOTSTRAP))


@pytest.fixture(scope="module")
def request_file(setting: Setting) -> Path:
    path = setting.server / "request.in"
    setting.account.encrypt(samples(4 * PASSES - 1, ONE_BOOTSTRAP), path)
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

    def __init__(self, actions: dict[int, Callable[[], None]]) -> None:
        self.actions, self.passes = actions, 0

    def advance(self, amount: float, what: str = "") -> None:
        if what.startswith("pass "):
            self.passes += 1
            self.actions.get(self.passes, lambda: None)()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as found:
        yield found


def test_two_processes_give_the_bits_of_one(
    setting: Setting, request_file: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "request.out"
    call = ["eval", "--server", setting.server, "--input", request_file, "--output", output, "--cluster", "local:2"]
    result = CliRunner().invoke(main, list(map(str, call)))
    assert result.exit_code == 0, result.output
    assert parts(output) == alone
    assert len(setting.account.decrypt(output)) == 1


@pytest.mark.slow
def test_workers_that_are_killed_and_a_scheduler_that_starts_anew(
    setting: Setting, request_file: Path, alone: dict[str, bytes], processes: Processes, tmp_path: Path
) -> None:
    """The passes of the first are done by a second one; then this one dies, when a third has begun, which no file was
    handed out to. Of the scheduler's passes, what was not done is done again."""
    first, second = processes.start(2)

    def end_first() -> None:
        first.send_signal(signal.SIGKILL)

    def replace_second() -> None:
        processes.start_worker()
        processes.wait_for_workers(2)
        second.send_signal(signal.SIGKILL)

    where = Address.read(processes.url)
    watch = Watch({1: end_first, 3: replace_second})
    report = coordinator.evaluate(where, files(setting), request_file, tmp_path / "one", reporter=watch)
    assert report.passes == PASSES
    assert parts(tmp_path / "one") == alone
    assert [worker.wait(10) for worker in (first, second)] == [-signal.SIGKILL] * 2

    def restart() -> None:
        assert processes.scheduler is not None
        processes.scheduler.kill()
        processes.scheduler.wait()
        threading.Thread(target=again).start()

    def again() -> None:
        time.sleep(1.0)
        processes.start_scheduler()
        processes.start_worker()

    coordinator.evaluate(where, files(setting), request_file, tmp_path / "two", reporter=Watch({2: restart}))
    assert parts(tmp_path / "two") == alone


def test_a_cluster_without_workers_is_told(
    setting: Setting, request_file: Path, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_WORKERS_SECONDS", 0.5)
    processes.start_scheduler()
    said: list[str] = []
    where = Address.read(processes.url)
    with pytest.raises(ClusterError, match="cannot be reached: its scheduler has no workers"):
        coordinator.evaluate(where, files(setting), request_file, tmp_path / "out", patience=0.5, away=said.append)
    assert len(said) == 1 and "is away" in said[0]
    assert not (tmp_path / "out").exists()


def until(client: Client, job: str, state: str) -> JobStatus:
    """Wait for a state; a job that ends first is none."""
    deadline = time.monotonic() + 120
    while (status := client.status(job, 1.0)).state != state:
        assert status.state not in ("done", "failed") and time.monotonic() < deadline, status
    return status


@pytest.mark.slow
def test_jobs_wait_for_a_cluster_that_is_away(
    setting: Setting, request_file: Path, alone: dict[str, bytes], processes: Processes, tmp_path: Path
) -> None:
    """A scheduler that goes in the middle: visibly, with those behind it, over a restart of the service, to the end."""
    (first,) = processes.start(1)
    # a worker that stands still: the job cannot end before the scheduler goes
    first.send_signal(signal.SIGSTOP)
    place = Place(tmp_path / "service", setting.half, "--insecure", "--cluster", processes.url)
    service = place.start()
    with service.client() as client:
        client.upload_keys(setting.keys)
        job = client.submit(request_file)
        until(client, job.id, "running")
        setting.account.encrypt(samples(3, ONE_BOOTSTRAP), tmp_path / "next")
        behind = client.submit(tmp_path / "next")
        assert processes.scheduler is not None
        processes.scheduler.kill()
        processes.scheduler.wait()
        status = until(client, job.id, "stalled")
        assert "cluster is away" in status.what and processes.url not in status.what
        assert client.status(behind.id).state == "queued" and "cluster is away" in client.status(behind.id).what
        with service.raw() as raw:
            figures = raw.get("/metrics").text
        assert 'glyphc_jobs{state="stalled"} 1.0' in figures and "glyphc_cluster_away 1.0" in figures
    assert f"the cluster at {processes.url} is away: " in (place.folder / "log").read_text()
    service.kill()
    first.kill()
    with place.running() as service, service.client() as client:
        until(client, job.id, "stalled")
        processes.start_scheduler()
        processes.start_worker()
        said: list[JobStatus] = []
        assert (client.wait(job.id, said.append).attempts, client.wait(behind.id).attempts) == (2, 1)
        assert any("evaluate on 1 workers" in status.what for status in said)
        client.fetch(job.id, tmp_path / "out")
        with service.raw() as raw:
            assert "glyphc_cluster_away 0.0" in raw.get("/metrics").text
    assert parts(tmp_path / "out") == alone
    assert "the cluster is back after" in (place.folder / "log").read_text()


def test_who_waits_for_a_worker_is_not_told_of_the_cluster(tmp_path: Path) -> None:
    """While another worker computes, its job's end lets the next one begin."""
    store = Store(tmp_path / "data")
    try:
        scheduler = Scheduler(Settings(tmp_path, tmp_path / "data", tmp_path / "tokens", workers=2), store, {})
        scheduler._stalled.add("first")
        assert "cluster is away" in scheduler.progress("first", "stalled").what
        assert scheduler.progress("behind", "queued").what == ""
        scheduler._stalled.add("second")
        assert "cluster is away" in scheduler.progress("behind", "queued").what
    finally:
        store.close()


def test_a_job_s_time_stands_still_while_its_cluster_is_away() -> None:
    reached: list[str] = []

    async def work() -> None:
        async with _Clock(0.05) as clock:
            clock.stop()
            await asyncio.sleep(0.2)
            reached.append("the cluster is back")
            clock.go_on()
            await asyncio.sleep(60)
            reached.append("no time-out")

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(work())
    assert reached == ["the cluster is back"]


def test_a_service_takes_the_address_of_a_scheduler_that_stays(tmp_path: Path) -> None:
    for address, message in (("local:2", "a scheduler that stays"), ("tcp://example.org:8786", "have to show")):
        call = ["serve", "--programs", tmp_path, "--data", tmp_path, "--tokens", tmp_path / "t", "--cluster", address]
        result = CliRunner().invoke(main, list(map(str, call)))
        assert result.exit_code and message in result.stderr


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


class Stages(Silent):
    """What a reporter is told of."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str, total: float) -> None:
        self.names.append(name)


@pytest.mark.slow
def test_several_hosts(setting: Setting, request_file: Path, alone: dict[str, bytes], tmp_path: Path) -> None:
    """Scheduler and workers have networks, names and files of their own, and show certificates to one another."""
    told = Stages()
    with Hosts(3, setting.server) as hosts, Processes(tmp_path, "tls", certificates(tmp_path), hosts) as processes:
        processes.start(2)
        address = Address.read(processes.url, tmp_path)
        coordinator.evaluate(address, files(setting), request_file, tmp_path / "out", reporter=told)
    assert parts(tmp_path / "out") == alone
    # each file leaves this host once, and one worker passes it on to the other
    said = [name.partition(" tls:")[0] for name in told.names]
    assert said == [
        *(t for kind in ("program", "keys") for t in (f"send {kind} to", f"1 workers pass {kind} on")),
        "evaluate on 2 workers",
    ]


@pytest.mark.slow
def test_a_host_that_vanishes_without_a_word(
    setting: Setting, request_file: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """Its cable is pulled: nobody is told that a connection ends, and its passes are done by the other one."""
    with Hosts(3, setting.server) as hosts, Processes(tmp_path, "tls", certificates(tmp_path), hosts) as processes:
        processes.start(2)
        pulled = Watch({1: lambda: hosts.plug(3, False)})
        address = Address.read(processes.url, tmp_path)
        coordinator.evaluate(address, files(setting), request_file, tmp_path / "out", reporter=pulled)
    assert parts(tmp_path / "out") == alone


def test_workers_that_do_not_fit_into_memory_are_refused(
    setting: Setting, request_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "estimate", lambda *_: type("E", (), {"memory_bytes": 1e15}))
    with pytest.raises(ClusterError, match=r"1 workers on \S+ need about 1000000.0 GB"):
        coordinator.evaluate(Address.read("local:1"), files(setting), request_file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_threads_keep_counts_for_each_worker(setting: Setting) -> None:
    parameters, memory = setting.half.schedule.parameters, 1e9
    assert isinstance(parameters, Parameters)

    class Cluster:
        """Two workers on one host, which has room for what the model says, and for one more thread of each."""

        def __init__(self, threads: int) -> None:
            room = int(2 * (memory + thread_bytes(parameters)))
            self.about = worker.describe() | {"host": "one", "threads": threads, "memory": room, "held": 0}

        def run(self, _: object) -> dict[str, Any]:
            return {"tcp://one:1": self.about, "tcp://one:2": self.about}

    for threads in (1, 2, 3):
        assert len(fit(Cluster(threads), "kernels", parameters, memory).hosts) == 2  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match=r"2 workers on one need about 2\.0 GB of memory.*start 1 there"):
        fit(Cluster(4), "kernels", parameters, memory)  # type: ignore[arg-type]
    # OpenFHE's keep nothing, and workers that have it loaded are not asked again
    fit(Cluster(4), "openfhe", parameters, memory)  # type: ignore[arg-type]
    fit(Cluster(4), "kernels", parameters, None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_files_are_sent_to_hosts_that_lack_them(
    setting: Setting, request_file: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """Workers that cannot see the coordinator's folders or one another's, as on other machines: one passes it on. All
    of them show certificates."""
    folders = [tmp_path / name for name in ("one", "two")]
    real = distribution.asked

    def asked(cluster: object, name: str, function: object, *arguments: object) -> object:
        changed = [
            str(tmp_path / "none") if isinstance(a, str) and a.startswith(str(setting.server)) else a for a in arguments
        ]
        return real(cluster, name, function, *changed)  # type: ignore[arg-type]

    send, sent = distribution._send, []  # type: ignore[var-annotated]
    with Processes(tmp_path, "tls", certificates(tmp_path)) as processes:
        processes.start_scheduler()
        address = Address.read(processes.url, tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            for folder in folders:
                folder.mkdir()
                patch.setenv("TMPDIR", str(folder))
                processes.start_worker()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distribution, "asked", asked)
            patch.setattr(distribution, "_send", lambda *given: (sent.append(given), send(*given)))
            processes.wait_for_workers(2)
            coordinator.evaluate(address, files(setting), request_file, tmp_path / "out")
    assert parts(tmp_path / "out") == alone
    assert len(sent) == 2  # program and keys leave here once
    for folder in folders:
        found = folder / f"glyphc-cluster-{os.getuid()}"
        assert sorted(p.stat().st_size for p in found.iterdir()) == sorted(
            p.stat().st_size for p in (setting.server / PROGRAM_FILE, setting.server / KEYS_FILE)
        )


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


LOADS = st.builds(
    Load,
    passes=st.integers(1, 3000),
    pass_seconds=st.floats(0.01, 1e4),
    pass_bytes=st.floats(0, 1e9),
    file_bytes=st.floats(0, 1e10),
    rate=st.floats(1e5, 1e10),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(LOADS, st.integers(1, 1000))
def test_a_forecast_never_promises_more_than_there_are_workers_or_passes(load: Load, workers: int) -> None:
    found = forecast(load, workers)
    assert 0 < found.speed_up <= min(workers, load.passes) * (1 + 1e-9)
    assert found.seconds >= load.pass_seconds
    assert found.seconds >= load.passes * load.pass_bytes / load.rate
    at_once = forecast(replace(load, rate=math.inf), workers)
    assert at_once.seconds <= found.seconds * (1 + 1e-9)


@pytest.mark.parametrize(
    ("load", "workers", "limit"),
    [
        (Load(100, 10.0, 0, 0, 1e8), 10, Limit.PASSES),
        (Load(100, 10.0, 0, 0, 1e8), 1000, Limit.LONGEST),
        (Load(10, 1.0, 0, 3e9, 1e8), 4, Limit.KEYS),
        (Load(10, 1.0, 0, 1e11, math.inf), 4, Limit.LOADING),
        (Load(1000, 0.1, 1e9, 0, 1e8), 100, Limit.TRANSFER),
    ],
)
def test_a_forecast_names_what_limits(load: Load, workers: int, limit: Limit) -> None:
    assert forecast(load, workers).limit is limit


def test_plan_prints_a_line_for_each_number_of_workers(setting: Setting) -> None:
    call = ["plan", setting.server / PROGRAM_FILE, "--samples", 20 * PASSES, "--workers", 1, "--workers", 2]
    result = CliRunner().invoke(main, list(map(str, call)))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[2].split()[:2] == ["workers", "seconds"] and [line.split()[0] for line in lines[3:5]] == ["1", "2"]
