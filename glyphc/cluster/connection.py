"""Where a cluster is, how to get there and back when it was away, and whether its workers are fit for a program."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from glyphc.analysis.kernels_cost import more_bytes
from glyphc.backends.engine import FIRST_USE
from glyphc.ir.integer_parameters import ProgramParameters

from . import worker
from .distribution import ClusterError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

# How long a scheduler may be away unless it is said, and how often a task may lose its worker.
AWAY_SECONDS = 120.0
LOSSES = 10
# Until a scheduler that does not answer, and one that has no workers, count as away; then both are asked again.
_CONNECT_SECONDS, _WORKERS_SECONDS = 5.0, 10.0
LOCAL = "local"
Told = Callable[[str], None]


@dataclass(frozen=True)
class Address:
    """Where the cluster is. local: worker processes of this one, 0 for one elsewhere; url: of its scheduler.

    tls: a folder with ca.pem, cert.pem and key.pem, or None.
    """

    local: int
    url: str
    tls: Path | None

    @staticmethod
    def read(text: str, tls: Path | None = None) -> Address:
        """``local``, ``local:N``, or a scheduler's address; ClusterError for others.

        Dask executes what its peers send: without TLS only this machine's own addresses are taken.
        """
        if text == LOCAL or text.startswith(LOCAL + ":"):
            count = text.partition(":")[2] or str(os.cpu_count() or 1)
            if not count.isdecimal() or not 0 < int(count) <= 64:
                raise ClusterError(f"--cluster {text!r}: local:N takes a number of worker processes, 1 to 64")
            return Address(int(count), "", None)
        url = urlsplit(text)
        if url.scheme not in ("tcp", "tls") or not url.hostname or not url.port:
            raise ClusterError(f"--cluster {text!r} is neither local[:N] nor a scheduler such as tls://host:8786")
        if url.scheme == "tcp" and not _loopback(url.hostname):
            raise ClusterError(
                f"--cluster {text!r}: workers and scheduler execute what is sent to them, so beyond this machine they "
                "have to show certificates: start them with tls:// and name a folder of ca.pem, cert.pem and key.pem "
                "with --cluster-tls"
            )
        if url.scheme == "tls" and tls is None:
            raise ClusterError(f"--cluster {text!r} needs --cluster-tls, a folder of ca.pem, cert.pem and key.pem")
        return Address(0, text, tls)


@dataclass(frozen=True)
class Workers:
    """hosts: by the workers' addresses; compile: whether some of them compile the kernels that they are to use."""

    hosts: Mapping[str, str]
    compile: bool

    def __str__(self) -> str:
        return f"{len(self.hosts)} workers" + (f", which first {FIRST_USE}" if self.compile else "")


def fit(cluster: Client, engine: str, parameters: ProgramParameters, memory_bytes: float | None) -> Workers:
    """A cluster's workers; ClusterError where they are not all fit for a program of such parameters.

    memory_bytes: predicted of one process, without what more threads keep; None where workers have it already.
    """
    found = cluster.run(worker.describe)
    if not found:
        raise ConnectionError("its scheduler has lost its workers")
    versions, own = {str(about["version"]) for about in found.values()}, version("glyphc")
    if versions != {own}:
        raise ClusterError(f"workers have glyphc {', '.join(sorted(versions))}, here it is {own}")
    unfit = [name for name, about in found.items() if engine not in str(about["engines"]).split(",")]
    if unfit:
        raise ClusterError(f"worker {unfit[0]} cannot use the engine {engine!r}, which the keys are for")
    if memory_bytes is not None:
        _check_memory(list(found.values()), engine, parameters, memory_bytes)
    first = engine == "kernels" and any(about["compiles"] for about in found.values())
    return Workers({name: str(about["host"]) for name, about in found.items()}, first)


def _check_memory(
    workers: Sequence[Mapping[str, Any]], engine: str, parameters: ProgramParameters, memory_bytes: float
) -> None:
    """ClusterError where those of one host take more than it has."""
    for host in sorted({about["host"] for about in workers}):
        here = [about for about in workers if about["host"] == host]
        each = [memory_bytes + more_bytes(parameters, engine, about["threads"]) for about in here]
        # what workers hold of an earlier request, they give up
        memory = max(about["memory"] for about in here) + sum(about["held"] for about in here)
        if sum(each) > memory:
            raise ClusterError(
                f"{len(here)} workers on {host} need about {sum(each) / 1e9:.1f} GB of memory, "
                f"{memory / 1e9:.1f} GB are available; start {int(memory // max(each))} there"
            )


