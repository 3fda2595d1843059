"""What a worker does: keeps files by their digests, loads one program with one client's keys, evaluates passes.

``training_worker`` has the tasks of training.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil

from glyphc import free_memory
from glyphc.backends.engine import PREFERRED, engine
from glyphc.backends.processors import thread_count
from glyphc.errors import ArtifactError, GlyphcError
from glyphc.exchange.artifacts import ServerProgram
from glyphc.exchange.requests import Request
from glyphc.exchange.server import Evaluator
from glyphc.progress import Written
from glyphc.storage.container import Header, Reader
from glyphc.storage.headers import (
    KeysHeader,
    ProgramHeader,
    TrainingBatchHeader,
    TrainingKeysHeader,
    TrainingProgramHeader,
    TrainingStateHeader,
)


class Closable(Protocol):
    """What holds keys until it is closed."""

    def close(self) -> None: ...


_C = TypeVar("_C", bound=Closable)
# OpenFHE keeps keys in tables of the process, so one evaluation at a time; what was loaded serves later tasks.
LOCK = threading.Lock()
_LOADED: dict[tuple[str, str], Any] = {}
_KNOWN: dict[str, Path] = {}
_KEPT_SECONDS = 7 * 24 * 3600.0


class FileKind(Enum):
    """What a worker keeps."""

    KEYS = "keys"
    PROGRAM = "program"
    TRAINING_KEYS = "training keys"
    TRAINING_PROGRAM = "training program"
    BATCH = "batch"
    STATE = "state"


HEADERS: Mapping[FileKind, type[Header]] = {
    FileKind.KEYS: KeysHeader,
    FileKind.PROGRAM: ProgramHeader,
    FileKind.TRAINING_KEYS: TrainingKeysHeader,
    FileKind.TRAINING_PROGRAM: TrainingProgramHeader,
    FileKind.BATCH: TrainingBatchHeader,
    FileKind.STATE: TrainingStateHeader,
}


@dataclass(frozen=True)
class _Parts:
    """The inputs of one pass, as they came with the task."""

    parts: Mapping[str, bytes]
    name: str = "the task"

    def read(self, name: str) -> bytes:
        try:
            return self.parts[name]
        except KeyError:
            raise self.damaged(f"part {name} is missing") from None

    def damaged(self, reason: str) -> ArtifactError:
        return ArtifactError(f"{self.name} is damaged: {reason}")


def describe() -> dict[str, str | int]:
    """Who this worker is: version, host, process, bytes that are free and that it holds, threads, usable engines, and
    whether it compiles the engine ``kernels`` before it can use it."""
    from glyphc.backends.kernels.warm import compiled

    usable = [name for name in PREFERRED if engine(name).problem() is None]
    return {
        "version": version("glyphc"),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "memory": int(free_memory.available_bytes()),
        "threads": thread_count(),
        "held": psutil.Process().memory_info().rss if _LOADED else 0,
        "engines": ",".join(usable),
        "compiles": not compiled(),
    }


def holds(kind: str, digest: str, path: str) -> bool:
    """Whether the file of this digest is here: where it lies on the coordinator, or received earlier.

    kind: a value of :class:`FileKind`.
    """
    for candidate in (_KNOWN.get(digest), Path(path), _folder() / digest):
        if candidate is not None and _digest(FileKind(kind), candidate) == digest:
            _KNOWN[digest] = candidate
            return True
    return False


def receive(kind: str, digest: str, sender: str, offset: int, chunk: bytes, size: int) -> str:
    """A part of a file, in order; what went wrong, or nothing. The last one puts the file in its place, if it is whole.

    sender: who sends it, so that two do not write into one file.
    """
    try:
        path = _folder() / digest
        part = path.with_name(f"{digest}.{sender}.part")
        if not offset:
            _forget_old(path.parent)
        with open(part, "r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(chunk)
        if offset + len(chunk) == size:
            try:
                with Reader(part, HEADERS[FileKind(kind)]) as reader:
                    reader.verify()
                    if reader.digest != digest:
                        raise reader.damaged("it is another file than was announced")
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
    except (OSError, GlyphcError) as e:
        return str(e)
    return ""


def read(digest: str, offset: int, size: int) -> bytes:
    """A part of a file that is here, for another worker."""
    with open(_KNOWN[digest], "rb") as file:
        file.seek(offset)
        return file.read(size)


def forget(digest: str) -> None:
    """A file that was received is not needed any more."""
    _KNOWN.pop(digest, None)
    (_folder() / digest).unlink(missing_ok=True)


def known(*digests: str) -> list[Path] | None:
    """Where these files are; None when one of them is not here."""
    found = [_KNOWN.get(digest) for digest in digests]
    return None if None in found else [path for path in found if path is not None]


class Outcome(Enum):
    """Of a pass. MISSING: this worker began after the files were handed out, and has none."""

    DONE = "done"
    FAILED = "failed"
    MISSING = "missing"


def evaluate(
    program: str, keys: str, request: tuple[str, str, int, bytes, str], number: int, parts: dict[str, bytes], flood: int
) -> tuple[str, str, int, list[tuple[str, bytes]]]:
    """A pass. program, keys: digests of files that are here; request: program, key, samples, seed, digest.

    Returns a value of :class:`Outcome`; what went wrong; bits of the outputs' modulus; parts of the outputs.
    """
    with LOCK:
        if known(program, keys) is None:
            return Outcome.MISSING.value, "", 0, []
        try:
            evaluator = loaded(program, keys, _evaluator)
            bits, found = evaluator.evaluate_pass(Request(Path(), *request), number, _Parts(parts), flood)
        except (OSError, GlyphcError) as e:
            return Outcome.FAILED.value, str(e), 0, []
        return Outcome.DONE.value, "", bits, found


def _evaluator(program: Path, keys: Path) -> Evaluator:
    return Evaluator(ServerProgram.load(program), keys, Written())


def loaded(program: str, keys: str, load: Callable[[Path, Path], _C]) -> _C:
    """What is made of two files that are here, program and keys; it serves later tasks of these two."""
    found: _C | None = _LOADED.get((program, keys))
    if found is None:
        # gigabytes: whoever comes next takes the room of who was here before
        while _LOADED:
            _LOADED.popitem()[1].close()
        found = load(_KNOWN[program], _KNOWN[keys])
        _LOADED[program, keys] = found
    return found


def _digest(kind: FileKind, path: Path) -> str:
    """Of a file's manifest; nothing where there is no such file. Parts are checked when they are loaded."""
    try:
        with Reader(path, HEADERS[kind]) as reader:
            return reader.digest
    except ArtifactError:
        return ""


def _folder() -> Path:
    """For what is received, of this user and host: all its workers share it."""
    path = Path(tempfile.gettempdir()) / f"glyphc-cluster-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    about = path.lstat()
    if about.st_uid != os.getuid() or not stat.S_ISDIR(about.st_mode):
        raise ArtifactError(f"{os.fspath(path)!r} belongs to somebody else")
    return path


def _forget_old(folder: Path) -> None:
    """Remove what nobody has received or used for a week: keys are gigabytes."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - max(path.stat().st_mtime, path.stat().st_atime) > _KEPT_SECONDS:
                path.unlink()
