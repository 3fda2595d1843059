"""A network on words: every value an integer of so many bits, every map one with integer weights, functions as tables.

As in Yoo and Yoon, "t-BMPNet" (2021), but for the binary point: there it is the same for all values, here each tensor
has its own, by the range that calibration asks for. A shift costs no gate, so fewer bits do.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, log2
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import ParameterError
from glyphc.ir.evaluate import dequantize
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node, Rewriter
from glyphc.ir.ops import Apply, Input, Linear, Shorten, WordTable
from glyphc.ir.types import Encoding, FixedPoint
from glyphc.slots.integers import integer_linear

F64 = npt.NDArray[np.floating[Any]]


def with_words(graph: Graph, bits: int) -> Graph:
    """The graph on words of so many bits.

    Behind a linear map that functions or other maps read, the sum is rounded to a word, and saturates; what only the
    client reads stays as long as it is. ParameterError for functions of values with a scale for each element, or that
    are not finite, and for sums of more than 62 bits.
    """
    rewriter = Rewriter(graph)
    for node in graph:
        fixed = node.type.fixed
        if node.type.encoding is not Encoding.BITS:
            rewriter.keep(node)
            continue
        assert fixed is not None
        match node.op:
            case Input():
                limit = (1 << bits - 1) - 1
                scale = tuple(s * fixed.magnitude / limit for s in fixed.scale)
                rewriter.keep(node, replace(node.type, fixed=FixedPoint(scale, fixed.offset, -limit, limit)))
            case Linear():
                total = integer_linear(rewriter, node, node.op, bits)
                rewriter.replace(node, _shortened(rewriter, node, total, bits))
            case Apply(functions=functions):
                rewriter.replace(node, _table(rewriter, node, functions, bits))
            case _:
                rewriter.keep(node, replace(node.type, fixed=rewriter.operands(node)[0].type.fixed))
    return rewriter.new


def planned_range(node: Node) -> tuple[float, float]:
    """The real range that a value of the quantized graph is planned for: what calibration asks for, or its format."""
    calibration, fixed = node.type.calibration, node.type.fixed
    assert fixed is not None
    if calibration is not None and calibration.guard is not None:
        return calibration.guard.lo, calibration.guard.hi
    return fixed.real_lo, fixed.real_hi


def _shortened(rewriter: Rewriter, node: Node, total: Node, bits: int) -> Node:
    """The sum as a word; what nothing but the client reads keeps its bits, as those at the end cost few gates."""
    fixed = total.type.fixed
    assert fixed is not None
    reach = max(map(abs, planned_range(node))) / fixed.scale[0]
    computed = any(user.type.encoding is Encoding.BITS for user in rewriter.old.users(node))
    shift = max(0, ceil(log2(max(reach, 1.0) / ((1 << bits - 1) - 1)))) if computed else 0
    width = bits if computed else fixed.word_bits
    limit = 1 << width - 1
    made = FixedPoint((fixed.scale[0] * 2.0**shift,), (0.0,), -limit, limit - 1)
    type = replace(node.type, fixed=made)
    return rewriter.new.add(Shorten(shift, width), (total,), type, node.location, node.decisions)


def _table(rewriter: Rewriter, node: Node, functions: tuple[Function, ...], bits: int) -> Node:
    """A table in place of a function. Its unit is that of the operand times a power of two: a function that is linear
    in parts, such as ReLU, then takes few gates."""
    before, (source,) = rewriter.old.operands(node)[0], rewriter.operands(node)
    fixed = source.type.fixed
    assert fixed is not None
    if not fixed.uniform:
        raise ParameterError(f"{node}: a table cannot be looked up by values with a scale for each column")
    lo, hi = planned_range(before)
    every = np.arange(-(1 << bits - 1), 1 << bits - 1)
    x = dequantize(every, fixed)
    y = compose(functions, np.clip(x, lo, hi))
    if not np.all(np.isfinite(y)):
        raise ParameterError(f"{node}: {' then '.join(map(str, functions))} is not finite on [{lo:g}, {hi:g}]")
    limit = (1 << bits - 1) - 1
    largest = float(np.abs(y).max()) / limit
    # half a step beyond the last integer is still rounded to it
    steps = ceil(log2(largest / fixed.scale[0] * limit / (limit + 0.5))) if largest else 0
    unit = fixed.scale[0] * 2.0**steps
    # beyond the range that is planned for the function goes on, as far as words reach: ends take gates
    with np.errstate(all="ignore"):
        beyond = compose(functions, x)
    entries = np.where(np.isfinite(beyond), beyond, y)
    table = tuple(int(v) for v in np.clip(np.rint(entries / unit), -limit - 1, limit))
    type = replace(node.type, fixed=FixedPoint((unit,), (0.0,), -limit - 1, limit))
    return rewriter.new.add(WordTable(functions, table), (source,), type, node.location, node.decisions)
