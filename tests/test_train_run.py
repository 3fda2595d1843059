"""Whole training runs: modes agree, interrupted runs go on as unbroken ones, mistakes are told before the work."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx_models import build, i64, node, randoms, run_onnxruntime
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import glyphc.files
from glyphc import free_memory
from glyphc.cli import main
from glyphc.errors import ArtifactError, DataError, EnvironmentSetupError, GlyphcError
from glyphc.exchange import training_room
from glyphc.exchange.training_continue import Continuation, go_on
from glyphc.exchange.training_server import run_training
from glyphc.frontends.from_onnx import read_onnx
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job, Options, make_job
from glyphc.train.linear_models import linear_model
from glyphc.train.optimizers import SGD
from glyphc.train.step import with_weights
from glyphc.trainer import encrypted
from glyphc.trainer.estimator import EncryptedLogisticRegression
from glyphc.trainer.loop import TrainingReport, train

F64 = np.ndarray[Any, np.dtype[np.float64]]
RING = 1024


def samples(count: int = 60, features: int = 4, seed: int = 3) -> tuple[F64, np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    x = random.normal(2.0, 3.0, size=(count, features))
    return x, (x @ np.arange(1, features + 1) + random.normal(size=count) > 20).astype(np.int64)


def job(steps: int = 5, **options: Any) -> Job:
    x, y = samples()
    chosen = Options(SGD(0.5, 0.5, weight_decay=0.01), steps, 24, insecure_ring=RING)
    return make_job(linear_model(x, 1, "sigmoid"), x, y, replace(chosen, **options))


def weights(report: TrainingReport) -> F64:
    return np.append(report.network.constant("weight").ravel(), report.network.constant("bias"))


class KilledError(Exception):
    """A run that ends in the middle."""


def killed_after(steps: int) -> Any:
    def monitor(step: int, loss: float) -> None:
        if step == steps:
            raise KilledError

    return monitor


def test_modes_agree() -> None:
    results = {mode: weights(train(job(), mode)) for mode in ("clear", "simulate", "encrypted")}
    assert np.abs(results["clear"]).max() > 0.1
    assert np.abs(results["simulate"] - results["clear"]).max() < 2e-3
    assert np.abs(results["encrypted"] - results["simulate"]).max() < 5e-5


@pytest.mark.parametrize("mode", ["clear", "simulate"])
def test_a_killed_run_goes_on_as_if_unbroken(mode: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KilledError):
        train(job(), mode, folder, monitor=killed_after(3))
    assert (folder / "checkpoint.zip").is_file()
    # a second kill, at the same place and later
    for step in (3, 4):
        with pytest.raises(KilledError):
            train(job(), mode, folder, resume=True, monitor=killed_after(step))
    resumed = train(job(), mode, folder, resume=True)
    assert len(resumed.seconds) == 1
    assert not folder.exists()
    assert np.array_equal(weights(resumed), weights(train(job(), mode)))


def test_seconds_of_encrypted_steps_are_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done before the first step, such as loading keys, is none of its time."""
    measured: list[float] = []

    def told(*arguments: Any, **options: Any) -> Any:
        report = run_training(*arguments, **options)
        measured.extend(report.seconds)
        return report

    monkeypatch.setattr(encrypted, "run_training", told)
    assert train(job(), "encrypted").seconds == measured
    assert len(measured) == 5


def test_a_resumed_encrypted_run_is_identical(tmp_path: Path) -> None:
    """From one checkpoint, with the same keys: in the process that began, and in one that is killed once more."""
    folder, copy = tmp_path / "run", tmp_path / "copy"

    def monitor(step: int, loss: float) -> None:
        if step == 2:
            shutil.copytree(folder, copy)

    unbroken = weights(train(job(), "encrypted", folder, monitor=monitor))
    with pytest.raises(KilledError):
        train(job(), "encrypted", copy, resume=True, monitor=killed_after(4))
    resumed = train(job(), "encrypted", copy, resume=True)
    assert len(resumed.seconds) == 1
    assert not copy.exists()
    assert np.array_equal(weights(resumed), unbroken)


