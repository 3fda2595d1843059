"""The container: what is written is read back; what is damaged, cut short or mixed up is refused with a reason."""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import drawn

from glyphc.errors import ArtifactError
from glyphc.storage.container import MANIFEST, Header, Reader, Writer


@dataclass(frozen=True)
class Sample(Header):
    kind = "a sample"
    made_by = "'glyphc sample'"
    text: str
    number: int
    flag: bool


@dataclass(frozen=True)
class Other(Header):
    kind = "another thing"
    made_by = "'glyphc other'"
    text: str


HEADER = Sample('ä\n"', 7, True)
PARTS = {"a": b"first", "b/0.1-x_y": b"", "c": bytes(range(256)) * 20}


def written(path: Path, parts: dict[str, bytes] = PARTS, header: Header = HEADER) -> Path:
    with Writer(path, header) as writer:
        for name, data in parts.items():
            writer.add(name, data)
    return path


def contents(path: Path) -> tuple[Sample, dict[str, bytes]]:
    with Reader(path, Sample) as reader:
        reader.verify()
        return reader.header, {name: reader.read(name) for name in reader.parts}


NAMES = st.from_regex(r"[a-z0-9][a-z0-9/_.-]{0,20}", fullmatch=True).filter(lambda n: n != MANIFEST)


@settings(deadline=None, max_examples=drawn(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, st.binary(max_size=300), max_size=5), st.text(), st.integers(0, 2**61), st.booleans())
def test_what_is_written_is_read(tmp_path: Path, parts: dict[str, bytes], text: str, number: int, flag: bool) -> None:
    try:
        header = Sample(text.encode("utf-8", "replace").decode(), number, flag)
        path = written(tmp_path / "file", parts, header)
        assert contents(path) == (header, parts)
    finally:
        shutil.rmtree(tmp_path / "file", ignore_errors=True)


@settings(deadline=None, max_examples=drawn(300), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_is_noticed_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """Any byte of the file, changed in any way: either refused with a message, or the contents are what they were."""
    whole = bytearray(written(tmp_path / "file").read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path / "damaged"
    damaged.write_bytes(whole)
    try:
        found = contents(damaged)
    except ArtifactError as e:
        refused = str(e)
    else:
        refused = ""
        assert found == (HEADER, PARTS)
    assert not refused or str(damaged) in refused


@settings(deadline=None, max_examples=drawn(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_cut_short_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = written(tmp_path / "file").read_bytes()
    short = tmp_path / "short"
    short.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ArtifactError, match="cut short"):
        contents(short)


def rewritten(path: Path, **changes: object) -> Path:
    """The same archive with another manifest."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    manifest = json.loads(entries[MANIFEST])
    manifest.update(changes)
    entries[MANIFEST] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as new:
        for name, content in entries.items():
            new.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1}, "format version 1; this glyphc reads version 3"),
        ({"version": None}, "format version None"),
        ({"format": "x"}, "not a file of a sample"),
        ({"kind": "another thing"}, "holds another thing; a file of a sample is needed"),
        ({"header": {"text": "x", "number": 1}}, "expected the fields flag, number, text"),
        ({"header": {"text": "x", "number": "1", "flag": True}}, "number is not a int"),
        ({"header": {"text": "x", "number": True, "flag": True}}, "number is not a int"),
        ({"header": {"text": "x", "number": -1, "flag": True}}, "number is out of range"),
        ({"header": []}, "manifest is unreadable"),
        ({"parts": []}, "not those that the manifest lists"),
        ({"parts": None}, "manifest is unreadable"),
        ({"parts": [{"name": "a", "size": 5, "sha256": "0"}]}, "manifest is unreadable"),
        ({"parts": [{"name": "a", "size": 5, "sha256": "0" * 64}] * 2}, "listed twice"),
        ({"parts": [{"name": "../a", "size": 5, "sha256": "0" * 64}]}, "manifest is unreadable"),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        contents(rewritten(written(tmp_path / "file"), **changes))


def test_another_kind_of_file_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "file", {}, Other("x"))
    with pytest.raises(ArtifactError, match=r"holds another thing; a file of a sample is needed here \(made by"):
        contents(path)


def test_missing_and_misplaced_parts_are_named(tmp_path: Path) -> None:
    with Reader(written(tmp_path / "file"), Sample) as reader:
        with pytest.raises(ArtifactError, match="part d is missing"):
            reader.read("d")
        sizes = {name: len(data) for name, data in PARTS.items()}
        reader.expect(list(sizes.items()))
        with pytest.raises(ArtifactError, match="part a has 5 bytes, not 6"):
            reader.expect(list((sizes | {"a": 6}).items()))
        with pytest.raises(ArtifactError, match="part d is missing"):
            reader.expect(list((sizes | {"d": 6}).items()))
        with pytest.raises(ArtifactError, match="part c does not belong"):
            reader.expect([(n, s) for n, s in sizes.items() if n != "c"])


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    def fail() -> None:
        with Writer(tmp_path / "file", HEADER) as writer:
            writer.add("a", b"x")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []
    # and an older file stays as it was
    old = written(tmp_path / "file").read_bytes()
    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [old]


def test_secret_files_are_private_from_the_start(tmp_path: Path) -> None:
    with Writer(tmp_path / "file", HEADER, secret=True) as writer:
        writer.add("a", b"x")
        (temporary,) = tmp_path.iterdir()
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_unwritable_places_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no folder"):
        Writer(tmp_path / "none" / "file", HEADER)
    with pytest.raises(ArtifactError, match="it is a folder"):
        Writer(tmp_path, HEADER)
    with pytest.raises(ArtifactError, match="No such file"):
        Reader(tmp_path / "none", Sample)
