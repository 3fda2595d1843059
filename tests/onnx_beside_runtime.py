"""Networks beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime

from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.evaluate import evaluate

Floats = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(5)


def floats(*shape: int, seed: int = 0, size: float = 0.5) -> Floats:
    return (size * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def runtime(model: onnx.ModelProto, x: Floats) -> dict[str, Floats]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, map(np.asarray, session.run(None, {"x": x})), strict=True))


def same(model: onnx.ModelProto, x: Floats, atol: float = 1e-5, moved: int = 0) -> None:
    """Every output as ONNX Runtime has it; moved: the axis of the samples in its tensors."""
    wanted = runtime(model, np.moveaxis(x, 0, moved))
    found = evaluate(read_onnx(model), {"x": x.astype(np.float64)})
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        axis = moved if value.ndim == x.ndim or not moved else value.ndim - 2
        assert np.allclose(found[name], np.moveaxis(value, axis, 0), atol=atol), name
