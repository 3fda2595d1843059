"""The passes that only programs on integers in slots take: from a quantized graph to one with parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isqrt, log2
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.analysis.security import MAX_LOG_QP_SLOTS
from glyphc.errors import CalibrationError, ParameterError
from glyphc.ir.accuracy import Loss
from glyphc.ir.evaluate import evaluate_all
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.integer_parameters import MOST_PLAINTEXT_BITS, PRIME_BITS, IntegerParameters
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Apply, Const, Input, IntegerPolynomial, Linear, Output
from glyphc.ir.parameters import INSECURE, SECURE
from glyphc.ir.types import Encoding, FixedPoint, Level
from glyphc.measures import Judge, Limits, parse_kinds, worst
from glyphc.measures import text as loss_text
from glyphc.passes.assign_budget import Halves
from glyphc.passes.base import Context, Pass, check_option, check_ring

from .integer_lowering import integer_code
from .integer_noise import limbs_for, multiplies

F64 = npt.NDArray[np.floating[Any]]

# Signed bits of inputs and of weights that are tried.
_INPUT_BITS = range(4, 10)
_WEIGHT_BITS = range(3, 11)
# Two primes, less what they may be off powers of two.
_MOST_BITS = 2 * MOST_PLAINTEXT_BITS - 0.5
_HIGHEST_DEGREE = 8
_EXACT = 1e-7


@dataclass(frozen=True)
class FitIntegers(Pass):
    """Integers for everything: inputs and weights of as few bits as the tolerated loss of accuracy allows.

    Nothing is ever scaled down, so results are as large as the products on the way to them: the fewer bits, the smaller
    the plaintext modulus. One prime is taken where that keeps to the tolerance, else two. Options as in
    ``assign-budget``. The bits are chosen on one half of the calibration samples beside the network that is computed;
    what is promised is the other half's loss beside the network that was given.
    """

    name: ClassVar[str] = "fit-integers"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.ASSIGNED
    integers: ClassVar[bool] = True
    points: float = 0.5
    spread: float = 0.75
    logits: float = 0.0
    samples: int = 2048
    measures: str = ""

    def __post_init__(self) -> None:
        check_option(self.name, "points", self.points, 0.0, 100.0)
        check_option(self.name, "spread", self.spread, 0.0, 100.0)
        check_option(self.name, "logits", self.logits, 0.0, 1e15)
        check_option(self.name, "samples", self.samples, 1, 1_000_000)
        parse_kinds(filter(None, self.measures.split(";")))

    def run(self, graph: Graph, context: Context) -> Graph:
        if not context.samples or context.floats is None:
            raise CalibrationError(
                "how many bits weights and inputs need is found on calibration samples and the float network: pass "
                "--calibration (calibration=...)"
            )
        halves = Halves.of(context.samples, self.samples)
        kinds = parse_kinds(filter(None, self.measures.split(";")))
        limits = Limits(self.points, self.logits, self.spread)
        judge = Judge.of(context.floats, halves.first, limits, kinds)
        tried = list(self._tried(graph, judge, halves.first))
        if not tried:
            raise ParameterError(
                f"results take more than {_MOST_BITS} bits even with weights of {_WEIGHT_BITS[0]} bits: nothing is "
                "scaled down on the way, and each polynomial multiplies the bits by its degree"
            )
        best = _best(tried)
        given = Judge.of(context.source or context.floats, halves.both, limits, kinds).on(halves.second)
        losses = tuple(
            replace(loss, held_out=halves.held_out) for loss in given.losses(_outputs(best.graph, halves.second))
        )
        warning = "" if all(loss.kept for loss in losses) else f"{best.name}: {loss_text(worst(losses))}"
        candidates = tuple(Candidate(t.name, None, f"{t.bits:.1f} bits, {loss_text(t.loss)}") for t in tried)
        decision = Decision(self.name, best.name, candidates, warning, losses)
        rewriter = Rewriter(best.graph)
        for node in best.graph:
            rewriter.keep(node, decisions=(decision,) if isinstance(node.op, Linear) else ())
        return rewriter.new

    @staticmethod
    def _tried(graph: Graph, judge: Judge, samples: Mapping[str, F64]) -> Iterator[_Try]:
        for input_bits in _INPUT_BITS:
            for weight_bits in _WEIGHT_BITS:
                try:
                    integers = with_integers(graph, input_bits, weight_bits)
                except _TooManyBitsError:
                    continue
                bits = needed_bits(integers)
                if bits <= _MOST_BITS:
                    loss = worst(judge.losses(_outputs(integers, samples)))
                    yield _Try(input_bits, weight_bits, bits, loss, integers)


class _TooManyBitsError(ParameterError):
    """Values that no 64 bits hold, so no plaintext modulus either."""


def _limit(largest: float, node: Node) -> int:
    """The next integer above a magnitude."""
    if not largest < 2.0**62:
        raise _TooManyBitsError(f"{node} has values of more than 62 bits as integers")
    return int(np.ceil(largest)) + 1


@dataclass(frozen=True, eq=False)
class _Try:
    input_bits: int
    weight_bits: int
    bits: float
    loss: Loss
    graph: Graph

    @property
    def name(self) -> str:
        return f"inputs of {self.input_bits} bits, weights of {self.weight_bits}"

    @property
    def primes(self) -> int:
        """How many plaintext primes it takes."""
        return 1 if self.bits <= MOST_PLAINTEXT_BITS - 0.5 else 2


def _best(tried: list[_Try]) -> _Try:
    """The fewest primes that keep to the tolerance, then the fewest bits; where nothing does, the smallest loss."""
    kept = [t for t in tried if t.loss.kept]
    if not kept:
        return min(tried, key=lambda t: (t.loss.excess, t.bits))
    fewest = min(t.primes for t in kept)
    # with as many primes, more bits cost little, and are more faithful
    return min((t for t in kept if t.primes == fewest), key=lambda t: (t.loss.value, t.loss.error, t.bits))


def _outputs(graph: Graph, samples: Mapping[str, F64]) -> dict[str, F64]:
    values = evaluate_all(graph, samples)
    return {op.name: np.asarray(values[n.id], dtype=np.float64) for n, op in graph.of(Output)}


def with_integers(graph: Graph, input_bits: int, weight_bits: int) -> Graph:
    """The graph on integers: formats without offsets, weights of so many bits, polynomials of integers.

    ParameterError where a function is no polynomial, or values take more than 62 bits.
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
                limit = 2 ** (input_bits - 1) - 1
                scale = tuple(s * fixed.magnitude / limit for s in fixed.scale)
                rewriter.keep(node, replace(node.type, fixed=FixedPoint(scale, fixed.offset, -limit, limit)))
            case Linear():
                _linear(rewriter, node, node.op, weight_bits)
            case Apply(functions=functions):
                op, made = _polynomial(node, functions, operands[0])
                type = replace(node.type, fixed=made)
                rewriter.replace(node, rewriter.new.add(op, operands, type, node.location, node.decisions))
            case _:
                rewriter.keep(node, replace(node.type, fixed=operands[0].type.fixed))
    return rewriter.new


