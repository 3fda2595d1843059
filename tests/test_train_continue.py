"""A run that goes on with another learning rate or more data is one run with that schedule; nothing is decrypted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from test_train_chain import F64, chain

from glyphc.cli import main
from glyphc.errors import ArtifactError, DataError, GlyphcError
from glyphc.exchange.training_client import (
    JOB_FILE,
    JobRecord,
    TrainingClientFiles,
    finish,
    plan_steps,
    prepare,
    write_job,
)
from glyphc.exchange.training_continue import Continuation, Longer, go_on
from glyphc.exchange.training_files import CHECKPOINT, INITIAL, TRAINED
from glyphc.exchange.training_infer import infer
from glyphc.exchange.training_predict import make_request, read_answer
from glyphc.exchange.training_server import run_training
from glyphc.ir.graph import Graph
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingStateHeader
from glyphc.train.batches import Batches
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job, Options, RangeSource, make_job
from glyphc.train.optimizers import SGD, Constant, Cosine, Followed, Schedule, Steps
from glyphc.trainer.loop import train

RING = 1024
STEPS, MORE, LAST = 4, 3, 2
# Of weights, against training by hand.
TOLERANCE = 2e-3
BEGUN = SGD(0.5, 0.5, weight_decay=0.01, schedule=Cosine(STEPS, 0.3))


def samples(count: int, seed: int) -> tuple[F64, F64]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 4))
    return x, (x @ np.arange(1, 5) + random.normal(size=count) > 0).astype(float)


OLD, NEW, HELD_OUT = samples(60, 3), samples(36, 4), samples(30, 5)


def job(widths: tuple[int, ...] = (4, 1), **changes: object) -> Job:
    options = replace(Options(BEGUN, STEPS, 24, insecure_ring=RING, margin=1.5), **changes)
    return make_job(chain(widths), OLD[0], OLD[1].astype(int), options)


class ByHand:
    """Logistic regression with momentum and weight decay, as PyTorch's SGD."""

    def __init__(self) -> None:
        network = chain((4, 1))
        self.weight, self.bias = network.constant("w0")[0], network.constant("b0")[0]
        self.velocity = np.zeros(5)

    def logits(self, x: F64) -> F64:
        return np.asarray(x @ self.weight + self.bias)

    def step(self, x: F64, y: F64, rate: float) -> None:
        error = 1 / (1 + np.exp(-self.logits(x))) - y
        gradient = np.append(error @ x / len(x) + BEGUN.weight_decay * self.weight, error.mean())
        self.velocity = BEGUN.momentum * self.velocity + gradient
        self.weight = self.weight - rate * self.velocity[:4]
        self.bias = self.bias - rate * self.velocity[4]

    def loss(self, x: F64, y: F64) -> float:
        z = self.logits(x)
        return float(np.mean(np.logaddexp(0, z) - y * z))

    def assert_equal(self, network: Graph) -> None:
        np.testing.assert_allclose(network.constant("w0")[0], self.weight, atol=TOLERANCE)
        np.testing.assert_allclose(network.constant("b0")[0], self.bias, atol=TOLERANCE)


