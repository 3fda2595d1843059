"""How much every series may err, from how much accuracy the user tolerates to lose.

The error of a network's result is about the sum of what each nonlinearity contributes: its own error times how strongly
the result depends on it. So the tolerated error is divided evenly among contributions, each becomes a budget of its
nonlinearity, and the network is simulated with the series that these budgets take: on the calibration samples, against
the float network. The largest error whose simulation keeps to the tolerance is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.ir.evaluate import Value, evaluate_all
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.ops import Apply, ArgMax, ErrorBudget, Output
from glyphc.ir.series import Series, evaluate_series
from glyphc.ir.types import Level

from .base import Context, Pass, check_option
from .fit_series import DEGREES, SeriesFits, plaintext_bits
from .judge import Judge, real_outputs, rms

F64 = npt.NDArray[np.floating[Any]]
I64 = npt.NDArray[np.int64]

# Errors of the result that are tried, as shares of its range: half a bit apart.
_SHARES = tuple(2.0 ** -(bits / 2) for bits in range(4, 33))
# A series' largest error may be so many times its rms error; at kinks it is about that.
_PEAK = 8.0
# Perturbation that sensitivities are measured with, as a share of a value's range.
_PROBE = 2.0**-7
_PROBE_DEGREE = DEGREES[1]
_PROBED = 64  # samples are enough for it
_SEED = 0


@dataclass(frozen=True)
class AssignBudget(Pass):
    """Give every nonlinearity the error budget that the tolerated loss of accuracy allows.

    points: percentage points of the samples whose class (the largest of several outputs) may differ from the float
    network's, a bound of the accuracy lost; of an output of one value: rms error, in percent of its range. logits:
    tolerated rms error of the outputs in their own units, instead. samples: how many calibration samples are simulated.
    """

    name: ClassVar[str] = "assign-budget"
    requires: ClassVar[Level] = Level.LAIDOUT
    ensures: ClassVar[Level] = Level.LAIDOUT
    slots: ClassVar[bool | None] = False
    points: float = 0.5
    logits: float = 0.0
    samples: int = 512

    def __post_init__(self) -> None:
        check_option(self.name, "points", self.points, 0.0, 100.0)
        check_option(self.name, "logits", self.logits, 0.0, 1e15)
        check_option(self.name, "samples", self.samples, 1, 1_000_000)

    def run(self, graph: Graph, context: Context) -> Graph:
        nodes = [node for node, _ in graph.of(Apply)]
        if not nodes or not context.samples:
            return graph
        trial = _Trial(graph, {name: x[: self.samples] for name, x in context.samples.items()})
        sensitivity = trial.sensitivities(nodes)
        judge = Judge(graph, trial.samples, context.source, self.points, self.logits)
        rounding = judge.loss(trial.outputs({}))
        # what rounding alone loses cannot be won back by series
        tolerated = judge.tolerance + (rounding.value if rounding.value > judge.tolerance else 0.0)
        candidates: list[Candidate] = []
        degrees: tuple[int, ...] = ()
        for share in _SHARES:
            budgets = {n.id: _budget(share / np.sqrt(len(nodes)), sensitivity[n.id]) for n in nodes}
            series = {n.id: _cheapest(trial.fits, n, budgets[n.id]) for n in nodes}
            if degrees == (degrees := tuple(s.degree for s in series.values())):
                continue  # the same series as before
            loss = judge.loss(trial.outputs(series))
            candidates.append(Candidate(_degrees(degrees), None, judge.reason(loss)))
            if loss.value <= tolerated:
                break
        chosen = candidates[-1].name
        warning = ""
        if loss.value > judge.tolerance:
            alone = f"; rounding to fixed point alone: {rounding.text(judge.count)}"
            warning = candidates[-1].reason + (alone if rounding.value > 0 else "")
        rewriter = Rewriter(graph)
        for node in graph:
            if isinstance(node.op, Apply):
                rewriter.copy_constants(node)
                decisions = (*node.decisions, Decision(self.name, chosen, tuple(candidates), warning))
                op = replace(node.op, budget=budgets[node.id])
                new = rewriter.new.add(op, rewriter.operands(node), node.type, node.location, decisions)
                rewriter.replace(node, new)
            else:
                rewriter.keep(node)
        return rewriter.new


@dataclass
class _Trial:
    """The network on calibration samples, with series for functions."""

    graph: Graph
    samples: Mapping[str, F64]

    def __post_init__(self) -> None:
        self.fits = SeriesFits(self.graph, plaintext_bits(self.graph))

    def outputs(self, series: Mapping[int, Series]) -> dict[str, F64]:
        """Real outputs with these series, by node id; nodes without one compute their function."""
        values = self._values(series, self.samples)
        return real_outputs({op.name: values[node.id] for node, op in self.graph.of(Output)})

    def sensitivities(self, nodes: list[Node]) -> dict[int, float]:
        """Error of the outputs, as a share of their range, per error of a nonlinearity, as a share of its range."""
        # not the functions themselves: a disturbed value may leave their domain
        series = {n.id: self.fits.series(n, _PROBE_DEGREE) for n in nodes}
        few = {name: x[:_PROBED] for name, x in self.samples.items()}
        plain = self._values(series, few)
        ranges = {op.name: float(np.ptp(plain[n.id])) or 1.0 for n, op in self._continuous()}
        random = np.random.default_rng(_SEED)
        out = {}
        for node in nodes:
            assert node.type.fixed is not None
            size = _PROBE * (node.type.fixed.hi - node.type.fixed.lo)
            noise = np.rint(random.normal(0, size, plain[node.id].shape)).astype(np.int64)
            values = self._values(series, few, {node.id: noise})
            errors = [rms(values[n.id] - plain[n.id]) / ranges[op.name] for n, op in self._continuous()]
            out[node.id] = max(errors, default=0.0) / _PROBE
        return out

    def _values(
        self, series: Mapping[int, Series], samples: Mapping[str, F64], noise: Mapping[int, I64] | None = None
    ) -> dict[int, Value]:
        """All values with series in place of functions, and something added to some of them."""
        modulus = 2.0**self.fits.bits

        def approximate(node: Node, args: tuple[Value, ...]) -> Value | None:
            if node.id not in series:
                return None
            phases = evaluate_series(series[node.id], args[0] / modulus)
            integers = np.asarray(np.rint(phases * modulus), dtype=np.int64)
            return integers + noise[node.id] if noise and node.id in noise else integers

        return evaluate_all(self.graph, samples, approximate)

    def _continuous(self) -> list[tuple[Node, Output]]:
        """Outputs, before the client takes the largest."""
        found = []
        for node, op in self.graph.of(Output):
            (source,) = self.graph.operands(node)
            found.append((self.graph.operands(source)[0] if isinstance(source.op, ArgMax) else node, op))
        return found


def _budget(error: float, sensitivity: float) -> ErrorBudget:
    """What a nonlinearity may err to contribute so much to the outputs' error."""
    rms = float(np.clip(error / max(sensitivity, 1e-9), 2.0**-20, 2.0**-5))
    return ErrorBudget(min(1.0, _PEAK * rms), rms)


def _cheapest(fits: SeriesFits, node: Node, budget: ErrorBudget) -> Series:
    """The series of lowest degree within the budget, or the most precise one."""
    for degree in DEGREES:
        if budget.holds(fits.series(node, degree)):
            break
    return fits.series(node, degree)


def _degrees(degrees: tuple[int, ...]) -> str:
    """How many series of which degrees, e.g. "2 of degree 13, 1 of 27"."""
    counts = [(d, degrees.count(d)) for d in sorted(set(degrees))]
    return ", ".join(f"{n} of {'degree ' if not i else ''}{d}" for i, (d, n) in enumerate(counts))
