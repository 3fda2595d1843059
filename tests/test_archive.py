"""Archives made to cost their reader more than they cost their sender: each is refused, and takes little memory.

Memory is what ``tracemalloc`` sees, so it does not depend on the machine.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import examples

from glyphc.errors import ArtifactError
from glyphc.files import write_atomically
from glyphc.ir.memory import inflated
from glyphc.program import Program
from glyphc.storage.archive import ArchiveError, contents, read_entries
from glyphc.storage.artifact import VERSION as ARTIFACT_VERSION
from glyphc.storage.container import MANIFEST, VERSION, Header, Reader, Writer
from tests.roles import ROOT

MIB = 1 << 20


@dataclass(frozen=True)
class Sample(Header):
    kind = "a sample"
    made_by = "'glyphc sample'"
    text: str


HEAD = {"format": "glyphc-container", "version": VERSION, "kind": Sample.kind, "header": {"text": "x"}}


def good(path: Path, parts: int = 3, size: int = 1000) -> bytes:
    with Writer(path, Sample("x")) as writer:
        for number in range(parts):
            writer.add(f"part/{number:06d}", bytes([number % 251]) * size)
    return path.read_bytes()


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in entries.items():
            file.writestr(name, data)
        file.comment = comment
    return buffer.getvalue()


def refusal(data: bytes, path: Path, most: int = 2 * MIB) -> str:
    """Why a file is refused; the memory that takes is bounded."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError) as caught, Reader(path, Sample) as reader:
            reader.verify()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak:,} bytes of memory for a file of {len(data):,}"
    return str(caught.value)


# -- what inflates --


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_manifest_that_inflates_is_never_read(method: int, tmp_path: Path) -> None:
    manifest = json.dumps(HEAD | {"parts": []}).encode() + b" " * (30 * MIB)
    data = archive({MANIFEST: manifest}, method)
    assert len(data) < 100_000
    assert "manifest.json is not stored as it is" in refusal(data, tmp_path / "file")


def test_a_stored_manifest_that_is_really_deflated_is_refused(tmp_path: Path) -> None:
    """The list says stored, the header before the bytes says deflated; and the other way round."""
    data = bytearray(archive({MANIFEST: b" " * MIB}, zipfile.ZIP_DEFLATED))
    central = data.index(b"PK\1\2")
    for at in (central + 10, 8):
        changed = bytearray(data)
        changed[at] = 0
        refusal(bytes(changed), tmp_path / "file")


@pytest.mark.parametrize("filler", [b"[],", b"{},", b"0,", b'"",', b'{"name":"a","size":1,"sha256":"b"},'])
def test_a_long_manifest_builds_no_tree(filler: bytes, tmp_path: Path) -> None:
    """A manifest may be as long as its parts need; what is in it is not kept before it is known to be parts."""
    head = json.dumps(HEAD).encode()[:-1]
    nonsense = filler * (8 * MIB // len(filler))
    for manifest in (head + b', "parts": [' + nonsense, b"[" + nonsense, head + b', "more": [' + nonsense + b'0], "pa'):
        assert "manifest is too large" in refusal(archive({MANIFEST: manifest}), tmp_path / "file")
    # with parts to go with it, it is read, but no more than once
    parts = {f"p{number:05d}": b"" for number in range(4000)}
    manifest = head + b', "parts": [' + filler * (MIB // len(filler)) + b"0]}"
    message = refusal(archive(parts | {MANIFEST: manifest}), tmp_path / "file", most=8 * MIB)
    assert "its list of parts is not one" in message


def test_programs_inflate_within_bounds(tmp_path: Path) -> None:
    """A compiled program is deflated text: what inflates beyond all measure is refused before it does."""
    stage = "stages/00-source.gir"
    manifest = {"format": "glyphc-program", "version": ARTIFACT_VERSION, "batch": 1, "parts": {stage: "0" * 64}}
    data = archive({"manifest.json": json.dumps(manifest).encode(), stage: b" " * (40 * MIB)}, zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match="would inflate to 41,943,040 bytes"):
            Program.from_bytes(data)
        # one that says less than what comes is cut off there
        lying = bytearray(data)
        for signature, at in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
            struct.pack_into("<L", lying, lying.rindex(signature) + at, MIB)
        with pytest.raises(ArtifactError, match="inflates to more than"):
            Program.from_bytes(bytes(lying))
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@settings(deadline=None)
@given(st.binary(max_size=2000), st.integers(-3, 3))
def test_inflation_stops_at_the_limit(data: bytes, more: int) -> None:
    limit = max(0, len(data) + more)
    if more == 0 or limit >= len(data):
        assert inflated(zlib.compress(data), limit) == data
    else:
        with pytest.raises(ValueError, match="inflates to more than"):
            inflated(zlib.compress(data), limit)


def test_repetitive_programs_are_stored(tmp_path: Path) -> None:
    """Their own readers must not take them for an attack."""
    from glyphc.program import _method

    assert _method(b" " * (40 * MIB)) == zipfile.ZIP_STORED
    assert _method(b" " * MIB) == _method(os.urandom(3 * MIB)) == zipfile.ZIP_DEFLATED


# -- what hides or is used twice --


def central(name: bytes, size: int, crc: int, header: int) -> bytes:
    fields = (b"PK\1\2", 20, 20, 0, 0, 0, 33, crc, size, size, len(name), 0, 0, 0, 0, 0, header)
    return struct.pack("<4s6H3L5H2L", *fields) + name


def end(count: int, size: int, offset: int) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, offset, 0)


def test_parts_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """A hundred entries of one megabyte in a file of one: 100 MB would have to be hashed."""
    body = bytes(MIB)
    names = [f"p{number:02d}".encode() for number in range(100)]
    listed = [{"name": n.decode(), "size": MIB, "sha256": "0" * 64} for n in names]
    manifest = json.dumps(HEAD | {"parts": listed}).encode()
    header = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, zlib.crc32(body), MIB, MIB, 3, 0) + names[0]
    whole = header + body
    last = struct.pack(
        "<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, zlib.crc32(manifest), len(manifest), len(manifest), len(MANIFEST), 0
    )
    at = len(whole)
    whole += last + MANIFEST.encode() + manifest
    directory = b"".join(central(n, MIB, zlib.crc32(body), 0) for n in names)
    directory += central(MANIFEST.encode(), len(manifest), zlib.crc32(manifest), at)
    data = whole + directory + end(101, len(directory), len(whole))
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() in (None, "p01")  # zipfile sees a hundred of them
    assert "overlaps another part" in refusal(data, tmp_path / "file")


