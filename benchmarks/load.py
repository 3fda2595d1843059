"""Many clients on one service, which is killed again and again: jobs per hour, waiting times, memory, what was lost.

    python benchmarks/load.py --clients 10 --jobs 200 --kills 50 [--ring 1024] [--batch 8] [--workers 2] [--output F.md]

Service, workers and, with a small ring, a training run beside them are processes of their own, killed (SIGKILL) at
random moments; a killed service or run is started again. There are as many jobs as it takes until all kills are done.
Every result is decrypted and compared with the simulated run's error. Without --ring at 128-bit security, where a job
takes seconds and a client's keys gigabytes; a small ring is insecure and shows what the service does, not how fast.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from load_trainer import Trainer

import glyphc
from glyphc.exchange.client import Account, load_account
from glyphc.measure import this_machine
from glyphc.program import Program
from glyphc.service.client import Client
from glyphc.service.settings import new_token

MODELS = Path(__file__).resolve().parents[1] / "models"
# Times the deviation that a simulated run shows, beyond which a result counts as wrong.
SIGMAS = 8.0
# Seconds for which clients ask again when the service is down.
PATIENCE = 600.0


@dataclass
class Tally:
    """waits: seconds from submission to result, by job; wrong: results beyond the bound; lost: jobs without one."""

    waits: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: list[str] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    peak: int = 0


@dataclass
class Bench:
    """What all clients share. expected: results in the clear, shape (batch, outputs); bound: allowed beyond them; jobs:
    at least; killed: all kills are done; ended: all jobs are."""

    folder: Path
    x: Any
    expected: Any
    bound: float
    jobs: int
    begun: int = 0
    tally: Tally = field(default_factory=Tally)
    lock: Any = field(default_factory=threading.Lock)
    killed: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def next_job(self) -> int | None:
        """Its number; None when there were enough."""
        with self.lock:
            if self.begun >= self.jobs and self.killed.is_set():
                return None
            self.begun += 1
            return self.begun


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
        self.process.terminate()
        self.process.wait()
        self.log.close()


def kill(service: Supervised, trainer: Trainer | None, bench: Bench, count: int, seconds: float, most: float) -> None:
    """At random moments, on average so many seconds apart: a worker half of the times, else the service or the trainer.

    What is not there at a moment is not killed then. most: seconds after which no more are killed.
    """
    chance, tally, end = random.Random(0), bench.tally, time.monotonic() + most
    while tally.killed.total() < count and time.monotonic() < end:
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
                bench.tally.wrong += int(np.abs(logits - bench.expected).max() > bench.bound)
            except glyphc.GlyphcError as e:
                bench.tally.lost.append(f"{number}: {e}")
            for path in (inputs, outputs):
                path.unlink(missing_ok=True)
            print(f"{len(bench.tally.waits)} done, {len(bench.tally.lost)} lost", end="\r", file=sys.stderr)


def run(folder: Path, o: argparse.Namespace) -> tuple[Tally, float, str]:
    """Everything; the tally, seconds from the first job to the last, and what became of the trainer."""
    data = MODELS / "data"
    ring, batch, train = o.ring, o.batch, np.load(data / "digits-train.npy")
    x = np.load(data / "digits-test.npy")[:batch]
    program = glyphc.compile(MODELS / "digits-mlp.onnx", calibration=train, batch=batch, insecure_ring=ring)
    expected, simulated = program.run(x, mode="clear"), program.run(x, mode="simulate")
    bench = Bench(folder, x, expected, SIGMAS * float(np.abs(simulated - expected).max()), o.jobs)
    accounts, port = _accounts(folder, program, o.clients, ring), _free_port()
    labels = np.load(data / "digits-test-labels.npy")
    trainer = (
        Trainer(folder / "training", np.load(data / "digits-test.npy"), labels, ring) if o.kills and ring else None
    )
    small = ["--insecure"] if ring else []
    service = Supervised(folder, port, ["--workers", str(o.workers), *small])
    url = f"http://127.0.0.1:{port}"
    try:
        for token, client in accounts:
            with Client(url, token, patience=PATIENCE) as api:
                api.upload_keys(client / "server" / "evaluation.keys")
        threads = [
            threading.Thread(target=one_client, args=(url, token, load_account(client / "client"), bench))
            for token, client in accounts
        ]
        killing = (service, trainer, bench, o.kills, o.every, 60 * o.minutes)
        others = [
            threading.Thread(target=watch_memory, args=(service, bench)),
            threading.Thread(target=kill, args=killing),
        ]
        start = time.monotonic()
        for thread in (*threads, *others):
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - start
        bench.ended.set()
        for thread in others:
            thread.join()
        if trainer is None:
            return bench.tally, seconds, "none"
        trainer.stop()
        bench.tally.wrong += trainer.wrong
        return bench.tally, seconds, f"{trainer.rounds} runs, {trainer.wrong} with other bits"
    finally:
        bench.ended.set()
        service.stop()
        if trainer is not None:
            trainer.stop()


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
    parser.add_argument("--minutes", type=float, default=60.0, help="after which no more are killed")
    parser.add_argument("--every", type=float, default=3.0, help="seconds between kills, on average")
    parser.add_argument("--batch", type=int, default=8, help="samples in a job")
    parser.add_argument("--ring", type=int, help="a small, insecure ring")
    parser.add_argument("--workers", type=int, default=2, help="evaluations at once")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally, seconds, trained = run(Path(folder), o)
    for text in tally.lost:
        print(f"lost {text}", file=sys.stderr)
    waits = np.array(tally.waits or [np.nan])
    security = f"ring {o.ring}, NOT SECURE" if o.ring else "128-bit security"
    columns = {
        "clients": f"{o.clients}",
        "workers": f"{o.workers}",
        "jobs": f"{len(tally.waits)}",
        "lost": f"{len(tally.lost)}",
        "wrong": f"{tally.wrong}",
        "jobs an hour": f"{len(tally.waits) / seconds * 3600:,.0f}",
        "wait p50 s": f"{np.percentile(waits, 50):.2f}",
        "wait p99 s": f"{np.percentile(waits, 99):.2f}",
        "peak GB": f"{tally.peak / 1e9:.2f}",
        "killed": ", ".join(f"{kind} {count}" for kind, count in sorted(tally.killed.items())) or "none",
        "trainer": trained,
    }
    rows = (columns, dict.fromkeys(columns, "---"), columns.values())
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows) + (
        f"\n\ndigits-mlp, {o.batch} samples a job, {security}; {this_machine().cores} cores of "
        f"{this_machine().processor}; load at the end {os.getloadavg()[0]:.1f}\n"
    )
    print(table)
    if o.output:
        o.output.write_text(table)
    sys.exit(bool(tally.lost or tally.wrong))


if __name__ == "__main__":
    main()
