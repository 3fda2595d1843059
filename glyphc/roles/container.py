"""The container: one file of named parts with a manifest, written in a stream, atomically, and checked when read.

A container is a zip archive without compression (its contents look random anyway). The manifest, written last,
names the kind of the file, the version of the format, a header with typed fields, and the size and SHA-256 of every
part; the SHA-256 of the manifest identifies the whole file ("digest"), and is how files refer to one another.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Generic, TypeVar, get_type_hints

from glyphc.errors import ArtifactError
from glyphc.files import EPOCH, check_writable

FORMAT = "glyphc-container"
VERSION = 2
MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 32 << 20
_DIRECTORY_LIMIT = 16 << 20
_STRING_LIMIT = 1 << 16
_CHUNK = 1 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9/_.-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Header:
    """Base of the headers: ``kind`` names the kind of file, the fields are str, int or bool. For errors, ``made_by``
    names the command that makes such a file, in quotes, and ``read_by`` says which ones read it."""

    kind: ClassVar[str]
    made_by: ClassVar[str]
    read_by: ClassVar[str]


@dataclass(frozen=True)
class Part:
    """What the manifest says of a part. size: in bytes."""

    name: str
    size: int
    sha256: str


_H = TypeVar("_H", bound=Header)


class Writer:
    """Writes a container beside its place and moves it there when it is whole.

    A context manager: leaving it with an error removes what was written. ``secret`` files are readable by their owner
    only, from the first byte on. ArtifactError when the place is not writable.
    """

    def __init__(self, path: Path, header: Header, secret: bool = False) -> None:
        check_writable(path)
        self._path, self._header, self._secret = path, header, secret
        self._parts: list[Part] = []
        self._names = {MANIFEST}
        self.digest = ""

    def __enter__(self) -> Writer:
        try:
            # made with mode 0600
            self._file = tempfile.NamedTemporaryFile(
                dir=self._path.parent, prefix=f".{self._path.name}", suffix=".part", delete=False
            )
        except OSError as e:
            raise ArtifactError(f"cannot write {os.fspath(self._path)!r}: {e.strerror}") from None
        self._archive = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED, allowZip64=True)
        return self

    def add(self, name: str, data: bytes) -> None:
        """Append a part."""
        if not _NAME.fullmatch(name) or name in self._names:
            raise ValueError(f"{name!r} cannot name a part")
        self._archive.writestr(zipfile.ZipInfo(name, EPOCH), data)
        self._names.add(name)
        self._parts.append(Part(name, len(data), hashlib.sha256(data).hexdigest()))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        temporary = Path(self._file.name)
        try:
            if kind is None:
                self._finish(temporary)
        except OSError as e:
            raise ArtifactError(f"cannot write {os.fspath(self._path)!r}: {e.strerror}") from None
        finally:
            self._archive.fp = None  # nothing more is written by the archive
            self._file.close()
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ArtifactError(f"cannot write {os.fspath(self._path)!r}: {error.strerror}") from None

    def _finish(self, temporary: Path) -> None:
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self._header.kind,
            "header": asdict(self._header),
            "parts": [asdict(p) for p in self._parts],
        }
        text = (json.dumps(manifest, indent=1) + "\n").encode()
        self._archive.writestr(zipfile.ZipInfo(MANIFEST, EPOCH), text)
        self._archive.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        if not self._secret:
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
        temporary.replace(self._path)
        self.digest = hashlib.sha256(text).hexdigest()


class Reader(Generic[_H]):
    """An open container whose manifest has been checked; parts are checked when they are read.

    ArtifactError names the file and says what is wrong: missing, cut short, damaged, another kind or version.
    """

    def __init__(self, path: Path, header: type[_H], label: str | None = None) -> None:
        """label: what errors call the file; by default its path in quotes."""
        self.path = path
        self.name = label or repr(os.fspath(path))
        self._hint = f"Make it again with {header.made_by}" if header.made_by else "Make it again"
        try:
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115
        except OSError as e:
            raise ArtifactError(f"cannot read {self.name}: {e.strerror}") from None
        try:
            self._open(header)
        except BaseException:
            self._file.close()
            raise

    def _open(self, header: type[_H]) -> None:
        try:
            _check_directory(self._file)
            self._archive = zipfile.ZipFile(self._file)
            entry = self._archive.getinfo(MANIFEST)
            if entry.file_size > _MANIFEST_LIMIT:
                raise ValueError("its manifest is too large")
            text = self._archive.read(MANIFEST)
            manifest = json.loads(text)
        except Exception as e:  # zipfile, zlib and json raise a dozen classes on damaged data, with no common base
            raise self.damaged(f"it may be cut short, damaged or another kind of file ({_reason(e)})") from None
        self.digest = hashlib.sha256(text).hexdigest()
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ArtifactError(f"{self.name} is not a file of {header.kind}. {self._hint}")
        if manifest.get("version") != VERSION:
            raise ArtifactError(
                f"{self.name} has format version {manifest.get('version')}; this glyphc reads version {VERSION}. "
                "Use the glyphc that wrote it, or make it again with this one"
            )
        if manifest.get("kind") != header.kind:
            raise ArtifactError(
                f"{self.name} holds {manifest.get('kind')}; a file of {header.kind} is needed here "
                f"(made by {header.made_by})"
            )
        try:
            self.header: _H = _typed(header, manifest["header"])
            listed = manifest["parts"]
            self.parts = {p.name: p for p in (_typed(Part, entry) for entry in listed)}
            if len(self.parts) != len(listed):
                raise ValueError("a part is listed twice")
            bad = next((p for p in self.parts.values() if not _NAME.fullmatch(p.name)), None)
            if bad is not None or any(not _DIGEST.fullmatch(p.sha256) for p in self.parts.values()):
                raise ValueError("its list of parts is not one")
        except Exception as e:
            raise self.damaged(f"its manifest is unreadable ({_reason(e)})") from None
        self._check_entries()

    def _check_entries(self) -> None:
        entries = {e.filename: e for e in self._archive.infolist()}
        if len(entries) != len(self._archive.infolist()) or set(entries) != {*self.parts, MANIFEST}:
            raise self.damaged("its parts are not those that the manifest lists")
        for part in self.parts.values():
            entry = entries[part.name]
            if entry.compress_type != zipfile.ZIP_STORED or not entry.file_size == entry.compress_size == part.size:
                raise self.damaged(f"part {part.name} has another size than the manifest says")

    def read(self, name: str) -> bytes:
        """A part, whole, its hash checked."""
        part = self.parts.get(name)
        if part is None:
            raise self.damaged(f"part {name} is missing")
        try:
            data = self._archive.read(name)
        except Exception as e:
            raise self.damaged(f"part {name} is unreadable ({_reason(e)})") from None
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise self.damaged(f"the hash of part {name} is wrong")
        return data

    def verify(self) -> None:
        """Read everything once and compare the hashes."""
        for part in self.parts.values():
            digest = hashlib.sha256()
            for chunk in self._chunks(part.name):
                digest.update(chunk)
            if digest.hexdigest() != part.sha256:
                raise self.damaged(f"the hash of part {part.name} is wrong")

    def expect(self, sizes: Sequence[tuple[str, int]]) -> None:
        """ArtifactError unless the container has exactly these parts of these sizes."""
        wanted = dict(sizes)
        for name, part in self.parts.items():
            if wanted.get(name) != part.size:
                raise self.damaged(
                    f"part {name} has {part.size} bytes, not {wanted[name]}"
                    if name in wanted
                    else f"part {name} does not belong there"
                )
        missing = next((name for name in wanted if name not in self.parts), None)
        if missing is not None:
            raise self.damaged(f"part {missing} is missing")

    def _chunks(self, name: str) -> Iterator[bytes]:
        try:
            with self._archive.open(name) as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
        except Exception as e:
            raise self.damaged(f"part {name} is unreadable ({_reason(e)})") from None

    def damaged(self, problem: str) -> ArtifactError:
        """The error that says so."""
        return ArtifactError(f"{self.name} is not usable: {problem}. {self._hint}")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Reader[_H]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_directory(file: BinaryIO) -> None:
    """ValueError for an archive whose list of entries is longer than any that was written here.

    zipfile reads the whole list into memory, so a stranger's file is looked at before. Ours ends without a comment.
    """
    size = file.seek(0, os.SEEK_END)
    tail = min(size, 22 + 20 + 56)
    file.seek(size - tail)
    end = file.read(tail)
    if end[-22:-18] != b"PK\5\6":
        raise ValueError("no end of an archive")
    directory = int.from_bytes(end[-10:-6], "little")
    if directory == 0xFFFFFFFF or end[-12:-10] == b"\xff\xff":
        directory = int.from_bytes(end[40:48], "little") if end[:4] == b"PK\6\6" else size
    if directory > _DIRECTORY_LIMIT:
        raise ValueError("its list of parts is too long")
    file.seek(0)


_C = TypeVar("_C")


def _typed(cls: type[_C], data: Any) -> _C:
    """A dataclass from a JSON object with exactly its fields, of exactly their types."""
    hints = get_type_hints(cls)
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if not isinstance(data, dict) or set(data) != names:
        raise ValueError(f"expected the fields {', '.join(sorted(names))}")
    for name, value in data.items():
        if type(value) is not hints[name]:
            raise ValueError(f"{name} is not a {hints[name].__name__}")
        if isinstance(value, str) and len(value) > _STRING_LIMIT:
            raise ValueError(f"{name} is too long")
        if isinstance(value, int) and not 0 <= value < 1 << 62:
            raise ValueError(f"{name} is out of range")
    return cls(**data)


def _reason(error: Exception) -> str:
    return " ".join(str(error).strip("'\"").split())[:200] or type(error).__name__
