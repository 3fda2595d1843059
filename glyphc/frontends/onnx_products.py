"""Einsum and Attention as broadcasts, products and sums, Loop, Scan and If as what they come to."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, numpy_helper

from glyphc.ir import memory

from .onnx_compositions import Composition, Parts
from .onnx_constants import CombinedSamplesError, UnsupportedError
from .onnx_masks import NOTHING

Array = npt.NDArray[Any]
Truth = npt.NDArray[np.bool_]

# -- Einsum --


def _einsum(parts: Parts) -> None:
    """All operands with all axes, multiplied; then the sum over those that the result has not."""
    equation = parts.call.text("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    shapes = [parts.shape(i) for i in range(len(parts.node.input))]
    if len(terms) != len(shapes):
        raise UnsupportedError(f"the equation {equation!r} is of {len(terms)} operands, not of {len(shapes)}")
    free = [c for c in string.ascii_uppercase + string.ascii_lowercase if c not in equation]
    longest = max(len(s) - len(t.replace("...", "")) for t, s in zip(terms, shapes, strict=True))
    dots = "".join(free[: max(0, longest)])
    named = []
    for term, shape in zip(terms, shapes, strict=True):
        missing = len(shape) - len(term.replace("...", ""))
        if missing and "..." not in term:
            raise UnsupportedError(f"the equation {equation!r} does not fit an operand of {len(shape)} axes")
        named.append(term.replace("...", dots[len(dots) - missing :] if missing else ""))
    if not arrow:  # what stands there once, in order of the alphabet
        every = "".join(named)
        right = dots + "".join(sorted(c for c in set(every) - set(dots) if every.count(c) == 1))
    right = right.replace("...", dots)
    if any(len(set(t)) < len(t) for t in (*named, right)):
        raise UnsupportedError(f"the equation {equation!r} takes a diagonal, which is not supported")
    unknown = set(right) - set("".join(named))
    if unknown:
        raise UnsupportedError(f"the equation {equation!r} has an axis {unknown.pop()!r} in its result alone")
    summed = [c for c in dict.fromkeys("".join(named)) if c not in right]
    order = [*right, *summed]
    sizes: dict[str, int] = {}
    for term, shape in zip(named, shapes, strict=True):
        for axis, size in zip(term, shape, strict=True):
            sizes[axis] = max(size, sizes.get(axis, 1))
    memory.require_tensor(tuple(sizes[c] for c in order), "its products")
    total = ""
    for index, term in enumerate(named):
        x = parts.input(index)
        perm = sorted(range(len(term)), key=lambda a: order.index(term[a]))
        if perm != list(range(len(term))):
            x = parts.add("Transpose", x, perm=perm)
        new = [n for n, c in enumerate(order) if c not in term]
        if new:
            x = parts.unsqueezed(x, *new)
        total = parts.add("Mul", total, x) if total else x
    if summed:
        axes = parts.constant(np.arange(len(right), len(order), dtype=np.int64))
        parts.add("ReduceSum", total, axes, keepdims=0, to=parts.output(0))
    else:
        parts.add("Identity", total, to=parts.output(0))


# -- Attention --


def _attention(parts: Parts) -> None:
    """softmax(Q K^T * scale + mask) V for queries and keys of shape (samples, heads, tokens, size), or with heads side
    by side: (samples, tokens, heads * size)."""
    call = parts.call
    if parts.input(6):
        raise UnsupportedError("lengths of padded keys (nonpad_kv_seqlen) are not supported")
    flat = len(parts.shape(0)) == 3
    heads = [call.integer(name, 0) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    if flat and not all(heads):
        raise UnsupportedError("of tensors of three axes, q_num_heads and kv_num_heads say how many heads there are")
    split = [_heads(parts, i, n) if flat else parts.input(i) for i, n in enumerate(heads)]
    counts = heads if flat else [parts.shape(i)[1] for i in range(3)]
    size = parts.shape(0)[-1] // (counts[0] if flat else 1)
    q, k, v = split
    past = 0
    if parts.input(4):  # keys and values of earlier calls
        k, v = (parts.add("Concat", parts.input(i), x, axis=2) for i, x in ((4, k), (5, v)))
        past = parts.shape(4)[2]
    for index, x in ((1, k), (2, v)):
        if parts.output(index):
            parts.add("Identity", x, to=parts.output(index))
    if counts[0] != counts[1]:
        if not counts[1] or counts[0] % counts[1]:
            raise UnsupportedError(f"{counts[0]} heads cannot share those of {counts[1]} keys")
        chosen = parts.constant(np.repeat(np.arange(counts[1]), counts[0] // counts[1]))
        k, v = (parts.add("Gather", x, chosen, axis=1) for x in (k, v))
    scale = call.real("scale", 0.0) or 1 / math.sqrt(size)
    scores = parts.add("MatMul", parts.scaled(q, scale), parts.add("Transpose", k, perm=[0, 1, 3, 2]))
    stages = [scores]
    cap = call.real("softcap", 0.0)
    if cap:
        scores = parts.scaled(parts.add("Tanh", parts.scaled(scores, 1 / cap)), cap)
    stages.append(scores)
    allowed, bias = _mask(parts, parts.shape(0)[-2], parts.shape(1)[-2] + past, past)
    if bias is not None or not allowed.all():
        added = np.where(allowed, 0.0 if bias is None else bias, -np.inf).astype(np.float32)
        scores = parts.add("Add", scores, parts.constant(added))
    shares = parts.add("Softmax", scores, axis=-1)
    if parts.output(3):
        wanted = [*stages, scores, shares][call.integer("qk_matmul_output_mode", 0)]
        parts.add("Identity", wanted, to=parts.output(3))
    y = parts.add("MatMul", shares, v, to="" if flat else parts.output(0))
    if flat:
        parts.reshaped(parts.add("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, -1, to=parts.output(0))


def _heads(parts: Parts, index: int, heads: int) -> str:
    """(samples, tokens, heads * size) as (samples, heads, tokens, size)."""
    return parts.add("Transpose", parts.reshaped(parts.input(index), 0, 0, heads, -1), perm=[0, 2, 1, 3])


def _mask(parts: Parts, queries: int, keys: int, past: int) -> tuple[Truth, Array | None]:
    """Which keys each query may see, (queries, keys); and what is added to the scores."""
    allowed: Truth = np.ones((queries, keys), dtype=bool)
    bias: Array | None = None
    distance = np.arange(keys) - np.arange(queries)[:, None] - past
    left, right = (parts.call.integer(f"{side}_window_size", -1) for side in ("left", "right"))
    if left >= 0:
        allowed &= distance >= -left
    if right >= 0:
        allowed &= distance <= right
    if parts.call.integer("is_causal", 0):
        allowed &= np.tri(queries, keys, past, dtype=bool)
    if parts.input(3):
        if not parts.call.is_constant(3):
            raise UnsupportedError("its mask is computed by the network; it must be a constant")
        mask: Array = parts.call.conversion.constants.raw(parts.input(3))
        boolean = mask.dtype.kind == "b"
        if mask.shape[-1] < keys:  # of the first keys: the others are not seen
            fill = False if boolean else -np.inf
            mask = np.pad(mask, [*[(0, 0)] * (mask.ndim - 1), (0, keys - mask.shape[-1])], constant_values=fill)
        seen = mask.astype(bool) if boolean else np.asarray(mask > NOTHING)
        stack = seen.reshape(-1, *seen.shape[-2:])
        if not (stack == stack[0]).all():
            raise UnsupportedError("its mask differs between samples or heads")
        allowed = allowed & np.broadcast_to(stack[0], allowed.shape)
        if not boolean:
            added = np.where(seen, mask, 0).astype(np.float32)
            bias = added if added.any() else None
    return allowed, bias


# -- Loop, Scan, If --

_MOST_TRIPS = 1000


def _loop(parts: Parts) -> None:
    """As many copies of the body as there are trips, which must be known."""
    call = parts.call
    if parts.input(0) and not call.is_constant(0):
        raise UnsupportedError("how often it runs is computed by the network; it must be a constant")
    trips = call.integers(0, "its number of trips")[0] if parts.input(0) else _MOST_TRIPS + 1
    if parts.input(1) and not call.integers(1, "its condition")[0]:
        trips = 0
    if trips > _MOST_TRIPS:
        raise UnsupportedError(f"runs {trips} times, or without a limit; {_MOST_TRIPS} are possible")
    body = _graph(parts, "body")
    carried = [parts.input(i) for i in range(2, len(parts.node.input))]
    _steady(body, trips)
    scanned: list[list[str]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    for trip in range(trips):
        number = parts.constant(np.array(trip, dtype=np.int64))
        given = [number, parts.constant(np.array(True)), *carried]
        _, *results = _inlined(parts, body, given)
        carried, rest = results[: len(carried)], results[len(carried) :]
        for values, value in zip(scanned, rest, strict=True):
            values.append(parts.unsqueezed(value, 0))
    for index, name in enumerate(carried):
        if parts.output(index):
            parts.add("Identity", name, to=parts.output(index))
    for index, values in enumerate(scanned, len(carried)):
        if parts.output(index):
            if not values:
                raise UnsupportedError("never runs, so that a result is empty")
            parts.concatenated(values, 0, to=parts.output(index))


def _steady(body: GraphProto, trips: int) -> None:
    """UnsupportedError unless the body goes on, whatever it computes: its condition is its own, or a constant."""
    condition = body.output[0].name
    while (made := next((n for n in body.node if condition in n.output), None)) is not None:
        if made.op_type == "Constant":
            return
        if made.op_type not in ("Identity", "Cast") or trips <= 1:
            if trips <= 1:
                return
            raise UnsupportedError("goes on for as long as a condition holds that it computes; unroll it in the export")
        condition = made.input[0]


def _scan(parts: Parts) -> None:
    """A copy of the body for each entry of the scanned axes."""
    call, body = parts.call, _graph(parts, "body")
    count = call.integer("num_scan_inputs", 0)
    states = len(parts.node.input) - count
    axes = call.sizes("scan_input_axes") or (0,) * count
    directions = call.sizes("scan_input_directions") or (0,) * count
    results = len(body.output) - states
    out_axes = call.sizes("scan_output_axes") or (0,) * results
    out_directions = call.sizes("scan_output_directions") or (0,) * results
    for n, axis in enumerate(axes):
        whole = call.is_constant(states + n) or not call.conversion.batch_axis
        if not whole and axis % len(parts.shape(states + n)) == call.where(states + n).axis:
            raise CombinedSamplesError.along(axis)
    trips = parts.shape(states)[axes[0]]
    if trips > _MOST_TRIPS:
        raise UnsupportedError(f"runs {trips} times; {_MOST_TRIPS} are possible")
    carried = [parts.input(i) for i in range(states)]
    scanned: list[list[str]] = [[] for _ in range(results)]
    for trip in range(trips):
        entries = [
            parts.take(parts.input(states + n), trips - 1 - trip if directions[n] else trip, axes[n])
            for n in range(count)
        ]
        made = _inlined(parts, body, [*carried, *entries])
        carried = made[:states]
        for values, value, axis in zip(scanned, made[states:], out_axes, strict=True):
            values.append(parts.unsqueezed(value, axis))
    for index, name in enumerate(carried):
        if parts.output(index):
            parts.add("Identity", name, to=parts.output(index))
    for n, values in enumerate(scanned):
        if parts.output(states + n):
            parts.concatenated(values[::-1] if out_directions[n] else values, out_axes[n], to=parts.output(states + n))


def _group_normalization(parts: Parts) -> None:
    """Groups of channels normalised as one channel each; then a factor and a shift for each channel.

    Of opset 18, which was withdrawn, for each group.
    """
    shape = parts.shape(0)
    groups = parts.call.integer("num_groups", 0)
    if len(shape) < 3 or groups < 1 or shape[1] % groups:
        raise UnsupportedError(f"{groups} groups do not fit a tensor of shape {list(shape)}")
    ones, zeros = (parts.constant(np.full(groups, v, dtype=np.float32)) for v in (1.0, 0.0))
    grouped = parts.reshaped(parts.input(0), 0, groups, -1)
    epsilon = parts.call.real("epsilon", 1e-5)
    y = parts.reshaped(parts.add("InstanceNormalization", grouped, ones, zeros, epsilon=epsilon), 0, *shape[1:])
    behind = [1] * (len(shape) - 2)
    for index, op in ((1, "Mul"), (2, "Add")):
        value = parts.call.constant(index, "its scale and bias").value.astype(np.float32)
        if value.shape == (groups,):
            value = np.repeat(value, shape[1] // groups)
        if value.shape != shape[1:2]:
            raise UnsupportedError(f"its scale or bias has shape {list(value.shape)}, not one number for each channel")
        last = parts.output(0) if op == "Add" else ""
        y = parts.add(op, y, parts.constant(value.reshape(-1, *behind)), to=last)


def _if(parts: Parts) -> None:
    """The branch that a constant chooses; of both, what an encrypted condition does."""
    if not parts.call.is_constant(0):
        both = [_inlined(parts, _graph(parts, name), []) for name in ("then_branch", "else_branch")]
        for index, (yes, no) in enumerate(zip(*both, strict=True)):
            if parts.output(index):
                parts.add("Where", parts.input(0), yes, no, to=parts.output(index))
        return
    chosen = "then_branch" if parts.call.integers(0, "its condition")[0] else "else_branch"
    for index, name in enumerate(_inlined(parts, _graph(parts, chosen), [])):
        if parts.output(index):
            parts.add("Identity", name, to=parts.output(index))


def _graph(parts: Parts, name: str) -> GraphProto:
    found: GraphProto | None = next((a.g for a in parts.node.attribute if a.name == name), None)
    if found is None:
        raise UnsupportedError(f"is without its attribute {name}")
    return found


def _inlined(parts: Parts, body: GraphProto, inputs: list[str]) -> list[str]:
    """The nodes of a body under names of their own; returns its outputs."""
    names = {i.name: given for i, given in zip(body.input, inputs, strict=True)}
    for tensor in body.initializer:
        names[tensor.name] = parts.constant(numpy_helper.to_array(tensor))
    for node in body.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        del copy.output[:]
        for name in node.output:
            names[name] = parts.name() if name else ""
        copy.output.extend(names[n] for n in node.output)
        _rename(copy, names)
        parts.nodes.append(copy)
    return [names.get(o.name, o.name) for o in body.output]


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Operands by their new names, also of what stands in subgraphs and is not defined there."""
    operands = [names.get(n, n) for n in node.input]
    del node.input[:]
    node.input.extend(operands)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            own = {v.name for v in (*graph.input, *graph.initializer)} | {o for n in graph.node for o in n.output}
            outer = {old: new for old, new in names.items() if old not in own}
            for inner in graph.node:
                _rename(inner, outer)
            for output in graph.output:
                output.name = outer.get(output.name, output.name)


COMPOSITIONS: dict[tuple[str, str], Composition] = {
    ("", "Attention"): Composition(
        _attention,
        (
            *(
                "is_causal",
                "kv_num_heads",
                "left_window_size",
                "right_window_size",
                "q_num_heads",
                "qk_matmul_output_mode",
                "scale",
                "softcap",
            ),
            "softmax_precision",
        ),
    ),
    ("", "Einsum"): Composition(_einsum, ("equation",)),
    ("", "GroupNormalization"): Composition(_group_normalization, ("epsilon", "num_groups", "stash_type")),
    ("", "If"): Composition(_if, ("then_branch", "else_branch")),
    ("", "Loop"): Composition(_loop, ("body",)),
    ("", "Scan"): Composition(
        _scan,
        (
            *("body", "num_scan_inputs", "scan_input_axes", "scan_input_directions", "scan_output_axes"),
            "scan_output_directions",
        ),
    ),
}
