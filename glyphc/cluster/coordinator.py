"""Hands the passes of an evaluation to workers of a Dask cluster, and gathers their outputs in one file.

A worker that dies has its tasks run by others; a scheduler that goes away is waited for, and what was not done is
handed out again. The outputs are those of one machine, bit for bit, unless they are sanitized.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from glyphc.analysis import cost_file
from glyphc.analysis.estimate import estimate
from glyphc.analysis.kernels_cost import for_engine
from glyphc.exchange.artifacts import ServerProgram
from glyphc.exchange.parts import input_places, pass_count
from glyphc.exchange.server import EvaluationReport, Request, check_request
from glyphc.progress import Reporter, Silent
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import InputsHeader, KeysHeader, OutputsHeader, ProgramHeader

from . import worker
from .distribution import ClusterError, distribute
from .worker import FileKind

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

# How long a scheduler may be away unless it is said, and how often a task may lose its worker.
AWAY_SECONDS = 120.0
LOSSES = 10
# Until a scheduler that does not answer, and one that has no workers, count as away; then both are asked again.
_CONNECT_SECONDS, _WORKERS_SECONDS = 5.0, 10.0
Told = Callable[[str], None]
# Passes that are handed out for each worker at a time.
_AHEAD = 2
LOCAL = "local"


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
class Files:
    """What all workers need: a program and a client's evaluation keys, by path and digest."""

    program: Path
    keys: Path

    def each(self) -> Iterator[tuple[FileKind, Path, str]]:
        """Kind, path, digest."""
        with Reader(self.program, ProgramHeader) as program:
            yield FileKind.PROGRAM, self.program, program.digest
        with Reader(self.keys, KeysHeader) as keys:
            yield FileKind.KEYS, self.keys, keys.digest


def evaluate(
    address: Address,
    files: Files,
    inputs: Path,
    output: Path,
    flooding_bits: int = 0,
    reporter: Reporter | None = None,
    patience: float = AWAY_SECONDS,
    away: Told = lambda reason: None,
) -> EvaluationReport:
    """Evaluate a file of encrypted inputs to one of encrypted outputs, as ``Evaluator.evaluate`` does by itself.

    patience: seconds for which the cluster may be away, inf for a service, which waits; away: told why it is when it
    goes, and nothing when it is back. ClusterError when it stays away, is not fit for the program, or fails; nothing is
    written then.
    """
    program = ServerProgram.load(files.program)
    if program.schedule.client.requests:
        raise ClusterError("this program asks its client on the way, which one server does: leave --cluster out")
    with Reader(files.keys, KeysHeader) as keys:
        engine = keys.header.engine
        request = check_request(inputs, program, keys.digest, keys.header.modulus)
    job = _Job(program, files, engine, request, flooding_bits, reporter or Silent())
    start = time.perf_counter()
    with _scheduler(address) as (url, security):
        work_on(url, security, job.work, lambda: not job.missing, patience, away)
    digest = job.write(output)
    seconds = {"evaluate": time.perf_counter() - start}
    return EvaluationReport(request.samples, job.passes, digest, seconds=seconds)