def with_gap(data: bytes) -> bytes:
    """The same archive with bytes before its first entry, offsets moved along."""
    offset = data.index(b"PK\1\2")
    directory = bytearray(data[offset:-22])
    at = 0
    while at < len(directory):
        struct.pack_into("<L", directory, at + 42, struct.unpack_from("<L", directory, at + 42)[0] + 7)
        at += 46 + struct.unpack_from("<H", directory, at + 28)[0]
    count = struct.unpack_from("<H", data, len(data) - 12)[0]
    return b"unknown" + data[:offset] + bytes(directory) + end(count, len(directory), offset + 7)


def field(at: int, form: str, value: int, signature: bytes = b"PK\1\2") -> Callable[[bytes], bytes]:
    """Change a field of the first record with this signature."""

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        struct.pack_into(form, changed, changed.index(signature) + at, value)
        return bytes(changed)

    return change


def large(data: bytes, **changes: int) -> bytes:
    """The archive with the records of large ones, in which something is changed."""
    count, size, offset = struct.unpack("<HLL", data[-12:-2])
    at = len(data) - 22
    said = {"count": count, "size": size, "offset": offset, "pointer": at, "length": 44, "disks": 1} | changes
    record = struct.pack(
        "<4sQ2H2L4Q",
        b"PK\6\6",
        said["length"],
        45,
        45,
        0,
        0,
        said["count"],
        said["count"],
        said["size"],
        said["offset"],
    )
    return data[:-22] + record + struct.pack("<4sLQL", b"PK\6\7", 0, said["pointer"], said["disks"]) + data[-22:]


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "bytes before": lambda d: b"x" + d,
    "bytes before that are accounted for": with_gap,
    "bytes behind": lambda d: d + b"x",
    "a comment": lambda d: d[:-2] + b"\1\0x",
    "a part's comment": field(32, "<H", 1),
    "encrypted": field(8, "<H", 1),
    "another method": field(10, "<H", 12),
    "a data descriptor": field(6, "<H", 8, b"PK\3\4"),
    "another name in front": field(30, "<B", 0x71, b"PK\3\4"),
    "another size in front": field(18, "<L", 999, b"PK\3\4"),
    "a smaller size": field(20, "<L", 999),
    "a larger length": field(24, "<L", 1001),
    "another checksum": field(16, "<L", 1),
    "another disk": field(34, "<H", 1),
    "fewer entries": field(10, "<H", 3, b"PK\5\6"),
    "more entries": field(10, "<H", 5, b"PK\5\6"),
    "a directory elsewhere": field(16, "<L", 0, b"PK\5\6"),
    "masked sizes without a field": field(24, "<L", 0xFFFFFFFF),
    "a pointer elsewhere": lambda d: large(d, pointer=0),
    "a large record that is too long": lambda d: large(d, length=45),
    "another number of disks": lambda d: large(d, disks=2),
    "large and small records that differ": lambda d: large(d, count=2),
    "a large record with another size": lambda d: large(d, size=1),
    "a large record with another offset": lambda d: large(d, offset=1),
    "a large record that claims all memory": lambda d: large(d, size=1 << 60, count=1 << 56),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_glyphc_does_not_write_is_not_read(name: str, tmp_path: Path) -> None:
    data = good(tmp_path / "good")
    changed = CHANGES[name](data)
    assert changed != data
    message = refusal(changed, tmp_path / "file")
    assert "cut short, damaged or another kind of file" in message, message


