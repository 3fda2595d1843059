"""The service over loopback: round trips, isolation, limits, and what is refused (small rings)."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

import glyphc
from glyphc.cli import main
from glyphc.errors import GlyphcError
from glyphc.service.client import ServiceError
from glyphc.service.settings import new_token
from glyphc.storage.container import Reader
from glyphc.storage.headers import KeysHeader
from tests.roles import ONE_BOOTSTRAP, ROOT, Setting, compiled, environment, make_setting, samples
from tests.services import Place, Running, certificate


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("alice"), compiled(name=ONE_BOOTSTRAP))


@pytest.fixture(scope="module")
def bob(tmp_path_factory: pytest.TempPathFactory, setting: Setting) -> Setting:
    return make_setting(tmp_path_factory.mktemp("bob"), setting.program)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, setting: Setting) -> Place:
    return Place(tmp_path_factory.mktemp("service"), setting.half, "--insecure")


@pytest.fixture(scope="module")
def service(place: Place) -> Iterator[Running]:
    with place.running() as running:
        yield running


def clear(setting: Setting, count: int) -> np.ndarray:
    return np.asarray(setting.program.run(samples(count, ONE_BOOTSTRAP), mode="clear"))


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.abs(found - wanted).max() < 0.05 * np.ptp(wanted))


def digest(path: Path) -> str:
    with Reader(path, KeysHeader) as reader:
        return reader.digest


# -- round trips --


def test_a_round_trip_from_python(service: Running, setting: Setting) -> None:
    with glyphc.Client(service.url, service.tokens["alice"]) as client:
        assert client.programs() == {setting.half.fingerprint: "tumours"}
        assert client.specification("tumours") == setting.account.spec
        (y,) = client.run(setting.account, samples(6, ONE_BOOTSTRAP), setting.keys).values()
        assert close(y, clear(setting, 6))
        # now the service has the keys
        (z,) = client.run(setting.account, samples(1, ONE_BOOTSTRAP)).values()
        assert close(z, y[:1])


def test_a_round_trip_of_commands(service: Running, setting: Setting, tmp_path: Path) -> None:
    """A client that begins with a token and an address."""
    np.save(tmp_path / "x.npy", samples(3, ONE_BOOTSTRAP))
    runner, variables = CliRunner(), {"GLYPHC_TOKEN": service.tokens["bob"]}
    where = ("--url", service.url)
    submit = ("--client", tmp_path / "c", "--keys", tmp_path / "s" / "evaluation.keys")
    for arguments in (
        ("spec", "tumours", *where, "-o", tmp_path / "tumours.spec"),
        ("keygen", tmp_path / "tumours.spec", "--insecure", "--client", tmp_path / "c", "--server", tmp_path / "s"),
        ("submit", *where, *submit, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"),
    ):
        result = runner.invoke(main, [*map(str, arguments)], env=variables)
        assert result.exit_code == 0, result.output
    assert close(np.load(tmp_path / "y.npy"), clear(setting, 3))
    result = runner.invoke(main, ["spec", "letters", *where, "-o", str(tmp_path / "l.spec")], env=variables)
    assert "no single program 'letters' is served there; there are: tumours" in result.output
    result = runner.invoke(main, ["spec", "tumours", *where, "-o", str(tmp_path / "l.spec")], env={"GLYPHC_TOKEN": ""})
    assert result.exit_code == 2 and "put it into the variable GLYPHC_TOKEN" in result.output


def test_two_clients_at_once(service: Running, setting: Setting, bob: Setting) -> None:
    """Each with keys of its own, several requests at a time."""
    wanted = clear(setting, 5)
    found: dict[tuple[str, int], np.ndarray] = {}

    def ask(name: str, of: Setting, number: int) -> None:
        with service.client(name) as client:
            (found[name, number],) = client.run(of.account, samples(5, ONE_BOOTSTRAP)[number:], of.keys).values()

    threads = [
        threading.Thread(target=ask, args=(name, of, number))
        for number in range(2)
        for name, of in (("alice", setting), ("bob", bob))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 4
    for (_, number), y in found.items():
        assert close(y, wanted[number:])


def test_a_replayed_request_is_the_same_job(service: Running, setting: Setting, tmp_path: Path) -> None:
    setting.account.encrypt(samples(1, ONE_BOOTSTRAP), tmp_path / "in")
    with service.client() as client:
        client.upload_keys(setting.keys)
        first = client.submit(tmp_path / "in")
        assert client.submit(tmp_path / "in").id == first.id
        done = client.wait(first.id)
        assert client.submit(tmp_path / "in") == done
        assert done.attempts == 1
        for name in "ab":
            client.fetch(first.id, tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# -- who may see what --


def test_tokens_are_needed(service: Running) -> None:
    paths = ["/v1/programs", "/v1/keys", "/v1/jobs", f"/v1/jobs/{'0' * 32}", f"/v1/keys/{'0' * 64}"]
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
        for path in paths:
            answer = httpx.get(service.url + path, headers=headers)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    with pytest.raises(ServiceError, match="a valid token is needed"), glyphc.Client(service.url, "wrong") as client:
        client.programs()


def test_tokens_come_and_go_without_a_restart(service: Running, place: Place) -> None:
    tokens = place.folder / "tokens"
    before = tokens.read_text()
    carol = new_token(tokens, "carol")
    with glyphc.Client(service.url, carol) as client:
        assert client.programs()
        tokens.write_text(before)
        with pytest.raises(ServiceError, match="a valid token is needed"):
            client.programs()


def test_clients_do_not_see_each_other(service: Running, setting: Setting, tmp_path: Path) -> None:
    setting.account.encrypt(samples(1, ONE_BOOTSTRAP), tmp_path / "in")
    with service.client() as alice, service.client("bob") as bob, service.raw("bob") as raw:
        key = alice.upload_keys(setting.keys)
        job = alice.wait(alice.submit(tmp_path / "in").id)
        for path in (f"/v1/keys/{key}", f"/v1/jobs/{job.id}", f"/v1/jobs/{job.id}/result"):
            assert raw.get(path).status_code == 404
        assert raw.delete(f"/v1/jobs/{job.id}").status_code == raw.delete(f"/v1/keys/{key}").status_code == 404
        chunk = {"offset": 0, "sha256": hashlib.sha256(b"x").hexdigest()}
        assert raw.patch(f"/v1/keys/{key}", params=chunk, content=b"x").status_code == 404
        assert key not in raw.get("/v1/keys").text and job.id not in raw.get("/v1/jobs").text
        # a copied request needs the copier's own keys
        with pytest.raises(ServiceError, match="upload the evaluation keys"):
            bob.submit(tmp_path / "in")
        assert alice.status(job.id) == job


# -- uploads --


def test_an_upload_goes_on_where_it_stopped(place: Place, setting: Setting) -> None:
    """Chunk by chunk, with every mistake on the way."""
    content, key = setting.keys.read_bytes(), digest(setting.keys)
    half = len(content) // 2

    def chunk(offset: int, data: bytes, sha256: str | None = None) -> httpx.Response:
        query = {"offset": offset, "sha256": sha256 or hashlib.sha256(data).hexdigest()}
        return raw.patch(f"/v1/keys/{key}", params=query, content=data)

    with place.running_anew() as service, service.raw() as raw, service.client() as client:
        begun = raw.post("/v1/keys", json={"digest": key, "size": len(content)})
        assert (begun.status_code, begun.json()["offset"], begun.json()["state"]) == (201, 0, "uploading")
        assert raw.post("/v1/keys", json={"digest": key, "size": 5}).status_code == 409
        assert chunk(0, content[:half]).json()["offset"] == half
        assert chunk(0, content[:half]).status_code == 409  # a replay
        assert chunk(half + 1, content[half + 1 :]).status_code == 409  # a gap
        assert chunk(half, content[half:], "0" * 64).status_code == 422  # damaged on its way
        assert chunk(half, content[half:] + b"x").status_code == 413  # more than announced
        assert not client.has_keys(key)
        assert client.upload_keys(setting.keys) == key  # only the rest
        assert client.has_keys(key)
        assert chunk(len(content), b"").status_code == 409
        assert raw.delete(f"/v1/keys/{key}").status_code == 204
        assert raw.get(f"/v1/keys/{key}").status_code == 404


@pytest.mark.parametrize("kind", ["bit", "other", "noise"])
def test_keys_that_are_none_are_refused(kind: str, service: Running, bob: Setting, tmp_path: Path) -> None:
    content = bytearray(bob.keys.read_bytes())
    if kind == "bit":
        content[len(content) // 2] ^= 1
    elif kind == "noise":
        content = bytearray(b"x" * 1000)
    name = "0" * 64 if kind == "other" else digest(bob.keys)
    with service.raw("bob") as raw:
        raw.delete(f"/v1/keys/{name}")
        raw.post("/v1/keys", json={"digest": name, "size": len(content)})
        query = {"offset": 0, "sha256": hashlib.sha256(content).hexdigest()}
        answer = raw.patch(f"/v1/keys/{name}", params=query, content=bytes(content))
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("the upload is not usable")
        assert raw.get(f"/v1/keys/{name}").json()["state"] == "refused"


def test_malformed_inputs_are_refused_and_nothing_is_kept(
    service: Running, place: Place, setting: Setting, bob: Setting, tmp_path: Path
) -> None:
    setting.account.encrypt(samples(1, ONE_BOOTSTRAP), tmp_path / "in")
    good = (tmp_path / "in").read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    bob.account.encrypt(samples(1, ONE_BOOTSTRAP), tmp_path / "bob")
    stranger = compiled(2, name=ONE_BOOTSTRAP)
    with service.client() as client, service.raw() as raw:
        client.upload_keys(setting.keys)
        before = len(raw.get("/v1/jobs").json())
        for body, status in (
            (b"", 422),
            (b"x" * 100, 422),
            (good[:-1], 422),
            (bytes(flipped), 422),
            (setting.keys.read_bytes(), 422),
            ((setting.client / "secret.key").read_bytes(), 422),
            ((tmp_path / "bob").read_bytes(), 409),  # keys that are not there
        ):
            answer = raw.post("/v1/jobs", content=body)
            assert answer.status_code == status, answer.text
            assert str(place.folder) not in answer.text
        assert len(raw.get("/v1/jobs").json()) == before
    assert list((place.data / "clients" / "alice" / "incoming").iterdir()) == []
    assert stranger.client != setting.program.client


def test_bodies_are_limited(service: Running, setting: Setting) -> None:
    host, _, port = service.url.removeprefix("http://").partition(":")
    for start in ("POST /v1/jobs", "POST /v1/keys", f"PATCH /v1/keys/{'0' * 64}"):
        with socket.create_connection((host, int(port))) as connection:
            head = f"{start} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.tokens['alice']}\r\n"
            connection.sendall(f"{head}Content-Length: {10 << 40}\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 413")  # at once, not after ten terabytes
    with service.raw() as raw:
        # one that does not say how long it is
        answer = raw.post("/v1/keys", content=(b" " * 4096 for _ in range(100)))
        assert answer.status_code in (400, 413)
        huge = {"digest": "0" * 64, "size": 1 << 45}
        assert raw.post("/v1/keys", json=huge).status_code == 413


def test_health_and_metrics_need_no_token_and_name_nobody(service: Running) -> None:
    assert httpx.get(service.url + "/health").json() == {"status": "ok"}
    text = httpx.get(service.url + "/metrics").text
    assert 'glyphc_jobs{state="queued"}' in text and "glyphc_requests_total" in text
    assert "alice" not in text


# -- starting and addresses --


def test_tokens_are_not_sent_in_the_clear() -> None:
    for url in ("http://example.org", "ftp://127.0.0.1", "127.0.0.1:8440", ""):
        with pytest.raises(ServiceError, match=r"in the clear|not the address"):
            glyphc.Client(url, "token")


@pytest.mark.parametrize("failure", ["down", "busy"])
def test_a_service_is_asked_again_as_long_as_the_client_is_patient(
    failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service comes back after a minute; time is a counter."""
    now = [0.0]

    def answer(request: httpx.Request) -> httpx.Response:
        if now[0] >= 60:
            return httpx.Response(200, json=[])
        if failure == "down":
            raise httpx.ConnectError("refused")
        # a date is one of the forms that the header has
        after = "1" if now[0] < 5 else "Sun, 29 Nov 2026 12:00:00 GMT"
        return httpx.Response(429, headers={"Retry-After": after}, json={"detail": "too many"})

    monkeypatch.setattr("glyphc.service.client.time.monotonic", lambda: now[0])
    monkeypatch.setattr("glyphc.service.client.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    for patience, reached in ((30.0, False), (90.0, True)):
        now[0] = 0.0
        with glyphc.Client("http://127.0.0.1:1", "token", patience=patience) as client:
            client._http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://127.0.0.1:1")
            if reached:
                assert client.programs() == {}
                continue
            with pytest.raises(ServiceError, match=r"cannot be reached: refused|too many"):
                client.programs()
            assert 20 < now[0] <= 30


def test_programs_that_protect_nothing_are_not_served_by_default(place: Place, tmp_path: Path) -> None:
    from glyphc.service.settings import Settings, load_programs, load_tokens

    with pytest.raises(GlyphcError, match="protects nothing"):
        load_programs(Settings(place.folder / "programs", tmp_path, place.folder / "tokens"))
    (tmp_path / "tokens").write_text("alice secret\n")
    with pytest.raises(GlyphcError, match=r"line 1 of .* is not 'client sha256-of-token end-of-validity'"):
        load_tokens(tmp_path / "tokens")
    assert all(token not in (place.folder / "tokens").read_text() for token in place.tokens.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--listen", "0.0.0.0:8440"), "listening on 0.0.0.0 without TLS would send tokens in the clear"),
        (("--listen", "8440"), "is not HOST:PORT"),
        (("--listen", "127.0.0.1:99999"), "is not HOST:PORT"),
        (("--tls-key", "key.pem"), "TLS needs both"),
        (("--tls-key", "key.pem", "--tls-certificate", "chain.pem"), "there is no file 'chain.pem'"),
    ],
)
def test_a_service_is_not_started_carelessly(options: tuple[str, ...], message: str) -> None:
    folders = ["serve", "--programs", "programs", "--data", "data", "--tokens", "tokens"]
    result = CliRunner().invoke(main, [*folders, *options])
    assert result.exit_code == 2
    assert message in result.output


