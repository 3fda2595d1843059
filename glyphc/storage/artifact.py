"""Reading .glyphc files: the graphs of a compiled program. Shared by everything that executes one."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any, BinaryIO

from glyphc.errors import ArtifactError
from glyphc.ir import memory
from glyphc.ir.errors import IRError, TooLargeError
from glyphc.ir.graph import Graph
from glyphc.ir.text import parse
from glyphc.ir.verify import verify
from glyphc.storage.archive import ArchiveError, contents, read_entries
from glyphc.storage.headers import HEADERS

from . import container

FORMAT = "glyphc-program"
VERSION = 2
MANIFEST = "manifest.json"
# A program has some twelve stages.
_MOST_PARTS = 64
_MANIFEST_LIMIT = 1 << 20
# A byte of a stage's text, and what is read from it. Constants, which are most of it, take about four bytes a byte.
_TEXT_BYTES = 8
_PART = re.compile(r"stages/[0-9]+-[a-z-]+\.gir")


def most_inflated(size: int) -> int:
    """The size of contents that so many deflated bytes may have: what would inflate to more is stored as it is.

    Texts of graphs have some two to five times their deflated size.
    """
    return (1 << 20) + 64 * size


def is_artifact(file: BinaryIO) -> bool:
    """Whether an archive has stages of a program; ArchiveError when it is none."""
    return any(_PART.fullmatch(entry.name) for entry in read_entries(file, _MOST_PARTS, deflated=True))


def read_stages(data: bytes, name: str) -> tuple[dict[str, Graph], int]:
    """The graphs by stage name, in the order they were made, and the batch that was asked for.

    ArtifactError, naming the file, if it is damaged or of another version.
    """
    try:
        file = io.BytesIO(data)
        entries = {entry.name: entry for entry in read_entries(file, _MOST_PARTS, deflated=True)}
        for entry in entries.values():
            if entry.length > most_inflated(entry.size):
                raise ArchiveError(f"{entry.name} would inflate to {entry.length:,} bytes")
        if MANIFEST not in entries:
            raise ArchiveError("it has no manifest")
        if entries[MANIFEST].length > _MANIFEST_LIMIT:
            raise ArchiveError("its manifest is too large")
        manifest = json.loads(contents(file, entries.pop(MANIFEST)))
        _check_manifest(manifest, name)
        other = sorted(set(entries) ^ set(manifest["parts"]))
        if other:
            raise ArchiveError(f"its parts are not those that the manifest lists: {other[0]}")
        size = sum(entry.length for entry in entries.values())
        memory.require(size * _TEXT_BYTES, f"{name!r}: its stages, {size:,} bytes of text,")
        parts = {part: contents(file, entries[part]) for part in manifest["parts"]}
    except TooLargeError as e:
        raise ArtifactError(str(e)) from None
    except ArtifactError:
        raise
    except Exception as e:  # json raises several classes on damaged data, with no common base
        raise ArtifactError(
            f"{name!r} is not a readable .glyphc artifact ({_reason(e)}): it may be truncated or damaged, or "
            "another kind of file. Make it again with 'glyphc compile'"
        ) from None
    for part, content in parts.items():
        if hashlib.sha256(content).hexdigest() != manifest["parts"][part]:
            raise ArtifactError(
                f"{name!r} is damaged: the hash of {part} is wrong. Make it again with 'glyphc compile'"
            )
    try:
        # passes that found nothing to do leave stages of the same text
        read = {content: parse(content.decode()) for content in dict.fromkeys(parts.values())}
        for graph in read.values():
            verify(graph)
    except (IRError, UnicodeDecodeError) as e:
        raise ArtifactError(f"{name!r} holds a graph that this glyphc cannot read: {e}") from None
    return {_stage(part): read[content] for part, content in parts.items()}, manifest["batch"]


def _check_manifest(manifest: Any, name: str) -> None:
    if isinstance(manifest, dict) and manifest.get("format") == container.FORMAT:
        _check_kind(manifest.get("kind"), name)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(f"{name!r} is not a glyphc program; make one with 'glyphc compile'")
    if manifest.get("version") != VERSION:
        raise ArtifactError(
            f"{name!r} has artifact version {manifest.get('version')}; this glyphc reads version {VERSION}. "
            "Compile the model again with this version, or use the version that wrote it"
        )
    parts, batch = manifest.get("parts"), manifest.get("batch")
    if (
        not isinstance(parts, dict)
        or not all(_PART.fullmatch(part) and isinstance(digest, str) for part, digest in parts.items())
        or type(batch) is not int
        or batch < 1
    ):
        raise ArtifactError(
            f"{name!r} is damaged: its manifest does not list stages with their hashes, and a batch. Make it again "
            "with 'glyphc compile'"
        )


def _check_kind(kind: Any, name: str) -> None:
    """ArtifactError for a file of the roles, which says what such a file is for."""
    for header in HEADERS:
        if kind == header.kind:
            raise ArtifactError(
                f"{name!r} holds {kind} (made by {header.made_by}), not a whole compiled program; {header.read_by}. "
                "Give the .glyphc file that 'glyphc compile' wrote"
            )


def _stage(part: str) -> str:
    """The name of the stage that a part of the archive holds."""
    return Path(part).stem.split("-", 1)[1]


def _reason(error: Exception) -> str:
    return " ".join(str(error).strip("'\"").split()) or type(error).__name__
