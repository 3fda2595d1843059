"""Many clients on one service, which is killed again and again: jobs per hour, waiting times, memory, what was lost.

    python benchmarks/load.py --clients 10 --jobs 200 --kills 50 [--ring 1024] [--batch 8] [--workers 2] [--output F.md]

Service, workers and, with a small ring, a training run beside them are processes of their own, killed (SIGKILL) at
random moments; a killed service or run is started again. There are as many jobs as it takes until all kills are done,
but none begins after --minutes, and those that are not done --grace minutes later count as unfinished. Every result is
decrypted and compared with the simulated run's error. The table is written every few seconds, so a run that is stopped
loses nothing of what it has seen. Without --ring at 128-bit security, where a job takes seconds and a client's keys
gigabytes; a small ring is insecure and shows what the service does, not how fast.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from load_trainer import Trainer

import glyphc
from glyphc.exchange.client import Account, load_account
from glyphc.files import write_atomically
from glyphc.measure import this_machine
from glyphc.program import Program
from glyphc.service.client import Client
from glyphc.service.settings import new_token

MODELS = Path(__file__).resolve().parents[1] / "models"
# Times the deviation that a simulated run shows, beyond which a result counts as wrong.
SIGMAS = 8.0
# Seconds for which clients ask again when the service is down.
PATIENCE = 600.0
# Between two writings of the table.
RECORD_SECONDS = 10.0


@dataclass
class Tally:
    """begun: jobs; waits: seconds from submission to result, by job; wrong: results beyond the bound; lost: jobs
    without one; rounds, other: of the trainer that were done, and with other bits; seconds: since the first job was
    begun; state: how far all of it is."""

    begun: int = 0
    waits: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: list[str] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    peak: int = 0
    rounds: int = 0
    other: int = 0
    seconds: float = 0.0
    state: str = "NOT TO ITS END"

    @property
    def unfinished(self) -> int:
        return self.begun - len(self.waits) - len(self.lost)

    @property
    def line(self) -> str:
        return (
            f"{len(self.waits)} jobs done, {len(self.lost)} lost, {self.wrong} wrong, {self.killed.total()} kills, "
            f"{self.rounds} training runs, {self.other} with other bits"
        )

    def round(self, same: bool) -> None:
        """One more of the trainer, with the same bits or not."""
        self.rounds += 1
        self.other += not same


@dataclass
class Bench:
    """What all clients share. expected: results in the clear, shape (batch, outputs); bound: allowed beyond them; jobs:
    at least, unless time is up at ``end``; killed: all kills are done; ended: all jobs are."""

    folder: Path
    x: Any
    expected: Any
    bound: float
    jobs: int
    end: float
    tally: Tally
    lock: Any = field(default_factory=threading.Lock)
    killed: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def next_job(self) -> int | None:
        """Its number; None when there were enough."""
        with self.lock:
            enough = self.tally.begun >= self.jobs and self.killed.is_set()
            if enough or self.ended.is_set() or time.monotonic() > self.end:
                return None
            self.tally.begun += 1
            return self.tally.begun


class Supervised:
    """'glyphc serve', started again whenever it ends."""

    def __init__(self, folder: Path, port: int, options: list[str]) -> None:
        paths = ("--programs", folder / "programs", "--data", folder / "data", "--tokens", folder / "tokens")
        self.command = [
            sys.executable,
            "-m",
            "glyphc",
            "serve",
            *map(str, paths),
            "--listen",
            f"127.0.0.1:{port}",
            *options,
        ]
        self.log = open(folder / "log", "a")  # noqa: SIM115
        self.stopped = threading.Event()
        self.process = self._start()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command, stdout=self.log, stderr=self.log, text=True)

    def _watch(self) -> None:
        while not self.stopped.is_set():
            self.process.wait()
            if not self.stopped.is_set():
                self.process = self._start()

    def processes(self) -> list[psutil.Process]:
        """The service, then its workers."""
        with suppress(psutil.Error):
            service = psutil.Process(self.process.pid)
            return [service, *service.children(recursive=True)]
        return []

    def stop(self) -> None:
        self.stopped.set()
        # again and again: one may have been started just now
        while self.thread.is_alive():
            self.process.terminate()
            self.thread.join(10.0)
        self.log.close()


def kill(service: Supervised, trainer: Trainer | None, bench: Bench, count: int, seconds: float) -> None:
    """At random moments, on average so many seconds apart: a worker half of the times, else the service or the trainer.

    What is not there at a moment is not killed then.
    """
    chance, tally = random.Random(0), bench.tally
    while tally.killed.total() < count and time.monotonic() < bench.end:
        if bench.ended.wait(chance.expovariate(1 / seconds)):
            break
        kind, found = chance.choice(("worker", "worker", "service", "trainer")), service.processes()
        with suppress(psutil.Error):
            running = [psutil.Process(trainer.pid)] if trainer is not None and trainer.pid else []
            victims = {"service": found[:1], "worker": found[1:], "trainer": running}[kind]
            if victims:
                chance.choice(victims).kill()
                tally.killed[kind] += 1
    bench.killed.set()


def watch_memory(service: Supervised, bench: Bench) -> None:
    """Resident bytes of the service and all its workers."""
    while not bench.ended.wait(0.5):
        total = 0
        for process in service.processes():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        bench.tally.peak = max(bench.tally.peak, total)


def one_client(url: str, token: str, account: Account, bench: Bench) -> None:
    """Submits jobs until there are enough. Encryption is under a lock: OpenFHE's contexts are the process's."""
    folder = bench.folder / token[:8]
    folder.mkdir()
    with Client(url, token, patience=PATIENCE) as service:
        while (number := bench.next_job()) is not None:
            inputs, outputs = folder / f"{number}.in", folder / f"{number}.out"
            try:
                with bench.lock:
                    account.encrypt(bench.x, inputs)
                start = time.monotonic()
                job = service.submit(inputs)
                service.wait(job.id)
                service.fetch(job.id, outputs)
                wait = time.monotonic() - start
                with bench.lock:
                    (logits,) = account.decrypt(outputs, job.request).values()
                    bench.tally.waits.append(wait)
                    # what is no number is beyond every bound
                    bench.tally.wrong += not np.abs(logits - bench.expected).max() <= bench.bound
            except glyphc.GlyphcError as e:
                bench.tally.lost.append(f"{number}: {e}")
            for path in (inputs, outputs):
                path.unlink(missing_ok=True)


def run(folder: Path, o: argparse.Namespace, tally: Tally) -> None:
    """Everything, into the tally; what is stopped in the middle leaves there what was seen."""
    data = MODELS / "data"
    ring, batch, train = o.ring, o.batch, np.load(data / "digits-train.npy")
    tests, labels = np.load(data / "digits-test.npy"), np.load(data / "digits-test-labels.npy")
    x = tests[:batch]
    program = glyphc.compile(MODELS / "digits-mlp.onnx", calibration=train, batch=batch, insecure_ring=ring)
    expected, simulated = program.run(x, mode="clear"), program.run(x, mode="simulate")
    bound = SIGMAS * float(np.abs(simulated - expected).max())
    accounts, port = _accounts(folder, program, o.clients, ring), _free_port()
    url, small = f"http://127.0.0.1:{port}", ["--insecure"] if ring else []
    with ExitStack() as stack:
        trainer = Trainer(folder / "training", tests, labels, ring, tally.round) if o.kills and ring else None
        if trainer is not None:
            stack.callback(trainer.stop)
        service = Supervised(folder, port, ["--workers", str(o.workers), *small])
        stack.callback(service.stop)
        for token, client in accounts:
            with Client(url, token, patience=PATIENCE) as api:
                api.upload_keys(client / "server" / "evaluation.keys")
        start = time.monotonic()
        bench = Bench(folder, x, expected, bound, o.jobs, start + 60 * o.minutes, tally)
        stack.callback(bench.ended.set)
        works = [(one_client, (url, token, load_account(client / "client"), bench)) for token, client in accounts]
        others = [
            (watch_memory, (service, bench)),
            (kill, (service, trainer, bench, o.kills, o.every)),
            (record, (o, tally, start, bench.ended)),
        ]
        # daemons: a client that waits for what never comes does not keep this process
        threads = [threading.Thread(target=target, args=given, daemon=True) for target, given in (*works, *others)]
        stack.callback(write, o, tally)
        for thread in threads:
            thread.start()
        for thread in threads[: len(works)]:
            thread.join(max(0.0, bench.end + 60 * o.grace - time.monotonic()))
        tally.seconds = time.monotonic() - start
        bench.ended.set()
        for thread in threads[len(works) :]:
            thread.join(RECORD_SECONDS)
        if trainer is not None and not trainer.stop(60 * o.grace):
            tally.state = f"done, but for a training run that did not end in {o.grace:g} minutes"
        else:
            tally.state = "done"


def record(o: argparse.Namespace, tally: Tally, start: float, ended: threading.Event) -> None:
    """Now and then a line of progress, and the table."""
    while not ended.wait(RECORD_SECONDS):
        tally.seconds = time.monotonic() - start
        print(f"{tally.seconds:5.0f} s: {tally.line}", file=sys.stderr, flush=True)
        write(o, tally)


def write(o: argparse.Namespace, tally: Tally) -> None:
    if o.output:
        write_atomically(o.output, table(o, tally).encode())


def table(o: argparse.Namespace, tally: Tally) -> str:
    """As Markdown."""
    waits = np.array(tally.waits or [np.nan])
    security = f"ring {o.ring}, NOT SECURE" if o.ring else "128-bit security"
    columns = {
        "clients": f"{o.clients}",
        "workers": f"{o.workers}",
        "jobs": f"{len(tally.waits)}",
        "lost": f"{len(tally.lost)}",
        "wrong": f"{tally.wrong}",
        "unfinished": f"{tally.unfinished}",
        "jobs an hour": f"{len(tally.waits) / max(tally.seconds, 1.0) * 3600:,.0f}",
        "wait p50 s": f"{np.percentile(waits, 50):.2f}",
        "wait p99 s": f"{np.percentile(waits, 99):.2f}",
        "peak GB": f"{tally.peak / 1e9:.2f}",
        "killed": ", ".join(f"{kind} {count}" for kind, count in sorted(tally.killed.items())) or "none",
        "trainer": f"{tally.rounds} runs, {tally.other} with other bits" if o.kills and o.ring else "none",
    }
    rows = (columns, ["---"] * len(columns), columns.values())
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + (
        f"\n\ndigits-mlp, {o.batch} samples a job, {security}; {tally.killed.total()} of {o.kills} kills, "
        f"{o.every:g} s apart on average, in {tally.seconds:,.0f} s ({tally.state}); {this_machine().cores} cores of "
        f"{this_machine().processor}; load at the end {os.getloadavg()[0]:.1f}\n"
    )


def _accounts(folder: Path, program: Program, count: int, ring: int | None) -> list[tuple[str, Path]]:
    """Tokens and folders of so many clients, each with keys of its own."""
    program.save(folder / "digits.glyphc")
    (folder / "programs").mkdir()
    spec, half = folder / "digits.spec", folder / "programs" / "digits.server"
    _glyphc("split", folder / "digits.glyphc", "--client", spec, "--server", half)
    found = []
    for number in range(count):
        client = folder / f"client-{number}"
        small = ["--insecure"] if ring else []
        _glyphc("keygen", spec, "--client", client / "client", "--server", client / "server", *small)
        found.append((new_token(folder / "tokens", f"client-{number}"), client))
    return found


def _glyphc(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "glyphc", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=200, help="of all clients together, at least")
    parser.add_argument("--kills", type=int, default=0, help="of service, workers and trainer, at random moments")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which no job begins and nothing is killed")
    parser.add_argument("--grace", type=float, default=5.0, help="minutes after that, for jobs to end")
    parser.add_argument("--every", type=float, default=3.0, help="seconds between kills, on average")
    parser.add_argument("--batch", type=int, default=8, help="samples in a job")
    parser.add_argument("--ring", type=int, help="a small, insecure ring")
    parser.add_argument("--workers", type=int, default=2, help="evaluations at once")
    parser.add_argument("--output", type=Path, help="also write the table to this file, every few seconds")
    o = parser.parse_args()
    # as Ctrl-C does: service and trainer end, the table is written
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tally = Tally()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, suppress(KeyboardInterrupt):
        run(Path(folder), o, tally)
    for text in tally.lost:
        print(f"lost {text}", file=sys.stderr)
    print(table(o, tally))
    sys.exit(bool(tally.lost or tally.wrong or tally.other or tally.unfinished or tally.state != "done"))


if __name__ == "__main__":
    main()
