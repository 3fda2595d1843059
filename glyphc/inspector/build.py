"""Makes the report of a program: nothing is computed here that some other module has not defined."""

from __future__ import annotations

from collections.abc import Iterable
from math import log2

import numpy as np
import numpy.typing as npt

from glyphc.analysis import cost_file, noise
from glyphc.analysis.cost import CostModel
from glyphc.analysis.estimate import Estimate, estimate, instruction_costs
from glyphc.analysis.kernels_cost import for_engine
from glyphc.backends.engine import best_engine
from glyphc.diagnostics import expression, warnings
from glyphc.ir.functions import compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import (
    ClientRequest,
    ConjugateDot,
    Conjugates,
    ConstantBit,
    Divide,
    Dot,
    EncryptedDot,
    Evaluate,
    Free,
    FromTorus,
    Gate,
    Instruction,
    IntegerBlocks,
    IntegerDot,
    IntegerProduct,
    Load,
    Opposite,
    Powers,
    Split,
    Store,
    ToTorus,
)
from glyphc.ir.instructions.slots import Drop, SlotDot, SlotProduct
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.layout import Layout
from glyphc.ir.ops import (
    Apply,
    Bootstrap,
    ClientBits,
    ClientRefresh,
    Dense,
    Input,
    IntegerPolynomial,
    Linear,
    Output,
    Polynomial,
    Shorten,
    Switch,
    TableLookup,
    Unpack,
    WordTable,
)
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import OUTPUT_BITS, evaluate_series
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Level, Scheme, TensorType
from glyphc.ir.word_parameters import WordParameters
from glyphc.measures import value_text
from glyphc.passes.validate import ValidateNoise
from glyphc.program import INSECURE_WARNING, Program
from glyphc.run_record import RunRecord
from glyphc.ways.noise import predicted_noise

from .placing import place
from .report import (
    Choice,
    EdgeReport,
    Fact,
    Fit,
    Histogram,
    NodeReport,
    NoiseBudget,
    Positions,
    Report,
    Ruling,
    Span,
)

# Points of a fit plot.
_POINTS = 201
# Neighbouring instructions of one node and kind are one span when there are more than so many.
_SPANS = 4000

_KINDS: tuple[tuple[type, str], ...] = (
    (Input, "input"),
    (Output, "output"),
    (Linear, "linear"),
    (Dense, "linear"),
    (Bootstrap, "bootstrap"),
    (Apply, "function"),
    (Polynomial, "function"),
    (IntegerPolynomial, "function"),
    (TableLookup, "function"),
    (Shorten, "linear"),
    (WordTable, "function"),
    (ClientRefresh, "client"),
    (ClientBits, "client"),
    (Switch, "switch"),
    (Unpack, "unpack"),
)
_INSTRUCTIONS: tuple[tuple[type, str], ...] = (
    (Load, "load"),
    (Dot, "linear"),
    (EncryptedDot, "linear"),
    (ConjugateDot, "linear"),
    (Split, "unpack"),
    (Conjugates, "unpack"),
    (Divide, "unpack"),
    (ToTorus, "switch"),
    (FromTorus, "switch"),
    (Powers, "bootstrap"),
    (Evaluate, "bootstrap"),
    (Store, "store"),
    (Free, "free"),
    (SlotDot, "linear"),
    (SlotProduct, "function"),
    (Drop, "switch"),
    (IntegerDot, "linear"),
    (IntegerProduct, "function"),
    (IntegerBlocks, "linear"),
    (ClientRequest, "client"),
    (Gate, "bootstrap"),
    (Opposite, "linear"),
    (ConstantBit, "linear"),
)


