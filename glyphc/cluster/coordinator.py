"""Hands the passes of an evaluation to workers of a Dask cluster, and gathers their outputs in one file.

A worker that dies has its tasks run by others; a scheduler that goes away is waited for, and what was not done is
handed out again. The outputs are those of one machine, bit for bit, unless they are sanitized.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glyphc.analysis import cost_file
from glyphc.analysis.estimate import estimate
from glyphc.analysis.kernels_cost import for_engine
from glyphc.exchange.artifacts import ServerProgram
from glyphc.exchange.parts import input_places, pass_count
from glyphc.exchange.requests import Request, check_request
from glyphc.exchange.server import EvaluationReport
from glyphc.progress import Reporter, Silent
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import InputsHeader, KeysHeader, OutputsHeader, ProgramHeader

from . import worker
from .connection import AWAY_SECONDS, Address, Fruitless, Told, fit, result, scheduler, work_on
from .distribution import ClusterError, distribute
from .worker import FileKind

if TYPE_CHECKING:
    from distributed import Client

# Passes that are handed out for each worker at a time.
_AHEAD = 2


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
    with scheduler(address) as (url, security):
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
        self._fruitless = Fruitless()
        self._told = 0

    @property
    def missing(self) -> list[int]:
        return [number for number in range(self.passes) if number not in self.done]

    def work(self, cluster: Client) -> None:
        """All that is missing; OSError when the scheduler goes away meanwhile."""
        from distributed import as_completed

        cost = for_engine(cost_file.current(), self.engine)
        schedule = self.program.schedule
        memory = None if self.done else estimate(schedule, cost, 0).memory_bytes
        workers = fit(cluster, self.engine, schedule.parameters, memory)
        digests = {}
        for kind, path, digest in self.files.each():
            distribute(cluster, workers.hosts, kind, path, digest, self.reporter)
            digests[kind] = digest
        count = len(workers.hosts)
        if self._told != count:
            self.reporter.stage(f"evaluate on {workers}", self.passes)
            self.reporter.advance(len(self.done), "done before")
            self._told = count
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
            first = [submit(reader, number) for number in islice(waiting, _AHEAD * count)]
            running = as_completed(first, loop=cluster.loop)
            for future in running:
                self._finished(futures.pop(future), future)
                for number in islice(waiting, 1):
                    running.add(submit(reader, number))
        self._fruitless.round(len(self.done) > before)

    def _finished(self, number: int, future: Any) -> None:
        found = result(future, f"pass {number + 1}")
        if found is None:
            return
        bits, parts = found
        if self.bits not in (0, bits):
            raise ClusterError("workers disagree on the outputs' modulus; do they run the same glyphc?")
        self.bits, self.done[number] = bits, parts
        self.reporter.advance(1, f"pass {number + 1}")
        future.release()

    def _parts(self, reader: Reader[InputsHeader], number: int) -> dict[str, bytes]:
        return {
            place.name: reader.read(place.name) for place in input_places(self.client, self.request.samples, number)
        }

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
