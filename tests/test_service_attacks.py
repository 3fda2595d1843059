"""What strangers and greedy clients try: each costs the service little, and the others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from fastapi import HTTPException

from glyphc.cli import main
from glyphc.ir.text import record_text
from glyphc.roles.artifacts import ServerProgram, stripped
from glyphc.roles.container import Reader, Writer
from glyphc.roles.headers import KeysHeader
from glyphc.service import keys
from glyphc.service.client import Client, ServiceError
from glyphc.service.connections import _origin
from glyphc.service.fair import FairPool
from glyphc.service.settings import Limits, Settings, TokenError, Tokens, new_token, token_hash
from glyphc.service.store import DONE, QUEUED, REFUSED, RUNNING, Job, Key, QuotaError, Store
from tests.roles import compiled
from tests.services import Place, Running, certificate

QUICK = Limits(head_seconds=4.0, receive_seconds=3.0, connections_each=16, bodies_each=3, keys_kept=5)


@pytest.fixture(scope="module")
def half() -> ServerProgram:
    return ServerProgram(stripped(compiled().graph))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, half: ServerProgram) -> Place:
    return Place(tmp_path_factory.mktemp("service"), half, "--insecure")


@pytest.fixture(scope="module")
def service(place: Place) -> Iterator[Running]:
    with place.running(limits=QUICK) as running:
        yield running


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def connect(service: Running, *lines: str) -> socket.socket:
    """A connection on which the beginning of a request was sent."""
    host, _, port = service.url.partition("://")[2].partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(30)
    if lines:
        connection.sendall("".join(f"{line}\r\n" for line in lines).encode())
    return connection


def bearer(service: Running, name: str = "alice") -> str:
    return f"Authorization: Bearer {service.tokens[name]}"


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def answer(connection: socket.socket) -> bytes:
    """All that comes until the service closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while block := connection.recv(4096):
            found += block
    return found


@contextlib.contextmanager
def closing_all(connections: list[socket.socket]) -> Iterator[list[socket.socket]]:
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


# -- connections --


def test_silent_and_slow_connections_lock_nobody_out(service: Running) -> None:
    """They used to: 256 of them made every answer a 503 for minutes."""
    silent = [connect(service) for _ in range(128)]
    slow = [connect(service, "GET /health HTTP/1.1", "Host: x") for _ in range(128)]
    with closing_all(silent + slow), service.client() as client:
        for _ in range(5):
            assert client.programs()
            assert httpx.get(service.url + "/health").status_code == 200
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(b"X-Slow: 1\r\n")
            time.sleep(0.3)
        # they go one and all, though some still send something
        assert eventually(lambda: all(is_closed(c) for c in silent))
        assert eventually(lambda: all(is_closed(c) for c in slow))
        assert client.programs()


def test_connections_that_never_finish_a_handshake_are_closed(place: Place, tmp_path: Path) -> None:
    """uvicorn does not know of them before; the event loop would wait for a minute."""
    chain, secret = certificate(tmp_path)
    options = ("--tls-certificate", str(chain), "--tls-key", str(secret), "--connections-each", "8")
    with place.running_anew(*options) as service:
        silent = [connect(service) for _ in range(40)]
        with closing_all(silent):
            time.sleep(1.1)
            with Client(service.url, service.tokens["alice"], ca=chain) as client:
                assert client.programs()
            # at the first connection after they had their chance
            assert eventually(lambda: sum(map(is_closed, silent)) >= 40 - 8)
        context = ssl.create_default_context(cafile=chain)
        with connect(service) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer(connection).startswith(b"HTTP/1.1 200")


def test_a_connection_is_kept_for_a_client_that_uses_it(service: Running) -> None:
    """Beyond the time that a stranger has."""
    with service.raw() as raw:
        ports = set()
        for _ in range(4):
            with raw.stream("GET", "/v1/programs") as got:
                assert got.status_code == 200
                ports.add(got.extensions["network_stream"].get_extra_info("client_addr"))
                got.read()
            time.sleep(0.8)
        assert len(ports) == 1


def test_one_client_has_no_more_connections_than_its_share(service: Running) -> None:
    request = ("GET /v1/programs HTTP/1.1", "Host: x", bearer(service), "")
    mine = [connect(service, *request) for _ in range(QUICK.connections_each)]
    with closing_all(mine):
        assert all(c.recv(12) == b"HTTP/1.1 200" for c in mine)
        with connect(service, *request) as one_more:
            assert answer(one_more).startswith(b"HTTP/1.1 429")
        with service.client("bob") as bob:
            assert bob.programs()
    with service.client() as client:  # and has them back
        assert eventually(lambda: bool(client.programs()))


