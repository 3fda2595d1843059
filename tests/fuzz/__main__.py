"""The long run: ``make fuzz``, or ``python -m tests.fuzz --minutes 60 --processes 2``. It goes on where it stopped.

--state FOLDER      where counters and failures are kept (default: .fuzz)
--target NAME       only this one (repeatable);  --number N: one input again, in this process, with its traceback
--report            print the counters and stop
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["GLYPHC_COST_MODEL"] = ""
os.environ.setdefault("GLYPHC_MEMORY_LIMIT", "1GB")

# Files that are written and read by the hundred thousand need no disk.
if Path("/dev/shm").is_dir():
    tempfile.tempdir = "/dev/shm"

from . import seeds
from .run import Count, Tally, data_of, feed, stretch
from .targets import TARGETS

# Inputs of one process: of a slow target, and of others.
_STRETCH = {True: 100, False: 2000}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--state", type=Path, default=Path(".fuzz"))
    parser.add_argument("--target", action="append", choices=list(TARGETS), default=[])
    parser.add_argument("--number", type=int)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    names = arguments.target or list(TARGETS)
    if arguments.number is not None:
        (name,) = names
        data = data_of(TARGETS[name], arguments.number)
        print(repr(data[:2000]))
        print(feed(TARGETS[name], data))
        return
    arguments.state.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        _run(names, arguments.state, arguments.processes, arguments.minutes * 60)
    print(report(arguments.state))


def _run(names: list[str], state: Path, processes: int, seconds: float) -> None:
    warnings.simplefilter("ignore")
    seeds.warm()
    children = []
    for shard in range(processes):
        child = os.fork()
        if child == 0:
            try:
                _shard(names, state, shard, processes, time.monotonic() + seconds)
            finally:
                os._exit(0)
        children.append(child)
    try:
        for child in children:
            os.waitpid(child, 0)
    except KeyboardInterrupt:
        for child in children:
            os.kill(child, signal.SIGTERM)


def _shard(names: list[str], state: Path, shard: int, shards: int, end: float) -> None:
    """Numbers shard, shard + shards, ... of every target, the one that is farthest behind its weight next."""
    path = state / f"counts-{shard}-of-{shards}.json"
    tally = Tally.load(path)
    while time.monotonic() < end:
        name = min(names, key=lambda n: tally.counts[n].inputs / TARGETS[n].weight)
        target, count = TARGETS[name], tally.counts[name]
        length = _STRETCH[target.slow]
        first = shard + count.next * shards
        stretch(target, range(first, first + length * shards, shards), count, tally.lines, state / "failures")
        count.next += length
        tally.save(path)
        (state / "report.txt").write_text(report(state) + "\n")


def report(state: Path) -> str:
    total = Tally()
    for path in sorted(state.glob("counts-*.json")):
        one = Tally.load(path)
        total.counts = {n: total.counts[n].plus(one.counts.get(n, Count())) for n in TARGETS}
        for name, lines in one.lines.items():
            total.lines.setdefault(name, set()).update(lines)
    return total.table()


if __name__ == "__main__":
    main()