def _linear(rewriter: Rewriter, node: Node, op: Linear, weight_bits: int) -> None:
    """Real weights from those of the quantized graph, whose errors are far below a step here."""
    fixed = node.type.fixed
    assert fixed is not None
    scale = np.array(fixed.scale)
    real, sums = [], rewriter.old.constant(op.bias.name) * scale + np.array(fixed.offset)
    for before, after, const in zip(rewriter.old.operands(node), rewriter.operands(node), op.weights, strict=True):
        old, new = before.type.fixed, after.type.fixed
        assert old is not None and new is not None
        weight = rewriter.old.constant(const.name) * (scale.reshape(-1, 1) / np.array(old.scale))
        # of integers: what an offset of the operand adds is part of the bias
        sums = sums + (weight * (np.array(new.offset) - np.array(old.offset))).sum(axis=1)
        real.append(weight * np.array(new.scale))
    step = max(float(np.abs(w).max()) for w in real) / (2 ** (weight_bits - 1) - 1) or 1.0
    integers = [np.rint(w / step).astype(np.int64) for w in real]
    limit = _limit(float(_reach(fixed).max()) / step, node)
    _limit(float(np.abs(sums).max()) / step, node)
    names = [Const(rewriter.new.add_constant(c.name, w)) for c, w in zip(op.weights, integers, strict=True)]
    bias = Const(rewriter.new.add_constant(op.bias.name, np.rint(sums / step).astype(np.int64)))
    type = replace(node.type, fixed=FixedPoint((step,), (0.0,), -limit, limit))
    new_op = Linear(tuple(names), bias)
    rewriter.replace(node, rewriter.new.add(new_op, rewriter.operands(node), type, node.location, node.decisions))


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
        raise _TooManyBitsError(f"{node}: its polynomial has coefficients of more than 62 bits as integers")
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
    """log2 of the modulus that holds all results: on the way to them, values may wrap as they like."""
    largest = 1.0
    for node, _ in graph.of(Output):
        source = graph.operands(node)[0]
        while source.type.encoding is not Encoding.INTEGERS:
            source = graph.operands(source)[0]
        assert source.type.fixed is not None
        largest = max(largest, float(source.type.fixed.magnitude))
    return log2(2 * largest + 1)