def result(future: Any, what: str) -> tuple[Any, ...] | None:
    """What a task gave, but for its outcome; None where its worker lacked files, which began later than they came.

    ClusterError for a task that failed, or that workers died of; ConnectionError where it was lost with the scheduler.
    """
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        outcome, error, *found = future.result()
    except KilledWorker as e:
        raise ClusterError(f"{what}: {LOSSES} workers died of it; they may have run out of memory") from e
    except FutureCancelledError as e:
        raise ConnectionError("the scheduler has lost what it was asked") from e
    if outcome == worker.Outcome.FAILED.value:
        raise ClusterError(f"{what}: {error}")
    return None if outcome == worker.Outcome.MISSING.value else tuple(found)


class Fruitless:
    """Counts rounds in which workers did nothing; ClusterError when these are too many in a row."""

    def __init__(self) -> None:
        self._rounds = 0

    def round(self, fruit: bool) -> None:
        self._rounds = 0 if fruit else self._rounds + 1
        if self._rounds > LOSSES:
            raise ClusterError("workers come and go without doing anything; their logs say more")


def work_on(
    url: str,
    security: Security | None,
    work: Callable[[Client], None],
    done: Callable[[], bool],
    patience: float,
    away: Told,
) -> None:
    """Do work until all of it is done, anew whenever the scheduler was gone, or had lost all its workers."""
    since: float | None = None
    while not done():
        try:
            with connected(url, security) as client:
                _meet(client)
                if since is not None:
                    away("")
                since = None
                work(client)
        except (OSError, asyncio.TimeoutError) as e:
            if since is None:
                since = time.monotonic()
                away(f"the cluster at {url} is away: {str(e) or 'it does not answer'}")
            if time.monotonic() - since > patience:
                raise ClusterError(f"the cluster at {url} cannot be reached: {e}") from None
            time.sleep(1.0)


def _meet(cluster: Client) -> None:
    """Wait for a worker; ConnectionError where none comes."""
    try:
        cluster.wait_for_workers(1, timeout=_WORKERS_SECONDS)
    except asyncio.TimeoutError:
        raise ConnectionError("its scheduler has no workers") from None


@contextmanager
def scheduler(address: Address) -> Iterator[tuple[str, Security | None]]:
    """The scheduler's address, one of this process's own where the workers are; and what its peers have to show."""
    from distributed.security import Security

    if not address.local:
        security = None
        if address.tls is not None:
            ca, certificate, key = (os.fspath(address.tls / f"{name}.pem") for name in ("ca", "cert", "key"))
            security = Security(
                tls_ca_file=ca, tls_client_cert=certificate, tls_client_key=key, require_encryption=True
            )
        yield address.url, security
        return
    from distributed import LocalCluster

    # certificates of their own keep other users of this machine out, whom Dask would let execute anything
    security = Security.temporary()
    threads = max(1, (os.cpu_count() or 1) // address.local)
    with (
        _environment(OMP_NUM_THREADS=str(threads), NUMBA_NUM_THREADS=str(threads)),
        LocalCluster(
            n_workers=address.local,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            security=security,
            dashboard_address=None,
            memory_limit=0,
            silence_logs=50,
        ) as cluster,
    ):
        yield cluster.scheduler_address, security


@contextmanager
def connected(url: str, security: Security | None) -> Iterator[Client]:
    import dask
    from distributed import Client

    with dask.config.set({"distributed.scheduler.allowed-failures": LOSSES}):
        client = Client(url, security=security, timeout=_CONNECT_SECONDS, set_as_default=False)
    try:
        yield client
    finally:
        with suppress(OSError, asyncio.TimeoutError):
            client.close(timeout=5)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables that processes started meanwhile inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def need_dask() -> None:
    """ClusterError where Dask is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise ClusterError("--cluster needs Dask: pip install 'glyphc[cluster]'") from None
