"""What tests of wrong inputs share: files that are wrong in some way, and what is said of them."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.commands import Result

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "digits-mlp.onnx"
TRAIN = ROOT / "models" / "data" / "digits-train.npy"
TEST = ROOT / "models" / "data" / "digits-test.npy"
Array = npt.NDArray[Any]
# Puts the files of a wrong input into a folder and returns the path to hand to the command.
Make = Callable[[Path], "Path | str"]


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


# -- artifacts ---------------------------------------------------------------------------------------------


def one_layer(folder: Path) -> Path:
    """A network of one layer with the digits' input."""
    weights = {"w": np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32), "c": np.ones(3, np.float32)}
    layer = helper.make_node("Gemm", ["pixels", "w", "c"], ["y"], name="fc1")
    return Path(write(model([layer], weights, inputs=("pixels",), shape=("N", 64)), "linear.onnx")(folder))


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


def replaced(old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(parts: dict[str, bytes]) -> None:
        last = max(parts)
        assert old in parts[last]
        parts[last] = parts[last].replace(old, new)

    return change
