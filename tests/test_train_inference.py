"""Trained, then served without decrypting: the server's predictions are those of the decrypted network."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from test_train_chain import F64, chain

from glyphc.backends.base import execute_named
from glyphc.backends.ckks_clear import ClearCKKS, SimulatedCKKS
from glyphc.cli import main
from glyphc.errors import ArtifactError, DataError
from glyphc.exchange.code_parts import code_part, encoded, packed, sha256
from glyphc.exchange.training_client import finish, prepare
from glyphc.exchange.training_files import PROGRAM, TRAINED, ProgramFile
from glyphc.exchange.training_infer import infer
from glyphc.exchange.training_predict import make_request, read_answer
from glyphc.exchange.training_requests import read_request
from glyphc.exchange.training_server import run_training
from glyphc.ir.evaluate import evaluate
from glyphc.ir.instructions import Load, Store
from glyphc.ir.instructions.ckks import Bootstrap, Scaled
from glyphc.ir.instructions.text import CKKS
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import TrainingRequestHeader
from glyphc.train.inference import Inference, outputs, score
from glyphc.train.job import Job, Options, make_job
from glyphc.train.optimizers import SGD, Cosine
from glyphc.train.planning import plan_of
from glyphc.train.serving import served
from glyphc.train.step import with_weights
from glyphc.trainer.loop import train

RING = 1024


def job(widths: tuple[int, ...] = (4, 3, 2), end: str = "sigmoid", optimizer: SGD | None = None) -> Job:
    random = np.random.default_rng(2)
    x = random.normal(size=(26, widths[0]))
    y = random.integers(max(widths[-1], 2), size=26) if end else random.normal(size=(26, widths[-1]))
    options = Options(optimizer or SGD(0.5), 3, 13, insecure_ring=RING)
    return make_job(chain(widths, end), x, y, options)


def predicted(of: Job, machine: Any, x: F64, steps: int = 3) -> F64:
    """Trained and predicted with one state, which is never decoded."""
    plan = plan_of(of)

    def encrypted(messages: dict[str, tuple[F64, int]]) -> dict[str, Any]:
        return {name: machine.encrypt(message, limbs) for name, (message, limbs) in messages.items()}

    state = encrypted(plan.state(of.program.initial()))
    for step in range(steps):
        features, targets = of.batch(of.batches.number(step))
        state = execute_named(plan.server.code(step), machine, state | encrypted(plan.data(features, targets)))
    inference = Inference(plan, steps)
    limbs, found = dict(inference.data), []
    for messages in inference.messages(x):
        request = encrypted({name: (message, limbs[name]) for name, message in messages.items()})
        answer = execute_named(inference.code, machine, state | request)
        assert set(answer) == {"logits"}
        found.append(inference.logits(machine.decrypt(answer["logits"])))
    return outputs(of.network, of.loss, np.concatenate(found)[: len(x)])


MOMENTUM = SGD(0.3, 0.5, weight_decay=0.05, schedule=Cosine(5))


@pytest.mark.parametrize(
    ("widths", "end", "optimizer"),
    [
        ((4, 3, 2), "sigmoid", None),
        ((4, 1), "sigmoid", MOMENTUM),
        ((40, 1), "sigmoid", None),
        ((4, 3), "softmax", None),
        ((4, 3, 3), "softmax", MOMENTUM),
        ((4, 6, 3, 2), "", None),
    ],
)
def test_predictions_are_those_of_the_decrypted_network(
    widths: tuple[int, ...], end: str, optimizer: SGD | None
) -> None:
    """Exactly, for every layout, head and optimizer, and for more samples than fit into a pass."""
    of = job(widths, end, optimizer)
    x = np.random.default_rng(5).normal(size=(16, widths[0])) * 0.7
    expected = evaluate(train(of, "clear").network, {"x": x})["y"]
    found = predicted(of, ClearCKKS(plan_of(of).parameters), x)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(expected - evaluate(of.network, {"x": x})["y"]).max() > 1e-2
    simulated = predicted(of, SimulatedCKKS(plan_of(of).parameters, 1), x)
    np.testing.assert_allclose(simulated, expected, atol=0.02)


def test_serving_is_simulated_before_keys_are_made() -> None:
    """Predictions as they are going to be, and how many samples the ranges do not hold, by hand."""
    of = job()
    x = np.random.default_rng(5).normal(size=(16, 4)) * 0.7
    found = served(of, x)
    network = train(of, "simulate").network
    np.testing.assert_allclose(found.outputs, evaluate(network, {"x": x})["y"], atol=0.02)
    assert found.beyond == {"sums of trained layer 1": 0, "logits": 0}
    x[:5] *= 30
    weights, ranges = network.constants, plan_of(of).ranges
    sums = x @ weights["w0"].T + weights["b0"]
    logits = np.tanh(sums) @ weights["w1"].T + weights["b1"]
    wide = (np.abs(sums).max(axis=1) > ranges.sums[0]).sum(), (np.abs(logits).max(axis=1) > 1.25 * ranges.sums[1]).sum()
    assert tuple(served(of, x).beyond.values()) == wide
    assert wide[0] == 5


def test_what_only_training_needs_is_neither_sent_nor_computed() -> None:
    of = job()
    plan = plan_of(of)
    inference = Inference(plan, 3)
    assert {name.partition(":")[0] for name, _ in inference.data} == {"forward", "ones"}
    assert sum(isinstance(i, Bootstrap) for i in inference.code) == 1
    assert all(len(i.targets) == 1 for i in inference.code if isinstance(i, Bootstrap))


def test_scores_are_those_of_the_step_program() -> None:
    for end in ("sigmoid", "softmax", ""):
        of = job((4, 3, 2), end)
        x, y = of.batch(0)
        linear = evaluate(with_weights(chain((4, 3, 2), ""), of.program.initial().weights), {"x": x})["y"]
        found, right = score(of.loss, linear, y)
        _, expected = of.program.run(of.program.initial(), of.named(x), y)
        assert found == pytest.approx(expected)
        assert (right is None) is (end == "")
        if right is not None:
            assert right == np.mean(linear.argmax(axis=1) == y.argmax(axis=1))


# -- files --


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first two of three steps the server has done, and its last one."""
    folder = tmp_path_factory.mktemp("run")
    prepare(job(), folder / "client", folder / "server")
    run_training(folder / "server", 2)
    shutil.copy(folder / "server" / "checkpoint.state", folder / "early.state")
    run_training(folder / "server", resume=True)
    np.save(folder / "x.npy", held_out()[0])
    np.save(folder / "y.npy", held_out()[1])
    return folder


