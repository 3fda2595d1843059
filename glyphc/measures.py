"""How the outputs of a network are judged: each by a measure of its own.

Classes where the model says so, or where the values evidently compete as logits do; otherwise the error of every
column beside that column's own spread, so that targets of different size count alike. A user may say otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import GlyphcError
from glyphc.ir.accuracy import Loss, MeasureKind
from glyphc.ir.evaluate import evaluate_all, real
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, ArgMax, Hardmax, Output, Reshape, Softmax

F64 = npt.NDArray[np.floating[Any]]
I64 = npt.NDArray[np.int64]

# Words in the name of an output that say what its values are.
_CLASS_WORDS = ("logit", "class", "prob", "label", "softmax")
# Values compete when their sum varies so much less than values do that are independent of each other.
_COMPETING = 0.6
# Logits are of one size: the largest spread of a column beside the smallest.
_ALIKE = 5.0
# Fewer samples say nothing of how columns vary.
_EVIDENCE = 20
# So many decisions tell a rate of 0.5 %, the usual limit.
_FEW = 200
# The float network hardly decides where its margin is below this share of its usual (median) one.
_NEAR_TIE = 2.0**-5
# Of outputs with more columns, the spreads are not kept with what was found.
_KEPT_SPREADS = 256
# A value that changes by this share of its spread has gone a step of some function.
_STEP = 0.2
# Samples that the float network is evaluated on at a time.
_PIECE = 1024
_STEPS = ("greater", "less", "between", "near_zero", "sign")
# Share of a value below which its differences are rounding errors of float64 sums.
_ROUNDING = 2.0**-40


@dataclass(frozen=True)
class Limits:
    """What may be lost. percent: of decisions; absolute: rms error in an output's own units, 0 where nobody named one;
    spread: rms error in percent of a column's spread."""

    percent: float
    absolute: float = 0.0
    spread: float = 0.75


@dataclass(frozen=True)
class Measure:
    """How one output is judged. reason: why. spreads: of its columns, standard deviations on calibration samples.

    threshold: between the two classes of an output of one value. labels: whether values are classes already.
    """

    output: str
    kind: MeasureKind
    reason: str
    spreads: tuple[float, ...]
    threshold: float = 0.0
    labels: bool = False

    def errors(self, got: F64, wanted: F64) -> F64:
        """Rms error of every column as a share of its spread; arrays of shape (samples, *shape)."""
        off = _columns(np.asarray(got, dtype=np.float64) - wanted)
        return np.asarray(np.sqrt(np.mean(off**2, axis=(0, 2))) / np.array(self.spreads))

    def distance(self, got: F64, wanted: F64) -> float:
        """How far continuous values are apart, as a share of their spread; in the measure's sense."""
        if self.kind is MeasureKind.RELATIVE and not self.labels:
            return float(self.errors(got, wanted).max())
        return float(np.sqrt(np.mean((got - wanted) ** 2))) / (float(np.ptp(wanted)) or 1.0)

    def decisions(self, values: F64) -> I64:
        """Classes that values stand for: themselves, the largest along the last axis, or beyond the threshold."""
        if self.labels:
            return np.asarray(np.rint(values)).astype(np.int64).reshape(len(values), -1)
        rows = _rows(values)
        if rows.shape[-1] == 1:
            return np.asarray(rows[..., 0] > self.threshold).astype(np.int64)
        return np.asarray(np.argmax(rows, axis=-1))

    def swayed(self, got: F64, wanted: F64) -> npt.NDArray[np.bool_]:
        """Which values stand for another decision, or are another step away; in the shape of the values."""
        if self.kind is not MeasureKind.CLASSES:
            off = np.abs(_columns(np.asarray(got - wanted, dtype=np.float64))) / np.array(self.spreads)[:, None]
            return np.asarray(off > _STEP).reshape(wanted.shape)
        changed = self.decisions(got) != self.decisions(wanted)
        if self.labels:
            return np.asarray(changed.reshape(wanted.shape))
        rows = _rows(wanted)
        return np.broadcast_to(changed.reshape(*rows.shape[:-1], 1), rows.shape).reshape(wanted.shape)

    def margins(self, scores: F64) -> F64:
        """How clearly scores decide, for every decision; along their last axis, as indices of the largest are taken."""
        rows = scores if self.labels else _rows(scores)
        if rows.shape[-1] == 1:
            return (
                np.full(rows.shape[:-1], np.inf) if self.labels else np.asarray(np.abs(rows[..., 0] - self.threshold))
            )
        two = np.partition(rows, -2, axis=-1)[..., -2:]
        return np.asarray(two[..., 1] - two[..., 0])


