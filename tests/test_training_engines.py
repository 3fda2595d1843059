"""Either engine computes a training run; its keys serve it alone, and are refused by name (small rings)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glyphc.backends.kernels import selftest
from glyphc.errors import ArtifactError, EnvironmentSetupError, GlyphcError
from glyphc.exchange.training_client import plan_steps, prepare
from glyphc.exchange.training_engines import training_engine
from glyphc.exchange.training_files import KEYS
from glyphc.exchange.training_server import run_training
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingKeysHeader
from glyphc.trainer.loop import train
from tests.training_runs import OPTIONS, TOLERANCE, changed, copied, invoke, job, write_inputs

ENGINES = ("kernels", "openfhe")


@pytest.fixture(scope="module", params=ENGINES)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp(request.param)
    done = prepare(job(), folder / "client", folder / "server", engine=request.param)
    assert done.engine == request.param
    return folder


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    return copied(prepared, tmp_path)


def engine_of(folder: Path) -> str:
    with Reader(folder / "server" / KEYS, TrainingKeysHeader) as keys:
        return keys.header.engine


@pytest.mark.parametrize("engine", ENGINES)
def test_encrypted_weights_are_those_of_simulation(engine: str) -> None:
    simulated, encrypted = (train(job(), mode, engine=engine).network for mode in ("simulate", "encrypted"))
    assert np.abs(simulated.constant("weight")).max() > 0.1
    for name in ("weight", "bias"):
        assert np.abs(encrypted.constant(name) - simulated.constant(name)).max() < TOLERANCE


def test_another_engine_refuses_the_keys(run: Path) -> None:
    own, other = sorted(ENGINES, key=lambda name: name != engine_of(run))
    refused = invoke("training", "run", "--server", run / "server", "--engine", other, code=2)
    assert f"holds keys for the engine '{own}', not for '{other}'; leave --engine out" in refused.stderr


def test_keys_of_another_form_or_engine_are_refused(run: Path) -> None:
    changed(run / "server" / KEYS, shape="0" * 64)
    with pytest.raises(ArtifactError, match=f"for the engine '{engine_of(run)}' in another form than this glyphc's"):
        run_training(run / "server")
    changed(run / "server" / KEYS, engine="gpu")
    with pytest.raises(ArtifactError, match="for the engine 'gpu', which this glyphc reads none of"):
        run_training(run / "server")


def test_a_processor_without_the_instructions(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "problem", lambda: "no fused multiply-add")
    parameters = plan_steps(job())[1].parameters
    assert training_engine(parameters) == ("openfhe", "kernels: no fused multiply-add")
    with pytest.raises(GlyphcError, match="'kernels' cannot be used for this run: no fused multiply-add"):
        training_engine(parameters, "kernels")
    if engine_of(run) == "kernels":
        with pytest.raises(EnvironmentSetupError, match="these keys are for the engine 'kernels' alone"):
            run_training(run / "server")


def test_the_commands_say_which_engine(tmp_path: Path) -> None:
    given = (*write_inputs(tmp_path), *OPTIONS)
    folders = ("--client", tmp_path / "client", "--server", tmp_path / "server")
    for asked in ((), ("--engine", "openfhe")):
        told = invoke("training", "prepare", *given, *folders, *asked, "--dry-run")
        assert f"engine: {asked[1] if asked else 'kernels'}" in told.stderr
    for wrong in ("simulate", "gpu"):
        result = invoke("training", "prepare", *given, *folders, "--engine", wrong, code=2)
        assert f"the engine '{wrong}' has no keys in files; use one of: openfhe, kernels" in result.stderr
    assert not (tmp_path / "client").exists()
