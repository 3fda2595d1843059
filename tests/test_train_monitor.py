"""One encrypted number of each step: what it is, who reads it, and that it changes nothing else (small rings)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_train_chain import chain

from glyphc.analysis.cost import CostModel
from glyphc.errors import ArtifactError, DataError
from glyphc.exchange.training_client import prepare
from glyphc.exchange.training_continue import Continuation, go_on
from glyphc.exchange.training_files import MONITOR, PROGRAM, TRAINED, ProgramFile
from glyphc.exchange.training_server import run_training
from glyphc.exchange.training_watch import watch
from glyphc.ir.evaluate import evaluate
from glyphc.train.arrange import arrangements
from glyphc.train.job import Job, Options, make_job
from glyphc.train.optimizers import SGD
from glyphc.train.plan import plan_step, wanted
from glyphc.train.planning import plan_of
from glyphc.train.simulated import Simulated
from glyphc.train.step import with_weights
from tests.training_runs import OPTIONS, changed, copied, invoke, job, samples, state, write_inputs

RING = 1024


def expected(of: Job) -> list[float]:
    """Of each step in the clear, by the derivative of the loss itself: differences of probabilities, or of numbers."""
    found, current = [], of.program.initial()
    for step in range(of.options.steps):
        x, y = of.batch(of.batches.number(step))
        (p,) = evaluate(with_weights(of.split.head, current.weights), of.named(x)).values()
        errors = 2 * (p - y) / y.shape[1] if of.loss.name == "mean-squared-error" else p - y
        found.append(float(np.sqrt((errors**2).sum(axis=1).mean())))
        current, _ = of.program.run(current, of.named(x), y)
    return found


@pytest.mark.parametrize(
    ("widths", "end", "batch", "grouped"),
    [
        ((4, 1), "sigmoid", 13, False),
        ((40, 2), "sigmoid", 13, False),
        ((4, 3, 2), "sigmoid", 13, False),
        ((4, 3), "softmax", 13, False),
        ((4, 2), "", 13, False),
        # errors in parts, and two micro-batches
        ((40, 8, 4), "sigmoid", 6, True),
        ((4, 4), "sigmoid", 200, False),
    ],
)
def test_it_is_the_norm_of_the_gradient(widths: tuple[int, ...], end: str, batch: int, grouped: bool) -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(2 * batch, widths[0])) / np.sqrt(widths[0])
    y = random.integers(max(widths[-1], 2), size=len(x)) if end else random.normal(size=(len(x), widths[-1])) / 4
    of = make_job(chain(widths, end), x, y, Options(SGD(0.3, 0.5), 3, batch, insecure_ring=RING, monitor=True))
    plan = plan_of(of)
    if grouped:
        every = arrangements(wanted(of.program, plan.stages, RING), CostModel())
        way = next(a for a in every if a.masks)
        plan = plan_step(of.program, plan.ranges, RING, arrangement=way, watched=True)
    assert (plan.server.micros > 1) is (batch == 200)
    run = Simulated(of, plan)
    run.start(None, 0)
    run.run(range(3), lambda count: None)
    norms = [plan.gradient_norm(message) for message in run.statistics]
    np.testing.assert_allclose(norms, expected(of), rtol=0.02)
    # nothing else stands there
    assert all(np.abs(message[1:]).max() < 1e-3 * abs(message[0]) for message in run.statistics)


def test_without_it_a_program_is_what_it_was() -> None:
    plan = plan_of(job())
    watched = plan_of(replace(job(), options=replace(job().options, monitor=True)))
    assert "statistic" not in {getattr(i, "name", None) for i in plan.server.code(1)}
    assert set(watched.server.periods) == {*plan.server.periods, RING}
    # a reversal, a product, and a trace
    assert len(watched.server.code(1)) > len(plan.server.code(1))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the commands, killed by nobody."""
    folder = tmp_path_factory.mktemp("watched")
    inputs, places = write_inputs(folder), ("--client", folder / "client", "--server", folder / "server")
    invoke("training", "prepare", *inputs, *OPTIONS, "--monitor", *places)
    invoke("training", "run", "--server", folder / "server", "--steps", 2)
    invoke("training", "run", "--server", folder / "server", "--resume")
    return folder


