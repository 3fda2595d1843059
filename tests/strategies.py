"""Random valid graphs of every level, for property tests.

Sizes are small on purpose: what these graphs vary is structure, names, annotations and constants. Every
graph that comes out of here must pass ``verify``. Strategies are kept: to make one takes longer than to draw from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from glyphc.ir.functions import Function
from glyphc.ir.graph import Candidate, Decision, Graph, Node
from glyphc.ir.layout import Layout
from glyphc.ir.ops import (
    Add,
    Affine,
    Apply,
    ArgMax,
    Bootstrap,
    Concat,
    Const,
    Dense,
    Div,
    Gather,
    Hardmax,
    Input,
    Linear,
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
    Switch,
    Unpack,
)
from glyphc.ir.parameters import MOST_SUM_PRIMES, SUM_PRIME_BITS, Parameters
from glyphc.ir.series import Series
from glyphc.ir.types import Calibration, Encoding, FixedPoint, Level, Scheme, TensorType

Draw = Callable[[st.SearchStrategy[Any]], Any]
Shape = tuple[int, ...]

INT64 = (-(2**63), 2**63 - 1)

# Whatever the text form could trip over: quotes, escapes, its own keywords and comment sign, all line ends.
ODD_NAMES = (
    "",
    '"',
    "\\",
    "\\n",
    "a\nb",
    "\r\n",
    "\t",
    "\x00\x1b",
    "\u2028",
    "%0 = input",
    '" # no comment',
    "@here",
    "$x",
    "const",
    "]) :",
    "/layer.0/Gemm_output",
    "\u03c3(W\u2082\u00b7x)",
    "\U0001f40d",
    "\ud800",
)


# The share of examples that a run draws: few, so that it stays short, new ones in every run; four times as many in CI;
# all with GLYPHC_EXAMPLES=1.
SHARE = float(os.environ.get("GLYPHC_EXAMPLES", "0.1"))


def drawn(count: int) -> int:
    """How many of so many examples this run draws."""
    return max(5, round(SHARE * count))


def examples(count: int) -> settings:
    """So many examples and no limits of time: other work on the machine must not make a test fail."""
    return settings(max_examples=drawn(count), deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def names() -> st.SearchStrategy[str]:
    """Names as models give them, and worse."""
    return st.sampled_from(ODD_NAMES) | st.text(max_size=6) | st.from_regex(r"[a-z]{1,4}\d?", fullmatch=True)


@cache
def finite_floats() -> st.SearchStrategy[float]:
    """Finite floats of all magnitudes; subnormal ones and both zeros among them."""
    edges = [0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1]
    return st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(edges)


@cache
def tame_floats() -> st.SearchStrategy[float]:
    """Small multiples of 1/8: sums and products of a few of them are exact in float64."""
    return st.integers(-16, 16).map(lambda i: i / 8)


@cache
def integers() -> st.SearchStrategy[int]:
    """Integers, some of them far beyond 64 bits."""
    return st.integers(-9, 9) | st.integers(-(2**200), 2**200)


@cache
def functions(floats: st.SearchStrategy[float]) -> st.SearchStrategy[Function]:
    plain = st.sampled_from(["relu", "sigmoid", "tanh"]).map(Function)
    leaky = floats.map(lambda a: Function("leaky_relu", (a,)))
    affine = st.tuples(floats, floats).map(lambda p: Function("affine", p))
    return plain | leaky | affine


@cache
def candidates() -> st.SearchStrategy[Candidate]:
    seconds = st.none() | finite_floats() | st.just(float("inf"))
    return st.builds(Candidate, name=names(), seconds=seconds, reason=names())


@cache
def decisions() -> st.SearchStrategy[tuple[Decision, ...]]:
    one = st.builds(Decision, made_by=names(), chosen=names(), candidates=st.lists(candidates(), max_size=2).map(tuple))
    return st.just(()) | st.lists(one, max_size=2).map(tuple)


@cache
def calibrations() -> st.SearchStrategy[Calibration]:
    ends = st.tuples(finite_floats(), finite_floats()).map(sorted)
    histogram = st.lists(st.integers(0, 2**70), max_size=4).map(tuple)
    return st.builds(lambda e, h: Calibration(e[0], e[1], h), ends, histogram)


@cache
def _maybe_calibrations() -> st.SearchStrategy[Calibration | None]:
    return st.none() | calibrations()


@cache
def _positive() -> st.SearchStrategy[float]:
    return st.floats(min_value=0.0, exclude_min=True, allow_infinity=False) | st.just(1.0)


@st.composite
def fixed_points(draw: Draw, size: int, tame: bool = False) -> FixedPoint:
    """A format for a tensor of ``size`` elements: one scale for all, or one for each."""
    count = draw(st.sampled_from([1, size]))
    scales = st.sampled_from([0.125, 0.5, 1.0, 2.0]) if tame else _positive()
    scale = tuple(draw(st.lists(scales, min_size=count, max_size=count)))
    offsets = tame_floats() if tame else finite_floats()
    offset = tuple(draw(st.lists(offsets, min_size=count, max_size=count)))
    lo, hi = sorted(draw(st.tuples(integers(), integers())))
    return FixedPoint(scale, offset, lo, hi)


@st.composite
def layouts(
    draw: Draw,
    ring: int | None = None,
    batch: int = 1,
    features: int | None = None,
    parts: int | None = None,
    chunks: int | None = None,
    halved: bool = False,
) -> Layout:
    """A valid layout with room for at least ``batch`` samples; strides need not be powers of two, unless the value is
    to be unpacked: ``halved``."""
    features = features or draw(st.integers(1, 12))
    parts = parts or draw(st.integers(1, 6))
    per_part = -(-features // parts)
    steps = st.sampled_from([1, 2, 4]) if halved else st.integers(1, 4)
    grid = draw(steps)
    stride = grid * draw(steps)
    gap = grid * draw(st.integers(0, 8))
    batch_stride = per_part * stride + gap
    batch += draw(st.integers(0, 3))
    chunks = chunks or draw(st.sampled_from([1, 1, 2, 3, 4]))
    if ring is None:
        ring = 1 << (-(-batch // chunks) * batch_stride - 1).bit_length()
        ring *= draw(st.sampled_from([1, 2]))
    return Layout(ring, batch, features, parts, stride, batch_stride, grid, draw(st.booleans()), chunks)


@cache
def series() -> st.SearchStrategy[Series]:
    def build(coefficients: list[tuple[float, float]], rest: tuple[float, float, float]) -> Series:
        real, imag = zip(*coefficients, strict=True)
        return Series(real, imag, *rest)

    pairs = st.lists(st.tuples(finite_floats(), finite_floats()), min_size=2, max_size=5)
    return st.builds(build, pairs, st.tuples(*[finite_floats()] * 3))


@cache
def parameters() -> st.SearchStrategy[Parameters]:
    def build(bits: int) -> st.SearchStrategy[Parameters]:
        return st.builds(
            Parameters,
            ring=st.sampled_from([64, 1 << 17]),
            plaintext_bits=st.integers(1, 40),
            bgv_bits=st.just(bits),
            unpack_strides=st.lists(st.integers(1, 512), max_size=3).map(tuple),
            level_budget=st.tuples(st.integers(1, 5), st.integers(1, 5)),
            security=st.sampled_from(["HEStd_128_classic", "insecure"]),
            sum_primes=st.integers(2 if bits < SUM_PRIME_BITS else MOST_SUM_PRIMES, MOST_SUM_PRIMES),
        )

    return st.integers(1, 200).flatmap(build)


@st.composite
def shapes_like(draw: Draw, size: int) -> Shape:
    """Another shape with ``size`` elements; rank 0 only for one element."""
    shape: list[int] = []
    for prime in (2, 3, 5, 7, 11):
        while size % prime == 0:
            size //= prime
            at = draw(st.integers(0, len(shape)))
            if at == len(shape):
                shape.append(prime)
            else:
                shape[at] *= prime
    if size > 1:
        shape.append(size)
    ones = draw(st.integers(0, 1)) if shape else draw(st.integers(0, 2))
    return tuple([1] * ones + shape)


def _broadcastable(draw: Draw, shape: Shape) -> Shape:
    """A shape that numpy broadcasts to ``shape``: fewer axes, or some of them 1."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple(draw(st.sampled_from([1, d])) for d in kept)


