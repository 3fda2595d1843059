"""Every wrong use of the command line: one paragraph that names the culprit, an exit code, no output.

The command runs in a process of its own, as a user runs it. Wrong samples, networks and artifacts have tests in files
of their own.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import helper

from glyphc.passes.pipeline import DEFAULT
from tests.commands import glyphc
from tests.wrong_inputs import (
    MODEL,
    SAMPLES,
    SQUARE,
    TEST,
    TRAIN,
    contents,
    gemm,
    misused,
    model,
    refused,
    replaced,
    rewritten,
    save,
    write,
)

# -- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passes", "culprits"),
    [
        ("fold,calibrat", ("'calibrat'", "calibrate")),
        ("fold;calibrate", ("'fold;calibrate'",)),
        ("fold,quantize{input_bits=12", ("quantize",)),
        ("fold,calibrate{bins=few}", ("bins", "'few'")),
        ("fold,calibrate{margin=2}", ("'calibrate'", "'margin=2'", "bins")),
        ("quantize", ("'calibrate'", "'quantize'")),
        ("fold,calibrate,quantize", ("parameters",)),
        ("fold,assign-layout", ("'assign-layout'", "'assigned'", "'source'")),
        ("fold", ("'fold'",)),
        (" ", ("passes",)),
    ],
)
def test_bad_passes(passes: str, culprits: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "out.glyphc"
    arguments = ("compile", MODEL, "--calibration", TRAIN, "-o", out, "--passes", passes)
    refused(glyphc(*arguments), *culprits)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "option",
    [
        "calibrate{bins=0}",
        "quantize{input_bits=0}",
        "quantize{activation_bits=-1}",
        "assign-layout{ring=1000}",
    ],
)
def test_bad_values_of_options(option: str, tmp_path: Path) -> None:
    name, value = option.split("{")
    passes = DEFAULT.replace(f"{name},", f"{option},")
    assert option in passes
    arguments = ("compile", MODEL, "--calibration", TRAIN, "-o", tmp_path / "out.glyphc", "--passes", passes)
    refused(glyphc(*arguments), value.split("=")[0])
    assert contents(tmp_path) == {}


def test_a_small_ring_needs_its_own_option(tmp_path: Path) -> None:
    """Not even a pass that was told so makes a program that claims security it has not."""
    out = tmp_path / "out.glyphc"
    passes = DEFAULT.replace("assign-layout", "assign-layout{ring=2048}")
    arguments = ("compile", MODEL, "--calibration", TRAIN, "-o", out, "--passes", passes)
    refused(glyphc(*arguments), "128-bit security", "ring dimension 2048")
    assert contents(tmp_path) == {}


def test_leaving_out_the_validators_does_not_help(tmp_path: Path) -> None:
    passes = DEFAULT.replace("assign-layout", "assign-layout{ring=2048}")
    passes = ",".join(p for p in passes.split(",") if not p.startswith("validate"))
    arguments = ("compile", MODEL, "--calibration", TRAIN, "-o", tmp_path / "out.glyphc", "--passes", passes)
    refused(glyphc(*arguments), "128-bit security", "ring dimension 2048")
    assert contents(tmp_path) == {}


def test_openfhe_has_the_last_word_on_security(tmp_path: Path) -> None:
    """An artifact that was edited to claim security: nobody is told so without OpenFHE's own check."""
    small, forged, out = tmp_path / "small.glyphc", tmp_path / "forged.glyphc", tmp_path / "y.npy"
    compiled = glyphc("compile", MODEL, "--calibration", TRAIN, "-o", small, "--insecure-ring", 2048)
    assert compiled.returncode == 0, compiled.stderr
    claim = replaced(b'security="insecure"', b'security="HEStd_128_classic"')
    forged.write_bytes(rewritten(small, parts=claim))
    result = glyphc("run", forged, "--input", TEST, "--output", out)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert re.search(r"^error: .*2048", result.stderr, re.MULTILINE)
    assert not out.exists()


@pytest.mark.parametrize("ring", [0, -2048, 2000, 32768, 65536])
def test_insecure_ring_that_is_not_offered(ring: int, tmp_path: Path) -> None:
    out = tmp_path / "out.glyphc"
    arguments = ("compile", MODEL, "--calibration", TRAIN, "-o", out, "--insecure-ring", ring)
    refused(glyphc(*arguments), "insecure", str(ring), "2048")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "culprits"),
    [
        (("compile", MODEL, "--batch", "0"), ("--batch", "0")),
        (("compile", MODEL, "--batch", "-5"), ("--batch", "-5")),
        (("compile", MODEL, "--batch", "many"), ("--batch", "many")),
        (("compile", MODEL, "--insecure-ring", "small"), ("--insecure-ring", "small")),
        (("compile",), ("MODEL",)),
        (("compile", MODEL, TRAIN), ("unexpected",)),
        (("compile", MODEL, "--callibration", TRAIN), ("--callibration",)),
        (("run", "x.glyphc", "--output", "y.npy"), ("--input",)),
        (("run", "x.glyphc", "--input", TEST), ("--output",)),
        (
            ("run", "x.glyphc", "--input", TEST, "--output", "y.npy", "--mode", "fast"),
            ("--mode", "fast", "simulate"),
        ),
        (("inspect",), ("ARTIFACT",)),
        (("decompile",), ("decompile",)),
    ],
)
def test_usage_errors(arguments: tuple[object, ...], culprits: tuple[str, ...]) -> None:
    misused(glyphc(*arguments), *culprits)


