"""Slices of tensors without elements, on which onnx's shape inference ends the process instead of raising an error.

Its C++ clamps where a slice begins and ends to the sizes of the tensor, and asserts that these are not negative
(``processSliceInputs`` in onnx/defs/tensor/defs.cc). Sizes become negative where a kernel or a cut is larger than what
it is applied to. So the sizes of what a slice reads are inferred first, without the slice. Nodes with slices in their
bodies are left out of all inference (``onnx_repairs.infer``).
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from glyphc.errors import ModelError

from .onnx_repairs import reads, slices_inside

# Of constants of so few elements, onnx reads the values (pads, shapes); of others, the shape.
_MOST_DATA = 1 << 10
# Slices one behind another: each takes an inference of what is before it.
_MOST_LEVELS = 100


def check_slices(model: ModelProto) -> None:
    """ModelError for a model with a slice of a tensor that has no elements, or a negative number of them."""
    levels: list[int] = []
    level: dict[str, int] = {}
    kept = [n for n in model.graph.node if not slices_inside(n)]
    for node in kept:
        levels.append(max((level.get(name, 0) for name in reads(node)), default=0))
        level.update(dict.fromkeys(node.output, levels[-1] + _is_slice(node)))
    nodes = list(zip(levels, kept, strict=True))
    deepest = max((at for at, node in nodes if _is_slice(node)), default=-1)
    if deepest >= _MOST_LEVELS:
        raise ModelError(f"more than {_MOST_LEVELS} slices (Slice) read one another's results; join some of them")
    light = _light(model) if deepest >= 0 else model
    for now in range(deepest + 1):
        before = [node for at, node in nodes if at < now or (at == now and not _is_slice(node))]
        _check(light, before, [node for at, node in nodes if at == now and _is_slice(node)])


def _check(light: ModelProto, before: Iterable[NodeProto], sliced: Iterable[NodeProto]) -> None:
    """Infer the sizes of what some slices read, from the nodes that come before them."""
    model = ModelProto()
    model.CopyFrom(light)
    model.graph.node.extend(before)
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # C++ behind it; the inference of the whole model says better what is wrong
        return
    known = {v.name: v.type.tensor_type.shape.dim for v in (*graph.input, *graph.value_info)}
    known |= {c.name: [_size(n) for n in c.dims] for c in graph.initializer}
    for node in sliced:
        sizes = [d.dim_value for d in known.get(node.input[0], ()) if d.HasField("dim_value")] if node.input else []
        if any(n < 0 or (n == 0 and len(node.input) > 4) for n in sizes):
            raise ModelError(
                f"node {_name(node)} (Slice) reads a tensor of shape {sizes}, which has no elements: what comes before "
                "it cuts away more than there is"
            )


def _light(model: ModelProto) -> ModelProto:
    """Without nodes and outputs; large constants are inputs."""
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = model.graph.name
    listed = {i.name for i in model.graph.input}
    light.graph.input.extend(model.graph.input)
    light.graph.value_info.extend(model.graph.value_info)
    for constant in model.graph.initializer:
        count = 1
        for n in constant.dims:
            count *= n
        if count <= _MOST_DATA and constant.data_location != TensorProto.EXTERNAL:
            light.graph.initializer.append(constant)
        elif constant.name not in listed:
            kind, dims = constant.data_type, list(constant.dims)
            light.graph.input.append(onnx.helper.make_tensor_value_info(constant.name, kind, dims))
    return light


def _size(n: int) -> onnx.TensorShapeProto.Dimension:
    return onnx.TensorShapeProto.Dimension(dim_value=n)


def _is_slice(node: NodeProto) -> bool:
    return bool(node.op_type == "Slice")


def _name(node: NodeProto) -> str:
    return repr(node.name or next(iter(node.output), ""))
