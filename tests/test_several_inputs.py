"""Networks of several inputs, from the file to the result, and files of one sample on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper, numpy_helper

import glyphc
from glyphc.cli import main
from glyphc.errors import CalibrationError, DataError


def two_inputs() -> ModelProto:
    """y = tanh(a W) - b"""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["a", "w"], ["h"]),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node("Sub", ["t", "b"], ["y"]),
        ],
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", w]) for n, w in (("a", 4), ("b", 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(rng.normal(size=(4, 3)).astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"a": rng.uniform(-1, 1, (count, 4)), "b": rng.uniform(-3, 3, (count, 3))}


def expected(x: dict[str, np.ndarray]) -> np.ndarray:
    weight = numpy_helper.to_array(two_inputs().graph.initializer[0])
    return np.asarray(np.tanh(x["a"] @ weight) - x["b"])


def test_from_python() -> None:
    program = glyphc.compile(two_inputs(), samples(64, 1), 4, insecure_ring=1024)
    x = samples(8, 2)
    np.testing.assert_allclose(program.run(x, mode="simulate"), expected(x), atol=0.05)
    with pytest.raises(DataError, match=r"input\(s\) a, b; got a"):
        program.run({"a": x["a"]}, mode="simulate")
    with pytest.raises(CalibrationError, match="no calibration samples for input 'b'"):
        glyphc.compile(two_inputs(), {"a": x["a"]}, 4, insecure_ring=1024)


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(two_inputs(), "m.onnx")
    for name, values in samples(64, 1).items():
        np.save(f"cal-{name}.npy", values)
    x = samples(4, 2)
    np.save("a.npy", x["a"])
    np.save("b.npy", x["b"])

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == code, result.output
        return result.output

    start = ("compile", "m.onnx", "--batch", "4", "--insecure-ring", "1024")
    run(*start, "--calibration", "a=cal-a.npy", "--calibration", "b=cal-b.npy")
    assert "NAME=FILE" in run(*start, "--calibration", "cal-a.npy", "--calibration", "cal-b.npy", code=2)
    simulate = ("run", "m.glyphc", "--mode", "simulate", "--output", "y.npy")
    run(*simulate, "--input", "a=a.npy", "--input", "b=b.npy")
    np.testing.assert_allclose(np.load("y.npy"), expected(x), atol=0.05)
    assert "got a" in run(*simulate, "--input", "a=a.npy", code=2)
    assert "NAME=FILE" in run(*simulate, "--input", "a.npy", "--input", "b.npy", code=2)
    assert "NAME=FILE" in run(*simulate, "--input", "a=a.npy", "--input", "a=a.npy", code=2)
    assert "would replace" in run(*simulate[:-1], "a.npy", "--input", "a=a.npy", "--input", "b=b.npy", code=2)


def test_a_file_of_one_sample_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sums along axis 0, whose size is open."""
    monkeypatch.chdir(tmp_path)
    graph = helper.make_graph(
        [
            helper.make_node("Tanh", ["x"], ["t"]),
            helper.make_node("ReduceSum", ["t", "axes"], ["y"], keepdims=0),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.array([0]), "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "m.onnx")
    np.save("x.npy", np.random.default_rng(0).uniform(-1, 1, (32, 4)))
    arguments = ("compile", "m.onnx", "--calibration", "x.npy", "--insecure-ring", "1024")
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2 and "--sample" in refused.output
    assert CliRunner().invoke(main, (*arguments, "--sample")).exit_code == 0
    assert (
        CliRunner()
        .invoke(main, ("run", "m.glyphc", "--input", "x.npy", "--output", "y.npy", "--mode", "simulate"))
        .exit_code
        == 0
    )
    np.testing.assert_allclose(np.load("y.npy"), np.tanh(np.load("x.npy")), atol=0.05)
