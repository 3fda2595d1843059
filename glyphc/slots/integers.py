"""A network on exact integers: weights and polynomials without scaling, plaintext primes that hold its results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, log2
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import ParameterError
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node, Rewriter
from glyphc.ir.integer_parameters import MOST_PLAINTEXT_BITS, is_prime
from glyphc.ir.matrices import at
from glyphc.ir.ops import (
    CLIENT_OPS,
    Apply,
    ClientBits,
    ClientRefresh,
    Const,
    Input,
    IntegerPolynomial,
    Linear,
    Output,
    TableLookup,
)
from glyphc.ir.types import Encoding, FixedPoint

F64 = npt.NDArray[np.floating[Any]]

# Two primes, less what they may be off powers of two.
MOST_BITS = 2 * MOST_PLAINTEXT_BITS - 0.5
_HIGHEST_DEGREE = 8
_EXACT = 1e-7
# Where it is looked for, how far a function changes.
_POINTS = 4096


class TooManyBitsError(ParameterError):
    """Values that no 64 bits hold, so no plaintext modulus either."""


def _limit(largest: float, node: Node) -> int:
    """The next integer above a magnitude."""
    if not largest < 2.0**62:
        raise TooManyBitsError(f"{node} has values of more than 62 bits as integers")
    return int(np.ceil(largest)) + 1


@dataclass(frozen=True)
class Precision:
    """Signed bits of the integers that a network is computed on.

    refreshed: of what the client makes of a polynomial's results, 0 where it is not asked. index: of a table's index,
    where a table stands for each function, 0 where it does not; entries: of the table's integers.
    """

    inputs: int
    weights: int
    refreshed: int = 0
    index: int = 0
    entries: int = 9


def with_integers(graph: Graph, precision: Precision) -> Graph:
    """The graph on integers: formats without offsets, integer weights, polynomials of integers or tables.

    ParameterError where a function is no polynomial and there are no tables, or values take more than 62 bits.
    """
    rewriter = Rewriter(graph)
    for node in graph:
        operands = rewriter.operands(node)
        fixed = node.type.fixed
        if node.type.encoding is not Encoding.INTEGERS:
            rewriter.keep(node)
            continue
        assert fixed is not None
        match node.op:
            case Input():
                limit = 2 ** (precision.inputs - 1) - 1
                scale = tuple(s * fixed.magnitude / limit for s in fixed.scale)
                rewriter.keep(node, replace(node.type, fixed=FixedPoint(scale, fixed.offset, -limit, limit)))
            case Linear():
                rewriter.replace(node, integer_linear(rewriter, node, node.op, precision.weights))
            case Apply(functions=functions) if precision.index:
                rewriter.replace(node, _looked_up(rewriter, node, functions, precision))
            case Apply(functions=functions):
                op, made = _polynomial(node, functions, operands[0])
                type = replace(node.type, fixed=made)
                new = rewriter.new.add(op, operands, type, node.location, node.decisions)
                bits = precision.refreshed
                rewriter.replace(node, _refreshed(rewriter, new, bits) if bits else new)
            case _:
                rewriter.keep(node, replace(node.type, fixed=operands[0].type.fixed))
    return rewriter.new


def _refreshed(rewriter: Rewriter, node: Node, bits: int) -> Node:
    """What the client makes of a value: integers of so many bits, never larger ones than there are."""
    fixed = node.type.fixed
    assert fixed is not None
    limit = min(2 ** (bits - 1) - 1, fixed.magnitude)
    ratio = limit / fixed.magnitude
    type = replace(node.type, fixed=FixedPoint((fixed.scale[0] / ratio,), (0.0,), -limit, limit))
    return rewriter.new.add(ClientRefresh(ratio), (node,), type, node.location)


def _looked_up(rewriter: Rewriter, node: Node, functions: tuple[Function, ...], precision: Precision) -> Node:
    """A table in place of a function, over the range that calibration asks for; beyond it, the client takes its end."""
    before, (source,) = rewriter.old.operands(node)[0], rewriter.operands(node)
    old, new, calibration = before.type.fixed, source.type.fixed, before.type.calibration
    assert old is not None and new is not None
    if not new.uniform:
        raise ParameterError(f"{node}: a table cannot be looked up by values with a scale for each column")
    reach = float(_reach(old).max())
    guard = None if calibration is None else calibration.guard
    lo, hi = (-reach, reach) if guard is None else (guard.lo, guard.hi)
    most, last = 2 ** (precision.entries - 1) - 1, (1 << precision.index) - 1
    # a multiple: where a function is linear, entries are rounded all alike, and not some up and others down
    limit = most - most % last if last <= most else most
    lo, hi = _changing(functions, lo, hi, 1 / (2 * limit))
    step = (hi - lo) / last or 1.0
    y = compose(functions, lo + step * np.arange(last + 1))
    if not np.all(np.isfinite(y)):
        raise ParameterError(f"{node}: {' then '.join(map(str, functions))} is not finite on [{lo:g}, {hi:g}]")
    unit = float(np.abs(y).max()) / limit or 1.0
    table = tuple(int(v) for v in np.rint(y / unit))
    op = ClientBits(new.scale[0] / step, (new.offset[0] - lo) / step, precision.index)
    bit = FixedPoint((1.0,), (0.0,), 0, 1)
    type = replace(node.type, shape=(precision.index, *node.type.shape), fixed=bit, calibration=None)
    bits = rewriter.new.add(op, (source,), type, node.location)
    made = replace(node.type, fixed=FixedPoint((unit,), (0.0,), -limit, limit))
    return rewriter.new.add(TableLookup(functions, table), (bits,), made, node.location, node.decisions)


def _changing(functions: tuple[Function, ...], lo: float, hi: float, share: float) -> tuple[float, float]:
    """The part of a range on which a function changes: beyond it, by no more than this share of its largest value.

    There the table's end serves as well, so that its entries lie closer where they tell values apart: for ReLU, all of
    them where it is not zero.
    """
    x = np.linspace(lo, hi, _POINTS + 1)
    y = compose(functions, x)
    if not np.all(np.isfinite(y)):
        return lo, hi
    left, right = (np.flatnonzero(np.abs(y - end) > share * np.abs(y).max()) for end in (y[0], y[-1]))
    return (
        (float(x[max(left[0] - 1, 0)]), float(x[min(right[-1] + 1, _POINTS)])) if len(left) and len(right) else (lo, hi)
    )


def integer_linear(rewriter: Rewriter, node: Node, op: Linear, weight_bits: int) -> Node:
    """The map with integer weights of so many bits, on operands without offsets; its sums are exact.

    Real weights come from those of the quantized graph, whose errors are far below a step here. Where they are
    encrypted, the step is a power of two: it is public, and no more than that is told of the largest of them.
    """
    fixed = node.type.fixed
    assert fixed is not None
    scale = np.array(fixed.scale)
    real, sums = [], rewriter.old.constant(op.bias.name) * scale + np.array(fixed.offset)
    for before, after, weight in zip(rewriter.old.operands(node), rewriter.operands(node), op.weights, strict=True):
        old, new = before.type.fixed, after.type.fixed
        assert old is not None and new is not None
        units = np.array(old.scale)
        value = rewriter.old.matrix(weight).each(lambda w, i, j: w * (at(scale, i) / at(units, j)))  # noqa: B023
        # of integers: what an offset of the operand adds is part of the bias
        sums = sums + value.weighted(np.array(new.offset) - np.array(old.offset))
        real.append(value.scaled(np.ones(1), np.array(new.scale)))
    step = max(w.largest for w in real) / (2 ** (weight_bits - 1) - 1) or 1.0
    if op.encrypted:
        step = 2.0 ** ceil(log2(step))
    integers = [w.scaled(np.array([step]), np.ones(1)).rounded() for w in real]
    limit = _limit(float(_reach(fixed).max()) / step, node)
    _limit(float(np.abs(sums).max()) / step, node)
    weights = [rewriter.new.add_matrix(w.name, value) for w, value in zip(op.weights, integers, strict=True)]
    bias = Const(rewriter.new.add_constant(op.bias.name, np.rint(sums / step).astype(np.int64)))
    type = replace(node.type, fixed=FixedPoint((step,), (0.0,), -limit, limit))
    new_op = Linear(tuple(weights), bias, op.norms)
    return rewriter.new.add(new_op, rewriter.operands(node), type, node.location, node.decisions)


def _reach(fixed: FixedPoint) -> F64:
    """How far from zero a format's real values lie, by column."""
    return np.asarray(np.abs(np.array(fixed.offset)) + np.array(fixed.scale) * fixed.magnitude)


