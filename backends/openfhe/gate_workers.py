"""Gates on encrypted bits, several at a time: processes that share the keys of the one that they were forked from.

OpenFHE holds the interpreter's lock while it bootstraps, and two of its threads are hardly faster at one gate than one.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ..errors import BackendError
from .library import fhe

# Gates that are taken ahead of the results that are there: those of a few words, which do not all wait for each other.
_AHEAD = 256
# Memory as a folder, where there is one with room for a few hundred thousand bits: OpenFHE writes these ciphertexts to
# files alone.
_SHARED_MEMORY, _ROOM = Path("/dev/shm"), 1e9
_ENDED = "a process that computes gates has ended; is there enough memory?"

# Computes a gate of one kind: of ciphertexts, and whether each is negated.
Compute = Callable[[Any, Sequence[Any], Sequence[bool]], Any]


@dataclass(eq=False)
class Bit:
    """A ciphertext in a file, now or later. waiting: operands that are not there yet; next: gates that wait for it."""

    file: str
    waiting: int = 0
    next: list[_Task] = field(default_factory=list)
    done: bool = False

    def __del__(self) -> None:
        Path(self.file).unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class Operand:
    """A bit or its opposite."""

    bit: Bit
    negated: bool = False


@dataclass(frozen=True, eq=False)
class _Task:
    kind: Any
    operands: tuple[Operand, ...]
    target: Bit


class GateWorkers:
    """Takes gates in an order in which they could be computed one after another, and computes those that are ready.

    Closed, or with the process that made it, its processes end and its files are gone.
    """

    def __init__(self, compute: Compute, count: int) -> None:
        """count: processes. They have what this process has now, keys included."""
        fits = os.access(_SHARED_MEMORY, os.W_OK) and shutil.disk_usage(_SHARED_MEMORY).free > _ROOM
        self._folder = tempfile.TemporaryDirectory(prefix="glyphc-gates-", dir=_SHARED_MEMORY if fits else None)
        self._made = self._open = 0
        self._ready: deque[_Task] = deque()
        self._busy: dict[Connection, _Task] = {}
        self._idle: list[Connection] = []
        self._processes: list[BaseProcess] = []
        context = multiprocessing.get_context("fork")
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(compute, self._folder.name, here, there), daemon=True)
            process.start()
            there.close()
            self._idle.append(here)
            self._processes.append(process)

    def put(self, ciphertext: Any) -> Operand:
        """One that is there."""
        bit = self._bit()
        bit.done = True
        _write(bit.file, ciphertext)
        return Operand(bit)

    def get(self, operand: Operand, negate: Callable[[Any], Any]) -> Any:
        """The ciphertext, once it is there."""
        while not operand.bit.done:
            self._collect()
        found = _read(operand.bit.file)
        return negate(found) if operand.negated else found

    def gate(self, kind: Any, operands: tuple[Operand, ...]) -> Operand:
        """Of a kind that ``compute`` knows."""
        task = _Task(kind, operands, self._bit())
        missing = {id(o.bit): o.bit for o in operands if not o.bit.done}
        task.target.waiting = len(missing)
        for bit in missing.values():
            bit.next.append(task)
        if not missing:
            self._ready.append(task)
        self._open += 1
        self._hand_out()
        while self._open > _AHEAD:
            self._collect()
        return Operand(task.target)

    def settle(self) -> None:
        """Wait for all gates."""
        while self._open:
            self._collect()

    def close(self) -> None:
        """What is being computed is thrown away."""
        for pipe in (*self._idle, *self._busy):
            pipe.close()
        for process in self._processes:
            process.terminate()
            process.join()
        self._folder.cleanup()

    def _bit(self) -> Bit:
        self._made += 1
        return Bit(f"{self._folder.name}/{self._made}")

    def _hand_out(self) -> None:
        while self._ready and self._idle:
            task, pipe = self._ready.popleft(), self._idle.pop()
            self._busy[pipe] = task
            files = [(o.bit.file, o.negated) for o in task.operands]
            try:
                pipe.send((task.kind, files, task.target.file))
            except OSError:
                raise BackendError(_ENDED) from None

    def _collect(self) -> None:
        """Wait for a gate at least."""
        for pipe in wait(list(self._busy)):
            assert isinstance(pipe, Connection)
            task = self._busy.pop(pipe)
            try:
                problem = pipe.recv()
            except (EOFError, OSError):
                problem = _ENDED
            if problem:
                raise BackendError(problem)
            self._idle.append(pipe)
            self._open -= 1
            task.target.done = True
            for waiting in task.target.next:
                waiting.target.waiting -= 1
                if not waiting.target.waiting:
                    self._ready.append(waiting)
            task.target.next.clear()
        self._hand_out()


def _work(compute: Compute, folder: str, others: Connection, pipe: Connection) -> None:
    """others: the parent's end, which would keep this process from seeing that the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    others.close()
    while True:
        try:
            kind, files, target = pipe.recv()
        except (EOFError, OSError):
            # the parent may have been killed, so that nothing else removes them
            shutil.rmtree(folder, ignore_errors=True)
            return
        problem = ""
        try:
            _write(target, compute(kind, [_read(file) for file, _ in files], [negated for _, negated in files]))
        except (BackendError, RuntimeError) as e:
            problem = f"a gate failed: {e}"
        with suppress(OSError):
            pipe.send(problem)


def _write(file: str, ciphertext: Any) -> None:
    try:
        written = fhe.SerializeToFile(file, ciphertext, fhe.BINARY)
    except RuntimeError:
        written = False
    if not written:
        raise BackendError(f"a ciphertext could not be written to {file}; is there room?")


def _read(file: str) -> Any:
    try:
        ciphertext, found = fhe.DeserializeLWECiphertext(file, fhe.BINARY)
    except RuntimeError:
        found = False
    if not found:
        raise BackendError(f"a ciphertext could not be read from {file}")
    return ciphertext
