"""The inputs of an ONNX model: which of them are encrypted, and which of their axes counts the samples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import GraphProto, TensorProto, TensorShapeProto, ValueInfoProto

from glyphc.errors import ModelError

from .onnx_call import FIRST, Where
from .onnx_constants import FLOATS, INTEGERS, liveness, type_name
from .onnx_repairs import reads

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
    """batch: the number of samples, if the file fixes it; unused: names of inputs that no output needs.

    mixed: that some inputs have an open axis for the samples and others are fixed, so that all describe one sample.
    """

    inputs: tuple[ModelInput, ...]
    batch: int | None
    unused: tuple[str, ...]
    mixed: bool = False


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
    mixed = batch_axis and batch is None and any(all(s) for s in sizes.values())
    if mixed:  # what is fixed belongs to each sample, and so does a batch of one
        for value in used:
            if not all(sizes[value.name]):
                axis = _batch_of(value, sizes[value.name], label)
                sizes[value.name] = tuple(n or int(a == axis) for a, n in enumerate(sizes[value.name]))
        batch_axis = False
    if not batch_axis:
        for value in used:
            _refuse_open(value, sizes[value.name], (), label)
        return ModelInputs(tuple(ModelInput(n, s, None) for n, s in sizes.items()), 1, unused, mixed)
    found = []
    for value in used:
        shape = sizes[value.name]
        axis = 0 if batch else _batch_of(value, shape, label)
        _refuse_open(value, shape, (axis,), label)
        found.append(ModelInput(value.name, (*shape[:axis], *shape[axis + 1 :]), Where(axis) if axis else FIRST))
    return ModelInputs(tuple(found), 1 if one_sample and batch is None else batch, unused)


def leave_out_texts(graph: GraphProto, label: str) -> list[str]:
    """Take outputs out of a graph that depend on inputs of texts, if there are others; returns notes about them.

    Some exporters have every column of a table as an input, and pass it on as an output.
    """
    texts = {i.name for i in graph.input if i.type.tensor_type.elem_type == TensorProto.STRING}
    if not texts:
        return []
    tainted = set(texts)
    for node in graph.node:
        if not tainted.isdisjoint(reads(node)):
            tainted.update(filter(None, node.output))
    kept = [o for o in graph.output if o.name not in tainted]
    if not kept:
        return []
    names = ", ".join(repr(o.name) for o in graph.output if o.name in tainted)
    del graph.output[:]
    graph.output.extend(kept)
    return [f"output {names} of {label} is left out: it depends on texts, which cannot be encrypted"] if names else []


def fix_sizes(graph: GraphProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give open axes the sizes that samples have, but for the axis that counts them.

    shapes: of one sample, by the name of the input; of the only one, "" is fine. Axes that are called alike have one
    size in all inputs and outputs. What does not fit is left as it is, and told where samples are used.
    """
    stored = {t.name for t in graph.initializer}
    given = [i for i in graph.input if i.name not in stored]
    called: dict[str, int] = {}
    for value in given:
        shape = shapes.get(value.name, shapes.get("") if len(given) == 1 else None)
        tensor = value.type.tensor_type
        if shape is not None and not tensor.HasField("shape"):
            tensor.shape.dim.extend(TensorShapeProto.Dimension() for _ in range(len(shape) + 1))
        dims = tensor.shape.dim
        if shape is None or all(d.dim_value > 0 for d in dims):
            continue
        whole = _whole(dims, shape)
        if whole is not None:
            called |= {d.dim_param: n for d, n in zip(dims, whole, strict=True) if n and d.dim_param}
            _fill(dims, whole)
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        _fill(dims, [called.get(d.dim_param, 0) for d in dims])


_Dims = Sequence[TensorShapeProto.Dimension]


def _whole(dims: _Dims, shape: Sequence[int]) -> list[int] | None:
    """Sizes of all axes of an input with samples of a shape, 0 for the one that counts them; None if it has others."""
    sizes = [max(0, d.dim_value) for d in dims]
    axis = _called_batch(dims)
    if len(shape) == len(dims) - 1:
        axis = axis or 0
        whole = [*shape[:axis], 0, *shape[axis:]]
    elif len(shape) == len(dims) and axis is None:  # a file for one sample
        whole = list(shape)
    else:
        return None
    return whole if all(n in (m, 0) for n, m in zip(sizes, whole, strict=True) if m) else None


def _fill(dims: _Dims, sizes: Sequence[int]) -> None:
    for dim, size in zip(dims, sizes, strict=True):
        if size and dim.dim_value <= 0:
            dim.dim_value = size


def _called_batch(dims: _Dims) -> int | None:
    """The only open axis that is called like one of samples."""
    called = [a for a, d in enumerate(dims) if d.dim_value <= 0 and _BATCH_NAMES.search(d.dim_param)]
    return called[0] if len(called) == 1 else None


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


def _batch_of(value: ValueInfoProto, shape: Sequence[int], label: str) -> int:
    """The axis that counts the samples: the one that is called so, or the first one."""
    where = f"input {value.name!r} of {label}"
    if not shape:
        raise ModelError(f"{where} has no batch axis; declare its shape in the export, e.g. (N, 64)")
    return _called_batch(value.type.tensor_type.shape.dim) or 0


def _refuse_open(value: ValueInfoProto, shape: Sequence[int], but: Sequence[int], label: str) -> None:
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if not shape[axis] and axis not in but:
            raise ModelError(
                f"axis {axis} of input {value.name!r} of {label} has no fixed size (it is "
                f"{dim.dim_param or 'unknown'!r}); only the batch may be open. Give calibration samples, which say how "
                "large it is, export with fixed sizes, or set them with onnx.tools.update_model_dims"
            )
