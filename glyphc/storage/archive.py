"""Zip archives as glyphc writes them, read strictly: one entry behind the other, nothing between them, nothing hidden.

``zipfile`` writes them. It reads much more than that (comments, overlapping entries, inflation without end), and each
of these is a way to make a reader work or allocate out of all proportion to the file. Here an archive has exactly one
meaning, its sizes add up to the file's, and what a contents takes is known before it is read. Format: PKWARE APPNOTE
6.3.10, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from glyphc.ir.memory import inflated

_STORED, _DEFLATED = 0, 8
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_NAME = re.compile(rb"[ -~]{1,100}")
_NAME_BYTES = 100
# A field of two or four bytes that says this stands in an extra field, or the record for large archives.
_MASK16, _MASK32 = 0xFFFF, 0xFFFFFFFF
_ZIP64 = 1
_EXTRA_BYTES = 4 + 3 * 8
_CHUNK = 1 << 20


class ArchiveError(ValueError):
    """A file that glyphc has not written as an archive, or that was changed since."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an entry's bytes are. size: of them in the file; length: of the contents, which differs if deflated."""

    name: str
    start: int
    size: int
    length: int
    crc: int
    deflated: bool


def read_entries(file: BinaryIO, most: int, deflated: bool = False) -> list[Entry]:
    """All entries, in the order in which they lie in the file; ArchiveError for anything unusual.

    most: entries at most. deflated: whether contents may be compressed. Takes memory in proportion to the number of
    entries that are really there.
    """
    directory, offset, count = _directory(file, most)
    found: list[Entry] = []
    names: set[str] = set()
    at = position = 0
    for _ in range(count):
        entry, header, at = _central(directory, at, deflated)
        if header != position:
            raise ArchiveError(f"{entry.name} overlaps another part, or there is a gap before it")
        if entry.name in names:
            raise ArchiveError(f"{entry.name} is there twice")
        entry = _located(file, entry, header, offset)
        position = entry.start + entry.size
        names.add(entry.name)
        found.append(entry)
    if at != len(directory):
        raise ArchiveError("its list of parts has another length than it says")
    if position != offset:
        raise ArchiveError("the sizes of its parts do not add up to that of the file")
    return found


