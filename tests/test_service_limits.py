"""What the service decides by itself: tokens, quotas, turns, checks, and what a restart removes."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi import HTTPException

from glyphc.cli import main
from glyphc.exchange.artifacts import ServerProgram
from glyphc.exchange.split import split
from glyphc.ir.text import record_text
from glyphc.service import keys
from glyphc.service.connections import _origin
from glyphc.service.fair import FairPool
from glyphc.service.settings import Limits, Settings, TokenError, Tokens, new_token, token_hash
from glyphc.service.store import DONE, QUEUED, READY, REFUSED, RUNNING, Job, Key, QuotaError, Store
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import KeysHeader
from tests.roles import ONE_BOOTSTRAP, compiled


@pytest.fixture(scope="module")
def half() -> ServerProgram:
    return split(compiled(name=ONE_BOOTSTRAP).graph).server


def test_networks_count_as_one_address() -> None:
    assert _origin("192.0.2.7") == _origin("::ffff:192.0.2.7") == "192.0.2.7"
    assert _origin("2001:db8::1") == _origin("2001:db8::ffff:2") != _origin("2001:db8:0:1::1")
    assert _origin("fe80::1%eth0") == _origin("fe80::2")


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
    program = {half.fingerprint: (tmp_path / "tumours.server", half)}
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


def test_what_a_back_up_lacks_is_forgotten(tmp_path: Path) -> None:
    """The database was copied, then files were deleted: nothing waits for them for ever."""
    store = Store(tmp_path / "data")
    for name in ("here", "gone"):
        store.add_key("alice", name, 1)
        store.key_path("alice", name).write_bytes(b"x")
        store.set_key("alice", name, READY)
    for number in range(4):
        inputs = store.incoming("alice") / "inputs"
        inputs.write_bytes(b"x")
        store.add_job(some_job("alice", number), inputs)
    waiting, lost, done, emptied = store.jobs("alice")
    for job in (done, emptied):
        store.begin_job(job.id)
        (store.job_folder(job) / "outputs").write_bytes(b"x")
        store.end_job(job)
    store.key_path("alice", "gone").unlink()
    (store.job_folder(lost) / "inputs").unlink()
    (store.job_folder(emptied) / "outputs").unlink()
    store.recover()
    assert [key.digest for key in store.keys("alice")] == ["here"]
    assert {job.id for job in store.jobs("alice")} == {waiting.id, done.id}
    store.close()


def test_settings_survive_their_way_to_the_service() -> None:
    from glyphc.service.__main__ import Listen, from_json, to_json

    settings = Settings(Path("p"), Path("d"), Path("t"), limits=Limits(queue=5, head_seconds=4.0))
    assert from_json(to_json(settings, Listen("h", 1, "", "")))[0] == settings


def test_a_question_that_nobody_answers_ends_its_job(tmp_path: Path) -> None:
    """It does not count against its client's queue for ever; a job that was answered, or runs, is left alone."""
    store = Store(tmp_path / "data")
    for number in range(3):
        inputs = store.incoming("alice") / "inputs"
        inputs.write_bytes(b"x")
        store.add_job(some_job("alice", number), inputs)
    asked, answered, running = store.jobs("alice")
    for job in (asked, answered, running):
        store.begin_job(job.id)
    for job in (asked, answered):
        store.ask_job(job)
    answer = store.incoming("alice") / "answer"
    answer.write_bytes(b"x")
    store.answer_job(answered, answer)
    assert store.expire_questions(time.time() - 3600) == []
    assert [job.id for job in store.expire_questions(time.time() + 1)] == [asked.id]
    states = {job.id: job.state for job in store.jobs("alice")}
    assert states == {asked.id: "failed", answered.id: "queued", running.id: "running"}
    assert "did not answer" in store.jobs("alice")[0].error
    assert not list(store.job_folder(asked).iterdir()) and not store.answer_job(asked, answer)
    store.close()
