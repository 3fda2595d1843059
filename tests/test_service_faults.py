"""The service when things go wrong: killed, left alone by clients, overrun, too slow, and fed with nonsense."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from glyphc.exchange.server import Evaluator
from glyphc.service.client import Client, JobStatus, ServiceError
from glyphc.service.settings import Limits
from glyphc.service.store import CHECKING, Store
from glyphc.storage.container import Reader
from glyphc.storage.headers import CheckpointHeader, OutputsHeader
from tests.roles import ONE_BOOTSTRAP, Setting, compiled, make_setting, samples
from tests.services import Place, Running, children

# Enough passes for an evaluation of some seconds, which can be met in its middle.
MANY = 24


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("alice"), compiled(name=ONE_BOOTSTRAP))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, setting: Setting) -> Place:
    return Place(tmp_path_factory.mktemp("service"), setting.half, "--insecure")


def encrypted(setting: Setting, path: Path, count: int = MANY) -> Path:
    setting.account.encrypt(samples(count, ONE_BOOTSTRAP), path)
    return path


def follow(client: Client, job: str, passes: int, seconds: float = 120.0) -> JobStatus:
    """Wait until a job has come to this pass."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = client.status(job)
        found = re.search(r"\(pass (\d+) of", status.what)
        if (found and int(found[1]) >= passes) or status.state in ("done", "failed"):
            return status
        time.sleep(0.03)
    raise AssertionError(f"{job} never came to pass {passes}")


def parts(path: Path) -> dict[str, bytes]:
    with Reader(path, OutputsHeader) as reader:
        return {name: reader.read(name) for name in reader.parts}


def ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# -- kill -9 --


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks for processes in /proc")
def test_a_killed_service_goes_on_at_its_checkpoint(place: Place, setting: Setting, tmp_path: Path) -> None:
    """kill -9 in the middle of an evaluation: no job is lost, and the result is bit for bit the undisturbed one.

    However often: only workers that die of a job, one less than would give it up, are the job's fault.
    """
    inputs, limits = encrypted(setting, tmp_path / "in"), Limits(deaths=2)
    service = place.start(limits=limits)
    with service.client() as client:
        client.upload_keys(setting.keys)
        running = client.submit(inputs)
        waiting = client.submit(encrypted(setting, tmp_path / "next", 1))
        status = follow(client, running.id, 3)
        assert (status.state, status.attempts) == ("running", 1)
        workers = children(service.process.pid)
        service.kill()
    assert workers and eventually(lambda: all(map(ended, workers)))
    (checkpoint,) = (place.data / "clients" / "alice" / "jobs" / running.id).glob("checkpoint")
    with Reader(checkpoint, CheckpointHeader) as reader:
        assert reader.header.pass_number >= 1
    service = place.start(limits=limits)
    with service.client() as client:
        status = follow(client, running.id, 1)
        assert status.state == "running" and "(pass 1 of" not in status.what
        assert follow(client, running.id, 4).state == "running"
        service.kill()
    with place.running(limits=limits) as service, service.client() as client:
        assert follow(client, running.id, 4).state == "running"
        (worker,) = children(service.process.pid)
        os.kill(worker, 9)
        assert client.wait(running.id).attempts == 4
        client.wait(waiting.id)
        client.fetch(running.id, tmp_path / "out")
    with Evaluator(setting.half, setting.keys) as evaluator:
        evaluator.evaluate(inputs, tmp_path / "undisturbed")
    assert parts(tmp_path / "out") == parts(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_job_whose_worker_dies_is_taken_up_again(place: Place, setting: Setting, tmp_path: Path) -> None:
    """Once here; then it has failed, and the service goes on with others."""
    with place.running_anew(limits=Limits(deaths=2)) as service, service.client() as client:
        client.upload_keys(setting.keys)
        job = client.submit(encrypted(setting, tmp_path / "in"))
        for death in range(2):
            follow(client, job.id, death + 1)
            (worker,) = children(service.process.pid)
            os.kill(worker, 9)
            assert eventually(lambda worker=worker: ended(worker))  # type: ignore[misc]
        with pytest.raises(ServiceError, match="the evaluation ended with status -9"):
            client.wait(job.id)
        assert client.status(job.id).attempts == 2
        client.wait(client.submit(encrypted(setting, tmp_path / "next", 1)).id)


def test_a_service_that_is_asked_to_end_lets_jobs_end(place: Place, setting: Setting, tmp_path: Path) -> None:
    """And keys whose check it did not end are checked again."""
    data, place.data = place.data, place.folder / "drained"
    key = setting.account.secret.key
    service = place.start("--drain", "120")
    with service.client() as client:
        client.upload_keys(setting.keys)
        job = client.submit(encrypted(setting, tmp_path / "in", 12))
        follow(client, job.id, 1)
    service.process.terminate()
    assert service.process.wait(120) in (0, -15)
    store = Store(place.data)
    store.set_key("alice", key, CHECKING)
    store.close()
    with place.running() as service, service.client() as client:
        done = client.status(job.id)
        assert (done.state, done.attempts) == ("done", 1)
        client.fetch(job.id, tmp_path / "out")
        assert not client.has_keys(key)
        client.upload_keys(setting.keys)
        assert client.has_keys(key)
    place.data = data


# -- clients that go away or are slow --


def half_a_body(service: Running) -> socket.socket:
    host, _, port = service.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.tokens['alice']}\r\n"
    connection.sendall(f"{head}Content-Length: 100000\r\n\r\n".encode() + b"x" * 5000)
    return connection


