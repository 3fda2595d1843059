"""A scheduler and workers as processes of their own, for tests of clusters."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

from distributed.security import Security

from glyphc.cluster.connection import connected
from tests.roles import environment


class Processes:
    """A scheduler and workers, each a process that was started as an operator would."""

    def __init__(self, folder: Path, scheme: str = "tcp", tls: Path | None = None) -> None:
        self.folder, self.scheme = folder, scheme
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
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        log = open(self.folder / "log", "ab")  # noqa: SIM115
        module = [sys.executable, "-m", "distributed.cli." + command[0], *command[1:], *self.options]
        return subprocess.Popen(module, env=environment(), stdout=log, stderr=log, cwd=self.folder)

    def start_scheduler(self) -> None:
        if not self.port:
            with socket.socket() as found:
                found.bind(("127.0.0.1", 0))
                self.port = found.getsockname()[1]
        self.scheduler = self._start(
            "dask_scheduler", "--host", f"{self.scheme}://127.0.0.1:{self.port}", "--no-dashboard", "--no-show"
        )

    def start_worker(self) -> subprocess.Popen[bytes]:
        process = self._start(
            "dask_worker", self.url, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"
        )
        self.workers.append(process)
        return process

    def stop(self) -> None:
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            process.kill()
            process.wait()


def wait_for_workers(url: str, count: int, security: Security | None = None) -> None:
    """Until so many have joined; the scheduler may still be starting."""
    for _ in range(10):
        try:
            with connected(url, security) as cluster:
                cluster.wait_for_workers(count, timeout=120)
                return
        except OSError:
            time.sleep(1.0)
