"""What strangers and greedy clients try: each costs the service little, and the others do not notice."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from glyphc.exchange.artifacts import ServerProgram
from glyphc.exchange.split import split
from glyphc.service.client import Client, ServiceError
from glyphc.service.settings import Limits
from tests.roles import ONE_BOOTSTRAP, compiled
from tests.services import Place, Running, certificate

QUICK = Limits(head_seconds=4.0, receive_seconds=3.0, connections_each=16, bodies_each=3, keys_kept=5)


@pytest.fixture(scope="module")
def half() -> ServerProgram:
    return split(compiled(name=ONE_BOOTSTRAP).graph).server


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


# -- the check of what was uploaded --


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


# -- disks --


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