def test_an_encrypted_run_keeps_to_its_number_of_steps(tmp_path: Path) -> None:
    """Its program is made; other numbers are for 'glyphc training continue', whose folders these are."""
    folder = tmp_path / "run"
    with pytest.raises(KilledError):
        train(job(11), "encrypted", folder, monitor=killed_after(9))
    with pytest.raises(ArtifactError, match=r"begun for 11 steps, not 12; .* 'glyphc training continue --client "):
        train(job(12), "encrypted", folder, resume=True)
    run_training(folder / "server", resume=True)
    go_on(folder / "client", tmp_path / "update", Continuation(1), trial=samples())
    shutil.copytree(tmp_path / "update", folder / "server", dirs_exist_ok=True)
    resumed = train(job(12), "encrypted", folder, resume=True)
    assert resumed.ranges == train(job(11), "simulate").ranges != train(job(2), "simulate").ranges
    assert np.abs(weights(resumed) - weights(train(job(12), "clear"))).max() < 1e-3


def test_a_simulated_run_goes_on_for_more_steps_or_is_refused(tmp_path: Path) -> None:
    """What would be encrypted already has the scales of the ranges that it was begun with."""
    folder = tmp_path / "run"
    with pytest.raises(KilledError):
        train(job(2), "simulate", folder, monitor=killed_after(1))
    with pytest.raises(TrainingError, match=r"was begun with these ranges; use as many steps as then"):
        train(job(20), "simulate", folder, resume=True)


def test_the_secret_stays_on_the_clients_side(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KilledError):
        train(job(), "encrypted", folder, monitor=killed_after(1))
    secret = folder / "client" / "secret.key"
    assert secret.stat().st_mode & 0o077 == 0
    assert (folder / "client").stat().st_mode & 0o077 == 0
    served = {str(p.relative_to(folder / "server")) for p in (folder / "server").rglob("*") if p.is_file()}
    states = {"initial.state", "checkpoint.state"}
    assert served == {"program.training", "evaluation.keys", *states, *(f"batches/{i:06}.batch" for i in range(3))}


def test_only_its_own_run_is_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ArtifactError, match="nothing to resume"):
        train(job(), "clear", folder, resume=True)
    with pytest.raises(KilledError):
        train(job(), "clear", folder, monitor=killed_after(2))
    with pytest.raises(ArtifactError, match="an earlier run was interrupted"):
        train(job(), "clear", folder)
    for other, mode in ((job(seed=1), "clear"), (job(), "simulate")):
        with pytest.raises(ArtifactError, match="belongs to another run"):
            train(other, mode, folder, resume=True)
    more = train(job(steps=8), "clear", folder, resume=True)  # the number of steps may change
    assert np.array_equal(weights(more), weights(train(job(steps=8), "clear")))


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KilledError):
        train(job(), "clear", folder, monitor=killed_after(2))
    path = folder / "checkpoint.zip"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="is damaged"):
        train(job(), "clear", folder, resume=True)


def test_what_goes_wrong_is_foreseen() -> None:
    with pytest.raises(TrainingError, match=r"logits would reach .* Use --logit-range"):
        train(job(optimizer=SGD(8.0), steps=20, reach=16.0), "encrypted")
    x, y = samples()
    with pytest.raises(TrainingError, match=r"training diverges: the loss is .* before step \d+"):
        train(make_job(linear_model(x, 1), x, y, Options(SGD(3.0), 40, loss="mean-squared-error")), "clear")
    with pytest.raises(GlyphcError, match="unknown mode 'quick'"):
        train(job(), "quick")