def _polynomial(node: Node, functions: tuple[Function, ...], source: Node) -> tuple[IntegerPolynomial, FixedPoint]:
    """The leading coefficient is 1 or -1, which is the scale of the result; all others are rounded."""
    fixed = source.type.fixed
    assert fixed is not None
    real = polynomial_of(functions, float(_reach(fixed).max()))
    if real is None:
        raise ParameterError(
            f"{node}: {' then '.join(map(str, functions))} is no polynomial of degree {_HIGHEST_DEGREE} or less, and "
            "integers modulo t know nothing else; a strategy that replaces functions can be used (glyphc strategies)"
        )
    degree, step = len(real) - 1, fixed.scale[0]
    unit = abs(float(real[-1])) * step**degree
    if not unit or any(abs(c) * step**k / unit > 2.0**62 for k, c in enumerate(real)):
        raise TooManyBitsError(f"{node}: its polynomial has coefficients of more than 62 bits as integers")
    integers = tuple(round(float(c) * step**k / unit) for k, c in enumerate(real))
    x = np.linspace(float(fixed.lo), float(fixed.hi), 4097)
    largest = np.abs(np.polynomial.polynomial.polyval(x, np.array(integers, dtype=np.float64))).max()
    limit = _limit(float(largest), node)
    return IntegerPolynomial(functions, integers), FixedPoint((unit,), (0.0,), -limit, limit)