def build(
    program: Program, title: str, stage: str | None = None, run: RunRecord | None = None, cost: CostModel | None = None
) -> Report:
    """The report of a program's final graph, or of the graph after a stage (which has no times and no timeline)."""
    engine = run.predicted_engine if run is not None else None
    engine = engine or best_engine(program.client.parameters, here=False)[0].name
    cost = for_engine(cost or cost_file.current(), engine)
    graph = program.graph if stage is None else program.stages[stage]
    final = graph is program.graph
    estimates = estimate(program.schedule, cost)
    nodes = _Nodes(graph, estimates if final else None, run if final else None)
    placing = place({n.id: n.operands for n in graph})
    reports = tuple(nodes.report(n, placing.nodes[n.id]) for n in graph)
    return Report(
        title=title,
        stage=stage or next(reversed(program.stages)),
        level=graph.level.value,
        secure=program.secure,
        warning="" if program.secure else INSECURE_WARNING,
        facts=_facts(program, estimates),
        notes=_notes(graph, run),
        run=_run_facts(run),
        encrypted=run is not None and run.mode == "encrypted",
        nodes=reports,
        edges=tuple(EdgeReport(a, b, bends) for (a, b), bends in placing.bends.items()),
        layouts=tuple(nodes.layouts.values()),
        fits=tuple(nodes.fits.values()),
        predicted=_predicted(program, cost) if final else (),
        measured=_measured(program, run) if final and run is not None else (),
        width=placing.width,
        height=placing.height,
        pitch=placing.pitch,
    )


class _Nodes:
    """Nodes of one graph; equal layouts and fits are kept once. layouts, fits: by what makes them equal."""

    def __init__(self, graph: Graph, estimates: Estimate | None, run: RunRecord | None) -> None:
        self.graph = graph
        self.estimates = estimates
        self.measured = run.node_seconds_of_a_pass if run is not None else {}
        self.layouts: dict[Layout, Positions] = {}
        self.fits: dict[object, Fit] = {}
        self.noise: dict[int, noise.Noise] = {}
        if graph.level is Level.LAIDOUT and graph.parameters is not None:
            self.noise = predicted_noise(graph)

    def report(self, node: Node, at: tuple[float, float]) -> NodeReport:
        type, fixed = node.type, node.type.fixed
        kind = next((k for cls, k in _KINDS if isinstance(node.op, cls)), "other")
        if type.scheme is Scheme.CLIENT and kind != "output":
            kind = "client"
        return NodeReport(
            id=node.id,
            kind=kind,
            op=node.op.mnemonic,
            expression=expression(self.graph, node),
            location=node.location or (node.op.name if isinstance(node.op, Input | Output) else ""),
            operands=node.operands,
            users=tuple(u.id for u in self.graph.users(node)),
            shape=type.shape,
            scheme="" if type.scheme is None else type.scheme.value,
            encoding="" if type.encoding is None else type.encoding.value,
            bits=None if fixed is None else fixed.bits,
            range=None if fixed is None else (_short(fixed.real_lo), _short(fixed.real_hi)),
            histogram=_histogram(type),
            fit=self._fit(node),
            noise=self._noise(node),
            layout=self._layout(type.layout),
            predicted=None if self.estimates is None else self.estimates.node_seconds.get(node.id),
            measured=self.measured.get(node.id),
            decisions=tuple(
                Ruling(
                    d.made_by,
                    tuple(Choice(c.name, c.seconds, c.reason, c.name == d.chosen) for c in d.candidates),
                    d.warning,
                )
                for d in node.decisions
            ),
            place=at,
        )

    def _layout(self, layout: Layout | None) -> int | None:
        if layout is None:
            return None
        if layout not in self.layouts:
            self.layouts[layout] = Positions(
                layout.ring,
                layout.batch,
                layout.features,
                layout.parts,
                layout.chunks,
                layout.stride,
                layout.batch_stride,
                int(layout.positions(0).size),
                layout.occupancy,
            )
        return list(self.layouts).index(layout)

    def _fit(self, node: Node) -> int | None:
        if not isinstance(node.op, Bootstrap | Polynomial):
            return None
        (operand,) = self.graph.operands(node)
        if isinstance(node.op, Polynomial):
            key: object = (node.op, operand.type.fixed, node.type.fixed)
            if key not in self.fits:
                self.fits[key] = _sampled_polynomial(node, node.op, operand)
            return list(self.fits).index(key)
        key = (node.op.functions, node.op.series, node.op.divisor, operand.type.fixed, node.type.fixed)
        if key not in self.fits:
            self.fits[key] = self._sampled(node, node.op, operand)
        return list(self.fits).index(key)

    def _sampled(self, node: Node, op: Bootstrap, operand: Node) -> Fit:
        source, target, parameters = operand.type.fixed, node.type.fixed, self.graph.parameters
        assert source is not None and target is not None and isinstance(parameters, Parameters)
        integers = np.linspace(source.lo, source.hi, _POINTS)
        x = integers * source.scale[0] + source.offset[0]
        modulus = float(parameters.plaintext_modulus)
        y = evaluate_series(op.series, integers / modulus) * modulus * op.divisor / 2.0**OUTPUT_BITS
        return Fit(
            " then ".join(map(str, op.functions)),
            op.series.degree,
            op.series.max_error,
            op.series.rms_error,
            op.series.dead_zone * modulus * source.scale[0],
            _shortened(x),
            _shortened(compose(op.functions, x)),
            _shortened(y * target.scale[0] + target.offset[0]),
        )

    def _noise(self, node: Node) -> NoiseBudget | None:
        fixed, n = node.type.fixed, self.noise.get(node.id)
        if fixed is None or n is None or not fixed.uniform:
            return None
        scale, span = fixed.scale[0], fixed.real_hi - fixed.real_lo
        # the limit that validate-noise enforces
        validator = ValidateNoise()
        limit = max(fixed.magnitude * 2.0**-validator.precision, 0.5) / validator.deviations
        left = log2(limit / n.white) if n.white > 0 else None
        simulated = None if node.type.calibration is None else node.type.calibration.error
        total = n.total * scale if simulated is None else simulated
        return NoiseBudget(n.white * scale, n.bootstrap * scale, n.approximation * scale, total, total / span, left)