def test_room_is_checked_before_keys_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(training_room.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(EnvironmentSetupError, match=r"are about .* GB, .* make room"):
        train(job(), "encrypted", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(free_memory, "available_bytes", lambda: 1000.0)
    with pytest.raises(EnvironmentSetupError, match=r"needs about .* GB of memory"):
        train(job(), "encrypted")


def test_weights_too_large_to_be_encrypted() -> None:
    x, y = samples()
    network = with_weights(linear_model(x * 1e-9, 1, "sigmoid", standardise=False), {"weight": np.full((1, 4), 1e8)})
    with pytest.raises(TrainingError, match=r"state:1:all:0: a message of magnitude .* start from smaller weights"):
        train(make_job(network, x * 1e-9, y, Options(SGD(0.1), 1, 20, insecure_ring=RING)), "encrypted")


def test_data_are_checked() -> None:
    x, y = samples()
    network, options = linear_model(x, 1, "sigmoid"), Options(SGD(), 1)
    broken = x.copy()
    broken[7, 0] = np.nan
    cases: list[tuple[Any, Any, Options, str]] = [
        (x[:, :3], y, options, r"shape \(samples, 4\)"),
        (broken, y, options, "first in sample 7"),
        (x, y[:-1], options, "60 samples, but 59 labels"),
        (x, y + 1, options, "label 2 of sample"),
        (x, y, replace(options, batch=61), "the batch must be 1 to 60"),
        (x[:0], y[:0], options, "no samples"),
    ]
    for data, labels, chosen, message in cases:
        with pytest.raises(DataError, match=message):
            make_job(network, data, labels, chosen)


def test_hidden_layers_do_not_start_from_zeros() -> None:
    network = read_onnx(mlp())
    x, y = np.ones((8, 4)), np.zeros(8)
    with pytest.raises(TrainingError, match="use random"):
        make_job(network, x, y, Options(SGD(), 1, initial="zeros"))
    started = make_job(network, x, y, Options(SGD(), 1, initial="random", seed=4)).program.initial().weights
    assert all((np.ptp(w) > 0) == (w.ndim == 2) for w in started.values())


# -- ONNX --


def mlp() -> onnx.ModelProto:
    constants = {"w0": randoms(6, 4), "b0": randoms(6), "w1": randoms(3, 6, seed=2), "b1": randoms(3, seed=3)}
    return build(
        [
            node("Gemm", ["x", "w0", "b0"], ["h"], name="hidden", transB=1),
            node("Tanh", ["h"], ["a"]),
            node("Gemm", ["a", "w1", "b1"], ["z"], name="head", transB=1),
            node("Softmax", ["z"], ["y"], axis=-1),
        ],
        constants,
    )


def test_a_trained_model_can_be_read_again() -> None:
    graph, x = read_onnx(mlp()), randoms(5, 4, seed=9)
    again = evaluate(read_onnx(to_onnx(graph)), {"x": x})["y"]
    np.testing.assert_allclose(again, evaluate(graph, {"x": x})["y"], atol=1e-6)


def test_onnx_of_many_operations_computes_the_same() -> None:
    nodes = [
        node("Mul", ["x", "c"], ["v0"]),
        node("Gemm", ["v0", "w", "b"], ["v1"], transB=1),
        node("LeakyRelu", ["v1"], ["v2"], alpha=0.2),
        node("Clip", ["v2", "lo", "hi"], ["v3"]),
        node("Sub", ["v3", "v1"], ["v4"]),
        node("Concat", ["v4", "v2"], ["v5"], axis=1),
        node("Reshape", ["v5", "shape"], ["v6"]),
        node("GlobalMaxPool", ["v6"], ["v7"]),
        node("Flatten", ["v7"], ["v8"]),
        node("Softmax", ["v8"], ["y"], axis=-1),
    ]
    constants = {
        "c": randoms(4),
        "w": randoms(6, 4),
        "b": randoms(6),
        "lo": np.float32(-1.0),
        "hi": np.float32(2.0),
        "shape": i64(-1, 4, 3),
    }
    graph = read_onnx(build(nodes, constants))
    written = to_onnx(graph)
    x = randoms(5, 4, seed=9)
    expected = evaluate(graph, {"x": x})["y"]
    np.testing.assert_allclose(run_onnxruntime(written, x)["y"], expected, atol=1e-5)


# -- command line --


def invoke(folder: Path, *options: str, network: Graph | None = None) -> Any:
    x, y = samples()
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    model = to_onnx(network or linear_model(x, 1, "sigmoid"))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    files = ("--data", str(folder / "x.npy"), "--labels", str(folder / "y.npy"), "-o", str(folder / "out.onnx"))
    return CliRunner().invoke(main, ["train", str(folder / "model.onnx"), *files, *options])


@pytest.mark.parametrize("mode", ["clear", "simulate", "encrypted"])
def test_command_trains_and_writes_onnx(mode: str, tmp_path: Path) -> None:
    options = ("--steps", "6", "--learning-rate", "1", "--mode", mode, "--insecure-ring", str(RING))
    result = invoke(tmp_path, *options)
    assert result.exit_code == 0, result.output
    assert ("NOT SECURE" in result.output) == (mode == "encrypted")
    assert ("NOT SECURE" in result.stdout) == (mode == "encrypted")
    assert "loss before" not in result.output
    x, y = samples()
    p = run_onnxruntime(onnx.load(tmp_path / "out.onnx"), x.astype(np.float32))["y"]
    assert np.mean((p[:, 0] > 0.5) == y) > 0.9
    assert {path.name for path in tmp_path.iterdir()} == {"x.npy", "y.npy", "model.onnx", "out.onnx"}


def test_monitor_shows_a_falling_loss(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--steps", "3", "--mode", "clear", "--monitor")
    values = [float(line.split(": ")[1]) for line in result.output.splitlines() if line.startswith("loss before")]
    assert len(values) == 4
    assert values == sorted(values, reverse=True)


def test_command_trains_any_network_in_the_clear(tmp_path: Path) -> None:
    x, _ = samples()
    np.save(tmp_path / "classes.npy", (x[:, 0] > 2).astype(int) + (x[:, 0] > 4))
    (tmp_path / "mlp.onnx").write_bytes(mlp().SerializeToString())
    np.save(tmp_path / "x.npy", x)
    arguments = [
        "train",
        str(tmp_path / "mlp.onnx"),
        "--data",
        str(tmp_path / "x.npy"),
        "--epochs",
        "40",
        "--batch",
        "20",
    ]
    arguments += ["--labels", str(tmp_path / "classes.npy"), "-o", str(tmp_path / "out.onnx")]
    result = CliRunner().invoke(main, [*arguments, "--mode", "clear", "--learning-rate", "0.3", "--momentum", "0.9"])
    assert result.exit_code == 0, result.output
    p = run_onnxruntime(onnx.load(tmp_path / "out.onnx"), x.astype(np.float32))["y"]
    assert np.mean(p.argmax(axis=1) == np.load(tmp_path / "classes.npy")) > 0.8
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert "ask for a smaller range, --logit-range 6" in refused.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--schedule", "linear"), "unknown schedule 'linear'"),
        (("--freeze", "dense"), "nothing to train"),
        (("--freeze", "hidden"), "no layer 'hidden' to freeze"),
        (("--learning-rate", "-1"), "must be positive"),
        (("--epochs", "1", "--steps", "1"), "not both"),
        (("--insecure-ring", "1000"), "must be one of 1024"),
        (("--resume",), "nothing to resume"),
        (("-o", "out.npz"), "must end in .onnx"),
        (("--learning-rate", "9", "--steps", "30", "--logit-range", "16"), "--logit-range"),
    ],
)
def test_mistakes_on_the_command_line(
    options: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(tmp_path, *options)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out.onnx").exists()


def test_a_network_that_cannot_be_written_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table has no ONNX operator: found out before the first step."""
    monkeypatch.setattr("glyphc.trainer.loop.train", lambda *args: pytest.fail("trained in vain"))
    (tmp_path / "model.glyph").write_text(
        "weights he_normal(seed=1)\ninput x: [4]\nactivation f on [-8, 8] = table [-1, 0, 2]\n"
        "y = x -> dense(4) as l1 -> f -> dense(1) as l2 -> sigmoid\noutput y\n"
    )
    x, y = samples()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    files = ("--data", str(tmp_path / "x.npy"), "--labels", str(tmp_path / "y.npy"), "-o", str(tmp_path / "out.onnx"))
    result = CliRunner().invoke(main, ["train", str(tmp_path / "model.glyph"), *files, "--freeze", "l1"])
    assert result.exit_code == 2, result.output
    assert "could not be written as ONNX" in result.output
    assert not (tmp_path / "out.onnx.run").exists()


@pytest.mark.parametrize("mode", ["clear", "encrypted"])
def test_a_result_that_could_not_be_written_is_kept(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise ArtifactError(f"cannot write {str(path)!r}: no space left on device")

    options = ("--steps", "3", "--mode", mode, "--insecure-ring", str(RING))
    with monkeypatch.context() as m:
        write = glyphc.files.write_atomically
        m.setattr(glyphc.files, "write_atomically", lambda p, d: (full if p.suffix == ".onnx" else write)(p, d))
        failed = invoke(tmp_path, *options)
    assert failed.exit_code == 2
    assert "repeat the command with --resume" in failed.output
    assert (tmp_path / "out.onnx.run" / "checkpoint.zip").is_file()
    resumed = invoke(tmp_path, *options, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert not (tmp_path / "out.onnx.run").exists()
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    assert invoke(unbroken, *options[:2], "--mode", "clear").exit_code == 0
    x, _ = samples()
    found, expected = (evaluate(read_onnx(folder / "out.onnx"), {"x": x})["y"] for folder in (tmp_path, unbroken))
    np.testing.assert_allclose(found, expected, atol=1e-4 if mode == "clear" else 2e-3)


# -- estimator --


def test_estimator_works_in_pipelines_and_searches() -> None:
    x, y = samples(120)
    names = np.array(["no", "yes"])[y]
    model = make_pipeline(StandardScaler(), EncryptedLogisticRegression("simulate", 20, standardise=False))
    model.fit(x, names)
    reference = LogisticRegression().fit(StandardScaler().fit_transform(x), names)
    assert abs(model.score(x, names) - reference.score(StandardScaler().fit_transform(x), names)) < 0.03
    assert set(model.predict(x)) == {"no", "yes"}
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1)
    search = GridSearchCV(EncryptedLogisticRegression("clear"), {"learning_rate": [0.01, 1.0]}, cv=3).fit(x, names)
    assert search.best_params_ == {"learning_rate": 1.0}


def test_estimator_encrypted() -> None:
    x, y = samples()
    encrypted = EncryptedLogisticRegression(steps=4, insecure_ring=RING).fit(x, y)
    clear = EncryptedLogisticRegression("clear", steps=4).fit(x, y)
    assert np.abs(encrypted.coef_ - clear.coef_).max() < 2e-3
    assert encrypted.report_.security == "insecure"


def test_estimator_of_three_classes() -> None:
    x, _ = samples(90)
    y = np.array(["low", "mid", "top"])[(x[:, 0] > 1).astype(int) + (x[:, 0] > 4)]
    model = EncryptedLogisticRegression("simulate", 30, learning_rate=2.0, insecure_ring=RING).fit(x, y)
    assert model.score(x, y) > 0.7
    assert model.coef_.shape == (3, 4)
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1)


def test_softmax_in_all_modes() -> None:
    x, _ = samples(40)
    labels = (x[:, 0] > 2).astype(int) + (x[:, 0] > 4)
    options = Options(SGD(0.5, weight_decay=0.01), 4, 20, reach=5.0, insecure_ring=RING)
    chosen = make_job(linear_model(x, 3, "softmax"), x, labels, options)
    clear, simulated, real = (weights(train(chosen, mode)) for mode in ("clear", "simulate", "encrypted"))
    assert np.abs(simulated - clear).max() < 2e-3
    assert np.abs(real - simulated).max() < 2e-4
    wide = make_job(linear_model(x, 3, "softmax"), x, labels, replace(options, reach=16.0))
    with pytest.raises(TrainingError, match="--logit-range 6"):
        train(wide, "encrypted")


# -- two layers --


def test_two_layers_in_all_modes() -> None:
    """Three classes from random weights, each against the rest; what is frozen before them is the client's."""
    x, _ = samples(40)
    labels = (x[:, 0] > 2).astype(int) + (x[:, 0] > 4)
    frozen = build(
        [
            node("Gemm", ["x", "w", "b"], ["f"], name="backbone", transB=1),
            node("Relu", ["f"], ["g"]),
            node("Gemm", ["g", "w0", "b0"], ["h"], name="hidden", transB=1),
            node("Tanh", ["h"], ["a"]),
            node("Gemm", ["a", "w1", "b1"], ["z"], name="head", transB=1),
            node("Sigmoid", ["z"], ["y"]),
        ],
        {
            **{"w": randoms(5, 4) / 4, "b": randoms(5), "w0": randoms(4, 5), "b0": randoms(4)},
            **{"w1": randoms(3, 4, seed=2), "b1": randoms(3, seed=3)},
        },
    )
    options = Options(SGD(0.3, 0.5), 3, 20, frozen=("backbone",), initial="random", insecure_ring=RING)
    chosen = make_job(read_onnx(frozen), x, labels, options)
    reports = {mode: train(chosen, mode) for mode in ("clear", "simulate", "encrypted")}
    for name in ("w0", "b0", "w1", "b1"):
        clear, simulated, real = (reports[m].network.constant(name) for m in ("clear", "simulate", "encrypted"))
        assert np.abs(simulated - clear).max() < 5e-4
        assert np.abs(real - simulated).max() < 2e-5
        assert np.abs(clear - chosen.network.constant(name)).max() > 1e-3
    assert np.array_equal(reports["encrypted"].network.constant("w"), chosen.network.constant("w"))
