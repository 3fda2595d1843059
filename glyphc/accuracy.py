"""Where accuracy is lost: float, quantized, with series, with simulated noise, encrypted; per stage and per node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.backends.recording import record
from glyphc.backends.simulate import SimulatedMachine
from glyphc.codec import check_inputs, decode, encode
from glyphc.diagnostics import align, expression
from glyphc.errors import DataError, GlyphcError
from glyphc.ir.evaluate import Override, Value, apply_client_op, dequantize, evaluate_all
from glyphc.ir.functions import compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import (
    Apply,
    ArgMax,
    Bootstrap,
    Dense,
    Input,
    Linear,
    Output,
    Polynomial,
    Reshape,
    Softmax,
    Switch,
    Unpack,
)
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import OUTPUT_BITS, evaluate_series
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Level
from glyphc.passes.schedule import chunk_order
from glyphc.program import Program
from glyphc.runtime import Fresh, Mode, run

F64 = npt.NDArray[np.floating[Any]]

# More nodes than these are not made exact one by one: each takes an evaluation of the whole network.
_MOST = 200


@dataclass(frozen=True)
class StageLoss:
    """Errors of the outputs against the float network's, in their own units; shares of the samples.

    rms, largest: None for the float network itself. same_class: as the float network's, and correct: as the labels say;
    None where y holds targets. error: rms difference from the targets; None where y holds labels.
    """

    stage: str
    rms: float | None
    largest: float | None
    same_class: float | None
    correct: float | None
    error: float | None


@dataclass(frozen=True)
class NodeLoss:
    """Rms errors of a node's values against the float network's, as shares of the range of those, [lo, hi].

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
    """samples: how many were evaluated. nodes: those that the float network has too, and all bootstraps, in order."""

    samples: int
    stages: tuple[StageLoss, ...]
    nodes: tuple[NodeLoss, ...]


def accuracy(program: Program, x: Any, y: Any, encrypted: Any = None) -> Accuracy:
    """Evaluate samples x of shape (samples, *input shape), or a mapping by input name, in every way there is.

    y: labels, integers of shape (samples,), or targets in the shape of the output. Labels of a network with a single
    output are 0 and 1: outputs above 0 are of class 1, behind a sigmoid those above 0.5. encrypted: results of an
    encrypted run on x. Raises DataError for what does not fit the program, GlyphcError for programs without a float
    network, ArtifactError for one without the values of its encrypted weights.
    """
    program.require_weights()
    samples = check_inputs(program.client, x)
    reference = next((g for g in reversed(program.stages.values()) if g.level is Level.SOURCE), None)
    if reference is None:
        raise GlyphcError("the program was compiled from a quantized graph: there is no float network to compare with")
    if len(program.client.outputs) != 1:
        raise GlyphcError(f"the network has {len(program.client.outputs)} outputs; accuracy is told of one")
    return _Comparison(program, reference, samples).result(np.asarray(y), encrypted)


def accuracy_text(found: Accuracy) -> str:
    """Stages and nodes in aligned columns; most important nodes marked."""
    rows: list[tuple[str, ...]] = [("stage", "rms error", "largest", "same class", "correct", "off target")]
    for s in found.stages:
        numbers = ("" if v is None else f"{v:.3g}" for v in (s.rms, s.largest))
        shares = ("" if v is None else f"{v:.2%}" for v in (s.same_class, s.correct))
        rows.append((s.stage, *numbers, *shares, "" if s.error is None else f"{s.error:.4g}"))
    table: list[tuple[str, ...]] = [("node", "from", "range", "quantized", "series", "simulated", "contributes")]
    for n in found.nodes:
        errors = ("" if v is None else f"{v:.3%}" for v in (n.quantized, n.series, n.simulated))
        interval = "" if n.lo is None else f"[{n.lo:.4g}, {n.hi:.4g}]"
        part = "" if n.contributes is None else f"{n.contributes:.0%}"
        table.append((n.expression, f"@{n.location}", interval, *errors, part))
    lines = [
        f"{found.samples} samples; errors of the outputs against the float network",
        "",
        align(rows),
        "",
        "rms errors of every node, as shares of its range; contributes: share of the outputs' squared error that goes",
        "when this node alone computes its function instead of a series",
        "",
        align(table),
    ]
    return "\n".join([*lines, *_advice(found)])


def _advice(found: Accuracy) -> list[str]:
    """What to change, if one thing stands out."""
    errors = {s.stage: s.rms or 0.0 for s in found.stages}
    worst = max(found.nodes, key=lambda n: n.contributes or 0.0, default=None)
    if errors["quantized"] > 0.7 * errors["series"]:
        text = "most is lost by fixed point: try more input_bits, activation_bits or weight_precision (pass quantize)"
    elif errors["simulated"] > 1.5 * errors["series"]:
        text = (
            "most is lost by noise: try fewer activation_bits (pass quantize), so that noise is a smaller part of them"
        )
    elif worst is not None and (worst.contributes or 0.0) > 0.05:
        text = f"most is lost by the series of %{worst.node} (@{worst.location}): try a smaller --tolerance"
    else:
        return []
    return ["", text]


