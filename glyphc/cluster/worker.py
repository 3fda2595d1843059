"""What a worker does: keeps files by their digests, loads one program with one client's keys, evaluates passes."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import version
from pathlib import Path

import psutil

from glyphc.backends.engine import PREFERRED, engine
from glyphc.errors import ArtifactError, GlyphcError
from glyphc.exchange.artifacts import ServerProgram
from glyphc.exchange.server import Evaluator, Request
from glyphc.storage.container import Reader
from glyphc.storage.headers import KeysHeader, ProgramHeader

# OpenFHE keeps keys in tables of the process, so one evaluation at a time; what was loaded serves later tasks.
_LOCK = threading.Lock()
_LOADED: dict[tuple[str, str], Evaluator] = {}
_KNOWN: dict[str, Path] = {}


class FileKind(Enum):
    """What a worker keeps."""

    KEYS = "keys"
    PROGRAM = "program"


_HEADERS: Mapping[FileKind, type[KeysHeader] | type[ProgramHeader]] = {
    FileKind.KEYS: KeysHeader,
    FileKind.PROGRAM: ProgramHeader,
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
    """Who this worker is: version, host, process, bytes of memory that are free, and engines that it can use."""
    usable = [name for name in PREFERRED if engine(name).problem() is None]
    return {
        "version": version("glyphc"),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "memory": psutil.virtual_memory().available,
        "engines": ",".join(usable),
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


def receive(digest: str, offset: int, chunk: bytes, size: int) -> int:
    """A part of a file, in order; returns where the next one begins. The last one puts the file in its place."""
    path = _folder() / digest
    part = path.with_name(f"{digest}.{os.getpid()}.part")
    with open(part, "r+b" if offset else "wb") as file:
        file.seek(offset)
        file.write(chunk)
    if offset + len(chunk) == size:
        os.replace(part, path)
    return offset + len(chunk)


def evaluate(
    program: str, keys: str, request: tuple[str, str, int, bytes, str], number: int, parts: dict[str, bytes], flood: int
) -> tuple[str, int, list[tuple[str, bytes]]]:
    """A pass. program, keys: digests of files that are here; request: program, key, samples, seed, digest.

    Returns what went wrong, or an empty text; bits of the outputs' modulus; parts of the outputs.
    """
    with _LOCK:
        try:
            evaluator = _evaluator(program, keys)
            bits, found = evaluator.evaluate_pass(Request(Path(), *request), number, _Parts(parts), flood)
        except GlyphcError as e:
            return str(e), 0, []
        return "", bits, found


def _evaluator(program: str, keys: str) -> Evaluator:
    found = _LOADED.get((program, keys))
    if found is None:
        # gigabytes: whoever comes next takes the room of who was here before
        while _LOADED:
            _LOADED.popitem()[1].close()
        found = Evaluator(ServerProgram.load(_KNOWN[program]), _KNOWN[keys])
        _LOADED[program, keys] = found
    return found


def _digest(kind: FileKind, path: Path) -> str:
    """Of a file's manifest; nothing where there is no such file. Parts are checked when they are loaded."""
    try:
        with Reader(path, _HEADERS[kind]) as reader:
            return reader.digest
    except ArtifactError:
        return ""


def _folder() -> Path:
    """For what is received, of this user and host: all its workers share it."""
    path = Path(tempfile.gettempdir()) / f"glyphc-cluster-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise ArtifactError(f"{os.fspath(path)!r} belongs to somebody else")
    return path
