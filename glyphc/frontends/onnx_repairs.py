"""What runtimes accept in a model and onnx's own checker or shape inference does not."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto

# The IR version from which on constants need not be listed among the inputs.
_CONSTANTS_APART = 4


def reads(node: NodeProto) -> Iterator[str]:
    """Names of a node's operands, those of nodes inside its bodies (If, Loop) included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            yield from (o.name for o in body.output)
            for inner in body.node:
                yield from reads(inner)


def sort_nodes(graph: GraphProto) -> None:
    """Operands before users, otherwise in the order of the file; a graph with a cycle stays as it is."""
    maker = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    before = [{maker[name] for name in reads(node) if name in maker} for node in graph.node]
    if all(at > max(needed, default=-1) for at, needed in enumerate(before)):
        return
    users: list[list[int]] = [[] for _ in before]
    for at, needed in enumerate(before):
        for other in needed:
            users[other].append(at)
    missing = [len(needed) for needed in before]
    ready = [at for at, count in enumerate(missing) if not count]
    order = []
    while ready:
        at = heapq.heappop(ready)
        order.append(at)
        for user in users[at]:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, user)
    if len(order) < len(before):
        return
    nodes = [NodeProto() for _ in order]
    for copy, at in zip(nodes, order, strict=True):
        copy.CopyFrom(graph.node[at])
    del graph.node[:]
    graph.node.extend(nodes)


def infer(model: ModelProto) -> ModelProto:
    """The model with all types that onnx can infer, also where it finds what others don't mind.

    Strict inference stops at a node whose operands have no known types (behind any operator of ``ai.onnx.ml``), and at
    declared shapes that are not the ones it works out. What doesn't fit is found when nodes are converted. Nodes with
    slices in their bodies are left out, as nothing says beforehand whether onnx survives those (``onnx_slices``).
    """
    if any(map(slices_inside, model.graph.node)):
        light = ModelProto()
        light.CopyFrom(model)
        del light.graph.node[:]
        light.graph.node.extend(n for n in model.graph.node if not slices_inside(n))
        known = infer(light).graph
        result = ModelProto()
        result.CopyFrom(model)
        for kept, found in ((result.graph.value_info, known.value_info), (result.graph.output, known.output)):
            del kept[:]
            kept.extend(found)
        return result
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception:  # C++ behind it, with no common base for what it throws
        return onnx.shape_inference.infer_shapes(model, data_prop=True)


def slices_inside(node: NodeProto) -> bool:
    """Whether a Slice stands in a body of the node."""
    bodies = [g for a in node.attribute for g in (*a.graphs, *([a.g] if a.HasField("g") else ()))]
    return any(n.op_type == "Slice" or slices_inside(n) for body in bodies for n in body.node)


def checkable(model: ModelProto) -> ModelProto:
    """A model for onnx's checker, which wants shapes of all inputs and outputs, and up to IR version 3 all constants
    among the inputs, where runtimes need neither."""
    inputs = {i.name for i in model.graph.input}
    unlisted = model.ir_version < _CONSTANTS_APART and any(t.name not in inputs for t in model.graph.initializer)
    if not unlisted and not any(_shapeless(v) for v in (*model.graph.input, *model.graph.output)):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, _CONSTANTS_APART)
    for value in filter(_shapeless, (*copy.graph.input, *copy.graph.output)):
        kind = value.type.tensor_type.elem_type or onnx.TensorProto.FLOAT
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, []))
    return copy


def complete_imports(model: ModelProto) -> None:
    """Import every domain that nodes use, as files of the oldest IR versions and some exporters do not."""
    known = {"" if o.domain == "ai.onnx" else o.domain for o in model.opset_import}
    used = {"" if n.domain == "ai.onnx" else n.domain for n in _nodes(model.graph)}
    for domain in sorted(used - known):
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))


def needed_opset(graph: GraphProto, version: int) -> int:
    """The oldest opset, ``version`` at least, that has all of ONNX's own operators in a graph.

    Runtimes take operators that are newer than what a file says that it uses.
    """
    needed = version
    for node in _nodes(graph):
        if node.domain in ("", "ai.onnx"):
            needed = max(needed, _since(node.op_type, version))
    return needed


def unknown_operators(model: ModelProto) -> dict[str, str]:
    """Operators in ONNX's own domain that no opset has, nor the file itself as a function, and a node of each."""
    own = {f.name for f in model.functions if f.domain in ("", "ai.onnx")}
    found: dict[str, str] = {}
    for at, node in enumerate(_nodes(model.graph)):
        if node.domain in ("", "ai.onnx") and node.op_type not in own and not onnx.defs.has(node.op_type):
            found.setdefault(node.op_type, node.name or f"#{at}")
    return found


def _since(op_type: str, version: int) -> int:
    """The first opset from ``version`` on that has an operator and does not call it outdated; if none, ``version``."""
    for tried in range(version, onnx.defs.onnx_opset_version() + 1):
        try:
            if not onnx.defs.get_schema(op_type, tried).deprecated:
                return tried
        except onnx.defs.SchemaError:
            continue
    return version


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes, those in bodies included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body)


def _shapeless(value: onnx.ValueInfoProto) -> bool:
    """Whether a value is a tensor, or nothing is said of it, and has no shape."""
    tensor = value.type.WhichOneof("value") in (None, "tensor_type")
    return tensor and not value.type.tensor_type.HasField("shape")
