"""How many threads or processes may compute at a time."""

from __future__ import annotations

import os

_threads = 0


def thread_count() -> int:
    """Threads that kernels run on: ``GLYPHC_THREADS``, or OpenMP's ``OMP_NUM_THREADS``, which OpenFHE goes by, or all
    processors that this process may use. Looked up once: small kernels would spend a part of their time on it."""
    global _threads
    _threads = _threads or _asked() or len(os.sched_getaffinity(0))
    return _threads


def _asked() -> int:
    """By the environment; 0: nothing."""
    for name in ("GLYPHC_THREADS", "OMP_NUM_THREADS"):
        # OpenMP reads a list of numbers by nesting level
        first = os.environ.get(name, "").split(",")[0].strip()
        if first.isdecimal() and int(first):
            return int(first)
    return 0


def set_threads(count: int) -> None:
    """Run kernels on so many threads; 0: the default, which is looked up anew."""
    global _threads
    _threads = count
