"""A process that evaluates: one program with one client's keys, as many requests as come. Needs no secret.

Started by ``scheduler`` with two files, a program and evaluation keys, and perhaps with a cluster's address, to which
it hands the passes then; or with the folder of a training run, which has both. Reads one request per line from its
standard input, writes events as lines to its standard output (both JSON), and ends with its input, or with its parent.
"""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from glyphc.backends.processes import end_with_parent
from glyphc.cluster import coordinator
from glyphc.cluster.connection import Address
from glyphc.cluster.distribution import ClusterError
from glyphc.errors import CheckpointError, GlyphcError
from glyphc.exchange.artifacts import ServerProgram
from glyphc.exchange.server import EvaluationReport, Evaluator
from glyphc.exchange.training_infer import Answerer
from glyphc.exchange.trips import answers
from glyphc.progress import Reporter, Silent


@dataclass(frozen=True)
class Order:
    """A request to a worker."""

    inputs: str
    output: str
    checkpoint: str
    flooding_bits: int

    @staticmethod
    def read(line: str) -> Order:
        tree = json.loads(line)
        return Order(**{f.name: tree[f.name] for f in fields(Order)})

    def line(self) -> bytes:
        return (json.dumps(asdict(self)) + "\n").encode()


@dataclass(frozen=True)
class Event:
    """What a worker says. kind: progress, ready (keys loaded), away (the cluster: why, or nothing when it is back),
    done, waiting (for the client), error. share: of the work that is done."""

    kind: str
    what: str = ""
    share: float = 0.0
    resumed: int = 0

    @staticmethod
    def read(line: bytes) -> Event:
        tree = json.loads(line)
        return Event(**{f.name: tree[f.name] for f in fields(Event)})

    def say(self, out: Any) -> None:
        out.write(json.dumps(asdict(self)) + "\n")
        out.flush()


class _Speaker(Silent):
    """Progress as events."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self._stage, self._total, self._done, self._note = "", 1.0, 0.0, ""

    def stage(self, name: str, total: float) -> None:
        self._stage, self._total, self._done = name + self._note, total or 1.0, 0.0
        # what advances by nothing for long is not to look like what was before
        Event("progress", self._stage).say(self._out)

    def note(self, text: str) -> None:
        self._note = text

    def advance(self, amount: float, what: str = "") -> None:
        self._done += amount
        Event("progress", f"{self._stage}: {what}", min(1.0, self._done / self._total)).say(self._out)

    def away(self, reason: str) -> None:
        """Why the cluster cannot be reached, or that it is back."""
        Event("away", reason).say(self._out)


class Evaluate(Protocol):
    """Does what an order says. reporter: also told when the cluster is away."""

    def __call__(self, order: Order, reporter: _Speaker) -> EvaluationReport: ...


def _alone(program: ServerProgram, keys: Path, reporter: Reporter) -> Evaluate:
    """In this process, with keys that stay in memory."""
    evaluator = Evaluator(program, keys, reporter)

    def evaluate(order: Order, reporter: _Speaker) -> EvaluationReport:
        inputs, output, checkpoint = Path(order.inputs), Path(order.output), Path(order.checkpoint)
        question, answer = (inputs.with_name(name) for name in ("question", "answer"))
        # after a crash it may be the answer to an earlier question
        said = answer if answers(answer, question) else None
        return evaluator.evaluate(
            inputs, output, checkpoint, order.flooding_bits, reporter, question=question, answer=said
        )

    return evaluate


def _shared(address: Address, files: coordinator.Files) -> Evaluate:
    """By the workers of a cluster, for which it waits without end. An order that is given again begins at its first
    pass."""

    def evaluate(order: Order, reporter: _Speaker) -> EvaluationReport:
        inputs, output = Path(order.inputs), Path(order.output)
        return coordinator.evaluate(
            address, files, inputs, output, order.flooding_bits, reporter, math.inf, reporter.away
        )

    return evaluate


def _trained(folder: Path) -> Evaluate:
    """By weights that were trained encrypted. A request that is given again begins at its first pass."""
    answerer = Answerer(folder)

    def evaluate(order: Order, reporter: _Speaker) -> EvaluationReport:
        done = answerer.answer(Path(order.inputs), Path(order.output), reporter=reporter)
        return EvaluationReport(0, done.passes, done.digest)

    return evaluate


def main(program_path: str, keys_path: str, cluster: str = "", tls: str = "") -> None:
    """cluster: the address of a Dask scheduler, tls: a folder of certificates for it, or nothing."""
    end_with_parent()
    # OpenFHE prints to standard output now and then: events keep a descriptor of their own
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        evaluate = _evaluate(Path(program_path), Path(keys_path), cluster, tls, _Speaker(out))
        Event("ready").say(out)
        for line in sys.stdin:
            _follow(evaluate, Order.read(line), out)
    except GlyphcError as e:
        Event("error", str(e)).say(out)
        sys.exit(e.exit_code)


def _evaluate(program_path: Path, keys: Path, cluster: str, tls: str, reporter: Reporter) -> Evaluate:
    if program_path.is_dir():
        return _trained(program_path)
    program = ServerProgram.load(program_path)
    # what asks its client on the way is evaluated by one process
    if cluster and not program.schedule.client.requests:
        address = Address.read(cluster, Path(tls) if tls else None)
        return _shared(address, coordinator.Files(program_path, keys))
    return _alone(program, keys, reporter)


def _follow(evaluate: Evaluate, order: Order, out: Any) -> None:
    for attempt in range(2):
        try:
            report = evaluate(order, _Speaker(out))
        except CheckpointError as e:
            if attempt:
                raise
            print(f"began anew: {e}", file=sys.stderr)
            Path(order.checkpoint).unlink(missing_ok=True)
        except ClusterError as e:
            # clients learn nothing of machines
            print(e, file=sys.stderr)
            Event("error", "the cluster cannot evaluate this; the service's log says why").say(out)
            return
        except GlyphcError as e:
            Event("error", str(e)).say(out)
            return
        else:
            if report.waiting is not None:
                Event("waiting", f"trip {report.waiting.number} of {report.waiting.trips}").say(out)
                return
            Event("done", report.digest, 1.0, report.resumed).say(out)
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
