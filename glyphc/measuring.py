"""What all measurements of ``glyphc measure`` share: their results, a clock, and how much memory is taken."""

from __future__ import annotations

import ctypes
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import psutil

from glyphc.analysis.cost import BootstrapCost
from glyphc.ir.galois import Conjugation
from glyphc.ir.instructions import ConjugateDot, Conjugates, Polynomials
from glyphc.ir.series import Series

# Told each step when it is done, and how many seconds it took.
Observer = Callable[[str, float], None]

# Bootstraps in a measurement; the faster one counts, since nothing but other work makes one slow.
BOOTSTRAPS = 2
# Operands of the measured sum of products: too many for any cache, as in a program.
FACTORS = 64
# Classes of the measured unpacking: seven automorphisms.
PARTS = 8
# Parts of the measured sum over conjugates: seven baby steps and seven giant ones.
SUMMED = 64
# Name of its weights, one for each part.
SUMS = "sums"
SUM_WEIGHTS = Polynomials(np.arange(SUMMED + 1), np.arange(SUMMED, dtype=np.int32), np.arange(1, SUMMED + 1))
SWITCHES = 8
# Of a measurement of ``fastest``.
LAPS = 3


@dataclass(frozen=True)
class Measurement:
    """What one process found; product and so on as in :class:`glyphc.analysis.cost.CostModel`.

    baby, giant: of sums over conjugates, beside an automorphism.
    """

    cost: BootstrapCost
    product: float
    automorphism: float
    switch: float
    external: float = 0.0
    baby: float = 1.0
    giant: float = 1.0


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


class Sums(Protocol):
    """Sums over conjugates of an engine, with the weights ``SUMS``."""

    def conjugates(self, source: Any, instruction: Conjugates, /) -> list[Any]:
        """Baby steps."""

    def conjugate_dot(self, sources: Any, instruction: ConjugateDot, total: Any, /) -> Any:
        """Products with what they made, and giant steps."""


def sum_steps(ring: int) -> Conjugation:
    """Those of the measured sum."""
    return Conjugation.of(ring, SUMMED, 1)


def step_seconds(sums: Sums, value: Any, ring: int, product: float) -> tuple[float, float]:
    """Of a baby step of a value, and of a giant step. product: seconds of a product with its addition."""
    steps = sum_steps(ring)
    numbers = {"parts": steps.parts, "stride": steps.stride}
    babies = Conjugates(tuple(range(1, steps.babies)), 0, **numbers, node=0)
    sources = [value, *sums.conjugates(value, babies)]
    dot = ConjugateDot(steps.babies, tuple(range(steps.babies)), SUMS, None, 0, **numbers, babies=steps.babies)
    first = fastest(lambda: sums.conjugates(value, babies))
    second = fastest(lambda: sums.conjugate_dot(sources, dot, None)) - steps.parts * product
    # a product may take less here than where it was measured, but no step takes nothing
    return first / (steps.babies - 1), max(second, 0.1 * first) / (steps.giants - 1)


class Bootstraps(Protocol):
    """The bootstraps of an engine, in two halves."""

    def powers(self, value: Any, degree: int, /) -> Any:
        """What all functions of a value share."""

    def evaluate(self, powers: Any, series: Series, /) -> Any:
        """One function of it."""


def bootstrap_cost(
    bootstraps: Bootstraps,
    value: Any,
    degree: int,
    series: Series,
    keys: tuple[float, float],
    sums: float,
    observe: Observer,
) -> BootstrapCost:
    """Bootstraps of a value, measured: by the fastest of each half. keys: seconds to make them all, and their bytes.
    sums: bytes that are not to be counted, of keys for sums over conjugates.

    Call it when the process holds keys and the value, and little else: what it holds then counts as that of the keys.
    """
    idle = psutil.Process().memory_info().rss
    halves: list[tuple[float, float]] = []
    powers_bytes = 0
    for lap in range(1, BOOTSTRAPS + 1):
        before = allocated()
        with clock() as first:
            powers = bootstraps.powers(value, degree)
        powers_bytes = allocated() - before
        with clock() as second:
            bootstraps.evaluate(powers, series)
        del powers  # a program too drops them before it makes others
        halves.append((first.seconds, second.seconds))
        observe(f"bootstrap {lap}", first.seconds + second.seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds, size = keys
    return BootstrapCost(
        degree,
        powers=min(p for p, _ in halves),
        evaluate=min(e for _, e in halves),
        key_seconds=seconds,
        key_bytes=size,
        idle_bytes=idle - sums,
        work_bytes=max(peak - idle, powers_bytes, 1),
        powers_bytes=max(powers_bytes, 1),
    )
