"""The inputs of an ONNX model: which of them are encrypted, and which of their axes counts the samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import GraphProto, ValueInfoProto

from glyphc.errors import ModelError

from .onnx_call import FIRST, Where
from .onnx_constants import FLOATS, INTEGERS, liveness, type_name

# What exporters and users call the axis of the samples, where it is not the first one.
_BATCH_NAMES = re.compile(r"batch|samples|examples|^(n|b|bs)$", re.IGNORECASE)


@dataclass(frozen=True)
class ModelInput:
    """An input to be encrypted. shape: of one sample, as the client gives it; where: the axis that counts samples, None
    for a tensor that belongs to one sample as a whole."""

    name: str
    shape: tuple[int, ...]
    where: Where | None


@dataclass(frozen=True)
class ModelInputs:
    """batch: the number of samples, if the file fixes it; unused: names of inputs that no output needs."""

    inputs: tuple[ModelInput, ...]
    batch: int | None
    unused: tuple[str, ...]


def model_inputs(graph: GraphProto, label: str, batch_axis: bool, one_sample: bool) -> ModelInputs:
    """The inputs that outputs need and that are no initializers.

    Without batch axis, all axes are those of one sample. one_sample: an open batch is taken for 1. ModelError for what
    is no tensor of numbers, for sizes that are not known, and where there is no input at all.
    """
    # up to IR version 3, files list their initializers among the inputs
    stored = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    given, needed = [i for i in graph.input if i.name not in stored], liveness(graph)
    used = [i for i in given if i.name in needed]
    if not used:
        names = ", ".join(repr(i.name) for i in given) or "none"
        raise ModelError(
            f"no output of {label} depends on an input (inputs: {names}); there is nothing to compute on encrypted data"
        )
    for value in used:
        _check_type(value, f"input {value.name!r} of {label}")
    unused = tuple(i.name for i in given if i.name not in needed)
    sizes = {v.name: tuple(max(0, d.dim_value) for d in v.type.tensor_type.shape.dim) for v in used}
    batch: int | None = None
    if batch_axis and all(all(s) for s in sizes.values()):
        counts = {s[0] if s else 0 for s in sizes.values()}
        batch = counts.pop() if len(counts) == 1 else 0
        batch_axis = bool(batch)
    if not batch_axis:
        for value in used:
            _refuse_open(value, sizes[value.name], (), label)
        return ModelInputs(tuple(ModelInput(n, s, None) for n, s in sizes.items()), 1, unused)
    found = []
    for value in used:
        shape = sizes[value.name]
        axis = 0 if batch else _batch_of(value, shape, label, [v.name for v in used])
        _refuse_open(value, shape, (axis,), label)
        found.append(ModelInput(value.name, (*shape[:axis], *shape[axis + 1 :]), Where(axis) if axis else FIRST))
    return ModelInputs(tuple(found), 1 if one_sample and batch is None else batch, unused)


def _check_type(value: ValueInfoProto, where: str) -> None:
    kind = value.type.tensor_type.elem_type
    if kind not in FLOATS | INTEGERS:
        name = type_name(kind) if kind else "not a tensor"
        raise ModelError(
            f"{where} is {name}; only tensors of floats, integers and truth values are supported: declare it as FLOAT "
            "and leave out the Cast that follows it"
        )
    if not value.type.tensor_type.HasField("shape"):
        raise ModelError(f"{where} says nothing of its shape; declare one in the export, e.g. (N, 64)")


def _batch_of(value: ValueInfoProto, shape: Sequence[int], label: str, names: Sequence[str]) -> int:
    """The axis that counts the samples: the one that is called so, or the first one."""
    where = f"input {value.name!r} of {label}"
    if not shape:
        raise ModelError(f"{where} has no batch axis; declare its shape in the export, e.g. (N, 64)")
    dims = value.type.tensor_type.shape.dim
    called = [a for a, d in enumerate(dims) if not shape[a] and _BATCH_NAMES.search(d.dim_param)]
    if len(called) == 1:
        return called[0]
    if len(names) > 1 and all(shape):
        raise ModelError(
            f"{where} has no open axis for the samples ({list(shape)}), and another input has; export it with an open "
            "batch, or make it a constant if it is the same for all samples"
        )
    return 0


def _refuse_open(value: ValueInfoProto, shape: Sequence[int], but: Sequence[int], label: str) -> None:
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if not shape[axis] and axis not in but:
            raise ModelError(
                f"axis {axis} of input {value.name!r} of {label} has no fixed size (it is "
                f"{dim.dim_param or 'unknown'!r}); only the batch may be open. Export with fixed sizes, or set them "
                "with onnx.tools.update_model_dims"
            )