@dataclass(frozen=True, eq=False)
class Truth:
    """What the float network gives on some samples, of one output.

    values: as the client sees it; scores: what its classes are the largest of; None where values are labels that no
    scores are known of.
    """

    values: F64
    scores: F64 | None


@dataclass(frozen=True, eq=False)
class Judge:
    """Judges outputs beside those of the float network on the same samples."""

    network: Graph
    measures: tuple[Measure, ...]
    limits: Limits
    truth: Mapping[str, Truth]

    @staticmethod
    def of(
        network: Graph, samples: Mapping[str, F64], limits: Limits, kinds: Mapping[str, MeasureKind] | None = None
    ) -> Judge:
        """Choose a measure for every output of ``network``, the float one; kinds: what the user says, by output name.

        GlyphcError for kinds of outputs that there are not, and for absolute ones without a limit.
        """
        kinds = dict(kinds or {})
        truth = _truth(network, samples)
        unknown = sorted(set(kinds) - set(truth))
        if unknown:
            raise GlyphcError(f"there is no output {unknown[0]!r} to measure; outputs: {', '.join(truth)}")
        absolute = next((name for name, kind in kinds.items() if kind is MeasureKind.ABSOLUTE), None)
        if absolute is not None and not limits.absolute:
            raise GlyphcError(
                f"the output {absolute!r} is to be judged in its own units: say how much it may err, with "
                "--logit-tolerance (logit_tolerance)"
            )
        default = MeasureKind.ABSOLUTE if limits.absolute else None
        measures = tuple(_measure(network, node, truth, kinds.get(op.name, default)) for node, op in network.of(Output))
        return Judge(network, measures, limits, truth)

    def on(self, samples: Mapping[str, F64]) -> Judge:
        """The same measures, on other samples."""
        return Judge(self.network, self.measures, self.limits, _truth(self.network, samples))

    def rows(self, which: slice) -> Judge:
        """The same, on some of the samples."""
        parts = {
            name: Truth(t.values[which], None if t.scores is None else t.scores[which])
            for name, t in self.truth.items()
        }
        return replace(self, truth=parts)

    def beside(self, outputs: Mapping[str, F64]) -> Judge:
        """The same measures beside these outputs instead of the float network's, on the same samples."""
        return replace(self, truth={name: Truth(np.asarray(values), None) for name, values in outputs.items()})

    def losses(self, outputs: Mapping[str, F64]) -> tuple[Loss, ...]:
        """Of every output; ``outputs``: real values by name, as the client sees them, of the samples of ``truth``."""
        return tuple(self.loss(m, np.asarray(outputs[m.output], dtype=np.float64)) for m in self.measures)

    def loss(self, measure: Measure, got: F64) -> Loss:
        """What one output loses."""
        truth = self.truth[measure.output]
        errors = measure.errors(got, truth.values)
        worst = int(np.argmax(errors))
        ties = 0
        match measure.kind:
            case MeasureKind.CLASSES:
                limit = self.limits.percent
                value, ties = self._changed(measure, got, truth)
            case MeasureKind.RELATIVE:
                limit, value = self.limits.spread, 100 * float(errors[worst])
            case MeasureKind.ABSOLUTE:
                limit, value = self.limits.absolute, float(np.sqrt(np.mean((got - truth.values) ** 2)))
        error = 100 * float(errors[worst])
        columns, spreads = len(errors), measure.spreads if len(errors) <= _KEPT_SPREADS else ()
        return Loss(
            *(measure.output, measure.kind, value, limit, len(got), error, worst, columns, ties, measure.reason),
            spreads=spreads,
        )

    def _changed(self, measure: Measure, got: F64, truth: Truth) -> tuple[float, int]:
        """Percent of decisions that change, and how many near ties among them were left out.

        Where samples are few and a single decision is more than the limit, they cannot tell a rate: a decision that
        the float network makes by a hair says nothing then.
        """
        changed = measure.decisions(got) != measure.decisions(truth.values)
        ties = 0
        few = changed.size < _FEW and 0 < self.limits.percent * changed.size < 100
        margins = measure.margins(truth.scores) if truth.scores is not None and few else np.zeros(0)
        if margins.size == changed.size:  # decisions that are put together otherwise have no margins
            margins = margins.reshape(changed.shape)
            near = changed & (margins <= _NEAR_TIE * np.median(margins))
            ties = int(near.sum())
            changed = changed & ~near
        return 100 * float(changed.mean()), ties


