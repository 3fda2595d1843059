"""Processes that do not outlive the one that they work for, and what they took."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

_PR_SET_PDEATHSIG = 1

T = TypeVar("T")


def end_with_parent() -> None:
    """On Linux the kernel kills this process when its parent dies; elsewhere it ends when its input does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            sys.exit(1)


def apart(
    work: Callable[..., T],
    *arguments: Any,
    errors: type[Exception],
    observe: Callable[..., None] | None = None,
) -> T:
    """work(*arguments) in a new process, whose memory is its alone. observe: told what the work tells its last argument
    then.

    Raises those ``errors`` that the work does; MemoryError where it does or the system killed it; RuntimeError when the
    process ended in any other way (a bug; its traceback is on stderr).
    """
    # not forked: threads of a loaded OpenFHE would not survive that, and memory would be counted twice
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    # no daemon, which may have no processes of its own
    process = spawn.Process(target=_child, args=(theirs, work, arguments, errors, observe is not None))
    process.start()
    theirs.close()
    try:
        while True:
            try:
                done, found = ours.recv()
            except EOFError:
                process.join()
                if process.exitcode == -signal.SIGKILL:
                    raise MemoryError("the system killed it, probably for want of memory") from None
                raise RuntimeError(f"the process ended with exit code {process.exitcode}") from None
            if isinstance(found, BaseException):
                raise found
            if done:
                result: T = found
                return result
            assert observe is not None
            observe(*found)
    finally:
        # after an interrupt it may be in the middle of minutes of work
        process.kill()
        process.join()
        ours.close()


def _child(
    connection: Connection, work: Callable[..., Any], arguments: tuple[Any, ...], errors: type[Exception], told: bool
) -> None:
    # an interrupt is for the parent, which ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()

    def tell(*news: Any) -> None:
        connection.send((False, news))

    try:
        connection.send((True, work(*arguments, *((tell,) if told else ()))))
    except MemoryError:
        connection.send((True, MemoryError("out of memory")))
    except errors as e:
        connection.send((True, e))


def ended_processes_seconds() -> float:
    """CPU seconds of processes of this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