def chunks(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """The bytes of a stored entry, a piece at a time."""
    assert not entry.deflated
    file.seek(entry.start)
    left, crc = entry.size, 0
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise ArchiveError(f"{entry.name} is cut short")
        left -= len(chunk)
        crc = zlib.crc32(chunk, crc)
        yield chunk
    if crc != entry.crc:
        raise ArchiveError(f"the CRC-32 of {entry.name} is wrong")


def contents(file: BinaryIO, entry: Entry) -> bytes:
    """An entry's contents, whole; never more than ``length`` bytes, whatever it inflates to."""
    file.seek(entry.start)
    data = file.read(entry.size)
    if entry.deflated:
        try:
            data = inflated(data, entry.length, -zlib.MAX_WBITS)
        except ValueError as e:
            raise ArchiveError(f"{entry.name}: {e}") from None
    if len(data) != entry.length:
        raise ArchiveError(f"{entry.name} has another size than the archive says")
    if zlib.crc32(data) != entry.crc:
        raise ArchiveError(f"the CRC-32 of {entry.name} is wrong")
    return data


def _directory(file: BinaryIO, most: int) -> tuple[bytes, int, int]:
    """The list of entries: its bytes, where it begins, how many there are."""
    size = file.seek(0, os.SEEK_END)
    tail_size = min(size, _END.size + _LOCATOR.size + _END64.size)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\5\6":
        raise ArchiveError("no end of an archive")
    _, disk, first_disk, here, count, length, offset, comment = _END.unpack(tail[-_END.size :])
    end = size - _END.size
    large = tail[: -_END.size]
    if len(large) == _LOCATOR.size + _END64.size and large[_END64.size :][:4] == b"PK\6\7":
        small = count, length, offset
        record, end64, _, _, *disks, here, count, length, offset = _END64.unpack(large[: _END64.size])
        end -= len(large)
        _, locator_disk, pointer, disk_count = _LOCATOR.unpack(large[_END64.size :])
        if record != b"PK\6\6" or end64 != _END64.size - 12 or (*disks, locator_disk, disk_count) != (0, 0, 0, 1):
            raise ArchiveError("its end is not one that glyphc writes")
        if pointer != end or small != (min(count, _MASK16), min(length, _MASK32), min(offset, _MASK32)):
            raise ArchiveError("its two ends contradict each other")
    if (disk, first_disk, comment) != (0, 0, 0) or here not in (count, min(count, _MASK16)):
        raise ArchiveError("its end is not one that glyphc writes")
    if offset + length != end:
        raise ArchiveError("its list of parts is not at its end")
    if count > most or length > count * (_CENTRAL.size + _NAME_BYTES + _EXTRA_BYTES):
        raise ArchiveError("its list of parts is too long")
    file.seek(offset)
    return file.read(length), offset, count


def _central(directory: bytes, at: int, deflated: bool) -> tuple[Entry, int, int]:
    """The entry in the list at ``at`` (its ``start`` still unknown), where its header is, and the next one's place."""
    if at + _CENTRAL.size > len(directory):
        raise ArchiveError("its list of parts has another length than it says")
    fields = _CENTRAL.unpack_from(directory, at)
    signature, _, _, flags, method, _, _, crc, size, length, name_size, extra_size, comment, disk, _, _, header = fields
    at += _CENTRAL.size
    raw = directory[at : at + name_size]
    extra = directory[at + name_size : at + name_size + extra_size]
    if signature != b"PK\1\2" or not _NAME.fullmatch(raw):
        raise ArchiveError("its list of parts is not one that glyphc writes")
    name = raw.decode("ascii")
    if method != _STORED and not (deflated and method == _DEFLATED):
        raise ArchiveError(f"{name} is not stored as it is")
    if (flags, comment, disk) != (0, 0, 0):
        raise ArchiveError(f"{name} is written as glyphc does not write")
    length, size, header = _widened((length, size, header), extra)
    if method == _STORED and size != length:
        raise ArchiveError(f"{name} has two sizes")
    return Entry(name, 0, size, length, crc, method == _DEFLATED), header, at + name_size + extra_size


def _widened(values: tuple[int, ...], extra: bytes) -> tuple[int, ...]:
    """Values of four bytes, those that do not fit taken from the extra field, which must hold these and no more."""
    missing = values.count(_MASK32)
    if not missing:
        if extra:
            raise ArchiveError("a part has a field that glyphc does not write")
        return values
    if len(extra) != 4 + 8 * missing or struct.unpack_from("<2H", extra) != (_ZIP64, 8 * missing):
        raise ArchiveError("a part has a field that glyphc does not write")
    wide = iter(struct.unpack_from(f"<{missing}Q", extra, 4))
    return tuple(next(wide) if v == _MASK32 else v for v in values)


def _located(file: BinaryIO, entry: Entry, header: int, end: int) -> Entry:
    """The entry with its ``start``: the header before its bytes must say what the list of entries does."""
    file.seek(header)
    head = file.read(_LOCAL.size + _NAME_BYTES + _EXTRA_BYTES)
    if len(head) < _LOCAL.size:
        raise ArchiveError(f"{entry.name} is cut short")
    signature, _, flags, method, _, _, crc, size, length, name_size, extra_size = _LOCAL.unpack_from(head)
    name_end = _LOCAL.size + name_size
    extra = head[name_end : name_end + extra_size]
    length, size = _widened((length, size), extra)
    said = signature, flags, method, crc, size, length, head[_LOCAL.size : name_end]
    wanted = _DEFLATED if entry.deflated else _STORED
    if said != (b"PK\3\4", 0, wanted, entry.crc, entry.size, entry.length, entry.name.encode()):
        raise ArchiveError(f"{entry.name} is described in two ways")
    start = header + name_end + extra_size
    if start + entry.size > end:
        raise ArchiveError(f"{entry.name} goes beyond its place")
    return Entry(entry.name, start, entry.size, entry.length, entry.crc, entry.deflated)
