"""Artifacts that are no whole program: each is refused by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from glyphc.errors import ArtifactError
from glyphc.program import Program
from tests.commands import glyphc
from tests.wrong_inputs import MODEL, TEST, contents, npz, refused, replaced, rewritten, write


def _without_line(start: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(parts: dict[str, bytes]) -> None:
        lines = parts[max(parts)].split(b"\n")
        kept = [line for line in lines if not line.startswith(start)]
        assert len(kept) == len(lines) - 1
        parts[max(parts)] = b"\n".join(kept)

    return change


def _drop_last(parts: dict[str, bytes]) -> None:
    del parts[max(parts)]


BAD_ARTIFACTS: dict[str, tuple[Callable[[Path], bytes], tuple[str, ...]]] = {
    "empty": (lambda a: b"", ("not a readable .glyphc artifact",)),
    "text": (lambda a: b"hello\n", ("not a readable .glyphc artifact",)),
    "half of it": (lambda a: a.read_bytes()[: a.stat().st_size // 2], ("truncated",)),
    "a byte short": (lambda a: a.read_bytes()[:-1], ("truncated",)),
    "only the end": (lambda a: a.read_bytes()[5000:], ("truncated",)),
    "a network": (lambda a: MODEL.read_bytes(), ("not a readable .glyphc artifact",)),
    "another zip": (lambda a: npz(x_npy=b"1"), ("not a readable .glyphc artifact",)),
    "a newer version": (lambda a: rewritten(a, lambda m: m.update(version=3)), ("version 3", "version 2")),
    "an older version": (lambda a: rewritten(a, lambda m: m.update(version=1)), ("version 1", "version 2")),
    "no version": (lambda a: rewritten(a, lambda m: m.pop("version")), ("version",)),
    "another format": (lambda a: rewritten(a, lambda m: m.update(format="x")), ("not a glyphc program",)),
    "manifest: not JSON": (lambda a: npz(**{"manifest.json": b"{]"}), ("not a readable",)),
    "manifest: not text": (lambda a: npz(**{"manifest.json": b"\xff\xfe\x00\xd8"}), ("not a readable",)),
    "manifest: a list": (lambda a: npz(**{"manifest.json": b"[]"}), ("not a glyphc program",)),
    "manifest: nested deeply": (lambda a: npz(**{"manifest.json": b"[" * 100_000}), ("not a readable",)),
    "manifest: no parts": (lambda a: rewritten(a, lambda m: m.pop("parts")), ("damaged",)),
    "manifest: parts is a list": (
        lambda a: rewritten(a, lambda m: m.update(parts=list(m["parts"]))),
        ("damaged",),
    ),
    "manifest: parts is a number": (lambda a: rewritten(a, lambda m: m.update(parts=3)), ("damaged",)),
    "manifest: parts is empty": (lambda a: rewritten(a, lambda m: m.update(parts={})), ("the manifest lists",)),
    "manifest: unknown part": (lambda a: rewritten(a, lambda m: m["parts"].update(x="0")), ("damaged",)),
    "manifest: missing part": (
        lambda a: rewritten(a, lambda m: m["parts"].update({"stages/99-last.gir": "0"})),
        ("stages/99-last.gir",),
    ),
    "manifest: wrong hash": (
        lambda a: rewritten(a, lambda m: m["parts"].update({"stages/00-source.gir": "0" * 64})),
        ("stages/00-source.gir", "damaged"),
    ),
    "manifest: no batch": (lambda a: rewritten(a, lambda m: m.pop("batch")), ("damaged",)),
    "manifest: batch is text": (lambda a: rewritten(a, lambda m: m.update(batch="many")), ("damaged",)),
    "manifest: batch is zero": (lambda a: rewritten(a, lambda m: m.update(batch=0)), ("damaged",)),
    "parts: last stage missing": (
        lambda a: rewritten(a, parts=_drop_last),
        ("no whole program", "parameters"),
    ),
    "parts: a strange name": (lambda a: rewritten(a, parts=lambda p: p.update(x=p[max(p)])), ("damaged",)),
    "parts: newer text form": (
        lambda a: rewritten(a, parts=replaced(b"glyph-ir 1 ", b"glyph-ir 2 ")),
        ("IR version 2", "version 1"),
    ),
    "parts: unknown op": (lambda a: rewritten(a, parts=replaced(b"= linear ", b"= cubic ")), ("'cubic'",)),
    "parts: not UTF-8": (lambda a: rewritten(a, parts=replaced(b"level laidout", b"level \xff")), ("utf-8",)),
    "parts: other batch": (
        lambda a: rewritten(a, parts=replaced(b"laidout batch 8", b"laidout batch 9")),
        ("batch 9",),
    ),
    "parts: an unpacking into seventeen": (
        lambda a: rewritten(a, parts=replaced(b"parts=16", b"parts=17")),
        ("(unpack @relu1)", "17 parts at stride 256", "powers of two"),
    ),
    "parts: three baby steps": (
        lambda a: rewritten(a, parts=replaced(b"babies=4", b"babies=3")),
        ("(unpack @relu1)", "no powers of two"),
    ),
    "parts: baby steps without keys": (
        lambda a: rewritten(a, parts=replaced(b"babies=4", b"babies=8")),
        ("(unpack @relu1)", "16 conjugates, 8 baby steps", "no keys"),
    ),
    "parts: no parameters": (
        lambda a: rewritten(a, parts=_without_line(b"parameters ")),
        ("no whole program", "parameters"),
    ),
}


@pytest.mark.parametrize("case", BAD_ARTIFACTS)
def test_unusable_artifact(case: str, digits_artifact: Path, tmp_path: Path) -> None:
    make, culprits = BAD_ARTIFACTS[case]
    path = write(make(digits_artifact), "bad.glyphc")(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        Program.load(path)
    message = str(caught.value)
    assert "\n\n" not in message
    assert len(message) < 1500
    for culprit in (repr(str(path)), *culprits):
        assert culprit in message


COMMON = ["half of it", "a newer version", "manifest: wrong hash", "parts: unknown op", "parts: not UTF-8"]


@pytest.mark.parametrize("mode", ["clear", "encrypted"])
@pytest.mark.parametrize("case", COMMON)
def test_unusable_artifact_to_run(case: str, mode: str, digits_artifact: Path, tmp_path: Path) -> None:
    make, culprits = BAD_ARTIFACTS[case]
    path = write(make(digits_artifact), "bad.glyphc")(tmp_path)
    if mode == "clear":
        (tmp_path / "y.npy").write_bytes(b"older results")
    before = contents(tmp_path)
    result = glyphc("run", path, "--input", TEST, "--output", tmp_path / "y.npy", "--mode", mode)
    refused(result, repr(str(path)), *culprits)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("case", COMMON)
def test_unusable_artifact_to_inspect(case: str, digits_artifact: Path, tmp_path: Path) -> None:
    make, culprits = BAD_ARTIFACTS[case]
    path = write(make(digits_artifact), "bad.glyphc")(tmp_path)
    refused(glyphc("inspect", path), repr(str(path)), *culprits)


@pytest.mark.parametrize("command", ["inspect", "run"])
def test_no_artifact_there(command: str, tmp_path: Path) -> None:
    out = tmp_path / "y.npy"
    before = contents(tmp_path)
    options = ("--input", TEST, "--output", out) if command == "run" else ()
    refused(glyphc(command, tmp_path / "no.glyphc", *options), "no.glyphc", "No such file")
    refused(glyphc(command, tmp_path, *options), str(tmp_path), "is a folder")
    assert contents(tmp_path) == before


def _flipped(data: bytes, source: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(source.choice([1, 1, 1, 2, 20])):
        damaged[source.randrange(len(data))] ^= 1 << source.randrange(8)
    return bytes(damaged)


def test_bit_flips_in_an_artifact(digits_artifact: Path) -> None:
    """Each is found, unless it hit what the archive stores for nobody: then the program is the same."""
    data = digits_artifact.read_bytes()
    good = Program.from_bytes(data).stages
    source = random.Random(1)
    # the parts make up most of the file; the last kilobytes hold the archive's directory
    tails = [data[:-1200] + _flipped(data[-1200:], source) for _ in range(100)]
    heads = [_flipped(data[:500], source) + data[500:] for _ in range(60)]
    refusals: list[str] = []
    harmless: list[bool] = []
    for damaged in [_flipped(data, source) for _ in range(200)] + tails + heads:
        try:
            program = Program.from_bytes(damaged, "bad.glyphc")
        except ArtifactError as e:
            refusals.append(str(e))
        else:
            harmless.append(program.stages == good)
    assert all(harmless)
    assert len(refusals) > 250
    assert all("'bad.glyphc'" in message and "\n\n" not in message for message in refusals)


@pytest.mark.parametrize("seed", range(4))
def test_bit_flips_from_the_command_line(seed: int, digits_artifact: Path, tmp_path: Path) -> None:
    data = digits_artifact.read_bytes()
    source = random.Random(seed)
    damaged = data[:2000] + _flipped(data[2000:-1200], source) + data[-1200:]
    path = write(damaged, "bad.glyphc")(tmp_path)
    before = contents(tmp_path)
    result = glyphc("run", path, "--input", TEST, "--output", tmp_path / "y.npy", "--mode", "clear")
    refused(result, "bad.glyphc", "damaged")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "culprits"),
    [
        (("--stage", "optimise"), ("'optimise'", "source, expand, fold, ")),
        (("--stage", ""), ("''", "source, expand")),
        (("--why", "%99"), ("'%99'", "nodes are %0 to %11")),
        (("--why", "99"), ("'99'", "nodes are %0 to %11")),
        (("--why", "%"), ("'%'",)),
        (("--why", ""), ("''",)),
        (("--why", "-1"), ("'-1'",)),
        (("--why", "%1.5"), ("'%1.5'",)),
        (("--why", "relu9"), ("'relu9'",)),
        (("--why", "²"), ("'²'",)),
        (("--stage", "quantize", "--why", "%12"), ("'%12'", "%6")),
        (("--stage", "optimise", "--why", "%1"), ("'optimise'",)),
    ],
)
def test_unknown_stages_and_nodes(options: tuple[str, ...], culprits: tuple[str, ...], digits_artifact: Path) -> None:
    refused(glyphc("inspect", digits_artifact, *options), *culprits)