class _Job:
    """done: outputs of finished passes; bits: of their modulus."""

    def __init__(
        self,
        program: ServerProgram,
        files: Files,
        engine: str,
        request: Request,
        flooding_bits: int,
        reporter: Reporter,
    ) -> None:
        self.program, self.files, self.engine, self.request = program, files, engine, request
        self.flooding_bits, self.reporter = flooding_bits, reporter
        self.client = program.schedule.client
        self.passes = pass_count(self.client, request.samples)
        self.done: dict[int, list[tuple[str, bytes]]] = {}
        self.bits = 0
        self._fruitless = 0
        self._told = 0

    @property
    def missing(self) -> list[int]:
        return [number for number in range(self.passes) if number not in self.done]

    def work(self, cluster: Client) -> None:
        """All that is missing; OSError when the scheduler goes away meanwhile."""
        from distributed import as_completed

        hosts = self._fit(cluster)
        digests = {}
        for kind, path, digest in self.files.each():
            distribute(cluster, hosts, kind, path, digest, self.reporter)
            digests[kind] = digest
        if self._told != len(hosts):
            self.reporter.stage(f"evaluate on {len(hosts)} workers", self.passes)
            self.reporter.advance(len(self.done), "done before")
            self._told = len(hosts)
        known = digests[FileKind.PROGRAM], digests[FileKind.KEYS]
        request = astuple(self.request)[1:]
        waiting, futures = iter(self.missing), {}
        before = len(self.done)

        def submit(reader: Reader[InputsHeader], number: int) -> Any:
            parts = self._parts(reader, number)
            future = cluster.submit(worker.evaluate, *known, request, number, parts, self.flooding_bits, pure=False)
            futures[future] = number
            return future

        with Reader(self.request.inputs, InputsHeader) as reader:
            # a few for each worker: inputs of all passes may be more than the scheduler's memory
            first = [submit(reader, number) for number in islice(waiting, _AHEAD * len(hosts))]
            running = as_completed(first, loop=cluster.loop)
            for future in running:
                self._finished(futures.pop(future), future)
                for number in islice(waiting, 1):
                    running.add(submit(reader, number))
        self._fruitless = 0 if len(self.done) > before else self._fruitless + 1
        if self._fruitless > LOSSES:
            raise ClusterError("workers come and go without doing anything; their logs say more")

    def _finished(self, number: int, future: Any) -> None:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        try:
            outcome, error, bits, parts = future.result()
        except KilledWorker as e:
            raise ClusterError(
                f"pass {number + 1}: {LOSSES} workers died of it; they may have run out of memory"
            ) from e
        except FutureCancelledError as e:
            raise ConnectionError("the scheduler has lost what it was asked") from e
        if outcome == worker.Outcome.MISSING.value:
            # a worker that began later: it gets the files, and the pass is handed out again
            return
        if outcome == worker.Outcome.FAILED.value:
            raise ClusterError(f"pass {number + 1}: {error}")
        if self.bits not in (0, bits):
            raise ClusterError("workers disagree on the outputs' modulus; do they run the same glyphc?")
        self.bits, self.done[number] = bits, parts
        self.reporter.advance(1, f"pass {number + 1}")
        future.release()

    def _parts(self, reader: Reader[InputsHeader], number: int) -> dict[str, bytes]:
        return {
            place.name: reader.read(place.name) for place in input_places(self.client, self.request.samples, number)
        }

    def _fit(self, cluster: Client) -> dict[str, str]:
        """Hosts by the addresses of their workers; ClusterError where they are not all fit for this program."""
        found = cluster.run(worker.describe)
        if not found:
            raise ConnectionError("its scheduler has lost its workers")
        versions, own = {str(about["version"]) for about in found.values()}, version("glyphc")
        if versions != {own}:
            raise ClusterError(f"workers have glyphc {', '.join(sorted(versions))}, here it is {own}")
        unfit = [name for name, about in found.items() if self.engine not in str(about["engines"]).split(",")]
        if unfit:
            raise ClusterError(f"worker {unfit[0]} cannot use the engine {self.engine!r}, which the keys are for")
        each = estimate(self.program.schedule, for_engine(cost_file.current(), self.engine)).memory_bytes
        hosts = Counter(about["host"] for about in found.values())
        for host, count in hosts.items():
            here = [about for about in found.values() if about["host"] == host]
            # what workers hold of an earlier request, they give up
            memory = max(int(about["memory"]) for about in here) + sum(int(about["held"]) for about in here)
            if not self.done and count * each > memory:
                raise ClusterError(
                    f"{count} workers on {host} need about {count * each / 1e9:.1f} GB of memory, "
                    f"{memory / 1e9:.1f} GB are available; start {int(memory // each)} there"
                )
        return {name: str(about["host"]) for name, about in found.items()}

    def write(self, output: Path) -> str:
        """The file of outputs; its digest."""
        r = self.request
        with Writer(
            output, OutputsHeader(r.program, r.key, r.digest, r.samples, self.bits, self.flooding_bits)
        ) as writer:
            for number in range(self.passes):
                for name, data in self.done[number]:
                    writer.add(name, data)
        return writer.digest


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
            with _connected(url, security) as client:
                _meet(client)
                if since is not None:
                    away("")
                since = None
                work(client)
        except (OSError, asyncio.TimeoutError) as e:
            if since is None:
                since = time.monotonic()
                away(f"the cluster at {url} is away: {e or 'it does not answer'}")
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
def _scheduler(address: Address) -> Iterator[tuple[str, Security | None]]:
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
def _connected(url: str, security: Security | None) -> Iterator[Client]:
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