class _Comparison:
    """A program on samples. exact: values of the float network's nodes, by id; twins: final node -> float node."""

    def __init__(self, program: Program, reference: Graph, samples: Mapping[str, F64]) -> None:
        self.program, self.graph, self.samples = program, program.graph, dict(samples)
        self.count = len(next(iter(self.samples.values())))
        self.in_slots = isinstance(self.graph.parameters, SlotParameters)
        self.exact = evaluate_all(reference, self.samples)
        self.twins = _twins(self.graph, reference)
        self.port = program.client.outputs[0]
        ((output, _),) = self.graph.of(Output)
        self.output = output
        ((self.float_output, _),) = reference.of(Output)
        self.threshold = 0.5 if _ends_in_sigmoid(reference, self.float_output) else 0.0

    def result(self, y: npt.NDArray[Any], encrypted: Any) -> Accuracy:
        target = np.asarray(self.exact[self.float_output.id], dtype=np.float64)
        labels = self._labels(y, target)
        # in slots the final graph is one of polynomials; the nodes of the quantized one have the same numbers
        quantized = evaluate_all(self.program.quantized if self.in_slots else self.graph, self.samples)
        series = evaluate_all(self.graph, self.samples, self._series())
        noisy_output, noisy = self._simulated()
        outputs = {
            "float": target,
            "quantized": np.asarray(quantized[self.output.id], dtype=np.float64),
            "series": np.asarray(series[self.output.id], dtype=np.float64),
            "simulated": noisy_output,
        }
        if encrypted is not None:
            outputs["encrypted"] = self._given(encrypted, target)
        stages = tuple(self._stage(name, value, target, labels, y) for name, value in outputs.items())
        parts = self._contributions(target, outputs["series"])
        nodes = []
        for node in self.graph:
            if node.id in self.twins and (node.id in noisy or self.in_slots or isinstance(node.op, Input)):
                nodes.append(self._node(node, quantized, series, noisy, parts.get(node.id)))
            elif isinstance(node.op, Bootstrap | Polynomial):
                text = expression(self.graph, node)
                nodes.append(NodeLoss(node.id, text, node.location, None, None, None, None, None, parts.get(node.id)))
        return Accuracy(self.count, stages, tuple(nodes))

    # -- the ways to evaluate --

    def _series(self, exact: int | None = None) -> Override:
        """Bootstraps compute their series, but the one with the id ``exact`` its function."""
        parameters = self.graph.parameters
        modulus = float(parameters.plaintext_modulus) if isinstance(parameters, Parameters) else 1.0

        def override(node: Node, operands: tuple[Value, ...]) -> Value | None:
            if isinstance(node.op, Bootstrap | Polynomial) and node.id == exact:
                return self._function(node, node.op, operands[0])
            if isinstance(node.op, Bootstrap):
                # like the real one, it does not round: from here on, values are floats in units of the format
                phases = evaluate_series(node.op.series, np.asarray(operands[0], dtype=np.float64) / modulus)
                return np.asarray(phases * (modulus * node.op.divisor / 2.0**OUTPUT_BITS))
            if self.in_slots:
                return None
            fixed = self.graph.operands(node)[0].type.fixed
            if isinstance(node.op, Output | Softmax | ArgMax) and fixed is not None:
                decrypted = dequantize(operands[0], fixed)
                return decrypted if isinstance(node.op, Output) else apply_client_op(node.op, decrypted)
            return None

        return override

    def _function(self, node: Node, op: Bootstrap | Polynomial, operand: Value) -> F64:
        """The function of an approximate value, in units of the node's format and not rounded."""
        source, target = self.graph.operands(node)[0].type.fixed, node.type.fixed
        assert source is not None and target is not None
        y = compose(op.functions, dequantize(operand, source))
        return np.asarray((y - target.offset[0]) / target.scale[0])

    def _simulated(self) -> tuple[F64, dict[int, F64]]:
        """Output and real values by node, pass by pass through the simulator."""
        schedule, client = self.program.schedule, self.program.client
        if self.in_slots:
            (found,) = run(self.program, self.samples, Mode.SIMULATE).outputs.values()
            return found, {}
        gains = _gains(self.graph)
        outputs: list[F64] = []
        values: dict[int, list[F64]] = {}
        machine = SimulatedMachine(schedule)
        order = chunk_order(self.program.graph)
        for first in range(0, self.count, client.batch):
            rows = slice(first, min(first + client.batch, self.count))
            inputs = {p.name: Fresh(encode(p, self.samples[p.name][rows]), machine.encrypt) for p in client.inputs}
            results, nodes = record(schedule, machine, inputs, self.twins, order)
            coefficients = np.array([machine.decrypt(c) for c in results[self.port.name]])
            outputs.append(decode(self.port, coefficients, rows.stop - rows.start))
            for id, ciphertexts in nodes.items():
                values.setdefault(id, []).append(self._decoded(id, ciphertexts, rows.stop - rows.start, gains))
        return np.concatenate(outputs), {id: np.concatenate(parts) for id, parts in values.items()}

    def _decoded(self, id: int, ciphertexts: list[Any], samples: int, gains: Mapping[int, float]) -> F64:
        node = self.graph.node(id)
        layout, fixed = node.type.layout, node.type.fixed
        assert layout is not None and fixed is not None
        integers = layout.unpack(np.array(ciphertexts), samples) * gains[id]
        return np.asarray(integers * np.array(fixed.scale) + np.array(fixed.offset))

    def _contributions(self, target: F64, with_series: F64) -> dict[int, float]:
        """How much of the output's squared error goes when one nonlinearity is exact."""
        whole = float(np.mean((with_series - target) ** 2))
        nodes = [node.id for node in self.graph if isinstance(node.op, Bootstrap | Polynomial)]
        if not whole or len(nodes) > _MOST:
            return {}
        out = {}
        for id in nodes:
            values = evaluate_all(self.graph, self.samples, self._series(exact=id))
            rest = np.asarray(values[self.output.id], dtype=np.float64) - target
            out[id] = 1.0 - float(np.mean(rest**2)) / whole
        return out

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

    def _stage(self, name: str, value: F64, target: F64, labels: Any, y: npt.NDArray[Any]) -> StageLoss:
        off = value - target
        first = name == "float"
        return StageLoss(
            name,
            None if first else float(np.sqrt(np.mean(off**2))),
            None if first else float(np.abs(off).max()),
            float(np.mean(self._classes(value) == self._classes(target))) if labels is not None and not first else None,
            None if labels is None else float(np.mean(self._classes(value) == labels)),
            None if labels is not None else float(np.sqrt(np.mean((value - y.reshape(value.shape)) ** 2))),
        )

    @property
    def _gives_class(self) -> bool:
        return any(isinstance(op, ArgMax) for op in self.port.tail)

    def _classes(self, value: F64) -> npt.NDArray[np.int64]:
        flat = value.reshape(self.count, -1)
        if self._gives_class:
            return flat[:, 0].astype(np.int64)
        return np.argmax(flat, axis=1) if flat.shape[1] > 1 else (flat[:, 0] > self.threshold).astype(np.int64)

    def _labels(self, y: npt.NDArray[Any], target: F64) -> npt.NDArray[np.int64] | None:
        """Class labels, or None where y holds targets; DataError when it is neither."""
        if y.dtype.kind not in "fiub" or len(y) != self.count:
            raise DataError(
                f"{self.count} samples need as many labels or targets, not {y.dtype} of shape {list(y.shape)}"
            )
        several = self._gives_class or target.reshape(self.count, -1).shape[1] > 1
        classes = several or (target.size == self.count and bool(np.isin(y, (0, 1)).all()))
        if y.size == self.count and classes and np.all(y == np.rint(y)):
            return y.reshape(-1).astype(np.int64)
        if y.size != target.size:
            raise DataError(f"labels are integers of shape (samples,), targets have shape {list(target.shape)}")
        return None

    def _given(self, encrypted: Any, target: F64) -> F64:
        value = np.asarray(encrypted)
        if value.dtype.kind != "f" or value.shape != target.shape:
            wanted = f"floats of shape {list(target.shape)}"
            raise DataError(f"the results of the encrypted run are {value.dtype} of {list(value.shape)}, not {wanted}")
        return value.astype(np.float64)