def polynomial_of(functions: tuple[Function, ...], reach: float) -> F64 | None:
    """Coefficients of x^0, x^1, ... of a composition that is a polynomial on [-reach, reach]; None where it is none."""
    u = np.cos(np.pi * (np.arange(4 * _HIGHEST_DEGREE) + 0.5) / (4 * _HIGHEST_DEGREE))
    y = compose(functions, u * reach)
    if not np.all(np.isfinite(y)):
        return None
    size = float(np.abs(y).max()) or 1.0
    for degree in range(1, _HIGHEST_DEGREE + 1):
        c = np.polynomial.chebyshev.chebfit(u, y, degree)
        if float(np.abs(np.polynomial.chebyshev.chebval(u, c) - y).max()) < _EXACT * size:
            found = np.polynomial.chebyshev.cheb2poly(c) / reach ** np.arange(degree + 1.0)
            # what is rounding beside the others is none
            small = np.abs(found) * reach ** np.arange(degree + 1.0) < _EXACT * size
            return np.asarray(np.where(small, 0.0, found))
    return None


def needed_bits(graph: Graph) -> float:
    """log2 of the modulus that holds results and what the client sees; on the way there, values may wrap."""
    largest = 1.0
    for node in graph:
        if not isinstance(node.op, CLIENT_OPS):
            continue
        before = graph.operands(node)[0].type.fixed
        assert before is not None
        largest = max(largest, float(before.magnitude))
    for node, _ in graph.of(Output):
        source = graph.operands(node)[0]
        while source.type.encoding is not Encoding.INTEGERS:
            source = graph.operands(source)[0]
        assert source.type.fixed is not None
        largest = max(largest, float(source.type.fixed.magnitude))
    return log2(2 * largest + 1)


def plaintext_primes(ring: int, bits: float) -> tuple[int, ...]:
    """The smallest primes, one or two, 1 modulo 2N, whose product has so many bits. ParameterError beyond two."""
    if bits > MOST_BITS:
        raise ParameterError(f"results of {bits:.1f} bits are more than the {MOST_BITS} that two primes hold")
    count = 1 if bits <= MOST_PLAINTEXT_BITS - 0.5 else 2
    found: list[int] = []
    at = max(int(2.0 ** (bits / count)), 2 * ring) // (2 * ring) * 2 * ring + 1
    while len(found) < count:
        if at >= 2.0 ** (bits / count) and is_prime(at):
            found.append(at)
        at += 2 * ring
    return tuple(found)
