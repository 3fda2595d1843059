"""Who waits for kernels to be compiled is told so before: by every command, service workers and workers of a cluster.

The kernels that these tests use are compiled already; what says so is made to look into an empty folder.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glyphc.backends.engine import FIRST_USE
from glyphc.backends.kernels import warm
from glyphc.cluster import worker as cluster_worker
from glyphc.cluster.connection import fit
from glyphc.service import worker as service_worker
from tests.roles import Setting, compiled, make_setting, samples
from tests.training_runs import invoke, prepared_run


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """With keys for the kernels, and a request in the client's folder."""
    setting = make_setting(tmp_path_factory.mktemp("first"), compiled(), "kernels")
    setting.account.encrypt(samples(4), setting.client / "request")
    return setting


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(warm, "cache_folder", lambda: tmp_path)


def test_run(setting: Setting, tmp_path: Path) -> None:
    setting.program.save(tmp_path / "digits.glyphc")
    np.save(tmp_path / "x.npy", samples(4))
    files = ("--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    announced(invoke("run", tmp_path / "digits.glyphc", *files, "--engine", "kernels").stderr, "generate keys ...")


def test_eval(setting: Setting, tmp_path: Path) -> None:
    files = ("--input", setting.client / "request", "--output", tmp_path / "answer")
    announced(invoke("eval", "--server", setting.server, *files).stderr, "evaluate ...")


def test_training_run(tmp_path: Path) -> None:
    announced(invoke("training", "run", "--server", prepared_run(tmp_path) / "server").stderr, "train ...")


def announced(log: str, after: str) -> None:
    """That it is said when it begins, before another stage."""
    lines = log.splitlines()
    assert lines.index(f"{FIRST_USE} ...") < lines.index(after)


def test_workers_of_the_service(setting: Setting) -> None:
    out = io.StringIO()
    program = setting.server / "program.server"
    service_worker._evaluate(program, setting.keys, "", "", service_worker._Speaker(out))
    said = [service_worker.Event.read(line.encode()) for line in out.getvalue().splitlines()]
    assert said[0] == service_worker.Event("progress", FIRST_USE)
    assert any(event.what.startswith("load keys") for event in said[1:])


def test_workers_of_a_cluster(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    class Cluster:
        def run(self, function: Any) -> dict[str, Any]:
            return {"tcp://127.0.0.1:1": function()}

    parameters = setting.half.schedule.parameters
    assert str(fit(Cluster(), "kernels", parameters, None)) == f"1 workers, which first {FIRST_USE}"  # type: ignore[arg-type]
    assert str(fit(Cluster(), "openfhe", parameters, None)) == "1 workers"  # type: ignore[arg-type]
    # and in the worker's own log
    cluster_worker._evaluator(setting.server / "program.server", setting.keys).close()
    assert f"{FIRST_USE} ..." in capsys.readouterr().err.splitlines()