def _sampled_polynomial(node: Node, op: Polynomial, operand: Node) -> Fit:
    source, target = operand.type.fixed, node.type.fixed
    assert source is not None and target is not None
    integers = np.linspace(source.lo, source.hi, _POINTS)
    x = integers * source.scale[0] + source.offset[0]
    y = np.polynomial.chebyshev.chebval(integers / source.magnitude, np.array(op.fit.coefficients)) * target.magnitude
    return Fit(
        " then ".join(map(str, op.functions)),
        op.fit.degree,
        op.fit.max_error,
        op.fit.rms_error,
        0.0,
        _shortened(x),
        _shortened(compose(op.functions, x)),
        _shortened(y * target.scale[0] + target.offset[0]),
    )


def _histogram(type: TensorType) -> Histogram | None:
    calibration, fixed = type.calibration, type.fixed
    if calibration is None or not calibration.histogram:
        return None
    allowed = None if fixed is None else (_short(fixed.real_lo), _short(fixed.real_hi))
    return Histogram(_short(calibration.lo), _short(calibration.hi), calibration.histogram, allowed)


def _facts(program: Program, estimates: Estimate) -> tuple[Fact, ...]:
    p, batch = program.client.parameters, program.client.batch
    passes = -(-program.requested_batch // batch)
    per_sample = estimates.seconds / batch
    if isinstance(p, WordParameters):
        gates = sum(isinstance(i, Gate) for i in program.schedule.instructions)
        return (
            Fact("time", _seconds(estimates.seconds), "predicted, a sample"),
            Fact("gates", f"{gates:,}", "a bootstrap each"),
            Fact("client", _seconds(estimates.client_seconds), f"upload {estimates.upload_bytes / 1e6:.1f} MB"),
            Fact("memory", f"{estimates.memory_bytes / 1e9:.1f} GB", f"keys {estimates.key_bytes / 1e6:.0f} MB"),
            Fact("security", "128-bit" if p.secure else "none", p.security),
            Fact("words", f"{p.bits} bits", f"FHEW, n = {p.dimension}, ring {p.ring:,}"),
        )
    if isinstance(p, SlotParameters | IntegerParameters):
        what = (
            f"BFV, moduli {p.modulus_bits} bits"
            if isinstance(p, IntegerParameters)
            else f"CKKS, {p.depth} levels of {p.scaling_bits} bits"
        )
        return (
            Fact("time", _seconds(estimates.seconds), f"predicted, a pass of {batch}"),
            Fact("per sample", _seconds(per_sample), f"{passes} pass{'es' if passes > 1 else ''}"),
            Fact("client", _seconds(estimates.client_seconds), f"upload {estimates.upload_bytes / 1e6:.0f} MB"),
            Fact("memory", f"{estimates.memory_bytes / 1e9:.1f} GB", f"keys {estimates.key_bytes / 1e6:.0f} MB"),
            Fact("security", "128-bit" if p.secure else "none", p.security),
            Fact("ring", f"{p.ring:,}", what),
            Fact("slots", f"{p.slots:,}", "a sample in each"),
        )
    facts = [
        Fact("time", _seconds(estimates.seconds), f"predicted, a pass of {batch}"),
        Fact("per sample", _seconds(per_sample), f"{passes} pass{'es' if passes > 1 else ''}"),
        Fact("bootstraps", str(estimates.bootstraps), _seconds(estimates.bootstrap_seconds)),
        Fact("memory", f"{estimates.memory_bytes / 1e9:.1f} GB", f"keys {estimates.key_bytes / 1e9:.1f} GB"),
        Fact("security", "128-bit" if p.secure else "none", p.security),
        Fact("ring", f"{p.ring:,}", f"t = 2^{p.plaintext_bits}, BGV {p.bgv_bits} bits"),
    ]
    if p.slots:
        facts.append(Fact("slots", f"{p.slots:,}", f"{p.depth} levels, degree {p.degree}"))
    return tuple(facts)


def _notes(graph: Graph, run: RunRecord | None) -> tuple[str, ...]:
    notes = warnings(graph)
    if run is not None and run.mode != "encrypted":
        notes.append(f"The recorded run was in {run.mode} mode: its times are not those of encryption.")
    return tuple(notes)


def _run_facts(run: RunRecord | None) -> tuple[Fact, ...]:
    if run is None:
        return ()
    stages = [Fact(name, _seconds(seconds), "") for name, seconds in run.stages]
    evaluated = dict(run.stages).get("evaluate", 0.0) / max(1, run.samples)
    return (
        Fact("mode", run.mode, run.security),
        Fact("engine", run.engine, "predictions are of the same" if run.predicted_engine else ""),
        Fact("samples", str(run.samples), f"{run.passes} pass(es), {_seconds(evaluated)} per sample evaluated"),
        *stages,
        *_loss_facts(run),
        Fact("memory", f"{run.peak_memory / 1e9:.2f} GB", "peak of the process"),
    )


def _loss_facts(run: RunRecord) -> list[Fact]:
    """What every output lost, beside what it was to lose."""
    promised = {loss.output: value_text(loss) for loss in run.promised}
    several = len(run.losses) > 1
    return [
        Fact(
            f"lost, {loss.output}" if several else "lost",
            value_text(loss),
            f"{loss.kind.value}; promised {promised.get(loss.output, 'nothing')}",
        )
        for loss in run.losses
    ]


def _predicted(program: Program, cost: CostModel) -> tuple[Span, ...]:
    at, spans = 0.0, []
    costs = instruction_costs(program.schedule, cost)
    for instruction, seconds in zip(program.schedule.instructions, costs, strict=True):
        spans.append(_span(instruction, at, seconds))
        at += seconds
    return _joined(spans)


def _measured(program: Program, run: RunRecord) -> tuple[Span, ...]:
    instructions = program.schedule.instructions
    steps = [s for s in run.steps if s.instruction < len(instructions)]
    return _joined([_span(instructions[s.instruction], s.start, s.seconds) for s in steps])


def _span(instruction: Instruction, start: float, seconds: float) -> Span:
    kind = next((k for cls, k in _INSTRUCTIONS if isinstance(instruction, cls)), None)
    if kind is None:
        raise AssertionError(f"the instruction {instruction.mnemonic!r} has no place in the timeline")
    return Span(start, seconds, kind, instruction.node, 1)


def _joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Without what takes no time; neighbours of one node and kind as one where there are too many."""
    kept: list[Span] = [s for s in spans if s.seconds > 0]
    many = len(kept) > _SPANS
    out: list[Span] = []
    for s in kept:
        last = out[-1] if out else None
        if many and last is not None and (last.kind, last.node) == (s.kind, s.node):
            out[-1] = Span(last.start, s.start + s.seconds - last.start, s.kind, s.node, last.count + 1)
        else:
            out.append(s)
    return tuple(Span(_short(s.start, 6), _short(s.seconds, 6), s.kind, s.node, s.count) for s in out)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _short(value: float, digits: int = 5) -> float:
    """Fewer digits: what a picture shows."""
    return float(f"{value:.{digits}g}")


def _shortened(values: npt.NDArray[np.floating]) -> tuple[float, ...]:
    return tuple(_short(float(v)) for v in values)
