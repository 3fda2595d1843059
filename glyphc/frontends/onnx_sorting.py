"""The largest elements in order, and products of all elements of an axis."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from glyphc.ir.graph import Node
from glyphc.ir.ops import ArgMax, Mul, ReduceMax

from .onnx_call import Call, Rule, blocks, places
from .onnx_constants import UnsupportedError

# Elements that are compared in pairs.
_MOST_SORTED = 64


def top_k(call: Call) -> tuple[Node, Node]:
    """The k largest or smallest elements and their indices.

    One: a maximum. Several: values by a sorting network, whose comparators are max and min; indices, where they are
    needed, by counting how many others beat each element.
    """
    k = call.integers(1, "k")
    x = call.tensor(0)
    axis = call.axis(x, call.integer("axis", -1))
    size = x.type.shape[axis]
    if len(k) != 1 or not 1 <= k[0] <= size:
        raise UnsupportedError(f"k is {k} of {size} elements")
    sign = 1.0 if call.integer("largest", 1) else -1.0
    moved = call.last(x, (axis,))
    signed = moved if sign > 0 else call.scale(moved, sign, 0.0)
    values = call.add(ReduceMax(), signed) if k[0] == 1 else _sorted(call, signed, k[0])
    if sign < 0:
        values = call.scale(values, sign, 0.0)
    if k[0] == 1:
        shape = (*x.type.shape[:axis], 1, *x.type.shape[axis + 1 :])
        found = call.reshape(values, shape)
        return found, call.reshape(call.add(ArgMax(keepdims=True), signed), shape)
    indices = _places(call, signed, k[0])
    rest = [n for a, n in enumerate(x.type.shape) if a != axis]
    back = np.moveaxis(np.arange(values.type.size).reshape(*rest, k[0]), -1, axis)
    return call.gather(values, back), call.gather(indices, back)


def network(size: int, k: int) -> list[list[tuple[int, int]]]:
    """Comparators by stage that bring the k largest elements to the front, in order: (larger goes to, smaller to).

    Batcher's odd-even merge sort (Knuth, The Art of Computer Programming, vol. 3, algorithm 5.2.2M), without what the
    first k places do not need.
    """
    stages = []
    block = 1
    while block < size:
        step = block
        while step:
            stages.append(
                [
                    (i + j, i + j + step)
                    for j in range(step % block, size - step, 2 * step)
                    for i in range(min(step, size - j - step))
                    if (i + j) // (2 * block) == (i + j + step) // (2 * block)
                ]
            )
            step //= 2
        block *= 2
    needed = set(range(k))
    kept = []
    for stage in reversed(stages):
        used = [pair for pair in stage if not needed.isdisjoint(pair)]
        needed.update(*used)
        kept.append(used)
    return [stage for stage in reversed(kept) if stage]


def _sorted(call: Call, x: Node, k: int) -> Node:
    """The k largest elements of the last axis: a comparator adds relu(b - a) to a, and takes it from b."""
    size = x.type.shape[-1]
    if size > _MOST_SORTED:
        raise UnsupportedError(f"sorts {size} elements; the {k} largest of at most {_MOST_SORTED} are possible")
    for stage in network(size, k):
        at, pairs = places(x), np.array(stage)
        first = call.scale(call.gather(x, at[..., pairs[:, 0]]), -1.0, 0.0)
        difference = call.sum(call.gather(x, at[..., pairs[:, 1]]), first)
        more = call.apply(difference, "relu")
        spread = np.zeros((size, len(stage)))
        for column, (front, back) in enumerate(stage):
            spread[front, column], spread[back, column] = 1.0, -1.0
        x = call.sum(x, call.affine(more, blocks(x.type.size // size, spread), 0.0, x.type.shape))
    return call.gather(x, places(x)[..., :k])


def _places(call: Call, x: Node, k: int) -> Node:
    """Indices of the k largest elements of the last axis, (rest, k): means of all indices, of weight 1 for the one."""
    size = x.type.shape[-1]
    rows = x.type.size // size
    at = places(x).reshape(rows, size)
    pairs = np.array(list(combinations(range(size), 2)))
    first, second = call.gather(x, at[:, pairs[:, 0]]), call.gather(x, at[:, pairs[:, 1]])
    # the first of equal ones comes first
    wins = call.apply(call.sum(second, call.scale(first, -1.0, 0.0)), "greater", 0.0)
    beaten = np.zeros((size, len(pairs)))
    shift = np.zeros(size)
    for column, (i, j) in enumerate(pairs):
        beaten[i, column], beaten[j, column] = 1.0, -1.0
        shift[j] += 1.0
    # how many beat each element, less the place in question
    shifts = np.tile(np.repeat(shift, k) - np.tile(np.arange(k), size), rows)
    distances = call.affine(wins, blocks(rows, np.repeat(beaten, k, axis=0)), shifts, (rows, size, k))
    # 1 at distance 0, 0 from distance 1 on: weights of all elements that add up to 1
    shares = call.apply(call.scale(call.apply(call.apply(distances, "abs"), "minimum", 1.0), -1.0, 1.0), "relu")
    by_place = np.arange(shares.type.size).reshape(rows, size, k).transpose(0, 2, 1)
    return call.affine(call.gather(shares, by_place), blocks(rows * k, np.arange(size)), 0.0, (rows, k))


def product(call: Call, x: Node, count: int) -> Node:
    """Product over the last axis, by halves."""
    while (size := x.type.shape[-1]) > 1:
        half, at = size // 2, places(x)
        y = call.add(Mul(), call.gather(x, at[..., :half]), call.gather(x, at[..., half : 2 * half]))
        if size % 2:
            both = call.stack([y, call.gather(x, at[..., -1:])])
            last = y.type.size + np.arange(both.type.size - y.type.size).reshape(*y.type.shape[:-1], 1)
            y = call.gather(both, np.concatenate([places(y), last], axis=-1))
        x = y
    return call.reshape(x, x.type.shape[:-1])


RULES: dict[str, Rule] = {"TopK": Rule(top_k, ("axis", "largest", "sorted"))}
