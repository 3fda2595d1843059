"""Every wrong input of the command line: one paragraph that names the culprit, an exit code, no output.

The real command runs in a process of its own, as a user runs it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from glyphc.errors import ArtifactError, DataError
from glyphc.passes.pipeline import DEFAULT
from glyphc.program import Program

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "digits-mlp.onnx"
TRAIN = ROOT / "models" / "data" / "digits-train.npy"
TEST = ROOT / "models" / "data" / "digits-test.npy"

Array = npt.NDArray[Any]
Result = subprocess.CompletedProcess[str]
# Puts the files of a wrong input into a folder and returns the path to hand to the command.
Make = Callable[[Path], "Path | str"]


# -- helpers -----------------------------------------------------------------------------------------------


def glyphc(*arguments: object, **environment: str) -> Result:
    """The command in a fresh process; one thread, since there are many of them."""
    path = os.pathsep.join(filter(None, [environment.pop("PYTHONPATH", ""), str(ROOT)]))
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | environment | {"PYTHONPATH": path}
    command = [sys.executable, "-m", "glyphc", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def refused(result: Result, *culprits: str) -> str:
    """The message of a user error, which is all that the command says."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("\n")
    assert re.findall(r"(?mi)^(error:|.*Warning:)", result.stderr) == ["error:"], "one message, no warnings"
    assert "\n\n" not in result.stderr, "one paragraph"
    assert len(result.stderr) < 1500, "short enough to be read"
    for culprit in culprits:
        assert culprit in result.stderr
    return result.stderr


def misused(result: Result, *culprits: str) -> None:
    """A usage error, as click reports it."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("Usage: ")
    for culprit in culprits:
        assert culprit in result.stderr


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder: whoever writes nothing leaves this as it is, temporary files included."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def save(array: Array, name: str = "x.npy") -> Make:
    def make(folder: Path) -> Path:
        np.save(folder / name, array, allow_pickle=array.dtype == object)
        return folder / name

    return make


def savez(arrays: dict[str, Array]) -> Make:
    def make(folder: Path) -> Path:
        np.savez(folder / "x.npz", **arrays)  # type: ignore[arg-type]
        return folder / "x.npz"

    return make


def write(data: bytes, name: str = "x.npy") -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_npy", ".npy"), data)
    return buffer.getvalue()


def with_value(value: float, sample: int, feature: int) -> Array:
    x = np.load(TEST)[:40].astype(np.float64)
    x[sample, feature] = value
    return x


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "digits.glyphc"
    result = glyphc("compile", MODEL, "--calibration", TRAIN, "--batch", 8, "-o", path)
    assert result.returncode == 0, result.stderr
    return path


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network of one layer and its artifact: they load faster, and take the same input as the digits."""
    folder = tmp_path_factory.mktemp("linear")
    weights = {
        "w": np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32),
        "c": np.ones(3, np.float32),
    }
    layer = helper.make_node("Gemm", ["pixels", "w", "c"], ["y"], name="fc1")
    net = write(model([layer], weights, inputs=("pixels",), shape=("N", 64)), "linear.onnx")(folder)
    result = glyphc("compile", net, "--calibration", TRAIN)
    assert result.returncode == 0, result.stderr
    return net, folder / "linear.glyphc"


@pytest.fixture(params=["absent", "older"])
def older(request: pytest.FixtureRequest) -> bool:
    """Whether the output of an earlier command stands where the failing one would write."""
    return bool(request.param == "older")


# -- arrays: the same mistakes with calibration samples and with inputs ------------------------------------

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
def test_unusable_calibration(case: str, linear: tuple[Path, Path], tmp_path: Path) -> None:
    make, culprits = BAD_ARRAYS[case]
    path = make(tmp_path)
    before = contents(tmp_path)
    out = tmp_path / "out.glyphc"
    refused(glyphc("compile", linear[0], "--calibration", path, "-o", out), "calibration", *culprits)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_unusable_input(case: str, linear: tuple[Path, Path], tmp_path: Path) -> None:
    make, culprits = BAD_ARRAYS[case]
    path = make(tmp_path)
    out = tmp_path / "out.npy"
    out.write_bytes(b"older results")
    before = contents(tmp_path)
    refused(glyphc("run", linear[1], "--input", path, "--output", out), "input", *culprits)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("value", [32.01, -1000.0, 1e300, -1.7e308])
def test_values_outside_the_calibrated_range(
    value: float, older: bool, linear: tuple[Path, Path], tmp_path: Path
) -> None:
    path, out = tmp_path / "x.npy", tmp_path / "out.npy"
    np.save(path, with_value(value, 21, 7))
    if older:
        out.write_bytes(b"older results")
    before = contents(tmp_path)
    result = glyphc("run", linear[1], "--input", path, "--output", out)
    message = refused(result, "'pixels'", "1 value(s)", "sample 21", "feature 7", f"{value:g}")
    assert "-32 to 32" in message, "what is allowed: twice the calibrated range"
    assert contents(tmp_path) == before


