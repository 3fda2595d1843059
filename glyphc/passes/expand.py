"""Two-operand functions, maxima and softmax, as affine maps and univariate functions: what a bootstrap can compute.

Every univariate function costs a bootstrap (of all its values at once), affine maps are almost free, so the forms below
are those with the fewest functions in a row:

* a b = ((a + b)^2 - (a - b)^2) / 4: one bootstrap for both squares.
* max(a, b) = b + relu(a - b); over k values as a tree, ceil(log2 k) bootstraps, whatever their range; over windows of
  images axis by axis (:mod:`.pool_windows`).
* a / b = a (1 / b): two bootstraps.
* softmax_c = exp(z_c - log sum_k exp z_k): three bootstraps where the sum varies little; otherwise the logarithm of the
  sum comes from a tree of log(e^a + e^b) = b + softplus(a - b), which holds for every range.
* one-hot of the largest: [z_i > z_j] for all pairs in one bootstrap, then the element that wins all its comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from glyphc.errors import CalibrationError, ModelError
from glyphc.ir.evaluate import Value
from glyphc.ir.functions import Function
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter, prune
from glyphc.ir.ops import (
    Add,
    Apply,
    ArgMax,
    Concat,
    Const,
    Div,
    Gather,
    Hardmax,
    Max,
    Min,
    Mul,
    Op,
    Output,
    ReduceMax,
    ReduceSum,
    Reshape,
    Scale,
    Softmax,
    Sub,
)
from glyphc.ir.types import Level
from glyphc.rounding import outward, up

from .base import Context, Pass, check_option
from .calibrate import calibration_values
from .pool_windows import Windows, windows_of, worthwhile

F64 = npt.NDArray[np.float64]
_SQUARE = (Function("pow", (2.0,)),)
_F = TypeVar("_F", bound="Callable[[Expansion], Node]")

# Operands farther from zero than this many half ranges are centred before they are multiplied: it saves bits there, but
# makes everything that reads the product read the operands too.
_FAR_FROM_ZERO = 2.0
# Share of a value below which its differences are rounding errors.
_ROUNDING = 2.0**-20
# Magnification of squares, in powers of 4: beyond that they hardly count beside the others.
_MOST_STEPS = 4
# Largest classes x classes comparison: more values than these need a tree of another kind.
_MAX_CLASSES = 128


@dataclass(frozen=True)
class Expand(Pass):
    """Replace products, quotients, maxima, and softmax and argmax inside the network.

    client_tail: leave softmax and argmax at the very end to the client, who computes them after decryption (exact and
    free); false: compute them encrypted, so that the client learns nothing else.
    direct_softmax: largest ratio of the largest to the smallest sum of exponentials, on calibration samples, for which
    its logarithm is taken directly.
    """

    name: ClassVar[str] = "expand"
    requires: ClassVar[Level] = Level.SOURCE
    ensures: ClassVar[Level] = Level.SOURCE
    client_tail: bool = True
    direct_softmax: float = 50.0

    def __post_init__(self) -> None:
        check_option(self.name, "direct_softmax", self.direct_softmax, 1.0, 1e6)

    def run(self, graph: Graph, context: Context) -> Graph:
        tail = _client_tail(graph) if self.client_tail else frozenset()
        if not any(_lowering(node.op) and node.id not in tail for node in graph):
            return graph
        values = _Values(graph, context)
        rewriter = Rewriter(graph)
        for name, value in graph.constants.items():
            rewriter.new.add_constant(name, value)  # first, so that new constants take no name that is kept later
        for node in graph:
            lower = _lowering(node.op)
            if lower is None or node.id in tail:
                rewriter.keep(node)
            else:
                rewriter.replace(node, lower(Expansion(rewriter, node, values, self)))
        return prune(rewriter.new)


def _client_tail(graph: Graph) -> frozenset[int]:
    """Softmax and argmax whose results go to outputs alone, through nothing but reshapes and one another."""
    tail: set[int] = set()
    for node in reversed(list(graph)):
        users = graph.users(node)
        if isinstance(node.op, Output) or (
            isinstance(node.op, Softmax | ArgMax | Reshape) and users and all(u.id in tail for u in users)
        ):
            tail.add(node.id)
    return frozenset(tail)


@dataclass(frozen=True, eq=False)
class _Values:
    """Calibration values of a graph, which most lowerings do not ask for."""

    graph: Graph
    context: Context

    @cached_property
    def all(self) -> dict[int, Value]:
        return calibration_values(self.graph, self.context.samples)


@dataclass(frozen=True, eq=False)
class Expansion:
    """One node on its way out: builds its replacement in the new graph."""

    rewriter: Rewriter
    node: Node
    values: _Values
    options: Expand

    @property
    def ranges(self) -> tuple[F64, ...]:
        """The operands' calibration values."""
        return tuple(self.values.all[i].astype(np.float64) for i in self.node.operands)

    @property
    def operands(self) -> tuple[Node, ...]:
        return self.rewriter.operands(self.node)

    def add(self, op: Op, *operands: Node, decisions: tuple[Decision, ...] = ()) -> Node:
        return self.rewriter.new.add(op, operands, location=self.node.location, decisions=decisions)

    def constant(self, role: str, value: npt.ArrayLike) -> Const:
        label = self.node.location or self.node.op.mnemonic
        return Const(self.rewriter.new.add_constant(f"{label}.{role}", np.asarray(value)))

    def scale(self, x: Node, factor: float, shift: float = 0.0) -> Node:
        if (factor, shift) == (1.0, 0.0):
            return x
        return self.add(Scale(self.constant("factor", factor), self.constant("shift", shift)), x)

    def apply(self, x: Node, name: str, *parameters: float, decisions: tuple[Decision, ...] = ()) -> Node:
        return self.add(Apply((Function(name, parameters),)), x, decisions=decisions)

    def flat(self, x: Node) -> Node:
        return x if len(x.type.shape) == 1 else self.add(Reshape((x.type.size,)), x)

    def stack(self, *parts: Node) -> Node:
        return self.add(Concat(), *(self.flat(p) for p in parts))

    def gather(self, x: Node, indices: npt.NDArray[np.int64]) -> Node:
        return self.add(Gather(self.constant("indices", indices.astype(np.int64))), x)

    def part(self, x: Node, number: int, like: Node) -> Node:
        """Part ``number`` of a stack of tensors of one shape."""
        return self.gather(x, number * like.type.size + np.arange(like.type.size).reshape(like.type.shape))

    def last_axis(self, x: Node, *places: npt.NDArray[np.int64]) -> list[Node]:
        """Tensors of the elements at some places of the last axis."""
        index = np.arange(x.type.size).reshape(x.type.shape)
        return [self.gather(x, index[..., at]) for at in places]

    def broadcast(self, x: Node, size: int) -> Node:
        """A new last axis of equal elements."""
        index = np.arange(x.type.size).reshape(*x.type.shape, 1)
        return self.gather(x, np.broadcast_to(index, (*x.type.shape, size)))


