"""Where accuracy is lost: float, quantized, with series, with simulated noise, encrypted; per stage and per node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.approximate import with_series
from glyphc.backends.recording import record
from glyphc.backends.simulate import SimulatedMachine
from glyphc.codec import check_inputs, decode, encode
from glyphc.diagnostics import expression
from glyphc.errors import DataError, GlyphcError
from glyphc.ir.accuracy import Loss, MeasureKind
from glyphc.ir.evaluate import Value, dequantize, evaluate_all
from glyphc.ir.graph import Graph, Node
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.ops import Bootstrap, Fold, Input, Interleave, Output, Pixels, Polynomial, Reshape, Switch, Unpack
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.word_parameters import WordParameters
from glyphc.measures import Measure
from glyphc.measures import text as loss_text
from glyphc.passes.node_errors import twins
from glyphc.passes.schedule import chunk_order
from glyphc.program import Program
from glyphc.promises import float_network, judge, prepared_network
from glyphc.runtime import Fresh, Mode, run
from glyphc.text_tables import align

F64 = npt.NDArray[np.floating[Any]]

# More nodes than these are not made exact one by one: each takes an evaluation of the whole network.
_MOST = 200
# Share of a spread that reordering sums may change.
_SAME = 1e-6


@dataclass(frozen=True)
class StageLoss:
    """Errors of one output against the float network's, in their own units; shares of the decisions.

    stage: "replaced" is in float, too, with what stands for functions that a strategy or an expansion replaces.
    loss: by the output's own measure; it, rms and largest are None for the float network itself. same_class: as the
    float network's, and correct: as the labels say; None where y holds targets. error: rms difference from the targets;
    None where y holds labels.
    """

    output: str
    stage: str
    loss: Loss | None
    rms: float | None
    largest: float | None
    same_class: float | None
    correct: float | None
    error: float | None


@dataclass(frozen=True)
class NodeLoss:
    """Rms errors of a node's values against the float network's, as shares of the range of those, [lo, hi].

    Where functions are replaced, the float network is the one with what stands for them: its nodes are the twins.
    All None for a bootstrap without a counterpart in the float network, e.g. one of merged branches.
    contributes: the share of the squared error of the outputs (with series) that goes when this node alone computes its
    function instead of a series; None where it was not worked out, and for what has no series.
    """

    node: int
    expression: str
    location: str
    lo: float | None
    hi: float | None
    quantized: float | None
    series: float | None
    simulated: float | None
    contributes: float | None


@dataclass(frozen=True)
class Accuracy:
    """samples: how many were evaluated. stages: of every output, one output after the other. nodes: those that the
    float network has too, and all bootstraps, in order."""

    samples: int
    stages: tuple[StageLoss, ...]
    nodes: tuple[NodeLoss, ...]


def accuracy(program: Program, x: Any, y: Any, encrypted: Any = None) -> Accuracy:
    """Evaluate samples x of shape (samples, *input shape), or a mapping by input name, in every way there is.

    y: labels, integers of shape (samples,), or targets in the shape of the output; of several outputs, a mapping of
    these by name, or labels of all that have classes. Labels of an output of one value are 0 and 1: outputs above 0 are
    of class 1, behind a sigmoid those above 0.5. encrypted: results of an encrypted run on x, by name if there are
    several. Raises DataError for what does not fit the program, GlyphcError for programs without a float
    network, ArtifactError for one without the values of its encrypted weights.
    """
    program.require_weights()
    samples = check_inputs(program.client, x)
    network, prepared = float_network(program), prepared_network(program)
    if network is None or prepared is None:
        raise GlyphcError("the program was compiled from a quantized graph: there is no float network to compare with")
    return _Comparison(program, network, prepared, samples).result(y, encrypted)


def accuracy_text(found: Accuracy) -> str:
    """Stages of every output and nodes in aligned columns; most important nodes marked."""
    outputs = dict.fromkeys(s.output for s in found.stages)
    lines = [f"{found.samples} samples; errors of the outputs against the float network", ""]
    for output in outputs:
        lines += [*_stages_text([s for s in found.stages if s.output == output], len(outputs) > 1), ""]
    table: list[tuple[str, ...]] = [("node", "from", "range", "quantized", "series", "simulated", "contributes")]
    for n in found.nodes:
        errors = ("" if v is None else f"{v:.3%}" for v in (n.quantized, n.series, n.simulated))
        interval = "" if n.lo is None else f"[{n.lo:.4g}, {n.hi:.4g}]"
        part = "" if n.contributes is None else f"{n.contributes:.0%}"
        table.append((n.expression, f"@{n.location}", interval, *errors, part))
    lines += [
        "rms errors of every node, as shares of its range; contributes: share of the outputs' squared error that goes",
        "when this node alone computes its function instead of a series",
        "",
        align(table),
    ]
    return "\n".join([*lines, *_advice(found)])


def _stages_text(stages: list[StageLoss], named: bool) -> list[str]:
    """One output: how it is judged, and a line for each stage."""
    rows: list[tuple[str, ...]] = [
        ("stage", "rms error", "largest", "of the spread", "same class", "correct", "off target")
    ]
    for s in stages:
        numbers = ("" if v is None else f"{v:.3g}" for v in (s.rms, s.largest))
        spread = "" if s.loss is None else f"{s.loss.error:.3g} %"
        shares = ("" if v is None else f"{v:.2%}" for v in (s.same_class, s.correct))
        rows.append((s.stage, *numbers, spread, *shares, "" if s.error is None else f"{s.error:.4g}"))
    (loss,) = {s.loss for s in stages if s.stage == "simulated"}
    assert loss is not None
    output = f"output {loss.output}, " if named else ""
    return [f"{output}measure {loss.kind.value}, {loss.reason}; simulated: {loss_text(loss, 'samples')}", align(rows)]


def _advice(found: Accuracy) -> list[str]:
    """What to change, if one thing stands out."""
    errors: dict[str, float] = {}
    for s in found.stages:
        if s.loss is not None:
            errors[s.stage] = max(errors.get(s.stage, 0.0), s.loss.error)
    worst = max(found.nodes, key=lambda n: n.contributes or 0.0, default=None)
    if errors.get("replaced", 0.0) > 0.7 * errors["simulated"]:
        text = "most is lost by what replaces functions: try another strategy or degree, or training again"
    elif "series" not in errors:
        return []  # how many bits exact integers have is the choice of fit-integers
    elif errors["quantized"] > 0.7 * errors["series"]:
        text = "most is lost by fixed point: try more input_bits, activation_bits or weight_precision (pass quantize)"
    elif errors["simulated"] > 1.5 * errors["series"]:
        text = "most is lost by noise: try more activation_bits (pass quantize), so that bootstraps give larger values"
    elif worst is not None and (worst.contributes or 0.0) > 0.05:
        text = f"most is lost by the series of %{worst.node} (@{worst.location}): try a smaller --tolerance"
    else:
        return []
    return ["", text]


class _Comparison:
    """A program on samples. network: as given, beside which outputs are judged; prepared: in float, but with what
    stands for functions that it replaces. exact: values of the nodes of the latter, by id; twins: final node -> that.
    """

    def __init__(self, program: Program, network: Graph, prepared: Graph, samples: Mapping[str, F64]) -> None:
        self.program, self.graph, self.samples = program, program.graph, dict(samples)
        self.count = len(next(iter(self.samples.values())))
        self.exactly = isinstance(self.graph.parameters, IntegerParameters | WordParameters)
        self.in_slots = self.exactly or isinstance(self.graph.parameters, SlotParameters)
        self.exact = evaluate_all(prepared, self.samples)
        self.twins = twins(self.graph, prepared)
        self.outputs = {op.name: node for node, op in self.graph.of(Output)}
        self.judge = judge(program, network, self.samples)
        self.prepared: dict[str, F64] = {
            op.name: np.asarray(self.exact[n.id], dtype=np.float64) for n, op in prepared.of(Output)
        }

    def result(self, y: Any, encrypted: Any) -> Accuracy:
        truth = {name: t.values for name, t in self.judge.truth.items()}
        given = {name: self._answers(name, y) for name in truth}
        labels = {name: self._labels(name, answers) for name, answers in given.items()}
        # in slots the final graph is one of polynomials; the nodes of the quantized one have the same numbers. Of exact
        # integers the final graph alone says how they are quantized, and there are no series
        split = self.in_slots and not self.exactly
        quantized = evaluate_all(self.program.quantized if split else self.graph, self.samples)
        series = quantized if self.exactly else evaluate_all(self.graph, self.samples, with_series(self.graph))
        noisy_outputs, noisy = self._simulated()
        ways = {"float": truth}
        if self._replaced():
            ways["replaced"] = self.prepared
        ways["quantized"] = self._results(quantized)
        if not self.exactly:
            ways["series"] = self._results(series)
        ways["simulated"] = noisy_outputs
        if encrypted is not None:
            ways["encrypted"] = self._given(encrypted)
        stages = tuple(
            self._stage(measure, way, values[measure.output], labels[measure.output], given[measure.output])
            for measure in self.judge.measures
            for way, values in ways.items()
        )
        parts = self._contributions(self._results(series))
        nodes = []
        for node in self.graph:
            if node.id in self.twins and (node.id in noisy or self.in_slots or isinstance(node.op, Input)):
                nodes.append(self._node(node, quantized, series, noisy, parts.get(node.id)))
            elif isinstance(node.op, Bootstrap | Polynomial):
                text = expression(self.graph, node)
                nodes.append(NodeLoss(node.id, text, node.location, None, None, None, None, None, parts.get(node.id)))
        return Accuracy(self.count, stages, tuple(nodes))

    # -- the ways to evaluate --

    def _replaced(self) -> bool:
        """Whether what is quantized computes something else than the network as given, beyond rounding."""
        measures, truth = self.judge.measures, self.judge.truth
        errors = [m.errors(self.prepared[m.output], truth[m.output].values).max() for m in measures]
        return not all(error <= _SAME for error in errors)

    def _results(self, values: Mapping[int, Value]) -> dict[str, F64]:
        return {name: np.asarray(values[node.id], dtype=np.float64) for name, node in self.outputs.items()}

    def _simulated(self) -> tuple[dict[str, F64], dict[int, F64]]:
        """Outputs and real values by node, pass by pass through the simulator."""
        schedule, client = self.program.schedule, self.program.client
        if self.in_slots:
            return run(self.program, self.samples, Mode.SIMULATE).outputs, {}
        gains = _gains(self.graph)
        outputs: dict[str, list[F64]] = {port.name: [] for port in client.outputs}
        values: dict[int, list[F64]] = {}
        machine = SimulatedMachine(schedule)
        order = chunk_order(self.program.graph)
        for first in range(0, self.count, client.batch):
            rows = slice(first, min(first + client.batch, self.count))
            inputs = {p.name: Fresh(encode(p, self.samples[p.name][rows]), machine.encrypt) for p in client.inputs}
            results, nodes = record(schedule, machine, inputs, self.twins, order)
            for port in client.outputs:
                coefficients = np.array([machine.decrypt(c) for c in results[port.name]])
                outputs[port.name].append(decode(port, coefficients, rows.stop - rows.start))
            for id, ciphertexts in nodes.items():
                values.setdefault(id, []).append(self._decoded(id, ciphertexts, rows.stop - rows.start, gains))
        whole = {name: np.concatenate(parts) for name, parts in outputs.items()}
        return whole, {id: np.concatenate(parts) for id, parts in values.items()}

    def _decoded(self, id: int, ciphertexts: list[Any], samples: int, gains: Mapping[int, float]) -> F64:
        node = self.graph.node(id)
        layout, fixed = node.type.layout, node.type.fixed
        assert layout is not None and fixed is not None
        integers = layout.unpack(np.array(ciphertexts), samples) * gains[id]
        return np.asarray(integers * np.array(fixed.scale) + np.array(fixed.offset))

    def _contributions(self, approximate: Mapping[str, F64]) -> dict[int, float]:
        """How much of the outputs' squared error, beside their spreads, goes when one nonlinearity is exact."""
        whole = self._squared(approximate)
        nodes = [node.id for node in self.graph if isinstance(node.op, Bootstrap | Polynomial)]
        if not whole or len(nodes) > _MOST:
            return {}
        out = {}
        for id in nodes:
            values = evaluate_all(self.graph, self.samples, with_series(self.graph, exact=id))
            out[id] = 1.0 - self._squared(self._results(values)) / whole
        return out

    def _squared(self, outputs: Mapping[str, F64]) -> float:
        measures, truth = self.judge.measures, self.judge.truth
        errors = [np.mean(m.errors(outputs[m.output], truth[m.output].values) ** 2) for m in measures]
        return float(np.sum(errors))

    # -- comparing --

    def _node(
        self,
        node: Node,
        quantized: Mapping[int, Value],
        series: Mapping[int, Value],
        noisy: Mapping[int, F64],
        contributes: float | None,
    ) -> NodeLoss:
        exact = np.asarray(self.exact[self.twins[node.id]], dtype=np.float64).reshape(self.count, -1)
        span = float(np.ptp(exact)) or 1.0
        fixed = node.type.fixed
        assert fixed is not None
        rounded = dequantize(quantized[node.id], fixed)
        # what fresh encryption adds to inputs does not show
        values = (rounded, dequantize(series[node.id], fixed), noisy.get(node.id, rounded))
        rms = [float(np.sqrt(np.mean((v.reshape(self.count, -1) - exact) ** 2))) / span for v in values]
        label = node.op.name if isinstance(node.op, Input) else node.location
        lo, hi = float(exact.min()), float(exact.max())
        return NodeLoss(node.id, expression(self.graph, node), label, lo, hi, rms[0], rms[1], rms[2], contributes)

    def _stage(self, measure: Measure, way: str, value: F64, labels: Any, answers: Any) -> StageLoss:
        target = self.judge.truth[measure.output].values
        off = value - target
        first = way == "float"
        same = measure.decisions(value) == measure.decisions(target)
        classes = labels is not None or (answers is None and measure.kind is MeasureKind.CLASSES)
        return StageLoss(
            measure.output,
            way,
            None if first else self.judge.loss(measure, value),
            None if first else float(np.sqrt(np.mean(off**2))),
            None if first else float(np.abs(off).max()),
            float(np.mean(same)) if classes and not first else None,
            None if labels is None else float(np.mean(measure.decisions(value).reshape(labels.shape) == labels)),
            None if labels is not None or answers is None else self._off_target(value, answers),
        )

    def _off_target(self, value: F64, answers: npt.NDArray[Any]) -> float:
        return float(np.sqrt(np.mean((value - answers.reshape(value.shape)) ** 2)))

    def _answers(self, name: str, y: Any) -> npt.NDArray[Any] | None:
        """What is known of an output, from labels or targets of all; None where that says nothing of it."""
        if isinstance(y, Mapping):
            unknown = sorted(set(y) - set(self.outputs))
            if unknown:
                raise DataError(f"labels of an unknown output {unknown[0]!r}; outputs: {', '.join(self.outputs)}")
            return np.asarray(y[name]) if name in y else None
        answers = np.asarray(y)
        measure = next(m for m in self.judge.measures if m.output == name)
        classes = measure.kind is MeasureKind.CLASSES and answers.size == self.count
        if len(self.outputs) > 1 and not classes and answers.size != self.judge.truth[name].values.size:
            return None
        return answers

    def _labels(self, name: str, y: npt.NDArray[Any] | None) -> npt.NDArray[np.int64] | None:
        """Class labels, or None where y holds targets; DataError when it is neither."""
        if y is None:
            return None
        target = self.judge.truth[name].values
        if y.dtype.kind not in "fiub" or len(y) != self.count:
            raise DataError(
                f"{self.count} samples need as many labels or targets, not {y.dtype} of shape {list(y.shape)}"
            )
        measure = next(m for m in self.judge.measures if m.output == name)
        several = measure.labels or target.reshape(self.count, -1).shape[1] > 1
        classes = several or (target.size == self.count and bool(np.isin(y, (0, 1)).all()))
        if y.size == self.count and classes and np.all(y == np.rint(y)):
            return y.reshape(measure.decisions(target).shape).astype(np.int64)
        if y.size != target.size:
            raise DataError(f"labels are integers of shape (samples,), targets have shape {list(target.shape)}")
        return None

    def _given(self, encrypted: Any) -> dict[str, F64]:
        given = encrypted if isinstance(encrypted, Mapping) else dict.fromkeys(self.outputs, encrypted)
        found: dict[str, F64] = {}
        for name in self.outputs:
            value, target = np.asarray(given.get(name)), self.judge.truth[name].values
            if value.dtype.kind != "f" or value.shape != target.shape:
                wanted = f"floats of shape {list(target.shape)}"
                raise DataError(
                    f"the results of the encrypted run are {value.dtype} of {list(value.shape)}, not {wanted}"
                    + (f" (output {name!r})" if len(self.outputs) > 1 else "")
                )
            found[name] = value.astype(np.float64)
        return found


def _gains(graph: Graph) -> dict[int, float]:
    """Value over message of every encrypted node: bootstraps divide by a factor, unpackings multiply by it again."""
    gains: dict[int, float] = {}
    for node in graph:
        before = gains.get(node.operands[0], 1.0) if node.operands else 1.0
        if isinstance(node.op, Bootstrap):
            gains[node.id] = float(node.op.divisor)
        elif isinstance(node.op, Unpack):
            gains[node.id] = before / node.op.gain
        else:
            gains[node.id] = before if isinstance(node.op, Switch | Reshape | Pixels | Interleave | Fold) else 1.0
    return gains
