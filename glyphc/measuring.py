"""What all measurements of ``glyphc measure`` share: their results, a clock, and how much memory is taken."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from glyphc.analysis.cost import BootstrapCost

# Told each step when it is done, and how many seconds it took.
Observer = Callable[[str, float], None]

# Bootstraps in a measurement; the faster one counts, since nothing but other work makes one slow.
BOOTSTRAPS = 2
# Operands of the measured sum of products: too many for any cache, as in a program.
FACTORS = 64
# Classes of the measured unpacking: seven automorphisms.
PARTS = 8
SWITCHES = 8
# Of a measurement of ``fastest``.
LAPS = 3


@dataclass(frozen=True)
class Measurement:
    """What one process found; product and so on as in :class:`glyphc.analysis.cost.CostModel`."""

    cost: BootstrapCost
    product: float
    automorphism: float
    switch: float
    external: float = 0.0


@dataclass
class Clock:
    """What :func:`clock` found, once its block is left."""

    seconds: float = 0.0


@contextmanager
def clock() -> Iterator[Clock]:
    """Wall seconds of a block."""
    found = Clock()
    start = time.perf_counter()
    yield found
    found.seconds = time.perf_counter() - start


class _MallInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "used", "free", "keepcost")
    )


def allocated() -> int:
    """Bytes that this process has allocated; the resident ones would count what glibc keeps for later."""
    mallinfo = ctypes.CDLL(None).mallinfo2  # glibc 2.33; OpenFHE's wheels need a later one
    mallinfo.restype = _MallInfo
    info = mallinfo()
    return int(info.used + info.hblkhd)


def fastest(work: Callable[[], object], count: int = LAPS) -> float:
    """Wall seconds of the fastest of so many laps, after one that does not count."""
    work()
    laps = []
    for _ in range(count):
        begun = time.perf_counter()
        work()
        laps.append(time.perf_counter() - begun)
    return min(laps)