# -- two operands --


def _product(e: Expansion, a: Node, b: Node, range_a: F64, range_b: F64) -> Node:
    if a.id == b.id:
        return _square(e, a, range_a)
    (centre_a, half_a), (centre_b, half_b) = _spread(range_a), _spread(range_b)
    u, v = e.scale(a, 1 / half_a, -centre_a / half_a), e.scale(b, 1 / half_b, -centre_b / half_b)
    plus, minus = e.add(Add(), u, v), e.add(Sub(), u, v)
    squares = e.apply(e.stack(plus, minus), "pow", 2.0)
    difference = e.add(Sub(), e.part(squares, 0, plus), e.part(squares, 1, plus))
    product = e.scale(difference, half_a * half_b / 4, -centre_a * centre_b)
    if centre_a:
        product = e.add(Add(), product, e.scale(b, centre_a))
    if centre_b:
        product = e.add(Add(), product, e.scale(a, centre_b))
    return product


def _square(e: Expansion, x: Node, values: F64) -> Node:
    """x^2 = (f x)^2 / f^2, with larger factors for elements that do not reach as far as others.

    A series errs by a share of its whole range, so squares of what reaches less far would drown in that error.
    """
    factors = _magnification(values)
    if factors.max() == 1:
        return e.apply(x, "pow", 2.0)
    larger = e.add(Scale(e.constant("magnified", factors), e.constant("shift", 0.0)), x)
    return e.add(Scale(e.constant("back", factors**-2.0), e.constant("shift", 0.0)), e.apply(larger, "pow", 2.0))