def test_the_records_of_large_archives_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As zipfile writes them beyond two gigabytes; here it is told that they begin at 1000 bytes."""
    plain = good(tmp_path / "plain", 40)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 900)
    data = good(tmp_path / "large", 40)
    assert len(data) > len(plain) + 40 * 20 and b"PK\6\7" in data
    with Reader(tmp_path / "large", Sample) as reader:
        reader.verify()
        assert list(reader.parts) == [f"part/{number:06d}" for number in range(40)]
        assert reader.read("part/000003") == bytes([3]) * 1000
    assert large(plain) != plain
    (tmp_path / "both").write_bytes(large(plain))
    with Reader(tmp_path / "both", Sample) as reader:
        reader.verify()


def test_a_part_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    data = good(tmp_path / "good")
    changed = data.replace(b"part/000001", b"part/000000")
    assert "part/000000 is there twice" in refusal(changed, tmp_path / "file")


def test_more_parts_than_any_file_has_are_refused(tmp_path: Path) -> None:
    name = b"x" * 100
    directory = central(name, 0, 0, 0) * (1 << 17) * 2
    data = directory + end(0xFFFF, len(directory), 0)
    data = large(data, count=1 << 18, size=len(directory), offset=0)
    assert "too long" in refusal(data, tmp_path / "file")


@examples(100)
@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.binary(max_size=200), max_size=6), st.booleans()
)
def test_what_zipfile_writes_is_read(entries: dict[str, bytes], deflated: bool) -> None:
    data = archive(entries, zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED)
    file = io.BytesIO(data)
    found = read_entries(file, 6, deflated)
    assert {e.name: contents(file, e) for e in found} == entries
    if len(entries) > 1:
        with pytest.raises(ArchiveError, match="too long"):
            read_entries(file, len(entries) - 1, deflated)


# -- disks that are full, and processes that were killed --


def limited(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code where no file may exceed a megabyte: writes fail as on a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    before = "import glyphc, os\nfrom pathlib import Path\n"
    return subprocess.run(
        [sys.executable, "-c", before + code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )


WRITES = {
    "a part that does not fit": "w.add('a', bytes(3 << 20))",
    "a part that just does not fit": "w.add('a', bytes((1 << 20) - 50))",
    "a buffer that does not fit": "w.add('a', bytes((1 << 20) - 2000)); [w.add(f'{n}', b'x') for n in range(100)]",
}


@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk_leaves_no_file_and_says_so(name: str, tmp_path: Path) -> None:
    code = f"""
from glyphc.errors import ArtifactError
from glyphc.files import write_atomically
from glyphc.storage.container import Writer
from glyphc.storage.headers import SpecHeader
def pack():
    with Writer(Path("file"), SpecHeader("0" * 64)) as w:
        {WRITES[name]}
for action in (pack, lambda: write_atomically(Path("file"), bytes(3 << 20))):
    try:
        action()
    except ArtifactError as e:
        print(e)
"""
    result = limited(code, tmp_path)
    assert result.stdout.splitlines() == ["cannot write 'file': File too large"] * 2, result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """But not what a living one is writing."""
    code = """
import os, sys
from pathlib import Path
from glyphc.storage.container import Writer
from glyphc.storage.headers import SpecHeader
with Writer(Path(sys.argv[1]), SpecHeader("0" * 64)) as w:
    w.add("a", b"x")
    os.kill(os.getpid(), 9)
"""
    path = tmp_path / "file"
    command = [sys.executable, "-c", code, str(path)]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    (remnant,) = tmp_path.iterdir()
    assert remnant.suffix == ".part"
    neighbour = tmp_path / ".file2abcdefgh.part"
    neighbour.write_bytes(b"of another file")
    with Writer(path, Sample("x")) as writer:
        assert not remnant.exists()
        write_atomically(path, b"meanwhile")
        writer.add("a", b"x")
    with Reader(path, Sample) as reader:
        assert reader.read("a") == b"x"
    assert sorted(tmp_path.iterdir()) == [neighbour, path]
