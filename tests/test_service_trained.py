"""Weights that were trained encrypted, asked over HTTP; nothing is decrypted by the service (small rings)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from glyphc.errors import GlyphcError
from glyphc.exchange.training_infer import infer
from glyphc.exchange.training_predict import make_request, predict, read_answer
from glyphc.exchange.training_server import run_training
from glyphc.service.client import ServiceError
from glyphc.service.settings import Settings
from glyphc.service.trained import load_trained
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import TrainingRequestHeader
from tests.services import Place, Running
from tests.training_runs import changed, invoke, prepared_run, samples


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done, with the folders "client" and "server"; the service has the latter's copy, for alice."""
    folder = prepared_run(tmp_path_factory.mktemp("trained"))
    run_training(folder / "server")
    shutil.copytree(folder / "server", folder / "runs" / "alice" / "patients")
    return folder


@pytest.fixture(scope="module")
def service(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Of trained weights alone."""
    place = Place(tmp_path_factory.mktemp("service"), None, "--insecure", "--trained", str(run / "runs"))
    with place.running() as running:
        yield running


def test_predictions_are_those_of_the_commands(service: Running, run: Path, tmp_path: Path) -> None:
    x, y = samples()
    with service.client() as client:
        found = predict(client, run / "client", x, y)
        # and again, by the same process with its keys
        again = predict(client, run / "client", x[:3])
        assert client._ask("GET", "/v1/jobs").json() == []
    make_request(run / "client", x, tmp_path / "request")
    infer(run / "server", tmp_path / "request", tmp_path / "answer")
    expected = read_answer(run / "client", tmp_path / "request", tmp_path / "answer", labels=y)
    np.testing.assert_allclose(found.outputs, expected.outputs, atol=1e-3)
    np.testing.assert_allclose(again.outputs, found.outputs[:3], atol=1e-3)
    assert found.accuracy == expected.accuracy and found.accuracy is not None and found.accuracy > 0.9


def test_the_command(service: Running, run: Path, tmp_path: Path) -> None:
    x, y = samples()
    np.save(tmp_path / "x.npy", x[:24])
    np.save(tmp_path / "y.npy", y[:24])
    data = ("--data", tmp_path / "x.npy", "--labels", tmp_path / "y.npy", "-o", tmp_path / "p.npy")
    asked = ("training", "submit", "--url", service.url, "--client", run / "client", *data)
    done = invoke(*asked, GLYPHC_TOKEN=service.tokens["alice"])
    assert "accuracy" in done.output and np.load(tmp_path / "p.npy").shape == (24, 1)
    assert "NOT SECURE" in done.stderr
    assert "GLYPHC_TOKEN" in invoke(*asked, code=2, GLYPHC_TOKEN="").stderr


def test_what_is_no_request_to_these_weights(service: Running, run: Path, tmp_path: Path) -> None:
    request = tmp_path / "request"
    make_request(run / "client", samples()[0][:2], request)
    with service.client() as client:
        for change, status, problem in (
            ({"program": "0" * 64}, 404, "no such trained weights"),
            ({"key": "0" * 64}, 404, "no such trained weights"),
            ({"step": 3}, 422, "no weights after 3 steps"),
            ({"seed": "0"}, 422, "seed"),
        ):
            shutil.copy(request, tmp_path / "changed")
            changed(tmp_path / "changed", **change)
            with pytest.raises(ServiceError, match=problem) as refused:
                client.submit(tmp_path / "changed")
            assert refused.value.status == status and str(run) not in str(refused.value)
        damaged = bytearray(request.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (tmp_path / "changed").write_bytes(damaged)
        with pytest.raises(ServiceError) as refused:
            client.submit(tmp_path / "changed")
        assert refused.value.status == 422
        # what hashes do not find: a sample is missing, or too short, or one is there that nobody asks for
        for part, content, problem in (
            ("000000/000001", None, "parts, not"),
            ("000000/000001", b"0" * 1024, "part 000000/000001 has 1024 bytes, not"),
            ("000001/000000", b"", "parts, not"),
        ):
            shutil.copy(request, tmp_path / "changed")
            with_part(tmp_path / "changed", part, content)
            with pytest.raises(ServiceError, match=problem) as refused:
                client.submit(tmp_path / "changed")
            assert refused.value.status == 422
        assert client._ask("GET", "/v1/jobs").json() == []
    # a run is its client's alone
    with service.client("bob") as client, pytest.raises(ServiceError, match="no such trained weights") as refused:
        client.submit(request)
    assert refused.value.status == 404


def with_part(path: Path, name: str, content: bytes | None) -> None:
    """A file with one part replaced, added, or left out."""
    with Reader(path, TrainingRequestHeader) as reader:
        header, parts = reader.header, {each: reader.read(each) for each in reader.parts}
    kept = {each: old for each, old in parts.items() if each != name}
    with Writer(path, header) as writer:
        for each, data in (kept if content is None else kept | {name: content}).items():
            writer.add(each, data)


def test_folders_that_are_not_served(run: Path, tmp_path: Path) -> None:
    def problem(runs: Path, sanitize: int = 0, insecure: bool = True) -> str:
        settings = Settings(tmp_path, tmp_path, tmp_path / "tokens", 1, sanitize, insecure, trained=runs)
        with pytest.raises(GlyphcError) as refused:
            load_trained(settings)
        return str(refused.value)

    assert "small ring, for tests only" in problem(run / "runs", insecure=False)
    assert "--sanitize floods results of compiled programs and nothing else" in problem(run / "runs", 8)
    # nobody's, for it lies in no client's folder
    assert "nobody may ask the weights" in problem(run / "runs" / "alice")
    (tmp_path / "Not a client").symlink_to(run / "runs" / "alice")
    assert "nobody may ask the weights" in problem(tmp_path)
    (tmp_path / "runs" / "bob").mkdir(parents=True)
    assert "no training server's folder" in problem(tmp_path / "runs")
    for name in ("first", "second"):
        (tmp_path / "runs" / "bob" / name).symlink_to(run / "server")
    assert "second' is the run of" in problem(tmp_path / "runs")
