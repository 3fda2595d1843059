"""A scheduler and workers as processes of their own, for tests of clusters."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

from glyphc.cluster.connection import Address, connected, scheduler
from tests.network_hosts import Hosts
from tests.roles import environment


class Processes:
    """A scheduler and workers, each a process that was started as an operator would.

    tls: folder with their certificates. hosts: the scheduler is on the first, workers on the others, one on each. A
    context manager, which stops them.
    """

    def __init__(self, folder: Path, scheme: str = "tcp", tls: Path | None = None, hosts: Hosts | None = None) -> None:
        self.folder, self.scheme, self.tls, self.hosts = folder, scheme, tls, hosts
        self.options = (
            []
            if tls is None
            else [f"--tls-ca-file={tls}/ca.pem", f"--tls-cert={tls}/cert.pem", f"--tls-key={tls}/key.pem"]
        )
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self._address(1)}:{self.port}"

    def _address(self, host: int) -> str:
        return self.hosts.address(host) if self.hosts else "127.0.0.1"

    def _start(self, host: int, *command: str) -> subprocess.Popen[bytes]:
        log = open(self.folder / "log", "ab")  # noqa: SIM115
        module = [sys.executable, "-m", "distributed.cli." + command[0], *command[1:], *self.options]
        where, more = (self.hosts.command(host), {"TMPDIR": str(self.hosts.private)}) if self.hosts else ([], {})
        return subprocess.Popen([*where, *module], env=environment(**more), stdout=log, stderr=log, cwd=self.folder)

    def start(self, workers: int) -> list[subprocess.Popen[bytes]]:
        """A scheduler and so many workers, which have joined; the workers."""
        self.start_scheduler()
        started = [self.start_worker() for _ in range(workers)]
        self.wait_for_workers(workers)
        return started

    def start_scheduler(self) -> None:
        if not self.port:
            with socket.socket() as found:
                found.bind(("127.0.0.1", 0))
                self.port = found.getsockname()[1]
        self.scheduler = self._start(1, "dask_scheduler", "--host", self.url, "--no-dashboard", "--no-show")

    def start_worker(self) -> subprocess.Popen[bytes]:
        host = 2 + len(self.workers)
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", self._address(host))
        process = self._start(host, "dask_worker", self.url, *options)
        self.workers.append(process)
        return process

    def wait_for_workers(self, count: int) -> None:
        """Until so many have joined; the scheduler may still be starting."""
        with scheduler(Address.read(self.url, self.tls)) as (url, security):
            for _ in range(10):
                try:
                    with connected(url, security) as cluster:
                        cluster.wait_for_workers(count, timeout=120)
                        return
                except OSError:
                    time.sleep(1.0)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            process.kill()
            process.wait()