def worst(losses: Iterable[Loss]) -> Loss:
    """The loss that exceeds its limit most."""
    return max(losses, key=lambda loss: loss.excess)


def parse_kinds(given: Mapping[str, str] | Iterable[str]) -> dict[str, MeasureKind]:
    """Kinds by output name, from a mapping or from texts ``NAME=KIND``; GlyphcError for anything else."""
    items = given.items() if isinstance(given, Mapping) else [_split(text) for text in given]
    kinds: dict[str, MeasureKind] = {}
    for name, kind in items:
        if name in kinds:
            raise GlyphcError(f"the measure of output {name!r} is given twice")
        try:
            kinds[name] = MeasureKind(kind)
        except ValueError:
            known = ", ".join(k.value for k in MeasureKind)
            raise GlyphcError(f"output {name!r} cannot be measured by {kind!r}; measures: {known}") from None
    return kinds


def kinds_text(kinds: Mapping[str, MeasureKind]) -> str:
    """Kinds as an option of a pass: ``NAME=KIND`` with semicolons between; GlyphcError for names with other meaning."""
    for name in kinds:
        if set(name) & set(";{},"):
            raise GlyphcError(f"the measure of output {name!r} cannot be set: its name has a sign of ; , {{ }}")
    return ";".join(f"{name}={kind.value}" for name, kind in kinds.items())


def text(loss: Loss, samples: str = "calibration samples") -> str:
    """A loss in words; samples: of which kind they were."""
    of = f"{loss.samples} {'held-out ' if loss.held_out else ''}{samples}"
    match loss.kind:
        case MeasureKind.CLASSES:
            words = f"the class of {loss.value:.2f} % of {of} changes"
            if loss.near_ties:
                words += f" ({loss.near_ties} near-tie{'s' if loss.near_ties > 1 else ''} not counted)"
        case MeasureKind.RELATIVE:
            which = f" of column {loss.column + 1} of {loss.columns}" if loss.columns > 1 else ""
            words = f"rms error {loss.value:.2g} % of the spread{which} on {of}"
        case MeasureKind.ABSOLUTE:
            words = f"rms error {loss.value:.3g} of the outputs on {of}"
    limit = f"{loss.limit:g}{'' if loss.kind is MeasureKind.ABSOLUTE else ' %'}"
    return words + (f", {limit} tolerated" if loss.kept else f": more than the tolerated {limit}")


def value_text(loss: Loss) -> str:
    """How much was lost, with its unit."""
    return f"{loss.value:.2g}{'' if loss.kind is MeasureKind.ABSOLUTE else ' %'}"


# -- choosing --


def _measure(network: Graph, node: Node, truth: Mapping[str, Truth], asked: MeasureKind | None) -> Measure:
    assert isinstance(node.op, Output)
    name = node.op.name
    spreads = _spreads(truth[name].values)
    threshold = 0.5 if ends_in_sigmoid(network, node) else 0.0
    kind, reason = _kind(network, node, truth[name])
    if asked is not None and asked is not kind:
        kind, reason = asked, "as asked for"
    labels = truth[name].scores is None or any(isinstance(n.op, ArgMax) for n in _tail(network, node))
    return Measure(name, kind, reason, spreads, threshold, labels)


def _kind(network: Graph, node: Node, truth: Truth) -> tuple[MeasureKind, str]:
    """What the model says of an output, or its values show."""
    assert isinstance(node.op, Output)
    ends = {type(n.op) for n in _tail(network, node)}
    if ArgMax in ends:
        return MeasureKind.CLASSES, "as the network ends in the index of the largest value"
    if Softmax in ends:
        return MeasureKind.CLASSES, "as the network ends in a softmax"
    if truth.scores is None:
        return MeasureKind.CLASSES, "as its values are labels"
    rows = _rows(truth.values)
    if rows.ndim == 2 and rows.shape[1] > 1:
        if any(word in node.op.name.lower() for word in _CLASS_WORDS):
            return MeasureKind.CLASSES, f"as it is called {node.op.name!r}"
        if _compete(network, rows):
            return MeasureKind.CLASSES, "as its values compete like logits"
    return MeasureKind.RELATIVE, "as nothing says that it is a class"


