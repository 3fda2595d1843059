"""Calibration samples and inputs that the command line cannot use: the same mistakes with both."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest

from glyphc.errors import DataError
from tests.commands import glyphc
from tests.wrong_inputs import TEST, Make, contents, npy, npz, refused, save, savez, with_value, write

DIGIT = np.load(TEST)[:4]
PETABYTES = npy(DIGIT)[:128].replace(b"(4, 64), }" + b" " * 12, b"(4000000000000, 64), }")
assert b"(4000000000000, 64)" in PETABYTES
BAD_ARRAYS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "no such file": (lambda folder: folder / "nowhere.npy", ("nowhere.npy", "no file")),
    "a directory": (lambda folder: folder, ("directory",)),
    "an empty file": (write(b""), ("x.npy",)),
    "text": (write(b"1,2,3\n4,5,6\n"), ("x.npy", "not a whole .npy or .npz file")),
    "a truncated .npy": (write(npy(DIGIT)[:-100]), ("x.npy", "not a whole .npy or .npz file")),
    "a truncated .npy header": (write(npy(DIGIT)[:40]), ("x.npy",)),
    "a .npy that claims petabytes": (write(PETABYTES), ("x.npy",)),
    "a truncated .npz": (write(npz(x_npy=npy(DIGIT))[:-60], "x.npz"), ("x.npz",)),
    "a damaged .npz": (
        write(npz(x_npy=npy(DIGIT)).replace(npy(DIGIT)[-200:], b"?" * 200), "x.npz"),
        ("x.npz",),
    ),
    "an empty .npz": (savez({}), ("x.npz", "no array")),
    "an .npz of other things": (write(npz(readme=b"hello"), "x.npz"), ("x.npz",)),
    "an .npz with a broken member": (write(npz(x_npy=npy(DIGIT)[:-9]), "x.npz"), ("x.npz",)),
    "an .npz with other names": (savez({"one": DIGIT, "two": DIGIT}), ("one", "two", "pixels")),
    "an .npz with one name too many": (savez({"pixels": DIGIT, "labels": DIGIT}), ("labels", "pixels")),
    "pickled objects": (save(np.array([None, {}], dtype=object)), ("x.npy",)),
    "pickled objects in an .npz": (savez({"pixels": np.array([[None]], dtype=object)}), ("x.npz",)),
    "strings": (save(DIGIT.astype(str)), ("pixels", "number")),
    "complex numbers": (save(DIGIT.astype(complex)), ("pixels", "complex128", "number")),
    "dates": (save(DIGIT.astype("datetime64[s]")), ("pixels", "datetime64", "number")),
    "records": (save(np.zeros(4, dtype=[("a", "f4"), ("b", "i4")])), ("pixels", "number")),
    "a single number": (save(np.array(3.0)), ("pixels", "[]", "(samples, 64)")),
    "one dimension": (save(DIGIT[0]), ("pixels", "[64]", "(samples, 64)")),
    "three dimensions": (save(DIGIT.reshape(4, 8, 8)), ("pixels", "[4, 8, 8]", "(samples, 64)")),
    "too few features": (save(DIGIT[:, :-1]), ("pixels", "[4, 63]", "(samples, 64)")),
    "too many features": (save(np.hstack([DIGIT, DIGIT])), ("pixels", "[4, 128]", "(samples, 64)")),
    "no samples": (save(DIGIT[:0]), ("pixels", "[0, 64]", "(samples, 64)")),
    "NaN": (save(with_value(np.nan, 17, 3)), ("pixels", "NaN", "17")),
    "infinity": (save(with_value(-np.inf, 5, 63)), ("pixels", "infinity", "5")),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_unusable_calibration(case: str, linear_network: tuple[Path, Path], tmp_path: Path) -> None:
    make, culprits = BAD_ARRAYS[case]
    path = make(tmp_path)
    before = contents(tmp_path)
    out = tmp_path / "out.glyphc"
    refused(glyphc("compile", linear_network[0], "--calibration", path, "-o", out), "calibration", *culprits)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_unusable_input(case: str, linear_network: tuple[Path, Path], tmp_path: Path) -> None:
    make, culprits = BAD_ARRAYS[case]
    path = make(tmp_path)
    out = tmp_path / "out.npy"
    out.write_bytes(b"older results")
    before = contents(tmp_path)
    refused(glyphc("run", linear_network[1], "--input", path, "--output", out), "input", *culprits)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("value", [32.01, -1000.0, 1e300, -1.7e308])
def test_values_outside_the_calibrated_range(
    value: float, older: bool, linear_network: tuple[Path, Path], tmp_path: Path
) -> None:
    path, out = tmp_path / "x.npy", tmp_path / "out.npy"
    np.save(path, with_value(value, 21, 7))
    if older:
        out.write_bytes(b"older results")
    before = contents(tmp_path)
    result = glyphc("run", linear_network[1], "--input", path, "--output", out)
    message = refused(result, "'pixels'", "1 value(s)", "sample 21", "feature 7", f"{value:g}")
    assert "-32 to 32" in message, "what is allowed: twice the calibrated range"
    assert contents(tmp_path) == before


@pytest.mark.parametrize("mode", ["clear", "simulate", "encrypted"])
def test_every_mode_checks_its_input(mode: str, linear_network: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = tmp_path / "x.npy", tmp_path / "out.npz"
    np.save(path, with_value(np.nan, 0, 0))
    before = contents(tmp_path)
    result = glyphc("run", linear_network[1], "--input", path, "--output", out, "--mode", mode)
    refused(result, "NaN", "sample 0, feature 0")
    assert contents(tmp_path) == before


def test_damaged_arrays_never_end_in_a_traceback(tmp_path: Path) -> None:
    """Bit flips all over .npy and .npz files; what still loads is an array, whatever its values."""
    from glyphc.commands.arrays import load_arrays

    source = random.Random(2)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=DIGIT, b=DIGIT)
    refusals: list[str] = []
    for data in (npy(DIGIT[:, :8]), buffer.getvalue()):
        for _ in range(300):
            damaged = bytearray(data)
            # half of them in the first bytes, where a .npy has its header
            at = source.randrange(len(data) if source.random() < 0.5 else 100)
            damaged[at] ^= 1 << source.randrange(8)
            path = write(bytes(damaged))(tmp_path)
            try:
                load_arrays(str(path), "input")
            except DataError as e:
                refusals.append(str(e))
    assert len(refusals) > 200
    assert all("x.npy" in message and "\n\n" not in message for message in refusals)
