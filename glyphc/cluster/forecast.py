"""What workers of a cluster make of an evaluation: predicted seconds, speed-up, and what limits it. Needs no Dask.

The model is that of ``coordinator``: program and keys go to one host, which passes them on (every round doubles who has
them), then every worker loads them, then passes run, each by one worker, while their inputs and outputs cross the
coordinator's link.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from glyphc.analysis.estimate import Estimate

# Bytes a second of a file of keys that a worker checks, expands and loads: 1.0 GB in 11 to 15 s on 2 cores of an AMD
# EPYC with other work beside, when an evaluation took 1.7 times what it takes alone.
LOAD_RATE = 1.3e8
# A file of keys beside what they take in memory: seeds stand for one half, and kernels' residues are packed (1.00 of
# 3.09 GB, measured).
FILE_SHARE = {"kernels": 0.32, "openfhe": 0.5}


class Limit(Enum):
    """What takes the largest part of the time."""

    PASSES = "the passes, which workers share"
    LONGEST = "one pass, which is not divided"
    KEYS = "sending program and keys to every host"
    LOADING = "loading the keys"
    TRANSFER = "inputs and outputs on the coordinator's link"
    CHAIN = "the longest chain of a step's tasks"
    TASKS = "the tasks of a step, which workers share"
    LIVE = "waiting for what other workers' tasks give"
    FILES = "sending batches and states to every host"


@dataclass(frozen=True)
class Load:
    """What is to be done. pass_seconds: of one pass on one worker; pass_bytes: of its inputs and outputs; file_bytes:
    of the file of keys; rate: bytes a second that leave or reach the coordinator, inf for workers on its own machine.
    """

    passes: int
    pass_seconds: float
    pass_bytes: float
    file_bytes: float
    rate: float

    @staticmethod
    def of(estimate: Estimate, batch: int, samples: int, rate: float, engine: str) -> Load:
        """An evaluation of so many samples. batch: of a pass; engine: which the keys are for."""
        moved = estimate.upload_bytes + estimate.download_bytes
        return Load(-(-samples // batch), estimate.seconds, moved, FILE_SHARE[engine] * estimate.key_bytes, rate)


@dataclass(frozen=True)
class Forecast:
    """Seconds of the whole evaluation with so many workers, each a host of its own; against one machine alone."""

    workers: int
    seconds: float
    speed_up: float
    limit: Limit


def rounds(hosts: int) -> int:
    """In which a file reaches so many hosts: the first has it from the coordinator, and each passes it on."""
    return 1 + (hosts - 1).bit_length()


def forecast(load: Load, workers: int) -> Forecast:
    """The model in the module's description, for 1 worker and more. Never more than ``workers`` times as fast."""
    if workers < 1 or load.passes < 1:
        raise ValueError("a cluster has a worker, and an evaluation a pass")
    loading = load.file_bytes / LOAD_RATE
    busy = min(workers, load.passes)
    sending = rounds(busy) * load.file_bytes / load.rate
    working = -(-load.passes // busy) * load.pass_seconds
    # the last pass is evaluated after its inputs have come
    moving = load.passes * load.pass_bytes / load.rate + load.pass_seconds
    seconds = sending + loading + max(working, moving)
    parts = {
        Limit.KEYS: sending,
        Limit.LOADING: loading,
        (Limit.LONGEST if workers > load.passes else Limit.PASSES): working,
        Limit.TRANSFER: moving if moving > working else 0.0,
    }
    alone = loading + load.passes * load.pass_seconds
    return Forecast(workers, seconds, alone / seconds, max(parts, key=lambda limit: parts[limit]))
