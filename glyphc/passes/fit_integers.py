"""Bits for inputs and weights of a network that is computed on exact integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.errors import CalibrationError, ParameterError
from glyphc.ir.accuracy import Loss
from glyphc.ir.client_requests import MOST_TABLE_BITS
from glyphc.ir.evaluate import evaluate_all
from glyphc.ir.graph import Candidate, Decision, Graph, Rewriter
from glyphc.ir.integer_parameters import MOST_PLAINTEXT_BITS
from glyphc.ir.ops import Linear, Output
from glyphc.ir.types import Encoding, Level
from glyphc.measures import Judge, worst
from glyphc.measures import text as loss_text
from glyphc.slots.integers import MOST_BITS, Precision, TooManyBitsError, needed_bits, with_integers

from .base import Context, check_option
from .tolerance import Halves, TolerancePass

F64 = npt.NDArray[np.floating[Any]]

# Signed bits of inputs and of weights that are tried.
_INPUT_BITS = range(4, 10)
_WEIGHT_BITS = range(3, 11)
# Of what the client encrypts again.
_REFRESH_BITS = 9


@dataclass(frozen=True)
class FitIntegers(TolerancePass):
    """Integers for everything: inputs and weights of as few bits as the tolerated loss of accuracy allows.

    Nothing is ever scaled down, so results are as large as the products on the way to them: the fewer bits, the smaller
    the plaintext modulus. One prime is taken where that keeps to the tolerance, else two. refresh: whether the client
    decrypts the results of nonlinearities, scales them down and encrypts them again. table_bits: of the index of the
    table that stands for each nonlinearity and is looked up by bits of the client's; 0 for polynomials. Other options
    as in ``assign-budget``. The bits are chosen on one half of the calibration samples beside the network that is
    computed; what is promised is the other half's loss beside the network that was given.
    """

    name: ClassVar[str] = "fit-integers"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.ASSIGNED
    only: ClassVar[Encoding | None] = Encoding.INTEGERS
    samples: int = 2048
    refresh: bool = False
    table_bits: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(self.name, "samples", self.samples, 1, 1_000_000)
        check_option(self.name, "table_bits", self.table_bits, 0, MOST_TABLE_BITS)

    def run(self, graph: Graph, context: Context) -> Graph:
        if not context.samples or context.floats is None:
            raise CalibrationError(
                "how many bits weights and inputs need is found on calibration samples and the float network: pass "
                "--calibration (calibration=...)"
            )
        halves = Halves.of(context.samples, self.samples)
        judge = self.judge(context.floats, halves.first)
        tried = list(self._tried(graph, judge, halves.first))
        if not tried:
            raise ParameterError(
                f"results take more than {MOST_BITS} bits even with weights of {_WEIGHT_BITS[0]} bits: nothing is "
                "scaled down on the way, and each polynomial multiplies the bits by its degree"
            )
        best = _best(tried)
        given = self.judge(context.source or context.floats, halves.both).on(halves.second)
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

    def _tried(self, graph: Graph, judge: Judge, samples: Mapping[str, F64]) -> Iterator[_Try]:
        for input_bits in _INPUT_BITS:
            for weight_bits in _WEIGHT_BITS:
                refreshed = _REFRESH_BITS if self.refresh else 0
                precision = Precision(input_bits, weight_bits, refreshed, self.table_bits)
                try:
                    integers = with_integers(graph, precision)
                except TooManyBitsError:
                    continue
                bits = needed_bits(integers)
                if bits <= MOST_BITS:
                    loss = worst(judge.losses(_outputs(integers, samples)))
                    yield _Try(input_bits, weight_bits, bits, loss, integers)


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
