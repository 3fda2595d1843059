"""ONNX models with some tensors changed: how it is found out what in a compiled program depends on them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from onnx import ModelProto, numpy_helper

from .onnx_constants import FLOATS, Source, load

# Relative and absolute size of the changes: small enough that the network stays what it is.
_SHARE, _LEAST = 2.0**-7, 2.0**-12


def float_tensors(source: Source) -> tuple[str, ...]:
    """Names of the initializers that hold real numbers, in the model's order. ModelError."""
    model, _ = load(source)
    return tuple(t.name for t in model.graph.initializer if t.data_type in FLOATS)


def perturbed(source: Source, names: Collection[str]) -> ModelProto:
    """The model with every element of these initializers changed a little, each differently. ModelError.

    Copies of them under other names (exporters write tied weights so) are changed as well.
    """
    loaded, _ = load(source)
    model = ModelProto()
    model.CopyFrom(loaded)
    random = np.random.default_rng(0)
    values = {t.name: np.asarray(numpy_helper.to_array(t)) for t in model.graph.initializer if t.data_type in FLOATS}
    telling = [values[name] for name in names if np.ptp(values[name].astype(np.float64)) > 0]
    for tensor in model.graph.initializer:
        stored = values.get(tensor.name)
        if stored is not None and (tensor.name in names or any(np.array_equal(stored, of) for of in telling)):
            value, share = stored.astype(np.float64), random.uniform(_SHARE / 2, _SHARE, stored.shape)
            changed = (value + _LEAST) * (1 + share)
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(stored.dtype), tensor.name))
    return model
