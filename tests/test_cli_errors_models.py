"""Networks and calibration that the command line cannot compile."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.commands import glyphc
from tests.wrong_inputs import MODEL, SAMPLES, SQUARE, Make, contents, gemm, model, npy, refused, save, write

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
        write(model([gemm("fc", "x", "y")], SQUARE, opset=0), "net.onnx"),
        ("opset 0", "net.onnx"),
    ),
    "two inputs": (
        write(
            model([helper.make_node("Add", ["x", "z"], ["y"])], inputs=("x", "z")),
            "net.onnx",
        ),
        ("no calibration samples for input 'z'", "--calibration"),
    ),
    "unknown features": (
        write(model([gemm("fc", "x", "y")], SQUARE, shape=("N", "M", "K")), "net.onnx"),
        ("'x'",),
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
        helper.make_node("RandomNormalLike", ["i"], ["y"], name="second"),
    ]
    path = write(model(nodes, SQUARE), "net.onnx")(tmp_path)
    if older:
        (tmp_path / "net.glyphc").write_bytes(b"older artifact")
    before = contents(tmp_path)
    refused(glyphc("compile", path), "'first' (Det)", "'second' (RandomNormalLike)", "2 node(s)")
    assert contents(tmp_path) == before


def test_missing_calibration(older: bool, tmp_path: Path) -> None:
    out = tmp_path / "out.glyphc"
    if older:
        out.write_bytes(b"older artifact")
    before = contents(tmp_path)
    refused(glyphc("compile", MODEL, "-o", out), "no calibration samples", "'pixels'", "--calibration", "64")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("value", [1e17, 1.7e308])
def test_calibration_with_absurd_values(value: float, linear_network: tuple[Path, Path], tmp_path: Path) -> None:
    path = save(np.full((3, 64), value))(tmp_path)
    before = contents(tmp_path)
    out = tmp_path / "out.glyphc"
    refused(glyphc("compile", linear_network[0], "--calibration", path, "-o", out), "calibration")
    assert contents(tmp_path) == before
