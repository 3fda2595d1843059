"""Elements that encrypted indices choose: Gather, GatherElements, GatherND, and what scatters to such places.

An index is a one-hot code among the places that it may name: comparisons, which the client encrypts where the index is
an input. What is gathered is the sum of all candidates times that code.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import sparse

from glyphc.ir import memory
from glyphc.ir.graph import Node
from glyphc.ir.ops import Add, Max, Min, Mul, Op, ReduceSum

from .onnx_call import Call, Convert, Result, Rule, Shape, blocks, places
from .onnx_constants import BatchAxisError, CombinedSamplesError, Named, UnsupportedError
from .onnx_shapes import moved

I64 = npt.NDArray[np.int64]
Results = Result | tuple[Result, ...]


def one_hot(call: Call, ids: Node, count: int) -> Node:
    """Which of ``count`` rows each id names: shape (ids, count)."""
    size = ids.type.size
    if count == 1:
        return call.affine(ids, sparse.csr_array((size, size)), 1.0, (size, 1))
    memory.require(24 * size * count, f"a choice of {size} elements among {count}")
    features, thresholds = np.repeat(np.arange(size), count - 1), np.tile(np.arange(count - 1) + 0.5, size)
    steps = call.steps(ids, features, thresholds, lookup=True)
    # [id > v - 1/2] - [id > v + 1/2]
    difference = np.zeros((count, count - 1))
    difference[np.arange(1, count), np.arange(count - 1)] = 1.0
    difference[np.arange(count - 1), np.arange(count - 1)] = -1.0
    first = np.zeros(count)
    first[0] = 1.0
    return call.affine(steps, blocks(size, difference), np.tile(first, size), (size, count))


def _chosen(call: Call, ids: Node, candidates: I64) -> Node:
    """Of each row of candidates, shape (ids, count, inner), the ones that an id names: (ids, inner).

    candidates: flat places in operand 0, which may be a constant.
    """
    size, count, inner = candidates.shape
    memory.require_tensor(candidates.shape, "what its indices choose from")
    codes = one_hot(call, ids, count)
    if call.is_constant(0):
        values = call.constant(0, "its data").value.reshape(-1)[candidates]
        rows = sparse.block_diag([v.T for v in values], "csr")
        return call.affine(codes, rows, 0.0, (size, inner))
    found = call.gather(call.tensor(0), np.moveaxis(candidates, 1, 2))
    spread = call.gather(codes, np.broadcast_to(places(codes)[:, None, :], found.type.shape))
    return call.add(ReduceSum(), call.add(Mul(), spread, found))


def _data_shape(call: Call) -> Shape:
    """Of operand 0, of one sample."""
    if not call.is_constant(0):
        return call.tensor(0).type.shape
    shape = call.constant(0, "its data").value.shape
    if call.lead:
        raise BatchAxisError("chooses from a constant, for all samples together")
    return shape


def _axis(call: Call, shape: Shape) -> int:
    axis = call.integer("axis", 0)
    rank = len(shape) + call.lead
    if not -rank <= axis < rank:
        raise UnsupportedError(f"axis={axis} does not exist in a tensor of {rank} axes, batch included")
    if axis % rank < call.lead:
        raise CombinedSamplesError.along(axis)
    return axis % rank - call.lead


def gather(call: Call) -> Node:
    """data[..., id, ...] of encrypted data and ids."""
    if call.lead:
        raise BatchAxisError("looks up in all samples together")
    shape, ids = _data_shape(call), call.tensor(1)
    axis = _axis(call, shape)
    at = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    rows = np.moveaxis(at, axis, 0).reshape(shape[axis], -1)
    y = _chosen(call, ids, np.broadcast_to(rows, (ids.type.size, *rows.shape)))
    before, behind = shape[:axis], shape[axis + 1 :]
    order = places(y).reshape((*ids.type.shape, *before, *behind))
    count = len(ids.type.shape)
    return call.gather(y, np.moveaxis(order, range(count), range(axis, axis + count)))


def _gather_elements(call: Call) -> Results:
    """data[..., id, ...] at the other indices of each id."""
    if call.is_constant(1):
        return moved(call)
    shape, ids = _data_shape(call), call.tensor(1)
    axis = _axis(call, shape)
    y = _chosen(call, ids, _lines(shape, ids.type.shape, axis)[..., None])
    return call.reshape(y, ids.type.shape)


def _lines(shape: Shape, ids: Shape, axis: int) -> I64:
    """Flat places along an axis that each of the ids may name, (ids, size of the axis)."""
    if len(ids) != len(shape) or any(i > n for a, (i, n) in enumerate(zip(ids, shape, strict=True)) if a != axis):
        raise UnsupportedError(f"indices of shape {list(ids)} do not fit samples of shape {list(shape)}")
    at = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    cut = at[tuple(slice(None if a == axis else n) for a, n in enumerate(ids))]
    lines = np.moveaxis(cut, axis, -1)[..., None, :]
    everywhere = np.broadcast_to(lines, (*lines.shape[:-2], ids[axis], shape[axis]))
    return np.moveaxis(everywhere, -2, axis).reshape(math.prod(ids), shape[axis])


def _gather_nd(call: Call) -> Results:
    """Parts of the data that tuples of ids name."""
    if call.is_constant(1):
        return moved(call)
    shape, ids = _data_shape(call), call.tensor(1)
    batch = call.integer("batch_dims", 0) - call.lead
    if batch < 0:
        raise BatchAxisError("chooses from all samples together")
    flat, count = _flat_ids(call, ids, shape[batch : batch + ids.type.shape[-1]])
    outer, inner = math.prod(shape[:batch]), math.prod(shape[batch + ids.type.shape[-1] :])
    at = np.arange(outer * count * inner, dtype=np.int64).reshape(outer, 1, count, inner)
    each = flat.type.size // outer
    y = _chosen(call, flat, np.broadcast_to(at, (outer, each, count, inner)).reshape(outer * each, count, inner))
    return call.reshape(y, (*ids.type.shape[:-1], *shape[batch + ids.type.shape[-1] :]))


def _flat_ids(call: Call, ids: Node, sizes: Shape) -> tuple[Node, int]:
    """Tuples of ids as one id each, among so many."""
    width = ids.type.shape[-1] if ids.type.shape else 0
    if width != len(sizes) or not width:
        raise UnsupportedError(f"indices of shape {list(ids.type.shape)} have more parts than there are axes")
    if width == 1:
        return call.reshape(ids, (ids.type.size,)), sizes[0]
    strides = np.cumprod([1, *sizes[:0:-1]])[::-1]
    count = ids.type.size // width
    return call.affine(ids, blocks(count, strides), 0.0, (count,)), math.prod(sizes)


# -- the other way --


def _scattered(call: Call, ids: Node, updates: I64, targets: I64) -> Node:
    """x with elements replaced: of each row, an id says which of the targets (ids, count, inner) gets its updates
    (ids, inner), places in operand 2. Ids that name one place twice are undefined in ONNX, too."""
    x = call.tensor(0)
    count = targets.shape[1]
    memory.require_tensor(targets.shape, "what its indices choose from")
    codes = one_hot(call, ids, count)
    spread = call.gather(codes, np.broadcast_to(places(codes)[..., None], targets.shape))
    old = call.gather(x, targets)
    repeated = np.broadcast_to(updates[:, None], targets.shape)
    if call.is_constant(2):
        given = call.constant(2, "its updates")
        new = (call.per_sample(call.tensor(1), given) if call.lead else given).value.reshape(-1)[repeated]
        change = call.scale(old, -1.0, call.named("updates", new))
    else:
        change = call.sum(call.gather(call.tensor(2), repeated), call.scale(old, -1.0, 0.0))
    applied = call.add(Mul(), spread, change)
    matrix = sparse.csr_array(
        (np.ones(targets.size), (targets.reshape(-1), np.arange(targets.size))), shape=(x.type.size, targets.size)
    )
    return call.sum(x, call.affine(applied, matrix, 0.0, x.type.shape))


def _scatter_elements(constant: Convert) -> Convert:
    def convert(call: Call) -> Results:
        reduction = call.text("reduction", "none")
        if call.is_constant(1) and reduction == "none":
            return constant(call)
        x = call.tensor(0)
        axis = _axis(call, x.type.shape)
        if call.is_constant(1):
            return _reduced(call, reduction, _places_along(call, x, axis))
        _refuse_reduction(reduction)
        ids = call.tensor(1)
        lines = _lines(x.type.shape, ids.type.shape, axis)
        return _scattered(call, ids, np.arange(ids.type.size)[:, None], lines[..., None])

    return convert


def _scatter_nd(constant: Convert) -> Convert:
    def convert(call: Call) -> Results:
        reduction = call.text("reduction", "none")
        if call.is_constant(1) and reduction == "none":
            return constant(call)
        if call.lead:
            raise BatchAxisError("changes elements of all samples together")
        x = call.tensor(0)
        if call.is_constant(1):
            given = call.conversion.constants.raw(call.node.input[1]).astype(np.int64)
            rows = places(x)[tuple(np.moveaxis(given, -1, 0))]
            return _reduced(call, reduction, rows.reshape(-1))
        _refuse_reduction(reduction)
        ids = call.tensor(1)
        width = ids.type.shape[-1]
        flat, count = _flat_ids(call, ids, x.type.shape[:width])
        inner = math.prod(x.type.shape[width:])
        targets = np.broadcast_to(places(x).reshape(1, count, inner), (flat.type.size, count, inner))
        return _scattered(call, flat, np.arange(flat.type.size * inner).reshape(-1, inner), targets)

    return convert


def _refuse_reduction(reduction: str) -> None:
    if reduction != "none":
        raise UnsupportedError(f"reduction={reduction!r} at encrypted places is not supported")


def _places_along(call: Call, x: Node, axis: int) -> I64:
    """Flat places that constant indices name along an axis."""
    given = call.constant(1, "its indices")
    ids = (call.per_sample(x, given) if call.lead else given).value.astype(np.int64)
    lines = _lines(x.type.shape, ids.shape, axis)
    return np.asarray(lines[np.arange(len(lines)), ids.reshape(-1)])


def _reduced(call: Call, reduction: str, targets: I64) -> Node:
    """x with each update, in order, added to (or multiplied with, or compared with) the element at its target."""
    x = call.tensor(0)
    if call.is_constant(2):
        given = call.constant(2, "its updates")
        values = (call.per_sample(x, given) if call.lead else given).value.reshape(-1)
    elif reduction == "add":
        u = call.tensor(2)
        shape = (x.type.size, u.type.size)
        matrix = sparse.csr_array((np.ones(len(targets)), (targets, np.arange(len(targets)))), shape=shape)
        return call.sum(x, call.affine(u, matrix, 0.0, x.type.shape))
    order = np.argsort(targets, kind="stable")
    _, first, counts = np.unique(targets[order], return_index=True, return_counts=True)
    turn = np.empty(len(targets), dtype=np.int64)  # the how many-th update of its target each one is
    turn[order] = np.arange(len(targets)) - np.repeat(first, counts)
    for number in range(int(turn.max()) + 1):
        at = np.flatnonzero(turn == number)
        old = call.gather(x, targets[at])
        new = call.gather(call.tensor(2), at) if not call.is_constant(2) else call.named(f"updates{number}", values[at])
        place = np.arange(x.type.size)
        place[targets[at]] = x.type.size + np.arange(len(at))
        x = call.gather(call.stack([x, _combined(call, reduction, old, new)]), place.reshape(x.type.shape))
    return x


def _combined(call: Call, reduction: str, x: Node, y: Node | Named) -> Node:
    if isinstance(y, Node):
        pairs: dict[str, Op] = {"add": Add(), "mul": Mul(), "max": Max(), "min": Min()}
        return call.add(pairs[reduction], x, y)
    if reduction in ("add", "mul"):
        return call.scale(x, 1.0, y) if reduction == "add" else call.scale(x, y, 0.0)
    sign = 1.0 if reduction == "max" else -1.0  # max(x, c) = c + relu(x - c)
    above = call.scale(x, sign, Named(f"{y.name}.below", -sign * y.value))
    return call.scale(call.apply(above, "relu"), sign, y)


def with_selections(rules: dict[str, Rule]) -> dict[str, Rule]:
    """Rules that take encrypted indices, too; with constant ones, as before."""
    made: dict[str, Callable[[Convert], Convert]] = {
        "GatherElements": lambda old: _gather_elements,
        "GatherND": lambda old: _gather_nd,
        "ScatterElements": _scatter_elements,
        "ScatterND": _scatter_nd,
    }
    return {op: Rule(make(rules[op].convert), rules[op].attributes) for op, make in made.items()}