def _ends_in_sigmoid(graph: Graph, node: Node) -> bool:
    """Whether an output is a probability."""
    while isinstance(node.op, Output | Reshape):
        (node,) = graph.operands(node)
    return isinstance(node.op, Apply) and node.op.functions[-1].name in ("sigmoid", "hard_sigmoid")


def _gains(graph: Graph) -> dict[int, float]:
    """Value over message of every encrypted node: bootstraps divide by a factor, unpackings multiply by it again."""
    gains: dict[int, float] = {}
    for node in graph:
        before = gains.get(node.operands[0], 1.0) if node.operands else 1.0
        if isinstance(node.op, Bootstrap):
            gains[node.id] = float(node.op.divisor)
        elif isinstance(node.op, Unpack):
            gains[node.id] = before / node.op.parts
        else:
            gains[node.id] = before if isinstance(node.op, Switch | Reshape) else 1.0
    return gains


def _twins(graph: Graph, reference: Graph) -> dict[int, int]:
    """Nodes of the final graph and those of the float network that compute the same value: same kind, same place."""
    kinds: dict[type, str] = {Input: "input", Dense: "linear", Linear: "linear", Apply: "function"}
    kinds |= {Bootstrap: "function", Polynomial: "function"}

    def key(node: Node) -> tuple[str, str] | None:
        kind = kinds.get(type(node.op))
        name = node.op.name if isinstance(node.op, Input) else node.location
        return None if kind is None or not name else (kind, name)

    known: dict[tuple[str, str], list[Node]] = {}
    for node in reference:
        if (found := key(node)) is not None:
            known.setdefault(found, []).append(node)
    out = {}
    for node in graph:
        candidates = known.get(key(node) or ("", ""), [])
        if len(candidates) == 1 and candidates[0].type.size == node.type.size:
            out[node.id] = candidates[0].id
    return out