def test_networks_count_as_one_address() -> None:
    assert _origin("192.0.2.7") == _origin("::ffff:192.0.2.7") == "192.0.2.7"
    assert _origin("2001:db8::1") == _origin("2001:db8::ffff:2") != _origin("2001:db8:0:1::1")
    assert _origin("fe80::1%eth0") == _origin("fe80::2")


def test_answers_that_nobody_takes_are_given_up(service: Running) -> None:
    """Requests one behind the other, without reading what comes."""
    with connect(service) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = f"GET /openapi.json HTTP/1.1\r\nHost: x\r\n{bearer(service)}\r\n\r\n".encode()
        connection.settimeout(0.5)
        with contextlib.suppress(OSError):
            for _ in range(4000):
                connection.sendall(request)
        assert eventually(lambda: refuses_more(connection))


def refuses_more(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


# -- bodies --


@pytest.mark.parametrize("header", ["X: y", "Authorization: Bearer wrong", "Authorization: Basic eDp5"])
def test_without_a_token_no_body_is_read(header: str, service: Running) -> None:
    """The answer comes before the body, which never does."""
    for start in ("POST /v1/jobs", "POST /v1/keys", f"PATCH /v1/keys/{'0' * 64}", "DELETE /v1/nothing"):
        for length in ("Content-Length: 1000", "Transfer-Encoding: chunked", "Content-Length: 99999999999999"):
            with connect(service, f"{start} HTTP/1.1", "Host: x", header, length, "") as connection:
                found = answer(connection)
                assert found.startswith(b"HTTP/1.1 401") and b"www-authenticate: Bearer" in found, found
    with connect(service, "GET /health HTTP/1.1", "Host: x", "Content-Length: 1000", "") as connection:
        assert answer(connection).startswith(b"HTTP/1.1 200")  # and closed


def test_a_client_that_sends_without_a_token_hears_why(service: Running) -> None:
    with httpx.Client(base_url=service.url) as raw:
        got = raw.post("/v1/jobs", content=(bytes(1 << 16) for _ in range(100)))
        assert got.status_code == 401


def test_small_bodies_come_in_time(service: Running) -> None:
    head = ("POST /v1/keys HTTP/1.1", "Host: x", bearer(service), "Content-Type: application/json")
    with connect(service, *head, "Content-Length: 100", "", "{") as connection:
        assert answer(connection)[9:12] in (b"400", b"408")


def test_uploads_that_trickle_are_ended(service: Running, place: Place) -> None:
    """A byte now and then keeps no upload alive."""
    head = ("POST /v1/jobs HTTP/1.1", "Host: x", bearer(service), "Content-Length: 100000", "")
    with connect(service, *head) as connection:
        stop = threading.Event()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.2):
                    connection.sendall(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        found = answer(connection)
        stop.set()
        thread.join()
    assert found.startswith(b"HTTP/1.1 408") and b"less than 8192 bytes" in found
    assert not list(place.data.glob("clients/*/incoming/*"))


def test_uploads_at_once_are_limited(service: Running) -> None:
    head = ("POST /v1/jobs HTTP/1.1", "Host: x", bearer(service), f"Content-Length: {1 << 30}", "")
    begun = [connect(service, *head) for _ in range(QUICK.bodies_each)]
    with closing_all(begun), service.raw() as raw, service.raw("bob") as bob:

        def refused() -> bool:
            for connection in begun:
                connection.sendall(bytes(1 << 16))  # they go on
            got = raw.post("/v1/jobs", content=b"x" * 1000)
            return got.status_code == 429 and "Retry-After" in got.headers

        assert eventually(refused)
        assert bob.post("/v1/jobs", content=b"x").status_code == 422
    with service.raw() as raw:
        assert eventually(lambda: raw.post("/v1/jobs", content=b"x").status_code == 422)


# -- tokens --


def spoil(kind: str, tokens: Path) -> None:
    before = tokens.read_text()
    if kind == "emptied":
        tokens.write_text("")
    elif kind == "deleted":
        tokens.unlink()
    elif kind == "malformed":
        tokens.write_text(f"{before}not a line of tokens\n")
    elif kind == "binary":
        tokens.write_bytes(b"\xff\xfe\0" * 100)
    elif kind == "replaced by others of the same size":
        stamp = tokens.stat()
        tokens.write_text("".join(_with_hash(line, "0" * 64) for line in before.splitlines(keepends=True)))
        os.utime(tokens, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    elif kind == "a folder":
        tokens.unlink()
        tokens.mkdir()


def _with_hash(line: str, found: str) -> str:
    name, _, expires = line.split(" ")
    return f"{name} {found} {expires}"


SPOILT = ["emptied", "deleted", "malformed", "binary", "replaced by others of the same size", "a folder"]


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_file_of_tokens_lets_nobody_in(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    token = new_token(path, "alice")
    tokens = Tokens(path)
    assert tokens.client(token) == "alice"
    spoil(kind, path)
    for _ in range(2):
        with pytest.raises(TokenError, match="a valid token is needed"):
            tokens.client(token)
    if kind == "a folder":
        path.rmdir()
    path.write_text("")
    again = new_token(path, "alice")
    assert tokens.client(again) == "alice"
    with pytest.raises(TokenError):
        tokens.client(token)


def test_a_withdrawn_token_ends_what_has_begun(service: Running, place: Place) -> None:
    """An upload that was let in is not taken, and the answer that was waited for does not come."""
    tokens = place.folder / "tokens"
    before = tokens.read_text()
    head = ("POST /v1/jobs HTTP/1.1", "Host: x", bearer(service), "Content-Length: 10", "", "")
    with connect(service, *head) as connection:
        assert eventually(lambda: any(place.data.glob("clients/alice/incoming/*")))
        try:
            tokens.write_text("")
            connection.sendall(b"0123456789")
            assert answer(connection).startswith(b"HTTP/1.1 401")
            with pytest.raises(ServiceError, match="a valid token is needed"), service.client() as client:
                client.programs()
        finally:
            tokens.write_text(before)
    with service.client() as client:
        assert client.programs()
    log = (place.folder / "log").read_text()
    assert "Nobody is let in" in log and "usable again" in log and "Traceback" not in log


def test_tokens_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokens"
    made = CliRunner().invoke(main, ["token", "alice", "--tokens", str(path), "--days", "2"])
    default = CliRunner().invoke(main, ["token", "bob", "--tokens", str(path)])
    tokens, now = Tokens(path), time.time()
    alice, bob = made.output.strip(), default.output.strip()
    for days, valid in ((0, (alice, bob)), (1.99, (alice, bob)), (2.01, (bob,)), (89.99, (bob,)), (90.01, ())):
        monkeypatch.setattr(time, "time", lambda days=days: now + days * 86400)
        for token in (alice, bob):
            if token in valid:
                assert tokens.client(token)
            else:
                with pytest.raises(TokenError, match="has expired"):
                    tokens.client(token)
    for days in ("0", "-1", "4000"):
        assert CliRunner().invoke(main, ["token", "x", "--tokens", str(path), "--days", days]).exit_code == 2


def test_a_file_without_its_last_newline_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    alice = new_token(path, "alice")
    path.write_text(path.read_text().rstrip())
    bob = new_token(path, "bob")
    assert [Tokens(path).client(token) for token in (alice, bob)] == ["alice", "bob"]


def test_a_token_without_an_end_is_none(tmp_path: Path) -> None:
    for end in ("", " never", " 2999-01-01", " 1e99"):
        (tmp_path / "tokens").write_text(f"alice {token_hash('x')}{end}\n")
        with pytest.raises(Exception, match="is not 'client sha256-of-token end-of-validity'"):
            Tokens(tmp_path / "tokens")


# -- figures and quotas --


def test_invented_methods_and_paths_make_no_figures(service: Running) -> None:
    def series() -> int:
        return httpx.get(service.url + "/metrics").text.count("\nglyphc_requests_total")

    with httpx.Client(base_url=service.url) as raw:
        raw.request("INVENTED", "/health")
        before = series()
        for number in range(50):
            assert raw.request(f"M{number}", f"/p{number}").status_code in (404, 405)
            raw.request(f"M{number}", "/v1/jobs")
    assert series() <= before + 2


def test_keys_are_limited_in_number(service: Running, place: Place) -> None:
    """All begun at once: the number is checked where it is counted."""
    with service.raw() as raw:

        def begin(number: int) -> int:
            return raw.post("/v1/keys", json={"digest": f"{number:064x}", "size": 1}).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(begin, range(20)))
        assert sorted(statuses) == [201] * 5 + [409] * 15
        assert len(raw.get("/v1/keys").json()) == len(list(place.data.glob("clients/alice/keys/*"))) == 5
        assert raw.delete(f"/v1/keys/{raw.get('/v1/keys').json()[0]['digest']}").status_code == 204
        assert begin(99) == 201


def some_job(client: str, number: int) -> Job:
    return Job(f"{client}-{number}", client, "p", "k", f"{number}", 1, QUEUED, "", float(number), 0, 0, 0)


def test_the_queue_is_checked_where_it_is_filled(tmp_path: Path) -> None:
    """Forty inputs that were all let in while there was room."""
    store = Store(tmp_path / "data")
    limits = Limits(queue=10, queue_each=6)

    def add(number: int) -> int:
        client = ("alice", "bob")[number % 2]
        inputs = store.incoming(client) / f"{number}"
        inputs.write_bytes(b"x")
        try:
            store.add_job(some_job(client, number), inputs, limits)
        except QuotaError as e:
            return e.status
        return 0

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(add, range(40)))
    assert found.count(0) == 10 and set(found) <= {0, 429, 503}
    assert all(len(store.jobs(client)) <= 6 for client in ("alice", "bob"))
    store.close()


def test_refused_keys_make_room(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    limits = Limits(keys_kept=3)
    for number in range(20):
        store.add_key("alice", f"{number}", 1, limits)
        store.set_key("alice", f"{number}", REFUSED, "no keys")
    assert [key.digest for key in store.keys("alice")] == ["17", "18", "19"]
    store.close()


# -- the check of what was uploaded --


def test_nothing_is_hashed_before_it_is_known_to_be_wanted(
    tmp_path: Path, half: ServerProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "data")
    program = {half.fingerprint: (tmp_path / "digits.server", half)}
    service: Any = SimpleNamespace(store=store, programs=program)
    good = record_text(half.schedule.parameters)

    def verify(reader: Reader[KeysHeader]) -> None:
        raise AssertionError("hashed")

    def upload(parameters: str, name: str) -> Key:
        path = tmp_path / "keys"
        with Writer(path, KeysHeader(parameters, 3, "0" * 64)) as writer:
            writer.add(name, b"x")
        key = store.add_key("alice", writer.digest, path.stat().st_size)
        store.key_path("alice", key.digest).write_bytes(path.read_bytes())
        return key

    monkeypatch.setattr(Reader, "verify", verify)
    for parameters, name, reason in (
        (good, "../public", "cannot name a part"),
        (good, "anything", "part anything does not belong there"),
        ("nonsense", "bgv/public", "its parameters are unreadable"),
        (good.replace("1024", "2048"), "bgv/public", "made for other parameters"),
        (good, "weights/program", "holds the encrypted weights of another program"),
    ):
        if reason == "cannot name a part":
            with pytest.raises(ValueError, match=reason):
                upload(parameters, name)
            continue
        with pytest.raises(HTTPException, match=reason):
            keys._check(service, upload(parameters, name))
    with pytest.raises(AssertionError, match="hashed"):
        keys._check(service, upload(good, "bgv/public"))
    store.close()


def test_archives_that_cheat_are_refused_when_they_are_uploaded(service: Running, tmp_path: Path) -> None:
    """Through the whole service, which goes on."""
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b'{"parts":[' + b"[]," * (10 << 20) + b"0]}")
    content = (tmp_path / "bomb").read_bytes()
    with service.raw("bob") as raw:
        assert raw.post("/v1/jobs", content=content).status_code == 422
        raw.post("/v1/keys", json={"digest": "a" * 64, "size": len(content)})
        query = {"offset": 0, "sha256": hashlib.sha256(content).hexdigest()}
        got = raw.patch(f"/v1/keys/{'a' * 64}", params=query, content=content)
        assert (got.status_code, "is not stored as it is" in got.text) == (422, True)
    with open(f"/proc/{service.process.pid}/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak < 500_000  # kB; it was gigabytes


def test_one_clients_checks_do_not_keep_another_waiting() -> None:
    """Six long ones of one client, then one of another: that begins while the first one runs."""

    async def scene() -> list[str]:
        pool = FairPool(2)
        release, begun = threading.Event(), []

        def check(name: str) -> None:
            begun.append(name)
            if name.startswith("greedy"):
                release.wait(60)

        greedy = [asyncio.ensure_future(pool.run("greedy", check, f"greedy {n}")) for n in range(6)]
        await asyncio.sleep(0)
        await asyncio.wait_for(pool.run("modest", check, "modest"), 30)
        await asyncio.wait_for(pool.run("another", check, "another"), 30)
        seen = list(begun)
        # one that is given up while it waits is passed over, and leaves no thread taken
        greedy[3].cancel()
        release.set()
        await asyncio.gather(*greedy, return_exceptions=True)
        await asyncio.gather(*(pool.run(f"{n}", check, f"{n}") for n in range(5)))
        pool.close()
        assert "greedy 3" not in begun and len(begun) == 12
        return seen

    assert asyncio.run(scene()) == ["greedy 0", "modest", "another"]


def test_clients_take_turns() -> None:
    async def scene() -> list[str]:
        pool = FairPool(1)
        done: list[str] = []
        names = ["a"] * 4 + ["b"] * 2 + ["c"]
        await asyncio.gather(*(pool.run(name, done.append, name) for name in names))
        pool.close()
        return done

    assert asyncio.run(scene()) == ["a", "b", "c", "a", "b", "a", "a"]


# -- disks --


def test_what_killed_runs_left_is_removed_at_the_start(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    states = {"queued": QUEUED, "running": RUNNING, "done": DONE}
    for number, name in enumerate(states):
        inputs = store.incoming("alice") / name
        inputs.write_bytes(b"x")
        store.add_job(some_job("alice", number), inputs)
    jobs = {name: store.jobs("alice")[number] for number, name in enumerate(states)}
    store.begin_job(jobs["running"].id)
    for job in jobs.values():
        for name in ("checkpoint", "outputs", ".checkpointabcdefgh.part", ".outputsabcdefgh.part"):
            (store.job_folder(job) / name).write_bytes(b"x")
    store.end_job(jobs["done"])
    (store.job_folder(jobs["done"]) / ".outputsabcdefgh.part").write_bytes(b"x")
    store.add_key("alice", "known", 5)
    store.key_path("alice", "unknown").write_bytes(b"x")
    store.job_folder(some_job("alice", 99)).mkdir()
    (store.incoming("alice") / "half").write_bytes(b"x")
    store.recover()
    for name in ("queued", "running"):
        assert {p.name for p in store.job_folder(jobs[name]).iterdir()} == {"inputs", "checkpoint"}
    found = {p.name for p in store.job_folder(jobs["done"]).iterdir()}
    assert found == {"outputs"}
    assert [p.name for p in (tmp_path / "data/clients/alice/keys").iterdir()] == ["known"]
    assert not store.job_folder(some_job("alice", 99)).exists()
    assert not (tmp_path / "data/clients/alice/incoming").exists()
    store.close()


def test_a_full_disk_is_said_and_leaves_nothing(place: Place) -> None:
    """No file of this service's process may exceed 200 kB."""
    with (
        place.running_anew(disk=200_000, limits=Limits(keys_kept=100_000)) as service,
        service.raw() as raw,
        service.raw("bob") as bob,
    ):
        log = len((place.folder / "log").read_text())
        got = raw.post("/v1/jobs", content=bytes(3 << 20))
        assert (got.status_code, got.json()["detail"]) == (507, "the service has no room left on its disk")
        raw.post("/v1/keys", json={"digest": "b" * 64, "size": 300_000})
        first, second = bytes(120_000), bytes(120_000)
        for offset, chunk, status in ((0, first, 200), (len(first), second, 507)):
            query = {"offset": offset, "sha256": hashlib.sha256(chunk).hexdigest()}
            got = raw.patch(f"/v1/keys/{'b' * 64}", params=query, content=chunk)
            assert got.status_code == status
        # what was there before is as it was, to be gone on with
        assert raw.get(f"/v1/keys/{'b' * 64}").json()["offset"] == len(first)
        assert not list(place.data.glob("clients/*/incoming/*"))
        # and the database fills up
        for number in range(3000):
            got = bob.post("/v1/keys", json={"digest": f"{number:064x}", "size": 1})
            if got.status_code != 201:
                break
        assert got.status_code == 507, got.text
        assert "Traceback" not in (place.folder / "log").read_text()[log:]
        assert httpx.get(service.url + "/health").status_code == 200


def test_settings_survive_their_way_to_the_service() -> None:
    from glyphc.service.__main__ import Listen, from_json, to_json

    settings = Settings(Path("p"), Path("d"), Path("t"), limits=QUICK)
    assert from_json(to_json(settings, Listen("h", 1, "", "")))[0] == settings