@pytest.mark.parametrize("mode", ["clear", "simulate", "encrypted"])
def test_every_mode_checks_its_input(mode: str, linear: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = tmp_path / "x.npy", tmp_path / "out.npz"
    np.save(path, with_value(np.nan, 0, 0))
    before = contents(tmp_path)
    result = glyphc("run", linear[1], "--input", path, "--output", out, "--mode", mode)
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


# -- models ------------------------------------------------------------------------------------------------


def model(
    nodes: Sequence[NodeProto],
    constants: dict[str, Array] | None = None,
    *,
    shape: tuple[int | str, ...] = ("N", 4),
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
    dtype: int = TensorProto.FLOAT,
    opset: int = 17,
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, dtype, list(shape)) for n in inputs],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
    )
    made: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    for output, known in zip(graph.output, onnx.shape_inference.infer_shapes(made).graph.output, strict=True):
        output.CopyFrom(known)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(made.SerializeToString())


def gemm(name: str, x: str, y: str) -> NodeProto:
    return helper.make_node("Gemm", [x, "w", "b"], [y], name=name)


SQUARE = {"w": np.eye(4, dtype=np.float32), "b": np.ones(4, dtype=np.float32)}
SAMPLES = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)

BAD_MODELS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "no such file": (lambda folder: folder / "nowhere.onnx", ("nowhere.onnx", "does not exist")),
    "a directory": (lambda folder: folder, ("directory",)),
    "an empty file": (write(b"", "net.onnx"), ("net.onnx",)),
    "text": (write(b"this is no network\n", "net.onnx"), ("net.onnx", "ONNX")),
    "random bytes": (write(random.Random(1).randbytes(5000), "net.onnx"), ("net.onnx", "not an ONNX file")),
    "an array": (write(npy(SAMPLES), "net.onnx"), ("net.onnx", "ONNX")),
    "truncated": (write(MODEL.read_bytes()[:7000], "net.onnx"), ("net.onnx", "truncated")),
    "an unsupported op": (
        write(
            model([gemm("fc", "x", "h"), helper.make_node("Det", ["h"], ["y"], name="my_det")], SQUARE),
            "net.onnx",
        ),
        ("net.onnx", "'my_det'", "Det", "not supported"),
    ),
    "a divisor around zero": (
        write(
            model([gemm("fc", "x", "h"), helper.make_node("Div", ["x", "h"], ["y"], name="ratio")], SQUARE),
            "net.onnx",
        ),
        ("@ratio", "one side of zero"),
    ),
    "an old opset": (
        write(model([gemm("fc", "x", "y")], SQUARE, opset=6), "net.onnx"),
        ("opset 6", "net.onnx"),
    ),
    "two inputs": (
        write(
            model([helper.make_node("Add", ["x", "z"], ["y"])], inputs=("x", "z")),
            "net.onnx",
        ),
        ("no calibration samples for input 'z'", "--calibration"),
    ),
    "unknown features": (
        write(model([gemm("fc", "x", "y")], SQUARE, shape=("N", "M")), "net.onnx"),
        ("'x'", "M"),
    ),
    "words": (
        write(model([helper.make_node("Neg", ["x"], ["y"])], dtype=TensorProto.STRING), "net.onnx"),
        ("'x'",),
    ),
    "no output": (write(model([gemm("fc", "x", "y")], SQUARE, outputs=()), "net.onnx"), ("net.onnx",)),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_unusable_model(case: str, tmp_path: Path) -> None:
    make, culprits = BAD_MODELS[case]
    path = make(tmp_path)
    out = tmp_path / "out.glyphc"
    samples = save(SAMPLES)(tmp_path)
    before = contents(tmp_path)
    refused(glyphc("compile", path, "--calibration", samples, "-o", out), *culprits)
    assert contents(tmp_path) == before


def test_all_unsupported_ops_are_named_at_once(older: bool, tmp_path: Path) -> None:
    nodes = [
        gemm("fc", "x", "h"),
        helper.make_node("Det", ["h"], ["i"], name="first"),
        helper.make_node("LpNormalization", ["i"], ["y"], name="second"),
    ]
    path = write(model(nodes, SQUARE), "net.onnx")(tmp_path)
    if older:
        (tmp_path / "net.glyphc").write_bytes(b"older artifact")
    before = contents(tmp_path)
    refused(glyphc("compile", path), "'first' (Det)", "'second' (LpNormalization)", "2 node(s)")
    assert contents(tmp_path) == before


def test_missing_calibration(older: bool, tmp_path: Path) -> None:
    out = tmp_path / "out.glyphc"
    if older:
        out.write_bytes(b"older artifact")
    before = contents(tmp_path)
    refused(glyphc("compile", MODEL, "-o", out), "no calibration samples", "'pixels'", "--calibration", "64")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("value", [1e17, 1.7e308])