class _Builder:
    """Grows a graph of one level by valid random nodes. expanded: without what the pass ``expand`` replaces."""

    def __init__(self, draw: Draw, level: Level, tame: bool, expanded: bool) -> None:
        self.draw, self.tame, self.expanded = draw, tame, expanded
        self.floats = tame_floats() if tame else finite_floats()
        whole = st.integers(-3, 3) if tame else st.integers(*INT64)
        self.weights: st.SearchStrategy[Any] = self.floats if level is Level.SOURCE else whole
        self.dims = st.integers(1, 4)
        chosen = draw(st.none() | parameters()) if level is Level.LAIDOUT else None
        self.graph = Graph(level, draw(st.integers(1, 4)), chosen)
        self.ring = 1 << 12
        self.on_client: set[int] = set()

    @property
    def level(self) -> Level:
        return self.graph.level

    def constant(self, shape: Shape) -> Const:
        dtype = np.float64 if self.level is Level.SOURCE else np.int64
        value: npt.NDArray[Any] = self.draw(hnp.arrays(dtype, shape, elements=self.weights))
        return Const(self.graph.add_constant(self.draw(names()), value))

    def add(
        self,
        op: Op,
        shape: Shape,
        *operands: Node,
        scheme: Scheme | None = None,
        parts: int | None = None,
        halved: bool = False,
    ) -> Node:
        """Append ``op`` with all the facts that its level asks for. halved: whether the result is unpacked."""
        draw, client = self.draw, scheme is Scheme.CLIENT
        if client:
            self.on_client.add(len(self.graph))
        fixed = layout = encoding = None
        if self.level >= Level.QUANTIZED and not client:
            keeps = isinstance(op, Reshape | Switch | Unpack)
            fixed = operands[0].type.fixed if keeps else draw(fixed_points(prod(shape), self.tame))
        if self.level >= Level.ASSIGNED:
            encoding = {Scheme.BGV: Encoding.LSB, Scheme.TORUS: Encoding.MSB}.get(scheme) if scheme else None
        else:
            scheme = None
        if self.level >= Level.LAIDOUT and not client:
            layout = draw(layouts(self.ring, self.graph.batch, prod(shape), parts, halved=halved))
        if self.tame:  # graphs to be evaluated, which nobody reads
            return self.graph.add(op, operands, TensorType(shape, None, fixed, scheme, encoding, layout), draw(names()))
        type = TensorType(shape, draw(_maybe_calibrations()), fixed, scheme, encoding, layout)
        return self.graph.add(op, operands, type, draw(names()), draw(decisions()))

    def input(self, name: str) -> Node:
        shape = tuple(self.draw(st.lists(self.dims, min_size=1, max_size=2)))
        return self.add(Input(name, shape), shape, scheme=Scheme.BGV)

    def flat(self, x: Node) -> Node:
        shape = (x.type.size,)
        return x if x.type.shape == shape else self.add(Reshape(shape), shape, x, scheme=Scheme.BGV)

    def some(self, x: Node) -> list[Node]:
        """A few encrypted values, ``x`` first; the same value twice is fine."""
        others = [n for n in self.graph if n.id not in self.on_client and n.type.scheme in (None, Scheme.BGV)]
        return [x, *self.draw(st.lists(st.sampled_from(others), max_size=2))]

    def linear_map(self, x: Node) -> Node:
        """A dense layer on one or several values of any shape: flattened first where necessary."""
        operands = [self.flat(v) for v in self.some(x)]
        out = self.draw(self.dims)
        weights = tuple(self.constant((out, v.type.size)) for v in operands)
        bias = self.constant((out,))
        norms = tuple(2.0 ** self.draw(st.integers(0, 9)) for _ in weights) if self.draw(st.booleans()) else ()
        op: Op = Dense(weights, bias) if self.level is Level.SOURCE else Linear(weights, bias, norms)
        return self.add(op, (out,), *operands, scheme=Scheme.BGV)

    def nonlinearity(self, x: Node) -> Node:
        """Functions at the early levels; also switches, then bootstrap and unpacking, at the later ones."""
        draw, shape = self.draw, x.type.shape
        composed = tuple(draw(st.lists(functions(self.floats), max_size=3)))
        if self.level in (Level.SOURCE, Level.QUANTIZED):
            return self.add(Apply(composed), shape, x, scheme=Scheme.BGV)
        switch = Switch(Scheme.BGV, Scheme.TORUS, Encoding.MSB)
        x = self.add(switch, shape, x, scheme=Scheme.TORUS, parts=1)
        parts = 1
        if self.level is Level.LAIDOUT:
            parts = draw(st.sampled_from([2, 4, 1]))
            op: Op = Bootstrap(composed, parts, self.ring // 2, draw(series()))
        else:
            op = Apply(composed)
        x = self.add(op, shape, x, scheme=Scheme.TORUS, parts=1)
        back = Switch(Scheme.TORUS, Scheme.BGV, Encoding.LSB)
        x = self.add(back, shape, x, scheme=Scheme.BGV, parts=1, halved=parts > 1)
        return self.add(Unpack(parts), shape, x, scheme=Scheme.BGV, parts=parts) if parts > 1 else x

    def scale(self, x: Node) -> Node:
        shape = x.type.shape
        factor = self.constant(_broadcastable(self.draw, shape))
        shift = self.constant(_broadcastable(self.draw, shape))
        return self.add(Scale(factor, shift), shape, x)

    def two_operands(self, x: Node) -> Node:
        """Elementwise ops with any value whose shape broadcasts with that of ``x``: at least with itself."""
        fitting = [n for n in self.graph if _broadcast(x.type.shape, n.type.shape) is not None]
        fitting = [n for n in fitting if n.id == x.id or n.id not in self.on_client]
        other = self.draw(st.sampled_from(fitting))
        kinds: list[type[Op]] = [Add, Sub]
        if not self.expanded:
            # quotients of what may be zero are not tame
            kinds += [Mul, Max, Min] if self.tame else [Mul, Div, Max, Min]
        shape = _broadcast(x.type.shape, other.type.shape)
        assert shape is not None
        pair = self.draw(st.permutations([x, other]))
        return self.add(self.draw(st.sampled_from(kinds))(), shape, *pair)

    def concat(self, x: Node) -> Node:
        operands = [self.flat(v) for v in self.some(x)]
        return self.add(Concat(), (sum(v.type.size for v in operands),), *operands)

    def gather(self, x: Node) -> Node:
        shape = tuple(self.draw(st.lists(self.dims, max_size=2)))
        places = hnp.arrays(np.int64, shape, elements=st.integers(0, x.type.size - 1))
        indices = Const(self.graph.add_constant(self.draw(names()), self.draw(places)))
        return self.add(Gather(indices), shape, x)

    def affine(self, x: Node) -> Node:
        """A sparse map with a few entries in every row, several at one place among them."""
        shape = tuple(self.draw(st.lists(self.dims, max_size=2)))
        rows = prod(shape)
        counts = self.draw(hnp.arrays(np.int64, rows, elements=st.integers(0, 3)))
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        indices = self.draw(hnp.arrays(np.int64, int(indptr[-1]), elements=st.integers(0, x.type.size - 1)))
        data = self.draw(hnp.arrays(np.float64, int(indptr[-1]), elements=tame_floats()))
        bias = self.draw(hnp.arrays(np.float64, rows, elements=tame_floats()))
        constants = (Const(self.graph.add_constant(self.draw(names()), v)) for v in (data, indices, indptr, bias))
        return self.add(Affine(shape, *constants), shape, x)

    def reduction(self, x: Node) -> Node:
        """Over the last axis, which there must be."""
        kind = self.draw(st.sampled_from([ReduceSum] if self.expanded else [ReduceSum, ReduceMax]))
        return self.add(kind(), x.type.shape[:-1], x)

    def hardmax(self, x: Node) -> Node:
        return self.add(Hardmax(), x.type.shape, x)

    def reshape(self, x: Node) -> Node:
        shape = self.draw(shapes_like(x.type.size))
        scheme = Scheme.CLIENT if x.id in self.on_client else Scheme.BGV
        return self.add(Reshape(shape), shape, x, scheme=scheme)

    def softmax(self, x: Node) -> Node:
        return self.add(Softmax(self.draw(st.booleans())), x.type.shape, x, scheme=Scheme.CLIENT)

    def argmax(self, x: Node) -> Node:
        keep = self.draw(st.booleans())
        shape = (*x.type.shape[:-1], 1) if keep else x.type.shape[:-1]
        return self.add(ArgMax(keep), shape, x, scheme=Scheme.CLIENT)

    def step(self, x: Node) -> Node:
        """One more layer on ``x``."""
        # before it is expanded, a network may go on behind softmax and argmax
        client = x.id in self.on_client and (self.level is not Level.SOURCE or self.expanded)
        choices: list[Callable[[Node], Node]] = [self.reshape]
        if x.type.shape:
            choices += [self.softmax, self.argmax]
        if not client:
            choices = [self.linear_map, self.nonlinearity] * 2 + choices
        if not client and self.level is Level.SOURCE:
            choices += [self.scale, self.two_operands, self.gather, self.affine]
            choices += [self.concat] if x.type.size <= 12 else []  # tensors stay small
            if x.type.shape:
                choices.append(self.reduction)
                choices += [] if self.expanded else [self.hardmax]
        return self.draw(st.sampled_from(choices))(x)


def _broadcast(a: Shape, b: Shape) -> Shape | None:
    """The common shape as numpy finds it, if there is one."""
    try:
        return tuple(int(n) for n in np.broadcast_shapes(a, b))
    except ValueError:
        return None


@st.composite
def graphs(
    draw: Draw,
    level: Level | None = None,
    max_steps: int = 5,
    tame: bool = False,
    expanded: bool = False,
) -> Graph:
    """A valid graph: one or two inputs, layers that start anywhere (values branch) and meet, outputs for all leaves.

    ``tame`` keeps constants, parameters and formats small, so that evaluating the graph cannot overflow. ``expanded``:
    none of the ops that the pass ``expand`` replaces.
    """
    level = level or draw(st.sampled_from(list(Level)))
    builder = _Builder(draw, level, tame, expanded)
    values = [builder.input(n) for n in draw(st.lists(names(), min_size=1, max_size=2, unique=True))]
    for _ in range(draw(st.integers(0, max_steps))):
        # mostly the newest value: long chains with an occasional branch
        values.append(builder.step(draw(st.just(values[-1]) | st.sampled_from(values))))
    leaves = [v for v in values if not builder.graph.users(v)]
    extra = draw(st.lists(st.sampled_from(values), max_size=1))
    labels = draw(st.lists(names(), min_size=len(leaves + extra), max_size=len(leaves + extra), unique=True))
    for value, label in zip(leaves + extra, labels, strict=True):
        builder.add(Output(label), value.type.shape, value, scheme=Scheme.CLIENT)
    return builder.graph
