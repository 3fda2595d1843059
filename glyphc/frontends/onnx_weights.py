"""The weights of an ONNX file, by name, for networks that are written elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from onnx import numpy_helper

from glyphc.errors import ModelError

from .onnx_constants import Array, load


def initializers(path: Path) -> dict[str, Array]:
    """All dense initializers as stored; ModelError when the file or a tensor in it cannot be read."""
    model, label = load(os.fspath(path))
    found: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        try:
            found[tensor.name] = np.asarray(numpy_helper.to_array(tensor))
        except Exception as e:  # the checker lets such files pass; onnx fails in many ways on them
            raise ModelError(f"tensor {tensor.name!r} of {label} has data that don't fit its type or shape") from e
    return found