def _compete(network: Graph, rows: F64) -> bool:
    """Whether columns behave as logits: of one size, each against the others, and not always the same one on top.

    What trains logits (a softmax) sees differences alone, so their sum hardly varies; targets that have nothing to do
    with each other vary in their sum as much as by themselves.
    """
    samples, columns = rows.shape
    if samples < _EVIDENCE or any(n.type.size == columns for n in network.inputs):
        return False  # too few samples, or the inputs themselves: a reconstruction
    variances = rows.var(axis=0)
    if variances.max() == 0 or variances.max() > _ALIKE**2 * variances.min():
        return False
    winners = np.bincount(np.argmax(rows, axis=1), minlength=columns)
    return bool(rows.sum(axis=1).var() < _COMPETING * variances.sum() and winners.max() < samples)


def ends_in_sigmoid(graph: Graph, node: Node) -> bool:
    """Whether an output is a probability."""
    while isinstance(node.op, Output | Reshape):
        (node,) = graph.operands(node)
    return isinstance(node.op, Apply) and any(f.name in ("sigmoid", "hard_sigmoid") for f in node.op.functions[-1:])


def _tail(network: Graph, output: Node) -> list[Node]:
    """What stands between an output and the last value that is neither a softmax, an index nor a reshape."""
    tail = []
    (node,) = network.operands(output)
    while isinstance(node.op, ArgMax | Softmax | Reshape):
        tail.append(node)
        (node,) = network.operands(node)
    return tail


def _truth(network: Graph, samples: Mapping[str, F64]) -> dict[str, Truth]:
    """Evaluated piece by piece: all values of a network on all samples may be more than the memory holds."""
    count = len(next(iter(samples.values())))
    pieces = [
        _truth_of(network, {name: x[first : first + _PIECE] for name, x in samples.items()})
        for first in range(0, count, _PIECE)
    ]
    return {name: _joined([piece[name] for piece in pieces]) for name in pieces[0]}


def _joined(pieces: Sequence[Truth]) -> Truth:
    scores = [piece.scores for piece in pieces if piece.scores is not None]
    return Truth(np.concatenate([piece.values for piece in pieces]), np.concatenate(scores) if scores else None)


def _truth_of(network: Graph, samples: Mapping[str, F64]) -> dict[str, Truth]:
    values = evaluate_all(network, samples)

    def of(node: Node) -> F64:
        return np.asarray(real(node, values[node.id]), dtype=np.float64)

    found = {}
    for node, op in network.of(Output):
        decided = [n for n in _tail(network, node) if isinstance(n.op, ArgMax | Softmax)]
        if decided:  # the first of them on the way to the output reads scores
            found[op.name] = Truth(of(node), of(network.operands(decided[-1])[0]))
        else:
            found[op.name] = Truth(of(node), None if _steps(network, node) else of(node))
    return found


def _steps(network: Graph, output: Node) -> bool:
    """Whether an output is made of decisions inside the network: 0 or 1, or a sign."""
    (node,) = network.operands(output)
    while isinstance(node.op, Reshape):
        (node,) = network.operands(node)
    return isinstance(node.op, Hardmax) or (
        isinstance(node.op, Apply) and any(f.name in _STEPS for f in node.op.functions[-1:])
    )


def _spreads(values: F64) -> tuple[float, ...]:
    """Standard deviations of columns; of constant ones (all, of a single sample) what they are like together."""
    columns = _columns(values)
    deviation = columns.std(axis=(0, 2))
    magnitude = np.abs(columns).max(axis=(0, 2))
    constant = deviation <= _ROUNDING * magnitude
    if constant.any():
        usual = float(np.sqrt(np.mean(magnitude[constant] ** 2))) or 1.0
        deviation = np.where(constant, np.maximum(magnitude, usual), deviation)
    return tuple(map(float, deviation))


def _columns(values: F64) -> F64:
    """As (samples, columns, places): each element is a column, but for images (three axes), whose channels are."""
    if values.ndim >= 4:
        return values.reshape(len(values), values.shape[1], -1)
    return values.reshape(len(values), -1, 1)


def _rows(values: F64) -> F64:
    """As (samples, *places, classes), without axes of length one; classes stand on the last axis."""
    shape = [n for n in values.shape[1:] if n > 1] or [1]
    return values.reshape(len(values), *shape)


def _split(given: str) -> tuple[str, str]:
    name, equals, kind = given.rpartition("=")
    if not equals or not name:
        raise GlyphcError(f"--measure {given!r} is not NAME=MEASURE, such as y=relative")
    return name, kind
