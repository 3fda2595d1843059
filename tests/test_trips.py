"""Programs on exact integers between a client and a server as files, with trips to the client (small rings)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

import glyphc
from glyphc.cli import main
from glyphc.errors import ArtifactError, GlyphcError
from glyphc.exchange.answers import answer
from glyphc.exchange.artifacts import ServerProgram, Specification
from glyphc.exchange.client import load_account
from glyphc.exchange.ledger import LEDGER_FILE, Ledger, record_sent
from glyphc.exchange.server import Evaluator
from glyphc.ir.client_requests import Request
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import Load
from glyphc.progress import Silent
from glyphc.runtime import run
from glyphc.service.client import ServiceError
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import AnswerHeader, QuestionHeader
from tests.pass_networks import Network
from tests.roles import Setting, environment, make_setting
from tests.services import Place

X = np.random.default_rng(5).normal(size=(80, 6))


def network() -> Graph:
    """Two hidden layers."""
    n = Network(6)
    a = n.apply(n.dense(n.x, 5, "a"), "tanh")
    n.output(n.dense(n.apply(n.dense(a, 4, "b"), "tanh"), 3, "c"))
    return n.graph


def setting_of(folder: Path, name: str, batch: int = 4) -> Setting:
    return make_setting(folder, glyphc.compile(network(), X, batch, strategy=name, insecure_ring=1024))


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return setting_of(tmp_path_factory.mktemp("asking"), "nandakumar")


def exact(setting: Setting, x: npt.NDArray[np.float64]) -> npt.NDArray[np.floating]:
    (y,) = run(setting.program, x, "clear").outputs.values()
    return y


def evaluated(evaluator: Evaluator, folder: Path, answered: Path | None = None, flooding_bits: int = 0) -> str:
    """One call of the server; what it waits for, as "number of trips", or nothing."""
    report = evaluator.evaluate(
        folder / "in",
        folder / "out",
        folder / "checkpoint",
        flooding_bits,
        question=folder / "question",
        answer=answered,
    )
    waiting = report.waiting
    return "" if waiting is None else f"{waiting.number} of {waiting.trips}"


@pytest.mark.parametrize("name", ["cryptonets", "ghimes"])
def test_programs_that_ask_nothing_go_through_files_exactly(tmp_path: Path, name: str) -> None:
    """Six samples: a full pass and half of one. Two plaintext primes, where there are squares."""
    setting = setting_of(tmp_path, name)
    digest = setting.account.encrypt(X[:6], tmp_path / "in")
    with Evaluator(setting.half, setting.keys) as evaluator:
        assert evaluated(evaluator, tmp_path) == ""
    (y,) = setting.account.decrypt(tmp_path / "out", digest).values()
    np.testing.assert_array_equal(y, exact(setting, X[:6]))
    again = ServerProgram.load(setting.server / "program.server")
    assert again.fingerprint == setting.half.fingerprint
    assert again.schedule.instructions == setting.half.schedule.instructions
    assert not (setting.client / LEDGER_FILE).exists()


@pytest.mark.parametrize("flooding_bits", [0, 8])
def test_a_client_is_asked_and_results_are_exact(asking: Setting, tmp_path: Path, flooding_bits: int) -> None:
    """Two layers in two passes: four trips, and results bit for bit, flooded or not."""
    account = asking.account
    digest = account.encrypt(X[:6], tmp_path / "in")
    with Evaluator(asking.half, asking.keys) as evaluator:
        said, answered = [evaluated(evaluator, tmp_path, None, flooding_bits)], tmp_path / "answer"
        while said[-1]:
            answer(account, tmp_path / "question", answered)
            said.append(evaluated(evaluator, tmp_path, answered, flooding_bits))
    assert said == ["1 of 4", "2 of 4", "3 of 4", "4 of 4", ""]
    (y,) = account.decrypt(tmp_path / "out", digest).values()
    np.testing.assert_array_equal(y, exact(asking, X[:6]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["answer", "in", "out"]
    assert len(Ledger.load(asking.client / LEDGER_FILE).answered) >= 4
    names = {p.name for p in asking.server.iterdir()}
    assert names == {"evaluation.keys", "program.server"}


def test_traffic_is_as_predicted(asking: Setting, tmp_path: Path) -> None:
    """Ciphertexts to the byte, of a pass."""
    from glyphc.diagnostics import predicted

    found = predicted(asking.program)
    asking.account.encrypt(X[:4], tmp_path / "in")
    sent = received = 0
    with Evaluator(asking.half, asking.keys) as evaluator:
        answered = None
        while evaluated(evaluator, tmp_path, answered):
            answered = tmp_path / "answer"
            answer(asking.account, tmp_path / "question", answered)
            received += parts_bytes(tmp_path / "question", QuestionHeader)
            sent += parts_bytes(answered, AnswerHeader)
    from glyphc.storage.headers import InputsHeader, OutputsHeader

    assert sent + parts_bytes(tmp_path / "in", InputsHeader) == found.upload_bytes
    assert received + parts_bytes(tmp_path / "out", OutputsHeader) == found.download_bytes


def parts_bytes(path: Path, header: type) -> int:
    with Reader(path, header) as reader:
        return sum(part.size for part in reader.parts.values())


def changed(path: Path, output: Path, header: type, **changes: object) -> Path:
    """A copy with another header, or fewer parts (``parts``)."""
    kept = changes.pop("parts", None)
    with Reader(path, header) as reader, Writer(output, replace(reader.header, **changes)) as writer:
        for name in list(reader.parts)[:kept]:  # type: ignore[misc]
            writer.add(name, reader.read(name))
    return output


def test_servers_refuse_other_answers(asking: Setting, tmp_path: Path) -> None:
    """Stale, replayed, foreign, truncated; and go on afterwards with the right one."""
    account, first, second = asking.account, tmp_path / "first", tmp_path / "second"
    account.encrypt(X[:4], tmp_path / "in")
    with Evaluator(asking.half, asking.keys) as evaluator:
        evaluated(evaluator, tmp_path)
        answer(account, tmp_path / "question", first)
        for changes, problem in (
            ({"program": "0" * 64}, "another program"),
            ({"key": "0" * 64}, "other keys"),
            ({"request": "0" * 64}, "other inputs"),
            ({"question": "0" * 64}, "another question"),
            ({"number": 1}, "another question"),
            ({"pass_number": 1}, "another question"),
            ({"seed": "00"}, "seed"),
            ({"parts": -1}, "missing"),
        ):
            with pytest.raises(ArtifactError, match=problem):
                evaluated(evaluator, tmp_path, changed(first, tmp_path / "bad", AnswerHeader, **changes))  # type: ignore[arg-type]
        (tmp_path / "bad").write_bytes(first.read_bytes()[:-100])
        with pytest.raises(ArtifactError):
            evaluated(evaluator, tmp_path, tmp_path / "bad")
        assert evaluated(evaluator, tmp_path, first) == "2 of 2"
        with pytest.raises(ArtifactError, match="another question"):
            evaluated(evaluator, tmp_path, first)  # an answer that was used is none to the next question
        answer(account, tmp_path / "question", second)
        assert evaluated(evaluator, tmp_path, second) == ""


def test_clients_refuse_other_questions(asking: Setting, tmp_path: Path) -> None:
    account, question, output = asking.account, tmp_path / "question", tmp_path / "answer"
    account.encrypt(X[:4], tmp_path / "in")
    with Evaluator(asking.half, asking.keys) as evaluator:
        evaluated(evaluator, tmp_path)
    for changes, problem in (
        ({"program": "0" * 64}, "another program"),
        ({"key": "0" * 64}, "other keys"),
        ({"request": "0" * 64}, "did not encrypt"),
        ({"number": 2}, "more than the program does"),
        ({"pass_number": 1}, "more than the program does"),
        ({"parts": -1}, "missing"),
    ):
        with pytest.raises(ArtifactError, match=problem):
            answer(account, changed(question, tmp_path / "bad", QuestionHeader, **changes), output)  # type: ignore[arg-type]
        assert not output.exists()
    answer(account, question, output)
    answer(account, question, output)  # a file may get lost: the same question is answered again
    other = changed(question, tmp_path / "bad", QuestionHeader, flooding_bits=3)
    with pytest.raises(ArtifactError, match="one question alone"):
        answer(account, other, output)
    with pytest.raises(GlyphcError, match="folder"):
        answer(replace(account, ledger=None), question, output)
    other_client = tmp_path / "client"
    shutil.copytree(asking.client, other_client)
    (other_client / LEDGER_FILE).write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        answer(load_account(other_client), question, output)


def test_whatever_ciphertexts_hold_is_answered(asking: Setting, tmp_path: Path) -> None:
    """Garbage from the server is answered like anything else: a refusal would say something about it."""
    account = asking.account
    account.encrypt(X[:4], tmp_path / "in")
    with Evaluator(asking.half, asking.keys) as evaluator:
        evaluated(evaluator, tmp_path)
    with Reader(tmp_path / "question", QuestionHeader) as reader, Writer(tmp_path / "bad", reader.header) as writer:
        for name in reader.parts:
            words = np.frombuffer(reader.read(name), "<u8")
            writer.add(name, (words[::-1] // 2).astype("<u8").tobytes())
    sizes = []
    for question in ("bad", "question"):
        fresh = tmp_path / f"client-{question}"
        shutil.copytree(asking.client, fresh)
        answer(load_account(fresh), tmp_path / question, tmp_path / "answer")
        sizes.append(parts_bytes(tmp_path / "answer", AnswerHeader))
    assert sizes[0] == sizes[1]


class _CutError(Exception):
    pass


class _Cutting(Silent):
    """Ends an evaluation after so many instructions."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, amount: float, what: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise _CutError