def _magnification(values: F64) -> F64:
    """Powers of 4 by which elements can grow and still reach no farther than the farthest; of images, by channel.

    Coarse: the server sees them. A convolution whose channels alone are scaled stays one.
    """
    kept = values.ndim - 1 if values.ndim <= 3 else 1
    reach = np.abs(values).max(axis=(0, *range(1 + kept, values.ndim)), initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.floor(np.log2(reach.max(initial=0.0) / reach) / 2)
    steps = np.where(np.isfinite(steps), np.clip(steps, 0, _MOST_STEPS), 0.0)
    return np.asarray(4.0**steps).reshape(*steps.shape, *[1] * (values.ndim - 1 - kept))


def _spread(x: F64) -> tuple[float, float]:
    """(centre, half width) of the range of values; the centre is 0 unless the values are far from it.

    Rounded outward: the server sees them.
    """
    lo, hi = float(x.min()), float(x.max())
    if lo < hi:
        low, high = outward(lo, hi)
        centre, half = float(low + high) / 2, float(high - low) / 2
        # what differs by rounding alone (the sum of a softmax) has no width that could be divided by
        if half > _ROUNDING * abs(centre) and abs(centre) > _FAR_FROM_ZERO * half:
            return centre, half
    largest = max(abs(lo), abs(hi))
    return 0.0, up(largest) if largest else 1.0


def _mul(e: Expansion) -> Node:
    (a, b), (range_a, range_b) = e.operands, e.ranges
    return _product(e, a, b, range_a, range_b)


def _div(e: Expansion) -> Node:
    numerator, denominator = e.operands
    if e.ranges[1].min() <= 0 <= e.ranges[1].max():
        raise CalibrationError(
            f"{e.node} divides by a value that calibration saw between {e.ranges[1].min():.4g} and "
            f"{e.ranges[1].max():.4g}; a divisor must stay on one side of zero"
        )
    return _product(e, numerator, e.apply(denominator, "reciprocal"), e.ranges[0], 1 / e.ranges[1])


def _apply_square(e: Expansion) -> Node:
    return _square(e, e.operands[0], e.ranges[0])


def _max(e: Expansion) -> Node:
    a, b = e.operands
    return e.add(Add(), b, e.apply(e.add(Sub(), a, b), "relu"))


def _min(e: Expansion) -> Node:
    a, b = e.operands
    return e.add(Sub(), b, e.apply(e.add(Sub(), b, a), "relu"))


# -- over the last axis --


def _tree(e: Expansion, x: Node, function: str) -> Node:
    """b + f(a - b) over pairs of the last axis until one element is left: max for relu, log-sum-exp for softplus."""
    while (size := x.type.shape[-1]) > 1:
        half = size // 2
        a, b = e.last_axis(x, np.arange(half), np.arange(half, 2 * half))
        y = e.add(Add(), b, e.apply(e.add(Sub(), a, b), function))
        if size % 2:
            (rest,) = e.last_axis(x, np.arange(size - 1, size))
            y = _behind(e, y, rest)
        x = y
    return e.add(Reshape(x.type.shape[:-1]), x)


def _behind(e: Expansion, a: Node, b: Node) -> Node:
    """Concatenation along the last axis."""
    index_a = np.arange(a.type.size).reshape(a.type.shape)
    index_b = a.type.size + np.arange(b.type.size).reshape(b.type.shape)
    return e.gather(e.stack(a, b), np.concatenate([index_a, index_b], axis=-1))


def _reduce_max(e: Expansion) -> Node:
    (x,) = e.operands
    image, indices = _gathered(e, x)
    axes = windows_of(indices, image.type.shape) if image.id != x.id else None
    if axes is None or not worthwhile(axes):
        return _tree(e, x, "relu")
    for axis, own in enumerate(axes):
        image = _pooled(e, image, axis, own)
    return e.add(Reshape(e.node.type.shape), image)


def _gathered(e: Expansion, x: Node) -> tuple[Node, npt.NDArray[np.int64]]:
    """The tensor that a value is elements of, through gatherings and reshapes, and which ones, in the value's shape."""
    graph, shape = e.rewriter.new, x.type.shape
    indices = np.arange(x.type.size)
    while isinstance(x.op, Gather | Reshape):
        if isinstance(x.op, Gather):
            indices = graph.constant(x.op.indices.name).astype(np.int64).ravel()[indices]
        (x,) = graph.operands(x)
    return x, indices.reshape(shape)


def _pooled(e: Expansion, x: Node, axis: int, windows: Windows) -> Node:
    """Maxima over windows along one axis."""
    made, pixels = {1: x}, {1: range(windows.pixels)}
    for r in windows.rounds:
        a, b = (
            _selected(e, made[of], axis, [pixels[of].index(p + behind) for p in r.pixels])
            for of, behind in ((r.left, 0), (r.right, r.behind))
        )
        made[r.size], pixels[r.size] = e.add(Add(), b, e.apply(e.add(Sub(), a, b), "relu")), r.pixels
    size = windows.kernel
    return _selected(e, made[size], axis, [pixels[size].index(p) for p in windows.starts])


def _selected(e: Expansion, x: Node, axis: int, pixels: list[int]) -> Node:
    """These elements of an axis."""
    if pixels == list(range(x.type.shape[axis])):
        return x
    return e.gather(x, np.arange(x.type.size).reshape(x.type.shape).take(pixels, axis))


def _softmax(e: Expansion) -> Node:
    assert isinstance(e.node.op, Softmax)
    z, size = e.operands[0], e.operands[0].type.shape[-1]
    # rounded outward, as the sum is below: the server sees them
    centre, half = _spread(e.ranges[0])
    top = centre + half
    sums = np.exp(e.ranges[0] - top).sum(axis=-1)
    with np.errstate(divide="ignore"):
        ratio = float(sums.max() / sums.min())
    direct = ratio <= e.options.direct_softmax
    levels = max(1, size - 1).bit_length()
    forms = (
        Candidate("log of the sum", None, f"2 bootstraps for log-sum-exp; sums of exponentials vary {ratio:.3g} fold"),
        Candidate("tree of softplus", None, f"{levels} bootstraps for log-sum-exp, precise for every range"),
    )
    decision = Decision(e.options.name, forms[0 if direct else 1].name, forms)
    if direct:
        exponentials = e.apply(e.scale(z, 1.0, -top), "exp")
        # on to the log's argument of about 1: its relative precision is what counts
        largest = up(float(sums.max()))
        total = e.scale(e.add(ReduceSum(), exponentials), 1 / largest)
        log_sum = e.scale(e.apply(total, "log", decisions=(decision,)), 1.0, top + float(np.log(largest)))
    else:
        log_sum = _tree(e, z, "softplus")
    log_softmax = e.add(Sub(), z, e.broadcast(log_sum, size))
    if e.node.op.log:
        return log_softmax
    return e.apply(log_softmax, "exp_nonpositive", decisions=() if direct else (decision,))


def _hardmax(e: Expansion) -> Node:
    """Of i < j the first wins ties, as in ONNX; within the comparison's dead zone the result is no clean 0 or 1."""
    (z,) = e.operands
    size = z.type.shape[-1]
    if size > _MAX_CLASSES:
        raise ModelError(
            f"{e.node} compares {size} elements; encrypted comparisons of all pairs are limited to {_MAX_CLASSES}. "
            "Leave argmax to the client (at the end of the network), or reduce the number of classes"
        )
    if size == 1:
        return e.apply(z, "affine", 0.0, 1.0)
    pairs = np.array(list(combinations(range(size), 2)))
    first, second = e.last_axis(z, pairs[:, 0], pairs[:, 1])
    second_wins = e.apply(e.add(Sub(), second, first), "greater", 0.0)
    # wins of i: its pairs as the second, and (1 - second_wins) of its pairs as the first
    wins = None
    for i in range(size):
        as_first, as_second = np.nonzero(pairs[:, 0] == i)[0], np.nonzero(pairs[:, 1] == i)[0]
        terms = [(1.0, as_second), (-1.0, as_first)]
        won = None
        for sign, places in terms:
            if len(places):
                (chosen,) = e.last_axis(second_wins, places)
                term = e.scale(e.add(ReduceSum(), chosen), sign, float(len(places)) if sign < 0 else 0.0)
                won = term if won is None else e.add(Add(), won, term)
        assert won is not None
        column = e.add(Reshape((*won.type.shape, 1)), won)
        wins = column if wins is None else _behind(e, wins, column)
    assert wins is not None
    return e.apply(wins, "greater", size - 1.5)


def _argmax(e: Expansion) -> Node:
    assert isinstance(e.node.op, ArgMax)
    one_hot = _hardmax(e)
    weights = e.constant("places", np.arange(one_hot.type.shape[-1], dtype=np.float64))
    index = e.add(ReduceSum(), e.add(Scale(weights, e.constant("shift", 0.0)), one_hot))
    return e.add(Reshape((*index.type.shape, 1)), index) if e.node.op.keepdims else index


_LOWERINGS: dict[type[Op], Callable[[Expansion], Node]] = {
    Mul: _mul,
    Div: _div,
    Max: _max,
    Min: _min,
    ReduceMax: _reduce_max,
    Softmax: _softmax,
    Hardmax: _hardmax,
    ArgMax: _argmax,
}


def expands(op: type[Op]) -> Callable[[_F], _F]:
    """Decorator: the function builds what replaces this class of ops, from others, and returns the last node."""

    def register(function: _F) -> _F:
        _LOWERINGS[op] = function
        return function

    return register


def _lowering(op: Op) -> Callable[[Expansion], Node] | None:
    if isinstance(op, Apply) and op.functions == _SQUARE:
        return _apply_square
    return _LOWERINGS.get(type(op))
