"""Training steps as tasks of several workers: the same bits as on one machine, whoever dies meanwhile."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_train_chain import chain
from test_train_micro_batches import data
from test_train_micro_batches import plan_of as plan_of_chain

from glyphc.backends.base import execute_named
from glyphc.backends.ckks_clear import ClearCKKS
from glyphc.cluster.connection import Address
from glyphc.cluster.distribution import ClusterError
from glyphc.cluster.step_forecast import Step
from glyphc.cluster.step_tasks import Task, divide, live_limbs
from glyphc.cluster.training import on_cluster
from glyphc.exchange.training_client import prepare
from glyphc.exchange.training_files import TRAINED
from glyphc.exchange.training_server import run_training
from glyphc.ir.instructions import Free, Load, Store
from glyphc.ir.instructions.ckks import Bootstrap, Refresh
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingStateHeader
from glyphc.train.job import Options, make_job
from glyphc.train.optimizers import SGD
from glyphc.train.step import State
from tests.cluster_processes import Processes
from tests.network_hosts import Hosts
from tests.services import certificates
from tests.training_runs import invoke

RING = 1024


@st.composite
def drawn_steps(draw: st.DrawFn) -> Step:
    """Any tasks, each behind those that it needs."""
    count = draw(st.integers(1, 8))
    parts = draw(st.lists(st.integers(0, 20).map(float), min_size=count, max_size=count))
    after = [draw(st.sets(st.integers(0, n - 1), max_size=3)) if n else set() for n in range(count)]
    given = draw(st.lists(st.integers(0, 100).map(float), min_size=count, max_size=count))
    return Step(sum(parts), tuple(parts), tuple(tuple(sorted(a)) for a in after), tuple(given))


def bootstraps(tasks: tuple[Task, ...]) -> list[int]:
    """Of each task."""
    return [sum(isinstance(i, Bootstrap | Refresh) for i in task.code) for task in tasks]


@pytest.mark.parametrize(
    ("widths", "end", "batch", "optimizer", "frozen"),
    [
        ((4, 4), "sigmoid", 200, SGD(0.5), ()),
        ((4, 3), "softmax", 150, SGD(0.3, 0.5, weight_decay=0.05), ()),
        ((4, 2, 1), "sigmoid", 400, SGD(0.3, 0.4, nesterov=True), ()),
        ((40, 16, 8, 4), "sigmoid", 10, SGD(0.3, 0.5), ()),
        ((4, 2, 1), "sigmoid", 400, SGD(0.5), ("w0", "b1")),
    ],
)
def test_tasks_compute_what_their_step_does(
    widths: tuple[int, ...], end: str, batch: int, optimizer: SGD, frozen: tuple[str, ...]
) -> None:
    """Every number, exactly; each instruction belongs to one task at most, and what crosses has a number of limbs."""
    plan = plan_of_chain(widths, end, optimizer, batch, frozen)
    x, y = data(widths, batch)
    start = State(0, {n: plan.network.constant(n) for s in plan.stages for n in (s.weight.name, s.bias.name)}, {})
    machine = ClearCKKS(plan.parameters)
    fresh = plan.data(x, y) | plan.state(start)
    values = {name: machine.encrypt(message, limbs) for name, (message, limbs) in fresh.items()}
    code, p = plan.server.code(0), plan.parameters
    tasks = divide(code)
    assert tasks == divide(code)
    given: list[dict[str, np.ndarray]] = []
    for number, task in enumerate(tasks):
        assert all(n < number for n in task.after)
        before = {name: value for n in task.after for name, value in given[n].items()}
        given.append(execute_named(task.code, machine, {**values, **before}))
    expected = execute_named(code, machine, values)
    stored = {name: v for found in given for name, v in found.items() if not name.startswith("@")}
    assert stored.keys() == expected.keys()
    assert all(np.array_equal(stored[name], value) for name, value in expected.items())
    done = [repr(i) for task in tasks for i in task.code if not isinstance(i, Load | Store | Free)]
    assert len(set(done)) == len(done) and set(done) <= {repr(i) for i in code}
    limbs = live_limbs(code, {n: plan.server.fresh_limbs(n) for n in fresh}, p.decoded_limbs - 1, p.slot_levels)
    assert all(name in limbs for found in given for name in found if name.startswith("@"))
    # micro-batches need nothing of one another before their gradients are added
    cores = [number for number, count in enumerate(bootstraps(tasks)) if count]
    before: list[set[int]] = []
    for task in tasks:
        before.append(set(task.after).union(*(before[n] for n in task.after)))
    assert sum(not before[number].intersection(cores) for number in cores) >= plan.server.micros


def test_a_step_that_is_one_batch_shares_its_gradients() -> None:
    """What connects bootstraps is not divided; layers are, when the errors are there."""
    tasks = divide(plan_of_chain((40, 16, 8, 4), "sigmoid", SGD(0.3), 10).server.code(0))
    (core,) = (number for number, count in enumerate(bootstraps(tasks)) if count)
    assert sum(task.after == (core,) and task.stores for task in tasks) >= 3


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    x, _ = data((4, 2, 1), 400)
    job = make_job(chain((4, 2, 1)), x, (x.sum(axis=1) > 0).astype(int), Options(SGD(3.0), 3, insecure_ring=RING))
    prepare(job, folder / "client", folder / "server")
    return folder / "server"


def copy(prepared: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(prepared, to))


def parts(folder: Path) -> dict[str, bytes]:
    with Reader(folder / TRAINED, TrainingStateHeader) as reader:
        reader.verify()
        return {name: reader.read(name) for name in reader.parts}


@pytest.fixture(scope="module")
def alone(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The trained state of one machine."""
    folder = copy(prepared, tmp_path_factory.mktemp("alone") / "server")
    run_training(folder)
    return parts(folder)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as found:
        yield found


