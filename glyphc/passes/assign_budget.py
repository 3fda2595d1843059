"""How much every series may err, from how much accuracy the user tolerates to lose.

The error of a network's result is about the sum of what each nonlinearity contributes: its own error times how strongly
the result depends on it. So the tolerated error is divided evenly among contributions, each becomes a budget of its
nonlinearity, and the network is simulated with the series that these budgets take, with rounding and all noise, against
the float network. The largest error whose simulation keeps to the tolerance is taken. That is chosen on one half of the
calibration samples; what is promised is simulated on the other half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.ir.accuracy import Loss
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.ops import Apply, ArgMax, ErrorBudget, Output
from glyphc.ir.series import Approximation
from glyphc.ir.types import Level
from glyphc.measures import Judge, Measure, value_text, worst
from glyphc.measures import text as loss_text

from .base import Context, check_option
from .fit_series import DEGREES, shared_degrees
from .node_errors import node_errors
from .select_parameters import affordable_degrees
from .tolerance import Halves, TolerancePass
from .trial import Trial

F64 = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

# Errors of the result that are tried, as shares of its range: half a bit apart. The first are larger than the range:
# where rounding alone spoils a result, no better series are asked for than match that.
_SHARES = tuple(2.0 ** -(bits / 2) for bits in range(-6, 33))
# A series' largest error may be so many times its rms error; at kinks it is about that.
_PEAK = 8.0
# Perturbation that sensitivities are measured with, as a share of a value's range.
_PROBE = 2.0**-7
_PROBE_DEGREE = DEGREES[1]
# Samples that are enough for it, and fewer where a network has so many values that all of them would take long.
_PROBED, _FEWEST_PROBED, _PROBED_VALUES = 64, 16, 1 << 24
_SEED = 0
# Other samples than those to choose with may lose a little more: so much of the tolerance is used up.
_RESERVE = 0.8
# Where nothing keeps to the tolerance: what loses at most so many times as much as the best is as good.
_HARDLY_WORSE = 1.25
# Beside what rounding and noise lose, so large a share of it by the series hardly shows.
_HARDLY_SEEN = 0.25
# Of more nonlinearities it is not worked out which one loses most.
_MOST_BLAMED = 40
# What lies at a jump itself, as a share of a series' dead zone. The rest of a dead zone is no excuse: a series that is
# a little finer decides it.
_AT_A_JUMP = 2.0**-6
# Where more values than this share are undecided, all of them count.
_UNDECIDED = 0.5


@dataclass(frozen=True)
class AssignBudget(TolerancePass):
    """Give every nonlinearity the error budget that the tolerated loss of accuracy allows.

    samples: how many calibration samples are simulated at most, to choose and to promise.
    """

    name: ClassVar[str] = "assign-budget"
    requires: ClassVar[Level] = Level.LAIDOUT
    ensures: ClassVar[Level] = Level.LAIDOUT
    slots: ClassVar[bool | None] = False
    samples: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(self.name, "samples", self.samples, 1, 1_000_000)

    def run(self, graph: Graph, context: Context) -> Graph:
        nodes = [node for node, _ in graph.of(Apply)]
        if not context.samples:
            return graph
        halves = Halves.of(context.samples, self.samples)
        judge = self.judge(context.source or graph, halves.both)
        if not nodes:
            return graph
        chosen_on, held = (judge.rows(part) for part in halves.rows)
        found = _Search(Trial(graph, _SEED), chosen_on, halves.first, affordable_degrees(graph, context))
        tries, chosen = found.run(nodes)
        trial = replace(found.trial, seed=_SEED + 1)
        values = trial.values(halves.second, chosen.series)
        losses = tuple(replace(loss, held_out=halves.held_out) for loss in held.losses(trial.outputs_of(values)))
        warning = ""
        if not all(loss.kept for loss in losses):
            exact = trial.outputs(halves.second, {})
            alone, beside = held.losses(exact), held.beside(exact)
            own = beside.losses(trial.outputs_of(values))
            warning = (
                f"{_reason(losses)}; rounding and noise alone, with exact functions: {_reason(alone)}; "
                f"the series beside that: {value_text(worst(own))}"
            )
            if all(o.value <= a.value for o, a in zip(own, alone, strict=True)):
                warning += _RATHER_BITS
            else:
                warning += _most_lost(trial, found, chosen, beside, halves.second) + _short_of_room(found)
        candidates = tuple(Candidate(t.name, None, _reason(t.losses)) for t in tries)
        decision = Decision(self.name, chosen.name, candidates, warning, losses)
        errors = node_errors(trial, values, halves.second, context.floats)
        return self._annotated(graph, chosen.reachable, decision, errors)

    def _annotated(
        self, graph: Graph, budgets: Mapping[int, ErrorBudget], decision: Decision, errors: Mapping[int, float]
    ) -> Graph:
        """The graph with budgets and what was simulated."""
        rewriter = Rewriter(graph)
        for node in graph:
            type = node.type
            if type.calibration is not None and node.id in errors:
                type = replace(type, calibration=replace(type.calibration, error=errors[node.id]))
            op, decisions = node.op, node.decisions
            if isinstance(op, Apply):
                op, decisions = replace(op, budget=budgets[node.id]), (*decisions, decision)
            rewriter.copy_constants(node)
            new = rewriter.new.add(op, rewriter.operands(node), type, node.location, decisions)
            rewriter.replace(node, new)
        return rewriter.new


@dataclass(frozen=True, eq=False)
class _Try:
    """Budgets, the series that they take, and what the outputs then lose; own: by the series alone, beside a network
    that has the same rounding and noise, and exact functions."""

    budgets: Mapping[int, ErrorBudget]
    series: Mapping[int, Approximation]
    losses: tuple[Loss, ...]
    own: tuple[Loss, ...]

    @property
    def degrees(self) -> tuple[int, ...]:
        return tuple(s.degree for s in self.series.values())

    @property
    def name(self) -> str:
        """How many series of which degrees, e.g. "2 of degree 13, 1 of 27"."""
        counts = [(d, self.degrees.count(d)) for d in sorted(set(self.degrees))]
        return ", ".join(f"{n} of {'degree ' if not i else ''}{d}" for i, (d, n) in enumerate(counts))

    @property
    def reachable(self) -> dict[int, ErrorBudget]:
        """The budgets, as far as the series keep to them: it is said once, of the outputs, what is lost."""
        return {
            id: ErrorBudget(max(b.max_error, s.max_error), max(b.rms_error, s.rms_error))
            for (id, b), s in zip(self.budgets.items(), self.series.values(), strict=True)
        }

    def tolerated(self, alone: tuple[Loss, ...]) -> bool:
        """Whether every output keeps to its limit, or as far as rounding and noise let it.

        No series wins back what these lose alone. Where that is more than the limit, precision changes little once the
        series add less; where it is nearly the limit, the reserve cannot be kept, but the limit itself.
        """

        def enough(loss: Loss, own: Loss, a: Loss) -> bool:
            if loss.value <= _RESERVE * loss.limit or a.value <= _RESERVE * loss.limit:
                return loss.value <= _RESERVE * loss.limit
            if a.kept:
                return loss.kept or own.value <= _HARDLY_SEEN * a.value
            return own.value <= a.value

        return all(map(enough, self.losses, self.own, alone))

    @property
    def lost(self) -> float:
        """By the output that loses most, in units of its limit, where it has one."""
        return max(loss.value / (loss.limit or 1.0) for loss in self.losses)


@dataclass
class _Search:
    """For the cheapest series that keep to the limits on samples. degrees: those that there are parameters for.

    finest: the smallest budgets that were tried. undecided: values of outputs that say nothing of series, as they stand
    or fall with what is at a jump.
    """

    trial: Trial
    judge: Judge
    samples: Mapping[str, F64]
    degrees: tuple[int, ...]
    finest: dict[int, ErrorBudget] = field(default_factory=dict)
    undecided: dict[str, Mask] = field(default_factory=dict)

    def run(self, nodes: list[Node]) -> tuple[list[_Try], _Try]:
        """What was tried, in order of precision, and the choice."""
        sensitivity = self._sensitivities(nodes)
        exact = self.trial.outputs(self.samples, {})
        self.undecided = self._undecided(nodes, exact)
        exact = self._forgiven(exact)
        alone, beside = self.judge.losses(exact), self.judge.beside(exact)
        tries: list[_Try] = []
        for share in _SHARES:
            self.finest = budgets = {n.id: _budget(share / np.sqrt(len(nodes)), sensitivity[n.id]) for n in nodes}
            wanted = {n.id: self._cheapest(n, budgets[n.id]) for n in nodes}
            degrees = shared_degrees(self.trial.graph, wanted)
            if tries and tries[-1].degrees == tuple(degrees.values()):
                continue  # the same series as before
            series = {n.id: self.trial.fits.series(n, degrees[n.id]) for n in nodes}
            outputs = self._forgiven(self.trial.outputs(self.samples, series))
            tries.append(_Try(budgets, series, self.judge.losses(outputs), beside.losses(outputs)))
            if tries[-1].tolerated(alone):
                return tries, tries[-1]
        # no series will do: then precision that changes little is not worth its time
        best = min(t.lost for t in tries)
        return tries, next(t for t in tries if t.lost <= _HARDLY_WORSE * best)

    def _undecided(self, nodes: list[Node], exact: Mapping[str, F64]) -> dict[str, Mask]:
        """Which values of the outputs change where operands of functions that jump move by a little, either way.

        No series has a value there, so in all of them they are wrong alike, and would hide what else a series does.
        """
        width = _AT_A_JUMP * 2.0**self.trial.fits.bits
        # the same at every degree, and a series of the highest takes long to fit
        zones = {n.id: self.trial.fits.series(n, _PROBE_DEGREE).dead_zone * width for n in nodes}
        found: dict[str, Mask] = {}
        if not any(zones.values()):
            return found
        for sign in (-1.0, 1.0):
            moved = {id: sign * zone for id, zone in zones.items()}
            outputs = self.trial.outputs_of(self.trial.values(self.samples, {}, moved=moved))
            for measure in self.judge.measures:
                name = measure.output
                found[name] = found.get(name, False) | measure.swayed(outputs[name], exact[name])
        return {name: mask for name, mask in found.items() if mask.mean() <= _UNDECIDED}

    def _forgiven(self, outputs: Mapping[str, F64]) -> dict[str, F64]:
        """The outputs, those that are undecided without error."""
        return {
            name: np.where(self.undecided[name], self.judge.truth[name].values, values)
            if name in self.undecided
            else values
            for name, values in outputs.items()
        }

    def _cheapest(self, node: Node, budget: ErrorBudget) -> int:
        """The lowest degree within the budget, or the highest one."""
        return next((d for d in self.degrees if budget.holds(self.trial.fits.series(node, d))), self.degrees[-1])

    def _sensitivities(self, nodes: list[Node]) -> dict[int, float]:
        """Error of the outputs, as a share of their spread, per error of a nonlinearity, as a share of its range."""
        # not the functions themselves: a disturbed value may leave their domain
        series = {n.id: self.trial.fits.series(n, _PROBE_DEGREE) for n in nodes}
        size = sum(node.type.size for node in self.trial.graph)
        probed = max(_FEWEST_PROBED, min(_PROBED, _PROBED_VALUES // size))
        few = {name: x[:probed] for name, x in self.samples.items()}
        plain = self.trial.values(few, series, noisy=False)
        continuous = self._continuous()
        plain_reals = self.trial.reals(plain, [source.id for source, _ in continuous])
        random = np.random.default_rng(_SEED)
        out = {}
        for node in nodes:
            assert node.type.fixed is not None
            deviation = _PROBE * (node.type.fixed.hi - node.type.fixed.lo)
            added = random.normal(0, deviation, plain[node.id].shape)
            rest = {id: plain[id] for id in plain.keys() - _behind(self.trial.graph, node)}
            found = self.trial.values(few, series, {node.id: added}, noisy=False, known=rest)
            values = self.trial.reals(found, list(plain_reals))
            errors = [measure.distance(values[source.id], plain_reals[source.id]) for source, measure in continuous]
            out[node.id] = max(errors) / _PROBE
        return out

    def _continuous(self) -> list[tuple[Node, Measure]]:
        """Outputs with their measures; before the client takes the largest."""
        found, graph = [], self.trial.graph
        measures = {m.output: m for m in self.judge.measures}
        for node, op in graph.of(Output):
            (source,) = graph.operands(node)
            node = graph.operands(source)[0] if isinstance(source.op, ArgMax) else node
            found.append((node, measures[op.name]))
        return found


def _behind(graph: Graph, node: Node) -> set[int]:
    """A node and all that is computed from it, by id."""
    found = {node.id}
    for other in graph:
        if not found.isdisjoint(other.operands):
            found.add(other.id)
    return found


def _reason(losses: tuple[Loss, ...]) -> str:
    loss = worst(losses)
    return (f"output {loss.output!r}: " if len(losses) > 1 else "") + loss_text(loss)


_RATHER_BITS = (
    "; so higher degrees would not help: ask for more bits (input_bits, activation_bits, weight_precision of the pass "
    "quantize) or for a larger --tolerance"
)


def _most_lost(trial: Trial, search: _Search, chosen: _Try, beside: Judge, samples: Mapping[str, F64]) -> str:
    """Which nonlinearity loses most where it alone is a series, and what makes it hard."""
    ids = list(chosen.series)
    if not 1 < len(ids) <= _MOST_BLAMED:
        return ""
    alone = {id: worst(beside.losses(trial.outputs(samples, {id: chosen.series[id]}))) for id in ids}
    node = trial.graph.node(max(ids, key=lambda id: alone[id].excess))
    read, degree = trial.fits.source(node), chosen.series[node.id].degree
    highest = ""
    if degree == search.degrees[-1]:
        highest = f", the highest there is{' room for' if degree != DEGREES[-1] else ''},"
    return (
        f", {value_text(alone[node.id])} by {node} alone, whose series of degree {degree}{highest} spans "
        f"[{read.real_lo:.4g}, {read.real_hi:.4g}]: a narrower range (clipped inputs, weight decay, a smaller "
        "--margin) makes it more precise"
    )


def _short_of_room(search: _Search) -> str:
    """Which nonlinearities ask for series that no parameters of 128-bit security have room for, and what to change."""
    highest, graph = search.degrees[-1], search.trial.graph
    asking = [
        id
        for id, budget in search.finest.items()
        if highest != DEGREES[-1] and not budget.holds(search.trial.fits.series(graph.node(id), highest))
    ]
    if not asking:
        return ""
    others = f" and {len(asking) - 1} more" if len(asking) > 1 else ""
    return (
        f"; {graph.node(asking[0])}{others} ask{'' if others else 's'} for a degree above {highest}, which 128-bit "
        "security has no room for: a smaller --batch (fewer slots) or a larger --tolerance may do"
    )


def _budget(error: float, sensitivity: float) -> ErrorBudget:
    """What a nonlinearity may err to contribute so much to the outputs' error."""
    rms = float(np.clip(error / max(sensitivity, 1e-9), 2.0**-20, 2.0**-5))
    return ErrorBudget(min(1.0, _PEAK * rms), rms)
