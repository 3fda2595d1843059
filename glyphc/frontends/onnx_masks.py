"""Scores that are masked: minus infinity in constant places, of which a softmax makes zeros.

No number stands for minus infinity in fixed point, and a very negative one would leave no bits for the others. So
masked elements keep their scores, it is remembered where they are, and the softmax is taken over the others alone.
Where all are masked, it is zero, as ONNX's Attention has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from glyphc.ir.graph import Node
from glyphc.ir.ops import Softmax

from .onnx_call import Call, places
from .onnx_constants import Named, UnsupportedError

Truth = npt.NDArray[np.bool_]

# Numbers below this are minus infinity to whoever wrote them.
NOTHING = -1e8


def masked_sum(call: Call) -> Node | None:
    """x + c for a constant with minus infinity in places; None where it has none."""
    found = [i for i in (0, 1) if call.is_constant(i)]
    if len(found) != 1:
        return None
    name = call.node.input[found[0]]
    if call.conversion.constants.kind(name) not in _FLOATS:
        return None
    raw = call.conversion.constants.raw(name).astype(np.float64)
    if not raw.size or not (raw <= NOTHING).any():
        return None
    x = call.tensor(1 - found[0])
    finite = Named(f"{name}.finite", np.where(raw <= NOTHING, 0.0, raw))
    seen = Named(name, (raw > NOTHING).astype(np.float64))
    return _remembered(call, x, seen, finite)


def masked_choice(call: Call) -> Node | None:
    """Where(constant condition, x, minus infinity) and the other way round; None for other choices."""
    if not call.is_constant(0):
        return None
    for index, other in ((1, 2), (2, 1)):
        if call.is_constant(index) or not call.is_constant(other):
            continue
        raw = call.conversion.constants.raw(call.node.input[other])
        if raw.dtype.kind != "f" or not raw.size or not np.all(raw.astype(np.float64) <= NOTHING):
            return None
        condition = call.conversion.constants.raw(call.node.input[0]).astype(bool)
        seen = condition if index == 1 else ~condition
        return _remembered(call, call.tensor(index), Named(call.node.input[0], seen.astype(np.float64)), None)
    return None


_FLOATS = (1, 10, 11, 16)  # FLOAT, FLOAT16, DOUBLE, BFLOAT16


def _remembered(call: Call, x: Node, seen: Named, added: Named | None) -> Node:
    shape = x.type.shape
    parts: list[Any] = []
    for constant in filter(None, (seen, added)):
        c = constant.per_sample(shape) if call.lead else constant
        try:
            if np.broadcast_shapes(c.value.shape, shape) != shape:
                raise ValueError
        except ValueError:
            raise UnsupportedError(f"{c} does not broadcast to samples of shape {list(shape)}") from None
        parts.append(c)
    call.conversion.masks[call.node.output[0]] = np.broadcast_to(parts[0].value > 0, shape)
    return call.scale(x, 1.0, parts[1]) if len(parts) > 1 and parts[1].value.any() else call.scale(x, 1.0, 0.0)


def masked_softmax(call: Call) -> Node | None:
    """Softmax of what is not masked, zeros elsewhere; None for tensors without a mask."""
    mask = call.conversion.masks.get(call.node.input[0])
    if mask is None:
        return None
    if call.node.op_type != "Softmax":
        raise UnsupportedError("takes the logarithm of masked scores")
    x = call.tensor(0)
    if mask.shape != x.type.shape:
        mask = mask.reshape(x.type.shape)
    axis = call.axis(x, call.integer("axis", -1))
    size = x.type.shape[axis]
    at = np.moveaxis(places(x), axis, -1).reshape(-1, size)
    seen = np.moveaxis(mask, axis, -1).reshape(-1, size)
    patterns, which = np.unique(seen, axis=0, return_inverse=True)
    total: Node | None = None
    shift = np.zeros(x.type.size)
    for number, pattern in enumerate(patterns):
        chosen = at[which.reshape(-1) == number][:, pattern]
        if not chosen.size:
            continue
        if chosen.shape[1] == 1:  # the only one has all
            shift[chosen.reshape(-1)] = 1.0
            continue
        shares = call.add(Softmax(), call.gather(x, chosen))
        flat = chosen.reshape(-1)
        matrix = sparse.csr_array((np.ones(flat.size), (flat, np.arange(flat.size))), shape=(x.type.size, flat.size))
        part = call.affine(shares, matrix, 0.0, x.type.shape)
        total = part if total is None else call.sum(total, part)
    if total is None:
        raise UnsupportedError("leaves one score alone everywhere: its softmax is constant")
    return call.scale(total, 1.0, call.named("only", shift.reshape(x.type.shape))) if shift.any() else total