def rows(data: tuple[F64, F64], number: int, batch: int = 24) -> tuple[F64, F64]:
    """Of a batch, in the order that a seed of 0 draws."""
    x, y = data
    at = np.resize(np.random.default_rng(0).permutation(len(x)), -(-len(x) // batch) * batch)
    return x[at[number * batch :][:batch]], y[at[number * batch :][:batch]]


def trained_by_hand(steps: int) -> ByHand:
    """The whole story: begun, gone on with new data, gone on with all that the server has."""
    found = ByHand()
    for step in range(STEPS):
        found.step(*rows(OLD, step % 3), BEGUN.rate(step))
    for step in range(min(steps - STEPS, MORE)):
        found.step(*rows(NEW, step % 2), 0.2 * Steps(2, 0.5).factor(step))
    for step in range(steps - STEPS - MORE):
        # the last rate, and the new batches in turn, as before
        found.step(*rows(NEW, (MORE + step) % 2), 0.1)
    return found


def updated(update: Path, server: Path) -> None:
    shutil.copytree(update, server, dirs_exist_ok=True)


def state(path: Path) -> dict[str, bytes]:
    with Reader(path, TrainingStateHeader) as reader:
        return {name: reader.read(name) for name in reader.parts}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the server has done, and the folder before that; not to be changed."""
    folder = tmp_path_factory.mktemp("begun")
    prepare(job(), folder / "client", folder / "server")
    shutil.copytree(folder / "server", folder / "untouched")
    run_training(folder / "server")
    return folder


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    return tmp_path


def held_out_loss(folder: Path, name: str) -> float:
    """Validation: the server predicts on encrypted samples; the key holder alone learns how well."""
    x, y = HELD_OUT
    make_request(folder / "client", x, folder / f"{name}.request")
    infer(folder / "server", folder / f"{name}.request", folder / f"{name}.answer")
    loss = read_answer(folder / "client", folder / f"{name}.request", folder / f"{name}.answer", labels=y.astype(int))
    assert loss.loss is not None
    return loss.loss


def test_more_data_at_another_rate(run: Path) -> None:
    """Encrypted, against training by hand: twice gone on with, interrupted, and validated in between."""
    client, server = run / "client", run / "server"
    trained_by_hand(STEPS).assert_equal(finish(client, server / TRAINED)[0])
    assert held_out_loss(run, "begun") == pytest.approx(trained_by_hand(STEPS).loss(*HELD_OUT), abs=2e-3)
    how = Continuation(MORE, 0.2, Steps(2, 0.5))
    done = go_on(client, run / "update", how, NEW)
    assert (done.steps, done.batches) == (STEPS + MORE, 2)
    assert sorted(p.name for p in (run / "update" / "batches").iterdir()) == ["000003.batch", "000004.batch"]
    updated(run / "update", server)
    # the weights so far may be read, and asked, as before
    trained_by_hand(STEPS).assert_equal(finish(client, server / TRAINED, steps=STEPS)[0])
    report = run_training(server, STEPS + 1)
    assert (report.first, len(report.seconds), report.output.name) == (STEPS, 1, CHECKPOINT)
    with pytest.raises(GlyphcError, match=r"Go on with it \(--resume\)"):
        run_training(server)
    run_training(server, resume=True)
    assert not (server / CHECKPOINT).exists()
    trained_by_hand(STEPS + MORE).assert_equal(finish(client, server / TRAINED)[0])
    assert held_out_loss(run, "more") == pytest.approx(trained_by_hand(STEPS + MORE).loss(*HELD_OUT), abs=2e-3)
    # again, on what is there, at the last rate; the state says from where
    done = go_on(client, run / "again", Continuation(LAST), trial=NEW, state=server / TRAINED)
    assert (done.steps, done.batches) == (STEPS + MORE + LAST, 0)
    updated(run / "again", server)
    run_training(server)
    whole = trained_by_hand(STEPS + MORE + LAST)
    whole.assert_equal(finish(client, server / TRAINED)[0])
    assert np.abs(whole.weight - trained_by_hand(STEPS).weight).max() > 20 * TOLERANCE
    # a server that had done nothing before comes to the same bits
    shutil.copytree(run / "update", run / "untouched", dirs_exist_ok=True)
    updated(run / "again", run / "untouched")
    run_training(run / "untouched")
    assert state(run / "untouched" / TRAINED) == state(server / TRAINED)


@pytest.mark.parametrize("widths", [(4, 1), (40, 2), (4, 3, 2)])
def test_it_is_one_run_with_that_schedule(widths: tuple[int, ...], tmp_path: Path) -> None:
    """Instruction for instruction, so in simulation, too: of every kind of layer, with momentum and decay."""
    x = np.random.default_rng(0).normal(size=(60, widths[0]))
    y = np.random.default_rng(1).integers(2, size=60)
    options = Options(BEGUN, STEPS, 12, insecure_ring=RING, margin=2.0)
    first = make_job(chain(widths), x, y, options)
    plan, program = plan_steps(first)
    client = tmp_path / "client"
    client.mkdir()
    record = JobRecord(first.options, first.loss.name, 60, 12, plan.ranges)
    write_job(client / JOB_FILE, program, "0" * 64, first.network, record, None)
    go_on(client, tmp_path / "update", Continuation(MORE, 0.1, Cosine(5)), trial=(x, y))
    files = TrainingClientFiles.load(client / JOB_FILE)
    whole = replace(BEGUN, schedule=Followed(BEGUN.schedule, STEPS, 0.2, Cosine(5)))
    one = replace(
        make_job(chain(widths), x, y, replace(options, optimizer=whole, steps=STEPS + MORE)),
        ranges=plan.ranges,
    )
    plan, program = plan_steps(one)
    # the last batch of an epoch of five was not encrypted
    assert program.outline.step_batches == (0, 1, 2, 3, 4, 0, 1)
    assert files.program.outline.step_batches == (0, 1, 2, 3, 0, 1, 2)
    assert files.program.codes == program.codes
    assert files.program.outline.codes == program.outline.codes
    assert files.plan.parameters == plan.parameters


def test_in_simulation_as_in_the_clear() -> None:
    whole = replace(BEGUN, schedule=Followed(BEGUN.schedule, STEPS, 0.4, Constant()))
    one = job(optimizer=whole, steps=STEPS + MORE)
    by_hand = ByHand()
    for step in range(STEPS + MORE):
        by_hand.step(*rows(OLD, step % 3), BEGUN.rate(step) if step < STEPS else 0.2)
    by_hand.assert_equal(train(one, "clear").network)
    by_hand.assert_equal(train(one, "simulate").network)


def test_velocities_are_read_from_the_state(begun: Path) -> None:
    """In the moving frame: what a run in the clear has after as many steps."""
    from glyphc.exchange.training_client import decrypted_state

    files = TrainingClientFiles.load(begun / "client" / JOB_FILE)
    messages = decrypted_state(begun / "client", files, begun / "server" / TRAINED, STEPS, None)
    found, expected = files.plan.state_at(messages, STEPS), trained_by_hand(STEPS)
    np.testing.assert_allclose(found.weights["w0"][0], expected.weight, atol=TOLERANCE)
    np.testing.assert_allclose(found.velocity["w0"][0], expected.velocity[:4], atol=TOLERANCE)
    np.testing.assert_allclose(found.velocity["b0"][0], expected.velocity[4], atol=TOLERANCE)
    assert np.abs(expected.velocity).max() > 20 * TOLERANCE


# -- ranges --


def test_ranges_that_would_be_left_are_refused(run: Path) -> None:
    client, update = run / "client", run / "update"
    with pytest.raises(TrainingError, match="there is nothing to try the steps to come on"):
        go_on(client, update, Continuation(MORE))
    with pytest.raises(TrainingError, match="would reach"):
        go_on(client, update, Continuation(6, 20.0), NEW)
    with pytest.raises(TrainingError, match=r"would reach|diverges"):
        go_on(client, update, Continuation(MORE), trial=(40 * NEW[0], NEW[1]), state=run / "server" / TRAINED)
    assert not update.exists()
    # the client's job is what it was
    assert TrainingClientFiles.load(client / JOB_FILE).program.outline.steps == STEPS


def test_bounds_from_the_state_are_closer(tmp_path: Path) -> None:
    """Nothing is run in the clear; weights that are known allow for steps that a whole run's bounds do not."""
    of = job(optimizer=SGD(0.2), source=RangeSource.BOUNDS, margin=1.5, clip=2.0)
    client, server = tmp_path / "client", tmp_path / "server"
    prepare(of, client, server)
    run_training(server)
    with pytest.raises(TrainingError, match="could leave the ranges that this run was begun with"):
        go_on(client, tmp_path / "update", Continuation(8), NEW)
    shown: list[Longer] = []
    done = go_on(client, tmp_path / "update", Continuation(8), NEW, state=server / TRAINED, planned=shown.append)
    assert shown[0].tried == "bounds of the run from its state after 4 steps hold"
    assert done.clipped == (np.linalg.norm(NEW[0], axis=1) > 2).sum() > 0
    assert TrainingClientFiles.load(client / JOB_FILE).program.outline.steps == 12


# -- mistakes --


def test_what_cannot_go_on(run: Path) -> None:
    client, update = run / "client", run / "update"
    cases: list[tuple[type[Exception], str, Continuation, tuple[F64, F64]]] = [
        (TrainingError, "has 4 steps, so it cannot go on after 5", Continuation(1, after=5), NEW),
        (TrainingError, "the learning rate must be positive", Continuation(1, -1.0), NEW),
        (TrainingError, "learning rate times weight decay must be below 1", Continuation(1, 1e4), NEW),
        (DataError, r"numbers of shape \(samples, 4\)", Continuation(1), (NEW[0][:, :3], NEW[1])),
        (DataError, "36 samples, but 5 labels", Continuation(1), (NEW[0], NEW[1][:5])),
        (TrainingError, "a momentum of 0.5 cannot be kept", Continuation(40, 1e-3), NEW),
    ]
    for error, message, how, data in cases:
        with pytest.raises(error, match=message):
            go_on(client, update, how, data)
    with pytest.raises(TrainingError, match="the earlier batches come again in any case"):
        go_on(client, update, Continuation(1, replay=True), trial=NEW)
    with pytest.raises(GlyphcError, match="must be two"):
        go_on(client, client, Continuation(1), NEW)
    update.mkdir()
    with pytest.raises(ArtifactError, match="exists already"):
        go_on(client, update, Continuation(1), NEW)
    assert not list(update.iterdir())


def test_an_error_leaves_the_run_as_it_was(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glyphc.backends.openfhe.training_fresh import FreshCiphertexts

    def refuse(*arguments: object) -> None:
        raise ValueError("a message is too large for its scale")

    monkeypatch.setattr(FreshCiphertexts, "write", refuse)
    before = (run / "client" / JOB_FILE).read_bytes()
    with pytest.raises(TrainingError, match="cannot be encrypted"):
        go_on(run / "client", run / "update", Continuation(1), NEW)
    assert (run / "client" / JOB_FILE).read_bytes() == before
    assert not (run / "update").exists()


def test_files_of_other_steps_are_told_apart(run: Path) -> None:
    """Gone on from an earlier step: what the run did after it is no part of the longer one."""
    client, server = run / "client", run / "server"
    go_on(client, run / "update", Continuation(2, 0.1, after=2), trial=OLD)
    updated(run / "update", server)
    wrong = "is of step 4 of an earlier program; this one goes on from step 2"
    with pytest.raises(ArtifactError, match=wrong):
        run_training(server)
    with pytest.raises(ArtifactError, match=wrong):
        finish(client, server / TRAINED)
    updated(run / "update", run / "untouched")
    run_training(run / "untouched")
    by_hand = ByHand()
    for step in range(4):
        by_hand.step(*rows(OLD, step % 3), BEGUN.rate(step) if step < 2 else 0.1)
    by_hand.assert_equal(finish(client, run / "untouched" / TRAINED)[0])
    # a state of a run that this one does not go on from
    shutil.copy(run / "untouched" / TRAINED, server / INITIAL)
    (server / TRAINED).unlink()
    with pytest.raises(ArtifactError, match="it is the state after 4 steps"):
        run_training(server)


# -- the order of batches and rates --


@examples(60)
@given(st.data())
def test_new_batches_come_in_turn(data: st.DataObject) -> None:
    """From the step on that they came at, first of all; with a replay, the earlier ones after them."""
    from glyphc.train.batches import Turn

    old, new, step = (data.draw(st.integers(1, 9)) for _ in range(3))
    replay = data.draw(st.booleans())
    first, count = (0, old + new) if replay else (old, new)
    batches = Batches(5 * old, 5, 0, (Turn(step, first, count, old),))
    found = [batches.number(s) for s in range(step, step + 3 * count)]
    assert found[:new] == list(range(old, old + new))
    assert sorted(found) == sorted(3 * list(range(first, first + count)))
    assert [batches.number(s) for s in range(step)] == [s % old for s in range(step)]


@examples(60)
@given(st.floats(1e-3, 10), st.floats(1e-3, 1023), st.integers(1, 20), st.integers(0, 40))
def test_a_schedule_follows_another(rate: float, share: float, steps: int, at: int) -> None:
    schedule: Schedule = Cosine(9, 0.2)
    then = share * rate
    found = SGD(rate, schedule=Steps(3)).followed(steps, then, schedule)
    expected = rate * Steps(3).factor(at) if at < steps else then * schedule.factor(at - steps)
    assert found.rate(at) == pytest.approx(expected)
    with pytest.raises(TrainingError, match="up to 1024 times its first one"):
        found.followed(steps + 5, 1025 * rate, Constant())
    assert found.followed(steps + 5, rate / 2, Constant()).first == SGD(rate, schedule=Steps(3))


# -- the command --


def invoke(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["training", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result


def test_by_the_command(run: Path) -> None:
    for name, array in (("x", NEW[0]), ("y", NEW[1].astype(int))):
        np.save(run / f"{name}.npy", array)
    before = sorted(p.name for p in run.rglob("*"))
    data = ("--data", run / "x.npy", "--labels", run / "y.npy")
    chosen = ("--client", run / "client", "--update", run / "update", "--steps", MORE, "--learning-rate", 0.2)
    schedule = ("--schedule", "steps{every=2,decay=0.5}")
    dry = invoke("continue", *chosen, *schedule, *data, "--dry-run")
    assert "2 new batches" in dry.stderr and "of them used" in dry.stderr and "3 steps to come" in dry.stderr
    assert sorted(p.name for p in run.rglob("*")) == before
    done = invoke("continue", *chosen, *schedule, *data)
    assert "2 new batches" in done.stdout and "7 in all" in done.stdout
    updated(run / "update", run / "server")
    invoke("run", "--server", run / "server")
    invoke("finish", "--client", run / "client", "--server", run / "server", "-o", run / "trained.onnx")
    from glyphc.frontends.from_onnx import read_onnx

    trained_by_hand(STEPS + MORE).assert_equal(read_onnx(run / "trained.onnx"))
    assert "go together" in invoke("continue", *chosen, "--data", run / "x.npy", code=2).stderr