def test_an_evaluation_that_is_cut_behind_an_answer_gives_the_same_bytes(asking: Setting, tmp_path: Path) -> None:
    account, files = asking.account, (tmp_path / "in", tmp_path / "out", tmp_path / "checkpoint")
    account.encrypt(X[:4], tmp_path / "in")
    question, answers = tmp_path / "question", [tmp_path / "first", tmp_path / "second"]
    outputs = []
    with Evaluator(asking.half, asking.keys) as evaluator:
        for cuts in ((), (3, 9, 30)):
            evaluated(evaluator, tmp_path)
            for said in answers:
                if not said.exists():
                    answer(account, question, said)
                done = sum(isinstance(i, Load) for i in asking.half.schedule.instructions)
                for cut in cuts:
                    with pytest.raises(_CutError):
                        evaluator.evaluate(
                            *files,
                            reporter=_Cutting(done + cut),
                            checkpoint_seconds=0.0,
                            question=question,
                            answer=said,
                        )
                evaluated(evaluator, tmp_path, said)
            outputs.append((tmp_path / "out").read_bytes())
    assert outputs[0] == outputs[1]


def test_what_the_client_is_asked_is_checked_before_it_is_done(asking: Setting, tmp_path: Path) -> None:
    """A specification or a program of a stranger's."""
    spec, schedule = asking.half.specification, asking.half.schedule
    for requests, problem in (
        ((Request(1 << 20, 0.5),), "ciphertexts"),
        ((Request(4, 2.0),), "no share"),
        ((Request(4, 1.0, 0.0, 40, 4),), "40 bits"),
        ((Request(4, 1.0, 0.0, 7, 3),), "blocks of 3"),
        ((Request(1, 0.5),) * 2000, "2000 times"),
    ):
        Specification(spec.program, replace(spec.client, requests=requests)).save(tmp_path / "bad.spec")
        with pytest.raises(ArtifactError, match=problem):
            Specification.load(tmp_path / "bad.spec")
    client = replace(schedule.client, requests=schedule.client.requests[:1])
    other = ServerProgram.of(replace(schedule, client=client), asking.half.noise, asking.half.shown[:1])
    other.save(tmp_path / "bad.server")
    with pytest.raises(ArtifactError, match="not what the client was told"):
        ServerProgram.load(tmp_path / "bad.server")


