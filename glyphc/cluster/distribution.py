"""Brings a file to all workers of a cluster: to one host, which passes it on, so that each round doubles who has it.

Keys are gigabytes: sent by the coordinator to one host after another they would take longer than the work that more
than a few workers save (``forecast``).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glyphc.errors import EnvironmentSetupError
from glyphc.progress import Reporter

from . import worker
from .worker import FileKind

if TYPE_CHECKING:
    from distributed import Client

CHUNK = 16 << 20
# In which a chunk has to get from one worker to the other, or one of them counts as lost.
_CHUNK_SECONDS = 120.0


class ClusterError(EnvironmentSetupError):
    """The cluster cannot be reached, is not fit for this program, or a worker could not do its task."""


def asked(cluster: Client, name: str, function: Any, *arguments: object) -> Any:
    """What a function says on one worker."""
    return cluster.run(function, *arguments, workers=[name])[name]


def distribute(
    cluster: Client, hosts: Mapping[str, str], kind: FileKind, path: Path, digest: str, reporter: Reporter
) -> None:
    """All workers have the file from then on. hosts: by the workers' addresses; of each, one receives it.

    ClusterError where a worker cannot keep it, ConnectionError where one was lost meanwhile.
    """
    here = os.fspath(path.resolve())
    lacking = [name for name in hosts if not asked(cluster, name, worker.holds, kind.value, digest, here)]
    while lacking:
        # by host, so that one is the source, or the target, of one transfer at a time
        sources = {hosts[name]: name for name in hosts if name not in lacking}
        targets = {hosts[name]: name for name in lacking}
        if sources:
            pairs = list(zip(sources.values(), targets.values(), strict=False))
            _pass_on(cluster, pairs, kind, digest, path.stat().st_size, reporter)
            reached = [target for _, target in pairs]
        else:
            reached = [next(iter(targets.values()))]
            _send(cluster, reached[0], kind, path, digest, reporter)
        lacking = [name for name in lacking if not asked(cluster, name, worker.holds, kind.value, digest, here)]
        if missed := [name for name in reached if name in lacking]:
            raise ClusterError(f"worker {missed[0]} could not keep the {kind.value}")


def _send(cluster: Client, name: str, kind: FileKind, path: Path, digest: str, reporter: Reporter) -> None:
    """From the coordinator to a worker."""
    size, sender = path.stat().st_size, secrets.token_hex(8)
    reporter.stage(f"send {kind.value} to {name}", size)
    with open(path, "rb") as file:
        for offset in range(0, size, CHUNK):
            chunk = file.read(CHUNK)
            _check(name, kind, asked(cluster, name, worker.receive, kind.value, digest, sender, offset, chunk, size))
            reporter.advance(len(chunk), kind.value)


def _pass_on(
    cluster: Client, pairs: list[tuple[str, str]], kind: FileKind, digest: str, size: int, reporter: Reporter
) -> None:
    """From workers to workers, all pairs at the same time; the chunks do not pass here."""
    from distributed import KilledWorker
    from distributed import TimeoutError as LateError
    from distributed.client import FutureCancelledError

    sender = secrets.token_hex(8)
    reporter.stage(f"{len(pairs)} workers pass {kind.value} on", size)
    for offset in range(0, size, CHUNK):
        kept = []
        for source, target in pairs:
            chunk = cluster.submit(worker.read, digest, offset, CHUNK, workers=[source], pure=False)
            arguments = (kind.value, digest, sender, offset, chunk, size)
            kept.append(cluster.submit(worker.receive, *arguments, workers=[target], pure=False))
        for (source, target), future in zip(pairs, kept, strict=True):
            try:
                _check(target, kind, future.result(timeout=_CHUNK_SECONDS))
            except (LateError, KilledWorker, FutureCancelledError):
                lost = f"worker {source} or {target} was lost while it passed the {kind.value} on"
                raise ConnectionError(lost) from None
        reporter.advance(min(CHUNK, size - offset), kind.value)


def _check(name: str, kind: FileKind, problem: str) -> None:
    if problem:
        raise ClusterError(f"worker {name} could not keep the {kind.value}: {problem}")