def test_the_key_holder_watches(ran: Path, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    shutil.copytree(ran / "server" / MONITOR, sent)
    found = watch(ran / "client", sent)
    assert [each.step for each in found] == [1, 2, 3, 4, 5] and all(each.possible for each in found)
    x, y = samples()
    of = make_job(job().network, x, y, replace(job().options, monitor=True))
    np.testing.assert_allclose([each.norm for each in found], expected(of), rtol=1e-2)
    assert found[-1].norm < 0.8 * found[0].norm
    shown = invoke("training", "watch", "--client", ran / "client", "--statistics", sent)
    assert shown.output.count("gradient norm") == 5 and "impossible" not in shown.output
    # one ciphertext a step, and the state has none of it
    assert all(path.stat().st_size < 4 * 2 * RING * 5 for path in sent.iterdir())
    with ProgramFile(ran / "server" / PROGRAM) as program:
        assert program.outline.statistic == 2
        assert len(state(ran / "server" / TRAINED)) == len(program.outline.state)


def test_steps_that_are_done_anew_are_not_watched(ran: Path, tmp_path: Path) -> None:
    """A run that goes on from step 3 of 5 with a fourth: the earlier program has left statistics of all five."""
    copied(ran, tmp_path)
    go_on(tmp_path / "client", tmp_path / "update", Continuation(1, 0.1, after=3), trial=samples())
    found = watch(tmp_path / "client", ran / "server" / MONITOR)
    assert found == watch(ran / "client", ran / "server" / MONITOR)[:3]
    late = tmp_path / "late"
    late.mkdir()
    shutil.copy(ran / "server" / MONITOR / "000004.statistic", late)
    with pytest.raises(DataError, match=r"no statistic in .*late"):
        watch(tmp_path / "client", late)


def test_what_is_no_statistic_of_the_run(ran: Path, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    with pytest.raises(DataError, match=r"no statistic in .*sent"):
        watch(ran / "client", sent)
    shutil.copytree(ran / "server" / MONITOR, sent)
    shutil.copy(sent / "000001.statistic", sent / "000004.statistic")
    with pytest.raises(ArtifactError, match=r"000004.statistic.* is of step 1, not 4"):
        watch(ran / "client", sent)
    changed(sent / "000001.statistic", program="0" * 64)
    with pytest.raises(ArtifactError, match="another training program"):
        watch(ran / "client", sent)


def test_a_run_without_gives_nothing_to_watch(tmp_path: Path) -> None:
    prepare(job(), tmp_path / "client", tmp_path / "server")
    run_training(tmp_path / "server", 1)
    assert not (tmp_path / "server" / MONITOR).exists()
    with pytest.raises(DataError, match="nothing to watch; prepare one with --monitor"):
        watch(tmp_path / "client", tmp_path / "server" / MONITOR)


def test_a_cluster_takes_no_run_that_is_watched(ran: Path, tmp_path: Path) -> None:
    shutil.copytree(ran / "server", tmp_path / "server")
    for name in (TRAINED, MONITOR):
        place = tmp_path / "server" / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    refused = invoke("training", "run", "--server", tmp_path / "server", "--cluster", "local:1", code=2)
    assert "something to watch (--monitor)" in refused.stderr and not (tmp_path / "server" / TRAINED).exists()


def test_a_divergence_is_seen(tmp_path: Path) -> None:
    """Samples that the ranges do not hold: the norm does not fall as it would, and nothing else shows that."""
    random = np.random.default_rng(0)
    x = random.normal(size=(24, 4))
    y = (x[:, 0] > 0).astype(int)
    options = Options(SGD(20.0), 4, loss="binary-cross-entropy", insecure_ring=RING, reach=40.0, monitor=True)
    tame = make_job(chain((4, 1)), x / 40, y, options)
    plan = plan_of(tame)
    run = Simulated(replace(tame, x=40 * x), plan)
    run.start(None, 0)
    run.run(range(4), lambda count: None)
    wild = replace(tame, x=40 * x)
    assert not plan.gradient_norm(run.statistics[-1]) <= 2 * expected(wild)[-1]
