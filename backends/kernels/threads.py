"""As many threads as given, over rows or columns of arrays. Kernels release the interpreter's lock.

Not numba's own threads: its OpenMP layer does not survive a fork, and its work queue takes one caller at a time. The
pool belongs to a process (a forked one makes its own) and may have several callers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from typing import Any, TypeVar

from ..processors import thread_count

T = TypeVar("T")
U = TypeVar("U")

# Results of ``each`` that are there together.
_AT_ONCE = 16

_pool: tuple[int, int, ThreadPoolExecutor] | None = None
_inside = threading.local()


def run(kernel: Callable[..., None], count: int, *arguments: Any, grain: int = 1) -> None:
    """kernel(first, last, *arguments) for ranges that make up 0..count; ranges are multiples of ``grain``.

    In one thread within :func:`each`, whose items are spread over all threads already.
    """
    threads = thread_count()
    pieces = -(-count // grain)
    if threads == 1 or pieces == 1 or getattr(_inside, "each", False):
        kernel(0, count, *arguments)
        return
    # about four pieces for each thread, so that one that is held up does not hold up all
    step = max(1, pieces // (4 * threads)) * grain
    bounds = [*range(0, count, step), count]
    jobs = iter(list(pairwise(bounds)))

    def work() -> None:
        # next() on a list's iterator is one operation under the interpreter's lock
        for first, last in jobs:
            kernel(first, last, *arguments)

    others = [_executor(threads).submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        other.result()


def each(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """function(item) for all items, in their order; some are kept at a time."""
    rest = iter(items)
    while group := list(islice(rest, _AT_ONCE)):
        if len(group) == 1:
            # its own work may be spread over the threads
            yield function(group[0])
            continue
        found: dict[int, U] = {}

        def work(first: int, last: int, group: list[T] = group, found: dict[int, U] = found) -> None:
            outer = getattr(_inside, "each", False)
            _inside.each = True
            try:
                found.update((at, function(group[at])) for at in range(first, last))
            finally:
                _inside.each = outer

        run(work, len(group))
        yield from (found[at] for at in range(len(group)))


def _executor(threads: int) -> ThreadPoolExecutor:
    global _pool
    if _pool is None or _pool[0] != os.getpid() or _pool[1] != threads:
        _pool = (os.getpid(), threads, ThreadPoolExecutor(threads - 1, thread_name_prefix="kernels"))
    return _pool[2]