def test_a_service_of_nothing_is_not_started() -> None:
    result = CliRunner().invoke(main, ["serve", "--data", "data", "--tokens", "tokens"])
    assert result.exit_code == 2 and "there is nothing to serve: give --programs" in result.output


def test_tls(place: Place, tmp_path: Path) -> None:
    chain, secret = certificate(tmp_path)
    with place.running_anew("--tls-certificate", str(chain), "--tls-key", str(secret)) as service:
        assert service.url.startswith("https://")
        with glyphc.Client(service.url, service.tokens["alice"], ca=chain) as client:
            assert client.programs()
        with pytest.raises(ServiceError, match="cannot read certificates"):
            glyphc.Client(service.url, "token", ca=tmp_path / "none")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(service.url + "/health")


def test_one_service_uses_a_folder(service: Running, place: Place) -> None:
    with pytest.raises(AssertionError, match="another service uses"):
        place.start()


# -- 128-bit --


@pytest.mark.slow
@pytest.mark.xdist_group("128-bit")
def test_a_round_trip_at_128_bit(tmp_path: Path) -> None:
    """The benchmark: commands, service and client as a user would run them, the smallest program."""
    script = ROOT / "benchmarks" / "service.py"
    command = [sys.executable, str(script), "--batch", "1", "--json", str(tmp_path / "figures.json")]
    variables = environment()
    del variables["OMP_NUM_THREADS"]
    subprocess.run(command, check=True, timeout=900, env=variables)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["accuracy"] == 1.0
    size = {step["name"]: step["size"] for step in figures["steps"]}
    # against 1.8 GB of OpenFHE's own serialised keys for this program, and 1.05 MB for a ciphertext
    assert size["upload keys"] < 0.7e9
    assert size["submit"] < 0.5e6
    assert size["fetch outputs"] < 0.3e6
    peak = {step["name"]: step["peak"] for step in figures["steps"]}
    assert peak["make keys"] < 2e9
