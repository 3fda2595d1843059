"""Which job runs when: a bounded queue, worker processes, time-outs, and progress."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from . import metrics
from .logs import about
from .settings import Settings
from .store import QUEUED, STALLED, Job, Store, no_room
from .worker import Event, Order

log = logging.getLogger("glyphc.service")
_STREAM_LIMIT = 1 << 20
# A job whose worker dies (e.g. for want of memory) is taken up again at its checkpoint: until ``limits.deaths`` have
# died of it while this service ran, or it has begun so often, restarts of the service included.
_ATTEMPTS = 50
# Clients learn nothing of machines.
_AWAY = "the service's cluster is away; jobs go on when it is back"


@dataclass(frozen=True)
class Progress:
    """Of a running job: what is being done, and how much of it is (0 to 1)."""

    what: str = ""
    share: float = 0.0


class WorkerDiedError(Exception):
    """A worker ended in the middle of a job."""


class Worker:
    """A process with one program and one client's keys."""

    def __init__(self, process: asyncio.subprocess.Process, program: str, client: str, key: str) -> None:
        self.process = process
        self.serves = (program, client, key)
        self.busy = True
        self.idle_since = 0.0

    async def kill(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()


class Scheduler:
    """Runs waiting jobs, oldest first, on at most ``settings.workers`` processes.

    A worker keeps its keys for a while and takes the next job that needs the same ones; any other job may replace it.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        programs: dict[str, Path],
        trained: dict[tuple[str, str, str], Path] | None = None,
    ) -> None:
        """programs: by their fingerprints; trained: folders of training runs, by client, program and keys."""
        self._settings = settings
        self._store = store
        self._programs = programs
        self._trained = trained or {}
        self._workers: list[Worker] = []
        self._running: dict[str, asyncio.Task[None]] = {}
        self._progress: dict[str, Progress] = {}
        self._given_up: set[str] = set()
        self._deaths: Counter[str] = Counter()
        # running jobs that wait for the cluster, and since when it is away
        self._stalled: set[str] = set()
        self._away_since = 0.0
        self._wake = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop_task = asyncio.get_running_loop().create_task(self._loop())

    async def stop(self) -> None:
        """Begin no more jobs, wait ``drain_seconds`` for those that run, then kill the workers.

        What they were doing waits for the next start, at its checkpoint.
        """
        if self._loop_task is not None:
            self._loop_task.cancel()
        running = [task for job, task in self._running.items() if job not in self._stalled]
        if running and self._settings.limits.drain_seconds:
            log.info("%d jobs may end within %g s", len(running), self._settings.limits.drain_seconds)
            await asyncio.wait(running, timeout=self._settings.limits.drain_seconds)
        tasks = [t for t in (self._loop_task, *self._running.values()) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in self._workers:
            await worker.kill()

    def wake(self) -> None:
        """A job was added."""
        self._wake.set()

    def progress(self, job: str, state: str) -> Progress:
        """Of a job in this state."""
        # who waits behind jobs that end without the cluster does not wait for it
        held = len(self._stalled) >= self._settings.workers
        if state == STALLED or (state == QUEUED and held):
            return Progress(_AWAY, self._progress.get(job, Progress()).share)
        return self._progress.get(job, Progress())

    async def cancel(self, job: str) -> None:
        """Stop a running job; its worker is killed, as OpenFHE cannot be interrupted."""
        task = self._running.get(job)
        if task is not None:
            self._given_up.add(job)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._given_up.discard(job)

    # -- the loop --

    async def _loop(self) -> None:
        while True:
            try:
                await self._begin_jobs()
            except Exception as e:
                if no_room(e):
                    log.error("there is no room left on the disk: no job begins before there is (%s)", e)
                else:
                    log.exception("the scheduler stumbled; it goes on")
                await asyncio.sleep(1.0)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), 1.0)
            self._wake.clear()

    async def _begin_jobs(self) -> None:
        await self._retire()
        before = time.time() - self._settings.limits.answer_seconds
        for job in await asyncio.to_thread(self._store.expire_questions, before):
            log.info("job %s of %s: not answered in time", job.id, job.client, extra=about(job.id, job.client))
            metrics.FINISHED.labels("failed").inc()
        for job in await asyncio.to_thread(self._store.waiting):
            if len(self._running) >= self._settings.workers:
                return
            if job.id not in self._running and await asyncio.to_thread(self._store.begin_job, job.id):
                log.info("job %s of %s begins", job.id, job.client, extra=about(job.id, job.client))
                self._progress[job.id] = Progress("begins")
                self._running[job.id] = asyncio.get_running_loop().create_task(self._run(job))

    async def _retire(self) -> None:
        """End workers that have been idle for long, or have died."""
        now = time.monotonic()
        for worker in list(self._workers):
            old = not worker.busy and now - worker.idle_since > self._settings.limits.idle_seconds
            if worker.process.returncode is not None or old:
                self._workers.remove(worker)
                await worker.kill()

    # -- one job --

    async def _run(self, job: Job) -> None:
        error, asks = "", False
        worker: Worker | None = None
        try:
            worker = await self._worker(job)
            async with _Clock(self._settings.limits.job_seconds) as clock:
                error, asks = await self._evaluate(worker, job, clock)
        except asyncio.TimeoutError:
            error = f"it took longer than {self._settings.limits.job_seconds:g} s"
        except asyncio.CancelledError:
            # the service stops, or the client gave the job up
            await self._drop(worker)
            if job.id not in self._given_up:
                await asyncio.shield(asyncio.to_thread(self._store.requeue_job, job.id))
            raise
        except WorkerDiedError as e:
            log.warning("job %s: %s", job.id, e, extra=about(job.id, job.client))
            self._deaths[job.id] += 1
            if self._deaths[job.id] < self._settings.limits.deaths and job.attempts + 1 < _ATTEMPTS:
                await self._drop(worker)
                await asyncio.to_thread(self._store.requeue_job, job.id)
                self._wake.set()
                return
            error = str(e)
        except Exception:
            log.exception("job %s", job.id, extra=about(job.id, job.client))
            error = "the service failed; its log says more"
        finally:
            self._running.pop(job.id, None)
            self._progress.pop(job.id, None)
            self._gone_on(job)
        if error:
            await self._drop(worker)
        elif worker is not None:
            worker.busy, worker.idle_since = False, time.monotonic()
        if asks:
            await asyncio.to_thread(self._store.ask_job, job)
            self._wake.set()
            return
        await self._record(job, self._without_paths(error))
        log.info("job %s of %s: %s", job.id, job.client, error or "done", extra=about(job.id, job.client))
        metrics.FINISHED.labels("failed" if error else "done").inc()
        self._deaths.pop(job.id, None)
        self._wake.set()

    async def _record(self, job: Job, error: str) -> None:
        """That a job has ended; on a full disk, as soon as there is room."""
        said = False
        while True:
            try:
                await asyncio.to_thread(self._store.end_job, job, error)
                return
            except Exception as e:
                if not no_room(e):
                    raise
                if not said:
                    log.error("there is no room left on the disk to record that job %s has ended (%s)", job.id, e)
                said = True
            await asyncio.sleep(1.0)

    async def _worker(self, job: Job) -> Worker:
        wanted = (job.program, job.client, job.key)
        run = self._trained.get((job.client, job.program, job.key))
        for worker in self._workers:
            if not worker.busy and worker.serves == wanted and worker.process.returncode is None:
                worker.busy = True
                return worker
        # keys take gigabytes: an idle worker makes room for another
        while len(self._workers) >= self._settings.workers:
            idle = next((w for w in self._workers if not w.busy), None)
            if idle is None:
                break
            await self._drop(idle)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "glyphc.service.worker",
            os.fspath(run or self._programs[job.program]),
            os.fspath(self._store.key_path(job.client, job.key)),
            self._settings.cluster,
            self._settings.cluster_tls,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_STREAM_LIMIT,
        )
        worker = Worker(process, *wanted)
        self._workers.append(worker)
        return worker

    async def _drop(self, worker: Worker | None) -> None:
        if worker is not None:
            await asyncio.shield(worker.kill())
            if worker in self._workers:
                self._workers.remove(worker)

    async def _stall(self, job: Job, clock: _Clock, reason: str) -> None:
        """The cluster is away, for this reason, or back for an empty one; the time does not count for a job."""
        await asyncio.to_thread(self._store.stall_job, job.id, bool(reason))
        if not reason:
            clock.go_on()
            if self._gone_on(job):
                log.info("the cluster is back after %.0f s", time.monotonic() - self._away_since)
            return
        clock.stop()
        if not self._stalled:
            self._away_since = time.monotonic()
            log.warning("%s. Its jobs wait, and go on when it is back", reason, extra=about(job.id, job.client))
        self._stalled.add(job.id)
        metrics.AWAY.set(1)

    def _gone_on(self, job: Job) -> bool:
        """A job waits for the cluster no more. Whether it was the last one."""
        waited = bool(self._stalled)
        self._stalled.discard(job.id)
        metrics.AWAY.set(bool(self._stalled))
        return waited and not self._stalled

    async def _evaluate(self, worker: Worker, job: Job, clock: _Clock) -> tuple[str, bool]:
        """Returns the error, or nothing; and whether the client is to be asked."""
        folder = self._store.job_folder(job)
        inputs, outputs, checkpoint = (os.fspath(folder / n) for n in ("inputs", "outputs", "checkpoint"))
        stdin, stdout = worker.process.stdin, worker.process.stdout
        assert stdin is not None and stdout is not None
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            stdin.write(Order(inputs, outputs, checkpoint, self._settings.sanitize).line())
            await stdin.drain()
        while line := await stdout.readline():
            event = Event.read(line)
            if event.kind == "progress":
                self._progress[job.id] = Progress(event.what, event.share)
            elif event.kind == "away":
                await self._stall(job, clock, event.what)
            elif event.kind == "error":
                return event.what, False
            elif event.kind in ("done", "waiting"):
                metrics.SECONDS.observe(time.monotonic() - start)
                return "", event.kind == "waiting"
        status = await worker.process.wait()
        raise WorkerDiedError(f"the evaluation ended with status {status}; it may have run out of memory")

    def _without_paths(self, error: str) -> str:
        """Clients learn nothing of the server's folders."""
        for folder in filter(None, (self._store.folder, self._settings.trained)):
            error = error.replace(os.fspath(folder), "")
        return error


class _Clock:
    """``asyncio.timeout``, which Python 3.10 has not, and which can stand still: cancels the block after so many
    seconds and turns that into TimeoutError."""

    def __init__(self, seconds: float) -> None:
        self._left, self._since, self._expired = seconds, 0.0, False
        self._handle: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> _Clock:
        self._task = asyncio.current_task()
        self.go_on()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if kind is asyncio.CancelledError and self._expired:
            raise asyncio.TimeoutError from None

    def go_on(self) -> None:
        if self._handle is None:
            self._since = time.monotonic()
            self._handle = asyncio.get_running_loop().call_later(self._left, self._expire)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
            self._left -= time.monotonic() - self._since

    def _expire(self) -> None:
        assert self._task is not None
        self._expired = True
        self._task.cancel()