def held_out() -> tuple[F64, F64]:
    random = np.random.default_rng(8)
    return random.normal(size=(20, 4)) * 0.7, random.integers(2, size=20)


def invoke(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["training", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result


def test_round_trip_by_commands(run: Path, tmp_path: Path) -> None:
    """Two passes; predictions are those of the decrypted weights, after all steps and after earlier ones."""
    client, server = ("--client", run / "client"), ("--server", run / "server")
    request, answer, found = (tmp_path / name for name in ("x.request", "x.answer", "p.npy"))
    asked = invoke("request", *client, "--data", run / "x.npy", "-o", request)
    assert "20 in 2 passes of 6 ciphertexts" in asked.stdout
    assert "for a pass" in invoke("infer", *server, "--request", request, "-o", answer).stdout
    both = (*client, "--request", request, "--answer", answer)
    shown = invoke("predict", *both, "--labels", run / "y.npy", "-o", found)
    network, _ = finish(run / "client", run / "server" / TRAINED)
    x, y = held_out()
    expected = evaluate(network, {"x": x})["y"]
    np.testing.assert_allclose(np.load(found), expected, atol=5e-3)
    assert f"accuracy           {np.mean(expected.argmax(axis=1) == y):.2%} of 20" in shown.stdout
    assert "loss" in shown.stdout
    invoke("predict", *both, "--samples", 3, "-o", found)
    assert np.load(found).shape == (3, 2)
    # of the weights after two steps
    early = make_request(run / "client", x, tmp_path / "early.request", steps=2)
    assert (early.passes, early.clipped) == (2, 0)
    infer(run / "server", tmp_path / "early.request", tmp_path / "early.answer", run / "early.state")
    two, _ = finish(run / "client", run / "early.state", steps=2)
    predicted = read_answer(run / "client", tmp_path / "early.request", tmp_path / "early.answer", 20).outputs
    np.testing.assert_allclose(predicted, evaluate(two, {"x": x})["y"], atol=5e-3)
    assert np.abs(evaluate(two, {"x": x})["y"] - expected).max() > 1e-2


def test_mix_ups_are_refused(run: Path, tmp_path: Path) -> None:
    """Before anything is computed, and nothing is written."""
    x, _ = held_out()
    request, answer = tmp_path / "x.request", tmp_path / "x.answer"
    make_request(run / "client", x, request)
    make_request(run / "client", x, tmp_path / "one.request", steps=1)
    with pytest.raises(ArtifactError, match=r"no weights after 1 steps in .*, but after 3, 0"):
        infer(run / "server", tmp_path / "one.request", answer)
    with pytest.raises(ArtifactError, match="has the weights after 2 steps, not 3"):
        infer(run / "server", request, answer, run / "early.state")
    with pytest.raises(ArtifactError, match="an answer of trained weights is needed here"):
        read_answer(run / "client", request, request)
    with pytest.raises(DataError, match="the run has 3 steps, not 4"):
        make_request(run / "client", x, answer, steps=4)
    with pytest.raises(DataError, match=r"numbers of shape \(samples, 4\)"):
        make_request(run / "client", x[:, :3], answer)
    other = replace(job(), options=replace(job().options, steps=2))
    prepare(other, tmp_path / "client", tmp_path / "server")
    with pytest.raises(ArtifactError, match="belongs to another training program"):
        infer(tmp_path / "server", request, answer)
    assert not answer.exists()
    damaged = bytearray(request.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    request.write_bytes(damaged)
    with pytest.raises(ArtifactError, match="is not usable"):
        infer(run / "server", request, answer)


def forged(run: Path, path: Path, change: Any) -> Path:
    """A request with other instructions, whose hashes all agree."""
    with Reader(run / "x.request", TrainingRequestHeader) as reader, ProgramFile(run / "server" / PROGRAM) as program:
        outline, code = read_request(reader, program, reader.header.key)
        text = encoded(change(code), CKKS)
        with Writer(path, reader.header) as writer:
            for name in reader.parts:
                data = reader.read(name)
                if name == "outline":
                    data = replace(outline, code=sha256(text)).text().encode()
                writer.add(name, packed(text) if name == code_part(0) else data)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda code: code[:-2], "does not store logits"),
        (lambda code: (*code, Store(0, "state:1:all:0")), "which is freed|does not store|reads register"),
        (lambda code: (Load(10**6, "labels:0"), *code), "is no input"),
        (lambda code: (Load(10**6, "forward:0"), Scaled(10**6 + 1, 10**6, 1e300), *code), "has the factor"),
    ],
)
def test_hostile_requests(run: Path, tmp_path: Path, change: Any, message: str) -> None:
    if not (run / "x.request").exists():
        make_request(run / "client", held_out()[0], run / "x.request")
    path = forged(run, tmp_path / "forged.request", change)
    with pytest.raises(ArtifactError, match=message):
        infer(run / "server", path, tmp_path / "x.answer")
