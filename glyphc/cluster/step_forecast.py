"""What workers of a cluster make of a training run: predicted seconds, speed-up, and what limits it. Needs no Dask.

The tasks are those of ``step_tasks``, given out in the order of the longest chains that they begin, each to the
worker that can begin it earliest (as HEFT: Topcuoglu, Hariri and Wu, 2002, but without insertion).
What a task gives goes whole to every worker that needs some of it. Program and keys go to the hosts once, a batch and
the state before every step; hosts pass files on, so every round doubles who has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glyphc.analysis import cost_file
from glyphc.analysis.kernels_cost import for_engine
from glyphc.analysis.training_cost import Bootstraps, step_seconds
from glyphc.errors import ArtifactError
from glyphc.exchange.training_engines import check_form
from glyphc.exchange.training_files import KEYS, PROGRAM, Outline, ProgramFile, batch_path
from glyphc.exchange.training_room import ciphertext_bytes
from glyphc.ir.instructions import Code, Store
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingKeysHeader

from .distribution import ClusterError
from .forecast import LOAD_RATE, Forecast, Limit, rounds
from .step_tasks import Task, divide, live_limbs


def check_shared(outline: Outline) -> None:
    """ClusterError for runs that one server does."""
    if outline.kept:
        raise ClusterError(
            "this run has frozen layers that the server keeps, and one server computes these: leave --cluster out"
        )
    if outline.statistic:
        raise ClusterError(
            "this run gives its key holder something to watch (--monitor), which one server computes: leave "
            "--cluster out, or prepare it without --monitor"
        )


@dataclass(frozen=True)
class Step:
    """A training step as tasks. seconds: of all of it on one machine; parts: of each task; after: as of
    :class:`Task`; given: bytes that each task gives."""

    seconds: float
    parts: tuple[float, ...]
    after: tuple[tuple[int, ...], ...]
    given: tuple[float, ...]

    @staticmethod
    def of(program: ProgramFile, step: int, tasks: Sequence[Task], engine: str) -> Step:
        """Predicted for an engine. step: 0, 1, ..., which has these tasks."""
        outline, p, code = program.outline, program.parameters, program.code(step)
        live = live_limbs(code, outline.limbs, p.decoded_limbs - 1, p.slot_levels)
        limbs, cost = live | dict(outline.state), for_engine(cost_file.current(), engine)

        def seconds(code: Code) -> float:
            return step_seconds(code, limbs, dict(outline.data), p.decoded_limbs, Bootstraps.of(p), p.ring, cost)

        given = [sum(ciphertext_bytes(p, limbs[i.name]) for i in t.code if isinstance(i, Store)) for t in tasks]
        return Step(seconds(code), tuple(seconds(t.code) for t in tasks), tuple(t.after for t in tasks), tuple(given))

    @property
    def _to_the_end(self) -> list[float]:
        """Seconds of the longest chain that begins with each task."""
        found = list(self.parts)
        for task in reversed(range(len(found))):
            for n in self.after[task]:
                found[n] = max(found[n], self.parts[n] + found[task])
        return found

    @property
    def chain(self) -> float:
        """Seconds of the longest chain of tasks."""
        return max(self._to_the_end)

    def makespan(self, workers: int, rate: float) -> float:
        """Seconds with so many workers. rate: bytes a second from one to another."""
        rest, ready, end = self._to_the_end, [0.0] * workers, [0.0] * len(self.parts)
        where: dict[int, int] = {}
        # a task is behind those that it needs in this order, too: their chains are longer
        for task in sorted(range(len(self.parts)), key=lambda n: (-rest[n], n)):

            def begin(worker: int, task: int = task) -> float:
                arrivals = (end[n] + (0.0 if where[n] == worker else self.given[n] / rate) for n in self.after[task])
                return max((ready[worker], *arrivals))

            worker = min(range(workers), key=begin)
            end[task] = ready[worker] = begin(worker) + self.parts[task]
            where[task] = worker
        return max(end)


@dataclass(frozen=True)
class TrainingLoad:
    """A run. steps: each kind, and how often it is done; file_bytes: of program and keys; batch_bytes, state_bytes: of
    one; memory_bytes: of a worker; rate: bytes a second of the network."""

    steps: tuple[tuple[Step, int], ...]
    file_bytes: float
    batch_bytes: float
    state_bytes: float
    memory_bytes: int
    rate: float

    @staticmethod
    def of(folder: Path, rate: float, engine: str | None = None) -> TrainingLoad:
        """Of what 'glyphc training prepare' has put into the server's folder, for the engine of its keys.

        ArtifactError for files that are missing or damaged, or where ``engine`` is another one.
        """
        with ProgramFile(folder / PROGRAM) as program, Reader(folder / KEYS, TrainingKeysHeader) as keys:
            engine = check_form(keys, program.parameters, engine)
            outline, p = program.outline, program.parameters
            check_shared(outline)
            counts = Counter(outline.step_codes)
            firsts = {number: outline.step_codes.index(number) for number in counts}
            steps = [
                (Step.of(program, first, divide(program.code(first)), engine), counts[number])
                for number, first in firsts.items()
            ]
            files = sum((folder / name).stat().st_size for name in (PROGRAM, KEYS))
            path = batch_path(folder, outline.step_batches[0])
            if not path.exists():
                raise ArtifactError(f"{str(path)!r} is missing; where data owners encrypt, wait for the first batch")
            batch = path.stat().st_size
            state = sum(ciphertext_bytes(p, limbs) for _, limbs in outline.state)
            return TrainingLoad(tuple(steps), files, batch, state, program.memory_bytes, rate)

    @property
    def count(self) -> int:
        """Of steps."""
        return sum(count for _, count in self.steps)

    @property
    def most(self) -> int:
        """Tasks of a step."""
        return max(len(step.parts) for step, _ in self.steps)


def forecast_training(load: TrainingLoad, workers: int) -> Forecast:
    """The model in the module's description, for 1 worker and more, each a host of its own; against one machine."""
    if workers < 1:
        raise ValueError("a cluster has a worker")
    busy = min(workers, load.most)
    # the state comes back after every step
    each = rounds(busy) * (load.batch_bytes + load.state_bytes) + load.state_bytes
    loading, sending = load.file_bytes / LOAD_RATE, rounds(busy) * load.file_bytes / load.rate
    spans = [(count * step.makespan(busy, load.rate), count, step) for step, count in load.steps]
    work, chain = sum(s for s, _, _ in spans), sum(count * step.chain for _, count, step in spans)
    shared = sum(count * sum(step.parts) / busy for _, count, step in spans)
    parts = {
        Limit.KEYS: sending,
        Limit.LOADING: loading,
        Limit.FILES: load.count * each / load.rate,
        Limit.CHAIN: chain if chain >= shared else 0.0,
        Limit.TASKS: shared if shared > chain else 0.0,
        Limit.LIVE: work - max(chain, shared),
    }
    seconds = sending + loading + work + parts[Limit.FILES]
    alone = loading + sum(count * step.seconds for step, count in load.steps)
    return Forecast(workers, seconds, alone / seconds, max(parts, key=lambda limit: parts[limit]))