def incoming(place: Place) -> list[Path]:
    folder = place.data / "clients" / "alice" / "incoming"
    return list(folder.iterdir()) if folder.exists() else []


def eventually(condition: object, seconds: float = 10.0) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, setting: Setting) -> Iterator[tuple[Place, Running]]:
    """A service with a short queue."""
    place = Place(tmp_path_factory.mktemp("narrow"), setting.half, "--insecure", "--queue", "3", "--queue-each", "2")
    with place.running() as service:
        yield place, service


def test_a_client_that_disconnects_leaves_nothing_behind(
    narrow: tuple[Place, Running], setting: Setting, tmp_path: Path
) -> None:
    place, service = narrow
    with service.client() as client:
        connection = half_a_body(service)
        assert eventually(lambda: incoming(place))
        connection.close()
        assert eventually(lambda: not incoming(place))
        # one that goes away after submitting finds its result later
        client.upload_keys(setting.keys)
        job = client.submit(encrypted(setting, tmp_path / "in", 1))
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(
                f"{service.url}/v1/jobs/{job.id}",
                params={"wait": 30},
                headers={"Authorization": f"Bearer {service.tokens['alice']}"},
                timeout=0.01,
            )
        with service.client() as again:
            again.wait(job.id)
            again.fetch(job.id, tmp_path / "out")
        assert "Traceback" not in (place.folder / "log").read_text()


def test_bodies_and_jobs_that_take_too_long_are_ended(place: Place, setting: Setting, tmp_path: Path) -> None:
    limits = Limits(receive_seconds=0.5, job_seconds=2.5)
    with place.running_anew(limits=limits) as service, service.client() as client:
        with half_a_body(service) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
        assert eventually(lambda: not incoming(place))
        client.upload_keys(setting.keys)
        job = client.submit(encrypted(setting, tmp_path / "in", 4 * MANY))
        with pytest.raises(ServiceError, match=r"it took longer than 2\.5 s"):
            client.wait(job.id)
        assert eventually(lambda: not children(service.process.pid))


# -- back-pressure --


def test_a_full_queue_says_when_to_come_again(narrow: tuple[Place, Running], setting: Setting, tmp_path: Path) -> None:
    other, (_, service) = make_setting(tmp_path / "bob", setting.program), narrow
    with (
        service.client() as client,
        service.client("bob") as bob,
        service.raw() as raw,
        service.raw("bob") as more,
    ):
        client.upload_keys(setting.keys)
        bob.upload_keys(other.keys)
        first = client.submit(encrypted(setting, tmp_path / "0"))
        follow(client, first.id, 1)
        waiting = [client.submit(encrypted(setting, tmp_path / str(k), 1)) for k in (1, 2)]
        answer = raw.post("/v1/jobs", content=encrypted(setting, tmp_path / "3", 1).read_bytes())
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "10")
        bob.submit(encrypted(other, tmp_path / "4", 1))
        answer = more.post("/v1/jobs", content=encrypted(other, tmp_path / "5", 1).read_bytes())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        # keys that are needed stay; a job that is stopped makes room
        assert raw.delete(f"/v1/keys/{setting.account.secret.key}").status_code == 409
        client.delete(first.id)
        for job in waiting:
            client.wait(job.id)
        assert raw.get(f"/v1/jobs/{first.id}").status_code == 404


# -- nonsense --


def statuses_of(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> set[int]:
    seen: set[int] = set()

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def attempt(case: schemathesis.Case) -> None:
        answer = case.call(headers=headers)
        assert answer.status_code < 500, answer.text
        seen.add(answer.status_code)

    with contextlib.suppress(Unsatisfiable):  # an operation without parameters has no invalid requests
        attempt()
    return seen


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_nothing_that_is_sent_breaks_the_service(narrow: tuple[Place, Running], mode: GenerationMode) -> None:
    """Requests of every kind from the OpenAPI description, valid and invalid ones: no answer is a 5xx."""
    _, service = narrow
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    headers = {"Authorization": f"Bearer {service.tokens['alice']}"}
    found = [operation.ok() for operation in schema.get_all_operations()]
    statuses = {operation.label: statuses_of(operation, mode, headers) for operation in found}
    assert len(statuses) == 16, statuses.keys()
    wanted = 200 if mode is GenerationMode.POSITIVE else 422
    assert sum(wanted in seen for seen in statuses.values()) >= 4, statuses
    assert httpx.get(service.url + "/health").status_code == 200