def test_calibration_with_absurd_values(value: float, linear: tuple[Path, Path], tmp_path: Path) -> None:
    path = save(np.full((3, 64), value))(tmp_path)
    before = contents(tmp_path)
    out = tmp_path / "out.glyphc"
    refused(glyphc("compile", linear[0], "--calibration", path, "-o", out), "calibration")
    assert contents(tmp_path) == before


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
    claim = _replace(b'security="insecure"', b'security="HEStd_128_classic"')
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
    place: Callable[[Path, str], Path], linear: tuple[Path, Path], tmp_path: Path
) -> None:
    """In encrypted mode: found out before keys are made, not after."""
    path = place(tmp_path, "out.npy")
    before = contents(tmp_path)
    refused(glyphc("run", linear[1], "--input", TEST, "--output", path), "cannot write", str(path))
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(artifact: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    refused(glyphc(*COMPILE, closed / "out.glyphc"), "cannot write", "closed")
    refused(glyphc("run", artifact, "--input", TEST, "--output", closed / "y.npy"), "cannot write", "closed")
    assert contents(closed) == {}


@pytest.mark.parametrize("name", ["out", "out.txt", "out.npy.gz", "out.NPY"])
def test_results_have_one_of_two_suffixes(name: str, linear: tuple[Path, Path], tmp_path: Path) -> None:
    result = glyphc("run", linear[1], "--input", TEST, "--output", tmp_path / name)
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


# -- artifacts ---------------------------------------------------------------------------------------------


def rewritten(
    artifact: Path,
    change: Callable[[dict[str, Any]], object] | None = None,
    parts: Callable[[dict[str, bytes]], object] | None = None,
) -> bytes:
    """An artifact with a changed manifest, or with changed parts and their hashes."""
    with zipfile.ZipFile(artifact) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    if parts is not None:
        parts(members)
        manifest["parts"] = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    if change is not None:
        change(manifest)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _replace(old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(parts: dict[str, bytes]) -> None:
        last = max(parts)
        assert old in parts[last]
        parts[last] = parts[last].replace(old, new)

    return change


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
        lambda a: rewritten(a, parts=_replace(b"glyph-ir 1 ", b"glyph-ir 2 ")),
        ("IR version 2", "version 1"),
    ),
    "parts: unknown op": (lambda a: rewritten(a, parts=_replace(b"= linear ", b"= cubic ")), ("'cubic'",)),
    "parts: not UTF-8": (lambda a: rewritten(a, parts=_replace(b"level laidout", b"level \xff")), ("utf-8",)),
    "parts: other batch": (
        lambda a: rewritten(a, parts=_replace(b"laidout batch 8", b"laidout batch 9")),
        ("batch 9",),
    ),
    "parts: no parameters": (
        lambda a: rewritten(a, parts=_without_line(b"parameters ")),
        ("no whole program", "parameters"),
    ),
}


@pytest.mark.parametrize("case", BAD_ARTIFACTS)
def test_unusable_artifact(case: str, artifact: Path, tmp_path: Path) -> None:
    make, culprits = BAD_ARTIFACTS[case]
    path = write(make(artifact), "bad.glyphc")(tmp_path)
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
def test_unusable_artifact_to_run(case: str, mode: str, artifact: Path, tmp_path: Path) -> None:
    make, culprits = BAD_ARTIFACTS[case]
    path = write(make(artifact), "bad.glyphc")(tmp_path)
    if mode == "clear":
        (tmp_path / "y.npy").write_bytes(b"older results")
    before = contents(tmp_path)
    result = glyphc("run", path, "--input", TEST, "--output", tmp_path / "y.npy", "--mode", mode)
    refused(result, repr(str(path)), *culprits)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("case", COMMON)
def test_unusable_artifact_to_inspect(case: str, artifact: Path, tmp_path: Path) -> None:
    make, culprits = BAD_ARTIFACTS[case]
    path = write(make(artifact), "bad.glyphc")(tmp_path)
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


def test_bit_flips_in_an_artifact(artifact: Path) -> None:
    """Each is found, unless it hit what the archive stores for nobody: then the program is the same."""
    data = artifact.read_bytes()
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
def test_bit_flips_from_the_command_line(seed: int, artifact: Path, tmp_path: Path) -> None:
    data = artifact.read_bytes()
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
def test_unknown_stages_and_nodes(options: tuple[str, ...], culprits: tuple[str, ...], artifact: Path) -> None:
    refused(glyphc("inspect", artifact, *options), *culprits)


# -- the environment ---------------------------------------------------------------------------------------


def test_without_openfhe(linear: tuple[Path, Path], tmp_path: Path) -> None:
    """As on a machine whose libraries are too old for the wheel."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "openfhe.py").write_text("raise ImportError('GLIBC_2.38 not found')\n")
    out = tmp_path / "y.npy"
    out.write_bytes(b"older results")
    before = contents(tmp_path)
    environment = {"PYTHONPATH": str(tmp_path / "broken"), "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = ("run", linear[1], "--input", TEST, "--output", out)
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
