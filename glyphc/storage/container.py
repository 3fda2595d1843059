"""The container: one file of named parts with a manifest, written in a stream, atomically, and checked when read.

A container is a zip archive without compression (its contents look random anyway). The manifest, written last,
names the kind of the file, the version of the format, a header with typed fields, and the size and SHA-256 of every
part; the SHA-256 of the manifest identifies the whole file ("digest"), and is how files refer to one another.

Files come from strangers, so opening one costs little whatever is in it: :mod:`.archive` reads the list of entries, the
manifest may be as long as so many parts need, and it is read without building a tree of what it holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Generic, TypeVar, get_type_hints

from glyphc.errors import ArtifactError
from glyphc.files import EPOCH, Replacement, check_writable
from glyphc.storage.archive import ArchiveError, Entry, chunks, contents, read_entries

FORMAT = "glyphc-container"
VERSION = 3
MANIFEST = "manifest.json"
# A file of inputs has one for each ciphertext, keys have some hundreds.
_MOST_PARTS = 1 << 17
# Of a manifest without its list of parts, and of the list for each part.
_HEAD_BYTES, _PART_BYTES = 512 << 10, 300
_STRING_LIMIT = 1 << 16
_NAME = re.compile(r"[a-z0-9][a-z0-9/_.-]{0,99}")
# The list is the manifest's last field. An unescaped quote ends a string, so nothing inside one looks like its name.
_LIST = re.compile(rb'"parts"\s*:\s*\[\s*')
_LISTED = re.compile(
    rb'\{\s*"name"\s*:\s*"([a-z0-9][a-z0-9/_.-]{0,99})"\s*,\s*"size"\s*:\s*(0|[1-9][0-9]{0,17})\s*,'
    rb'\s*"sha256"\s*:\s*"([0-9a-f]{64})"\s*\}\s*(,\s*(?=\{))?'
)
_LAST = re.compile(rb"\]\s*\}\s*")


@dataclass(frozen=True)
class Header:
    """Base of the headers: ``kind`` names the kind of file, the fields are str, int or bool. For errors, ``made_by``
    names the command that makes such a file, in quotes, and ``read_by`` says which ones read it."""

    kind: ClassVar[str]
    made_by: ClassVar[str]
    read_by: ClassVar[str]


@dataclass(frozen=True, slots=True)
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
            self._replacement = Replacement(self._path)
        except OSError as e:
            raise self._unwritable(e) from None
        self._archive = zipfile.ZipFile(self._replacement.file, "w", zipfile.ZIP_STORED, allowZip64=True)
        return self

    def add(self, name: str, data: bytes) -> None:
        """Append a part."""
        if not _NAME.fullmatch(name) or name in self._names:
            raise ValueError(f"{name!r} cannot name a part")
        if len(self._parts) == _MOST_PARTS:
            raise ArtifactError(
                f"{os.fspath(self._path)!r} would have more than {_MOST_PARTS} parts; split the samples into several "
                "files, or compile with a larger --batch"
            )
        self._archive.writestr(zipfile.ZipInfo(name, EPOCH), data)
        self._names.add(name)
        self._parts.append(Part(name, len(data), hashlib.sha256(data).hexdigest()))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as e:
            raise self._unwritable(e) from None
        finally:
            self._archive.fp = None  # nothing more is written by the archive
            self._replacement.close()
        if isinstance(error, OSError):
            raise self._unwritable(error) from None

    def _finish(self) -> None:
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
        self._replacement.keep(self._secret)
        self.digest = hashlib.sha256(text).hexdigest()

    def _unwritable(self, error: OSError) -> ArtifactError:
        return ArtifactError(f"cannot write {os.fspath(self._path)!r}: {error.strerror}")


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
            *entries, last = read_entries(self._file, _MOST_PARTS + 1)
            if last.name != MANIFEST:
                raise ArchiveError("it does not end with a manifest")
            if last.size > _HEAD_BYTES + _PART_BYTES * len(entries):
                raise ArchiveError("its manifest is too large")
            text = contents(self._file, last)
            manifest, at = _head(text)
        except Exception as e:  # json raises several classes on damaged data, with no common base
            raise self.damaged(f"it may be cut short, damaged or another kind of file ({_reason(e)})") from None
        self.digest = hashlib.sha256(text).hexdigest()
        if manifest.get("format") != FORMAT:
            raise ArtifactError(f"{self.name} is not a file of {header.kind}. {self._hint}")
        if manifest.get("version") != VERSION:
            raise ArtifactError(
                f"{self.name} has format version {_shown(manifest.get('version'))}; this glyphc reads version "
                f"{VERSION}. Use the glyphc that wrote it, or make it again with this one"
            )
        if manifest.get("kind") != header.kind:
            raise ArtifactError(
                f"{self.name} holds {_shown(manifest.get('kind'))}; a file of {header.kind} is needed here "
                f"(made by {header.made_by})"
            )
        try:
            self.header: _H = _typed(header, manifest["header"])
            listed = _listed(text, at)
            self.parts = {p.name: p for p in listed}
            if len(self.parts) != len(listed):
                raise ValueError("a part is listed twice")
        except Exception as e:
            raise self.damaged(f"its manifest is unreadable ({_reason(e)})") from None
        self._entries = {e.name: e for e in entries}
        if list(self._entries) != list(self.parts):
            raise self.damaged("its parts are not those that the manifest lists")
        for part, entry in zip(listed, entries, strict=True):
            if entry.size != part.size:
                raise self.damaged(f"part {part.name} has another size than the manifest says")

    def read(self, name: str) -> bytes:
        """A part, whole, its hash checked."""
        part, entry = self._find(name)
        try:
            data = contents(self._file, entry)
        except (ArchiveError, OSError) as e:
            raise self.damaged(f"part {name} is unreadable ({_reason(e)})") from None
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise self.damaged(f"the hash of part {name} is wrong")
        return data

    def verify(self) -> None:
        """Read everything once and compare the hashes."""
        for name in self.parts:
            part, entry = self._find(name)
            digest = hashlib.sha256()
            try:
                for chunk in chunks(self._file, entry):
                    digest.update(chunk)
            except (ArchiveError, OSError) as e:
                raise self.damaged(f"part {name} is unreadable ({_reason(e)})") from None
            if digest.hexdigest() != part.sha256:
                raise self.damaged(f"the hash of part {name} is wrong")

    def _find(self, name: str) -> tuple[Part, Entry]:
        if name not in self.parts:
            raise self.damaged(f"part {name} is missing")
        return self.parts[name], self._entries[name]

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

    def damaged(self, problem: str) -> ArtifactError:
        """The error that says so."""
        return ArtifactError(f"{self.name} is not usable: {problem}. {self._hint}")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Reader[_H]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _head(text: bytes) -> tuple[dict[str, Any], int]:
    """The manifest with an empty list of parts, and where the list begins; ValueError when it is none."""
    found = _LIST.search(text)
    head = text[: found.start()] + b'"parts": []}' if found else text
    if len(head) > _HEAD_BYTES:
        raise ValueError("its manifest is too large")
    manifest = json.loads(head)
    if not isinstance(manifest, dict):
        raise ValueError("its manifest is no object")
    return manifest, found.end() if found else len(text)


def _listed(text: bytes, at: int) -> list[Part]:
    """The parts, from the list in a manifest at ``at`` on; ValueError when that holds anything else."""
    parts: list[Part] = []
    more = True
    while more and (found := _LISTED.match(text, at)):
        name, size, sha256, comma = found.groups()
        parts.append(Part(name.decode(), int(size), sha256.decode()))
        at, more = found.end(), comma is not None
    if not _LAST.fullmatch(text, at):
        raise ValueError("its list of parts is not one")
    return parts


_C = TypeVar("_C")


def _typed(cls: type[_C], data: Any) -> _C:
    """A dataclass from a JSON object with exactly its fields, but for those with defaults, of exactly their types."""
    hints = get_type_hints(cls)
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    needed = {f.name for f in fields(cls) if f.default is MISSING}  # type: ignore[arg-type]
    if not isinstance(data, dict) or not needed <= set(data) <= names:
        raise ValueError(f"expected the fields {', '.join(sorted(names))}")
    for name, value in data.items():
        if type(value) is not hints[name]:
            raise ValueError(f"{name} is not a {hints[name].__name__}")
        if isinstance(value, str) and len(value) > _STRING_LIMIT:
            raise ValueError(f"{name} is too long")
        if isinstance(value, int) and not 0 <= value < 1 << 62:
            raise ValueError(f"{name} is out of range")
    return cls(**data)


def _shown(value: Any) -> str:
    return str(value)[:100]


def _reason(error: Exception) -> str:
    return " ".join(str(error).strip("'\"").split())[:200] or type(error).__name__