@dataclass(frozen=True)
class SelectIntegers(Pass):
    """Layouts, plaintext primes that hold the results, and the smallest ring with a modulus for the noise.

    ring: 0 for a choice among the secure ones; security as in ``select-parameters``.
    """

    name: ClassVar[str] = "select-integers"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.LAIDOUT
    integers: ClassVar[bool] = True
    ring: int = 0

    def __post_init__(self) -> None:
        if self.ring:
            check_ring(self.name, self.ring)

    def run(self, graph: Graph, context: Context) -> Graph:
        code = integer_code(graph)
        candidates: list[Candidate] = []
        for ring in (self.ring,) if self.ring else tuple(MAX_LOG_QP_SLOTS):
            moduli = plaintext_primes(ring, needed_bits(graph))
            most = 16 if self.ring else MAX_LOG_QP_SLOTS[ring] // PRIME_BITS
            limbs = limbs_for(code, ring, max(moduli), most)
            if limbs > most:
                candidates.append(Candidate(f"N = {ring}", None, f"more than {most} primes are not 128-bit secure"))
                continue
            security = INSECURE if self.ring else SECURE
            parameters = IntegerParameters(ring, moduli, limbs, multiplies(code), security)
            bits = " x ".join(f"{t.bit_length()} bits" for t in moduli)
            candidates.append(Candidate(f"N = {ring}", None, f"t of {bits}, a modulus of {parameters.modulus_bits}"))
            return _laid_out(graph, parameters, Decision(self.name, f"N = {ring}", tuple(candidates)))
        raise ParameterError(f"no ring holds the noise of this network: {candidates[-1].reason}")


def _laid_out(graph: Graph, parameters: IntegerParameters, decision: Decision) -> Graph:
    """One ciphertext per feature, a sample in each slot; a batch of at most as many samples as there are slots."""
    batch = min(graph.batch, parameters.slots)
    rewriter = Rewriter(graph, Level.LAIDOUT, batch)
    for node in graph:
        layout = None
        if node.type.encoding is Encoding.INTEGERS:
            size = node.type.size
            layout = Layout(parameters.slots, batch, size, size, 1, 1, 1, True)
        decisions = (decision,) if isinstance(node.op, Input) else ()
        rewriter.keep(node, replace(node.type, layout=layout), decisions)
    rewriter.new.parameters = parameters
    return rewriter.new


def plaintext_primes(ring: int, bits: float) -> tuple[int, ...]:
    """The smallest primes, one or two, 1 modulo 2N, whose product has so many bits. ParameterError beyond two."""
    if bits > _MOST_BITS:
        raise ParameterError(f"results of {bits:.1f} bits are more than the {_MOST_BITS} that two primes hold")
    count = 1 if bits <= MOST_PLAINTEXT_BITS - 0.5 else 2
    found: list[int] = []
    at = max(int(2.0 ** (bits / count)), 2 * ring) // (2 * ring) * 2 * ring + 1
    while len(found) < count:
        if at >= 2.0 ** (bits / count) and _is_prime(at):
            found.append(at)
        at += 2 * ring
    return tuple(found)


def _is_prime(number: int) -> bool:
    """By trial division: at most 2^15 of them."""
    return number > 1 and all(number % d for d in range(2, isqrt(number) + 1))
