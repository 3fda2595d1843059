"""Hands the tasks of training steps to workers of a Dask cluster; the trained weights are those of one machine.

Program, keys, batches and states go to every host by their digests; live values go from worker to worker, in their wire
form. After every step the state comes back and is saved, so a run goes on from its last step, whatever was lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glyphc.exchange.training_files import KEYS, PROGRAM, batch_path
from glyphc.exchange.training_server import Make, State, TrainingRun
from glyphc.progress import Silent
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingKeysHeader

from . import training_worker, worker
from .connection import AWAY_SECONDS, Address, Fruitless, Told, fit, result, scheduler, work_on
from .distribution import ClusterError, distribute
from .step_forecast import Step, check_shared
from .step_tasks import divide
from .worker import FileKind

if TYPE_CHECKING:
    from distributed import Client

    from glyphc.progress import Reporter


def on_cluster(address: Address, patience: float = AWAY_SECONDS, away: Told = lambda reason: None) -> Make:
    """What ``run_training`` takes to train on workers. patience, away: as of ``coordinator.evaluate``.

    ClusterError when the cluster stays away, is not fit for the program, or fails; what was saved is there then.
    """

    def make(*given: Any) -> TrainingRun:
        run = _ClusterRun(*given)
        run.address, run.patience, run.away = address, patience, away
        return run

    return make


class _ClusterRun(TrainingRun):
    address: Address
    patience: float
    away: Told

    def _check_room(self, engine: str) -> None:
        """Workers have to have it (``fit``)."""
        check_shared(self.program.outline)

    def _load(self, keys: Reader[TrainingKeysHeader], start: State) -> None:
        self._keys_for = keys.header.engine

    def _train(self, start: State) -> None:
        self._count, self._state, self._fruitless = start.step, start.path, Fruitless()
        with scheduler(self.address) as (url, security):
            work_on(url, security, self._work, lambda: self._count == self.steps, self.patience, self.away)

    def _work(self, cluster: Client) -> None:
        """All steps that are left; OSError when the scheduler goes away meanwhile."""
        memory = None if self.report.seconds else self.program.memory_bytes
        workers = fit(cluster, self._keys_for, self.program.parameters, memory)
        files = ((FileKind.TRAINING_PROGRAM, PROGRAM), (FileKind.TRAINING_KEYS, KEYS))
        known = [self._brought(cluster, workers.hosts, kind, self.folder / name, self.reporter) for kind, name in files]
        tasks = divide(self.program.code(self._count))
        step = Step.of(self.program, self._count, tasks, self._keys_for)
        most = min(len(workers.hosts), step.seconds / step.chain)
        about = f"{len(tasks)} tasks a step, at most {most:.1f} times as fast as one"
        self.reporter.stage(f"train on {workers} ({about})", self.steps - self._count)
        before = self._count
        while self._count < self.steps and self._one_step(cluster, workers.hosts, known):
            pass
        self._fruitless.round(self._count > before)

    def _one_step(self, cluster: Client, hosts: Mapping[str, str], known: list[str]) -> bool:
        """Whether it was done; else a worker has come that lacks files."""
        batch = batch_path(self.folder, self.program.outline.step_batches[self._count])
        files = ((FileKind.BATCH, batch), (FileKind.STATE, self._state))
        data = [self._brought(cluster, hosts, kind, path, Silent()) for kind, path in files]
        tasks = divide(self.program.code(self._count))
        futures: list[Any] = []
        for number, task in enumerate(tasks):
            before = [futures[n] for n in task.after]
            arguments = (*known, *data, self._count, number, before)
            futures.append(cluster.submit(training_worker.train, *arguments, pure=False))
        found: dict[str, bytes] = {}
        for number, (task, future) in enumerate(zip(tasks, futures, strict=True)):
            if task.stores:
                parts = result(future, f"step {self._count + 1}, task {number + 1} of {len(tasks)}")
                if parts is None:
                    return False
                found |= parts[0]
        outline = self.program.outline
        try:
            self._save(self._count + 1, (found[name] for name, _ in outline.state))
        except OSError as e:
            # not the cluster's: the step is not done again on what another one left
            raise ClusterError(f"the state after step {self._count + 1} could not be saved: {e}") from None
        self._state = self.report.output
        done, self._count = outline.step_batches[self._count], self._count + 1
        cluster.run(worker.forget, data[1])
        if done not in outline.step_batches[self._count :]:
            cluster.run(worker.forget, data[0])
        return True

    def _brought(
        self, cluster: Client, hosts: Mapping[str, str], kind: FileKind, path: Path, reporter: Reporter
    ) -> str:
        """To all workers; its digest."""
        with Reader(path, worker.HEADERS[kind]) as reader:
            digest = reader.digest
        distribute(cluster, hosts, kind, path, digest, reporter)
        return digest
