"""Weights that were trained encrypted, asked over HTTP; nothing is decrypted by the service (small rings)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from glyphc.exchange.training_infer import infer
from glyphc.exchange.training_predict import make_request, predict, read_answer
from glyphc.exchange.training_server import run_training
from glyphc.service.client import ServiceError
from glyphc.service.settings import Settings
from glyphc.service.trained import load_trained
from tests.services import Place, Running
from tests.training_runs import changed, invoke, prepared_run, samples


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done, with the folders "client" and "server"; the service has the latter's copy."""
    folder = prepared_run(tmp_path_factory.mktemp("trained"))
    run_training(folder / "server")
    shutil.copytree(folder / "server", folder / "runs" / "patients")
    return folder


@pytest.fixture(scope="module")
def service(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
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
    done = invoke(*asked, GLYPHC_TOKEN=service.tokens["bob"])
    assert "accuracy" in done.output and np.load(tmp_path / "p.npy").shape == (24, 1)
    assert "GLYPHC_TOKEN" in invoke(*asked, code=2, GLYPHC_TOKEN="").stderr


def test_what_is_no_request_to_these_weights(service: Running, run: Path, tmp_path: Path) -> None:
    request = tmp_path / "request"
    make_request(run / "client", samples()[0][:2], request)
    with service.client() as client:
        for change, status, problem in (
            ({"program": "0" * 64}, 404, "no such trained weights"),
            ({"key": "0" * 64}, 422, "encrypted with other keys"),
            ({"step": 3}, 422, "no weights after 3 steps"),
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
        assert client._ask("GET", "/v1/jobs").json() == []


def test_folders_that_are_not_served(run: Path, tmp_path: Path) -> None:
    from glyphc.errors import GlyphcError

    settings = Settings(tmp_path, tmp_path, tmp_path / "tokens", trained=str(run / "runs"))
    with pytest.raises(GlyphcError, match="small ring, for tests only"):
        load_trained(settings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(GlyphcError, match=r"no training server's folder in .*empty"):
        load_trained(Settings(tmp_path, tmp_path, tmp_path / "tokens", trained=str(tmp_path / "empty")))