@pytest.mark.slow
def test_two_processes_train_the_bits_of_one(prepared: Path, alone: dict[str, bytes], tmp_path: Path) -> None:
    folder = copy(prepared, tmp_path / "server")
    result = invoke("training", "run", "--server", folder, "--cluster", "local:2")
    assert re.search(r"train on 2 workers \(\d+ tasks a step, at most (1\.[5-9]|2\.0) times as fast", result.stderr)
    assert parts(folder) == alone


@pytest.mark.slow
def test_a_worker_that_is_killed_and_a_scheduler_that_starts_anew(
    prepared: Path, alone: dict[str, bytes], processes: Processes, tmp_path: Path
) -> None:
    """After a step each; the run goes on, and the last step is done by workers that did none of the others."""
    folder = copy(prepared, tmp_path / "server")
    processes.start_scheduler()
    first = processes.start_worker()
    said: list[str] = []

    def disturb(count: int) -> None:
        if count == 1:
            processes.start_worker()
            first.kill()
        if count == 2:
            assert processes.scheduler is not None
            processes.scheduler.kill()
            processes.scheduler.wait()
            threading.Timer(1.0, again).start()

    def again() -> None:
        processes.start_scheduler()
        processes.start_worker()

    report = run_training(folder, after=disturb, make=on_cluster(Address.read(processes.url), 120.0, said.append))
    assert (report.steps, report.first, len(report.seconds)) == (3, 0, 3)
    assert parts(folder) == alone
    assert any("is away" in reason for reason in said) and said[-1] == ""


@pytest.mark.slow
def test_several_hosts_train_the_bits_of_one(prepared: Path, alone: dict[str, bytes], tmp_path: Path) -> None:
    """Networks, names and files of their own, and certificates."""
    folder = copy(prepared, tmp_path / "server")
    with Hosts(3, folder) as hosts, Processes(tmp_path, "tls", certificates(tmp_path), hosts) as processes:
        processes.start(2)
        report = run_training(folder, make=on_cluster(Address.read(processes.url, tmp_path)))
    assert (report.steps, len(report.seconds)) == (3, 3)
    assert parts(folder) == alone


def test_a_step_by_hand() -> None:
    """A task of 2 s, two behind it of 3 s and 1 s, and one of 1 s behind both; a value is sent in no time to 10 s."""
    step = Step(7.0, (2.0, 3.0, 1.0, 1.0), ((), (0,), (0,), (1, 2)), (10.0,) * 4)
    assert step.chain == 6.0
    assert (step.makespan(1, 10.0), step.makespan(2, math.inf), step.makespan(2, 10.0)) == (7.0, 6.0, 6.0)
    # beyond 3 s for a value both chains stay where they begin
    assert step.makespan(2, 1.0) == 7.0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn_steps(), st.integers(1, 6), st.sampled_from([0.1, 10.0, math.inf]))
def test_no_step_takes_less_than_its_chain_or_its_share(step: Step, workers: int, rate: float) -> None:
    found = step.makespan(workers, rate)
    assert found >= max(step.chain, sum(step.parts) / workers) * (1 - 1e-12)
    assert step.makespan(1, rate) == pytest.approx(sum(step.parts))
    # somebody works at any moment, unless it is waited for what is sent
    assert step.makespan(workers, math.inf) <= sum(step.parts) * (1 + 1e-9)


def test_the_plan_of_a_run(prepared: Path) -> None:
    output = invoke("plan", prepared, "--workers", 1, "--workers", 2, "--workers", 100, "--mbit", 1e6).output
    rows = [line.split() for line in output.splitlines() if line[:1].isdigit()][1:]
    assert [row[0] for row in rows] == ["1", "2", "100"]
    gains = [float(row[2]) for row in rows]
    assert gains[0] <= 1.0 < gains[1] <= gains[2] and "3 steps of up to" in output


@pytest.mark.slow
def test_what_workers_cannot_do_is_refused(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glyphc.exchange.training_files import ProgramFile

    folder = copy(prepared, tmp_path / "server")
    monkeypatch.setattr(ProgramFile, "memory_bytes", property(lambda self: int(1e15), lambda self, value: None), False)
    with pytest.raises(ClusterError, match=r"2 workers on \S+ need about 2000000.0 GB"):
        run_training(folder, make=on_cluster(Address.read("local:2")))
    assert not (folder / TRAINED).exists()
