"""What a run takes is told before any key is made: it is what the run then takes, and limits hold."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from test_train_mlp import mlp

from glyphc.analysis.cost import CostModel
from glyphc.cli import main
from glyphc.exchange.training_client import prepare, program_of
from glyphc.exchange.training_room import folder_bytes
from glyphc.frontends.to_onnx import to_onnx
from glyphc.train.job import Job, Options, make_job
from glyphc.train.optimizers import SGD
from glyphc.train.planning import plan_of
from glyphc.train.predict import different_batches, predict

OPTIONS = ("--steps", 5, "--batch", 16, "--learning-rate", 0.5, "--insecure-ring", 1024)


def job(steps: int = 5) -> Job:
    random = np.random.default_rng(4)
    x = random.normal(size=(40, 4))
    return make_job(
        mlp(outputs=1), x, (x.sum(axis=1) > 0).astype(int), Options(SGD(0.5), steps, 16, insecure_ring=1024)
    )


def inputs(folder: Path) -> tuple[object, ...]:
    of = job()
    np.save(folder / "x.npy", of.x)
    np.save(folder / "y.npy", of.y[:, 0].astype(int))
    (folder / "model.onnx").write_bytes(to_onnx(of.network).SerializeToString())
    return (folder / "model.onnx", "--data", folder / "x.npy", "--labels", folder / "y.npy", *OPTIONS)


def invoke(*arguments: object, code: int = 0, **changes: str) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], env=changes)
    assert result.exit_code == code, result.output
    return result


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    of = job()
    plan = plan_of(of)
    found = predict(plan, 5, CostModel(), different_batches(of.batches, 5))
    upload = folder_bytes(program_of(of, plan), "kernels")
    done = prepare(of, tmp_path / "client", tmp_path / "server")
    assert (found.batches, found.ciphertexts) == (done.batches, done.ciphertexts)
    assert done.batches == len(list((tmp_path / "server" / "batches").iterdir())) == 3
    assert 0.9 < done.server_bytes / upload <= 1
    assert predict(plan, 2, CostModel(), different_batches(of.batches, 2)).batches == 2


def test_a_run_is_the_sum_of_its_parts() -> None:
    of = job()
    one, two = (predict(plan_of(of), 5, CostModel(), n) for n in (1, 2))
    assert two.encrypt_seconds == 2 * one.encrypt_seconds > 0
    assert two.seconds == two.key_seconds + two.encrypt_seconds + 5 * two.step_seconds


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_a_dry_run_tells_and_makes_nothing(command: str, tmp_path: Path) -> None:
    given = inputs(tmp_path)
    before = sorted(tmp_path.iterdir())
    if command == "train":
        result = invoke("train", *given, "-o", tmp_path / "out.onnx", "--dry-run")
    else:
        folders = ("--client", tmp_path / "client", "--server", tmp_path / "server")
        result = invoke("training", "prepare", *given, *folders, "--dry-run", "--passphrase")
    assert "nothing was encrypted (--dry-run)" in result.stdout
    seconds = r"predicted: \S+ s a step with 3 bootstraps, .+ for 5 on .+ \(keys .+ and encryption .+ of it\)"
    assert re.search(seconds, result.stderr)
    assert re.search(r"predicted: \S+ GB of memory, keys of \S+ GB, 3 batches of \d+ ciphertexts, ", result.stderr)
    assert f"GB {'on disk' if command == 'train' else 'to upload'}" in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_momentum_that_cannot_be_kept_is_refused_before_keys(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    out = ("-o", tmp_path / "out.onnx", "--momentum", 0.9)
    invoke("train", *given, *out, "--dry-run")
    given = tuple(150 if option == 5 else option for option in given)
    result = invoke("train", *given, *out, "--learning-rate", 0.001, "--dry-run", code=2)
    assert "a momentum of 0.9 cannot be kept under encryption for more than 131 steps" in result.stderr


def test_memory_is_limited(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    out = ("-o", tmp_path / "out.onnx")
    folders = ("--client", tmp_path / "client", "--server", tmp_path / "server")
    for arguments in (("train", *given, *out), ("training", "prepare", *given, *folders)):
        for dry in ((), ("--dry-run",)):
            result = invoke(*arguments, *dry, "--memory", 0.001, code=2)
            assert re.search(r"needs about \S+ GB of memory, 0.00 GB are allowed \(--memory\)", result.stderr)
    limited = invoke("training", "prepare", *given, *folders, code=2, GLYPHC_MEMORY_LIMIT="100MB")
    assert "0.10 GB are the limit (GLYPHC_MEMORY_LIMIT)" in limited.stderr
    assert not any((tmp_path / name).exists() for name in ("out.onnx", "out.onnx.run", "client", "server"))
    assert "--memory is a positive number" in invoke("train", *given, *out, "--memory", -1, code=2).stderr
    wrong = invoke("train", *given, *out, "--mode", "clear", "--dry-run", code=2)
    assert "--dry-run is about encrypted runs" in wrong.stderr