def test_too_much_noise_is_refused(asking: Setting, tmp_path: Path) -> None:
    asking.account.encrypt(X[:4], tmp_path / "in")
    with (
        Evaluator(asking.half, asking.keys) as evaluator,
        pytest.raises(GlyphcError, match=r"room for --sanitize [0-9]"),
    ):
        evaluated(evaluator, tmp_path, flooding_bits=200)


@pytest.mark.slow
def test_a_service_asks_its_client_and_outlives_a_kill(asking: Setting, tmp_path: Path) -> None:
    """A job waits for its client, also of a service that was killed meanwhile; other answers are refused."""
    place = Place(tmp_path / "service", asking.half, "--insecure")
    inputs, question, said = (tmp_path / name for name in ("in", "question", "answer"))
    digest = asking.account.encrypt(X[:4], inputs)
    service = place.start()
    with service.client() as client:
        client.upload_keys(asking.keys)
        job = client.submit(inputs).id
        assert client.wait(job).state == "waiting"
        client.question(job, question)
        answer(asking.account, question, said)
        with pytest.raises(ServiceError, match="another question"):
            client.answer(job, changed(said, tmp_path / "bad", AnswerHeader, question="0" * 64))
        with service.client("bob") as bob, pytest.raises(ServiceError, match="no such job"):
            bob.question(job, tmp_path / "bob")
    service.kill()
    with place.running() as again, again.client() as client:
        assert client.status(job).state == "waiting"
        client.answer(job, said)
        with pytest.raises(ServiceError, match=r"asks nothing|another question|answered"):
            client.answer(job, said)
        assert client.wait(job).state == "waiting"
        client.question(job, question)
        answer(asking.account, question, said)
        client.answer(job, said)
        assert client.wait(job).state == "done"
        client.fetch(job, tmp_path / "out")
        (y,) = client.run(asking.account, X[4:6]).values()
    (first,) = asking.account.decrypt(tmp_path / "out", digest).values()
    np.testing.assert_array_equal(np.concatenate([first, y]), exact(asking, X[:6]))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.slow
