"""The weights of an ONNX file, by name, for networks that are written elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from .onnx_constants import Array, ConstantPool, load


def initializers(path: Path) -> dict[str, Array]:
    """All dense initializers as stored; ModelError when the file cannot be read, UnsupportedError for broken tensors."""
    model, _ = load(os.fspath(path))
    pool = ConstantPool(model.graph)
    return {tensor.name: pool.raw(tensor.name) for tensor in model.graph.initializer}