# -- where the output goes ---------------------------------------------------------------------------------

COMPILE = ("compile", MODEL, "--calibration", TRAIN, "-o")


def _folder_missing(folder: Path, name: str) -> Path:
    return folder / "missing" / name


def _file_as_folder(folder: Path, name: str) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / name


def _a_folder(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _a_pipe(folder: Path, name: str) -> Path:
    os.mkfifo(folder / name)
    return folder / name


PLACES = [_folder_missing, _file_as_folder, _a_folder, _a_pipe]


@pytest.mark.parametrize("place", PLACES)
def test_places_where_no_artifact_can_be_written(place: Callable[[Path, str], Path], tmp_path: Path) -> None:
    path = place(tmp_path, "out.glyphc")
    before, mode = contents(tmp_path), path.stat().st_mode if path.exists() else None
    refused(glyphc(*COMPILE, path), "cannot write", str(path))
    assert contents(tmp_path) == before
    assert mode is None or stat.S_IFMT(path.stat().st_mode) == stat.S_IFMT(mode), "it is what it was"


def test_the_place_of_the_output_is_looked_at_first(tmp_path: Path) -> None:
    """Before minutes of compiling: here before calibration is missed."""
    refused(glyphc("compile", MODEL, "-o", tmp_path / "missing" / "x.glyphc"), "cannot write", "missing")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("place", PLACES)
def test_places_where_no_result_can_be_written(
    place: Callable[[Path, str], Path], linear_network: tuple[Path, Path], tmp_path: Path
) -> None:
    """In encrypted mode: found out before keys are made, not after."""
    path = place(tmp_path, "out.npy")
    before = contents(tmp_path)
    refused(glyphc("run", linear_network[1], "--input", TEST, "--output", path), "cannot write", str(path))
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(digits_artifact: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    refused(glyphc(*COMPILE, closed / "out.glyphc"), "cannot write", "closed")
    refused(glyphc("run", digits_artifact, "--input", TEST, "--output", closed / "y.npy"), "cannot write", "closed")
    assert contents(closed) == {}


@pytest.mark.parametrize("name", ["out", "out.txt", "out.npy.gz", "out.NPY"])
def test_results_have_one_of_two_suffixes(name: str, linear_network: tuple[Path, Path], tmp_path: Path) -> None:
    result = glyphc("run", linear_network[1], "--input", TEST, "--output", tmp_path / name)
    refused(result, repr(str(tmp_path / name)), ".npy", ".npz")
    assert contents(tmp_path) == {}


def test_several_outputs_do_not_fit_into_an_npy(tmp_path: Path) -> None:
    nodes = [gemm("fc", "x", "y"), helper.make_node("Relu", ["y"], ["r"]), gemm("fd", "r", "z")]
    net = write(model(nodes, SQUARE, outputs=("y", "z")), "net.onnx")(tmp_path)
    samples = save(SAMPLES)(tmp_path)
    assert glyphc("compile", net, "--calibration", samples).returncode == 0
    before = contents(tmp_path)
    result = glyphc("run", tmp_path / "net.glyphc", "--input", samples, "--output", tmp_path / "y.npy")
    refused(result, "2 outputs", ".npz", "y.npy")
    assert contents(tmp_path) == before


# -- the environment ---------------------------------------------------------------------------------------


def test_without_openfhe(linear_network: tuple[Path, Path], tmp_path: Path) -> None:
    """As on a machine whose libraries are too old for the wheel."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "openfhe.py").write_text("raise ImportError('GLIBC_2.38 not found')\n")
    out = tmp_path / "y.npy"
    out.write_bytes(b"older results")
    before = contents(tmp_path)
    environment = {"PYTHONPATH": str(tmp_path / "broken"), "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = ("run", linear_network[1], "--input", TEST, "--output", out)
    refused(glyphc(*arguments, **environment), "OpenFHE", "GLIBC_2.38 not found", "3.10", "3.12")
    assert contents(tmp_path) == before
    assert glyphc(*arguments, "--mode", "clear", **environment).returncode == 0, "which does without it"


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    """The checks above must not be met by hiding everything that goes wrong."""
    (tmp_path / "sitecustomize.py").write_text(
        "import glyphc.program\n"
        "def load(path, weights=None): raise RuntimeError('a bug')\n"
        "glyphc.program.Program.load = staticmethod(load)\n"
    )
    result = glyphc("inspect", "x.glyphc", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert "RuntimeError: a bug" in result.stderr
    assert "Traceback" in result.stderr