def test_two_processes_and_kills_lose_nothing(tmp_path: Path) -> None:
    """The commands, with processes that are killed anywhere: the same answers give the same bytes."""
    setting = setting_of(tmp_path, "hesamifard", batch=64)
    x = tmp_path / "x.npy"
    np.save(x, X[:64])
    client, server, outputs = setting.client, setting.server, []
    sent = ("encrypt", "--client", client, "--input", x, "--output", tmp_path / "in")
    assert call(*sent).exit_code == 0
    answers: list[Path] = []
    for kills in (False, True):
        out = tmp_path / f"out-{kills}"
        evaluation = ["eval", "--server", server, "--input", tmp_path / "in", "--output", out]
        question = Path(f"{out}.question")
        for number in range(3):
            given = [*evaluation, *(["--answer", answers[number - 1]] if number else [])]
            # killed somewhere: what is there afterwards is whole. A command may be killed while its interpreter ends,
            # with everything done: given once more, it would begin anew with the first question
            if kills and any(killed(given, seconds) == 0 or out.exists() for seconds in (0.8, 2.0)):
                continue
            said = call(*given)
            if kills and "another question" in said.output:
                # it had asked the next question before it was killed
                continue
            assert said.exit_code == 0, said.output
            if number < 2:
                assert f"trip {number + 1} of 2" in said.output
                if not kills:
                    answers.append(tmp_path / f"answer-{number}")
                    first = killed(
                        ["refresh", "--client", client, "--question", question, "--output", answers[-1]], 0.8
                    )
                    assert first in (0, -signal.SIGKILL)
                    done = call("refresh", "--client", client, "--question", question, "--output", answers[-1])
                    assert done.exit_code == 0, done.output
        # killed between writing its outputs and tidying up, it leaves the question that was answered
        assert kills or not question.exists()
        outputs.append(out)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    decrypted = call("decrypt", "--client", client, "--input", outputs[1], "--output", tmp_path / "y.npy")
    assert decrypted.exit_code == 0, decrypted.output
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), exact(setting, X[:64]))
    secret = (client / "secret.key").read_bytes()
    assert all(secret[-512:-256] not in path.read_bytes() for path in server.iterdir())


def killed(arguments: list[object], seconds: float) -> int:
    """A command in a process that is killed after a while, unless it is done before; its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "glyphc", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    return process.wait()


def test_a_ledger_takes_changes_of_several_at_once(tmp_path: Path) -> None:
    """What one client's processes and threads send is remembered, whoever writes first."""
    path = tmp_path / LEDGER_FILE
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: record_sent(path, f"{n:064x}", n), range(40)))
    assert sorted(s.samples for s in Ledger.load(path).sent) == list(range(40))
