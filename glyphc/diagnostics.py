"""What people read about programs and runs: aligned text, totals, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from glyphc.analysis import cost_file
from glyphc.analysis.cost import CostModel
from glyphc.analysis.estimate import Estimate, estimate
from glyphc.analysis.kernels_cost import MODELLED, for_engine
from glyphc.analysis.security import modulus_limit
from glyphc.backends.engine import best_engine, engine
from glyphc.guard_band_report import guard_band
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
    IntegerBlocks,
    IntegerDot,
    IntegerProduct,
    Load,
    Opposite,
    Powers,
    Schedule,
    Split,
    Store,
    ToTorus,
    TransientDot,
)
from glyphc.ir.instructions.slots import Drop, SlotDot, SlotProduct
from glyphc.ir.integer_parameters import IntegerParameters, ProgramParameters
from glyphc.ir.layout import Layout
from glyphc.ir.op import weight_shape
from glyphc.ir.ops import (
    Apply,
    Bootstrap,
    Dense,
    Fold,
    Input,
    IntegerPolynomial,
    Linear,
    Output,
    Polynomial,
    Switch,
    TableLookup,
    Unpack,
    WordTable,
)
from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Encoding, Level, TensorType
from glyphc.ir.word_parameters import WordParameters
from glyphc.passes.assign_budget import AssignBudget
from glyphc.passes.fit_integers import FitIntegers
from glyphc.passes.fit_polynomials import FitPolynomials
from glyphc.passes.fit_words import FitWords
from glyphc.passes.select_slots import SelectSlots
from glyphc.passes.uploads import could_be_dense
from glyphc.program import INSECURE_WARNING, Program
from glyphc.promises import accuracy_lines, losses_lines
from glyphc.runtime import Mode, RunReport
from glyphc.slot_totals import integer_totals, slot_totals
from glyphc.text_tables import align, counted
from glyphc.ways.noise import predicted_noise
from glyphc.word_totals import word_totals

# Signs of a cell in the listing of instructions, unless it is to be wide.
_WIDTH = 40
COLUMNS = ("node", "shape", "scheme", "layout", "range", "precision", "error", "predicted", "measured", "from")


def graph_text(
    graph: Graph,
    estimates: Estimate | None = None,
    seconds: dict[int, float] | None = None,
    columns: Sequence[str] = COLUMNS,
    mode: str = Mode.ENCRYPTED.value,
) -> str:
    """A line for each node, with the given ones of ``COLUMNS``; columns in which nothing would stand are left out.

    seconds: measured in a run in that mode.
    """
    errors = _errors(graph)
    measured_in = "measured" if mode == Mode.ENCRYPTED.value else f"measured ({mode} mode)"
    rows: list[Sequence[str]] = [[measured_in if c == "measured" else c for c in columns]]
    for node in graph:
        predicted = estimates.node_seconds.get(node.id) if estimates else None
        measured = seconds.get(node.id) if seconds else None
        cells = {
            "node": expression(graph, node),
            "shape": "x".join(map(str, node.type.shape)) or "scalar",
            "scheme": _scheme(node.type),
            "layout": _layout(node.type.layout),
            "range": _range(node.type),
            "precision": _precision(graph, node),
            "error": errors.get(node.id, ""),
            "predicted": _seconds(predicted),
            "measured": _seconds(measured),
            "from": f"@{node.location}" if node.location else "",
        }
        rows.append([cells[c] for c in columns])
    return align(rows)


def summary(program: Program, cost: CostModel | None = None) -> str:
    """Schedule, totals and guard band of a compiled program.

    Predictions are of the engine that would execute it here, in totals those of every engine that could.
    """
    best = best_engine(program.client.parameters, here=False)[0].name
    estimates = predicted(program, cost, best)
    exact = isinstance(program.client.parameters, IntegerParameters | WordParameters)
    band = [] if exact else ["", guard_band(program.quantized, program.graph)]
    others = {
        name: predicted(program, cost, name)
        for name in MODELLED
        if name != best and isinstance(program.client.parameters, Parameters) and _can(name, program)
    }
    parts = [graph_text(program.graph, estimates), "", totals(program, estimates, best, others), *band]
    doubts = [f"warning     {text}" for text in warnings(program.graph)]
    if not program.secure:
        doubts.append(INSECURE_WARNING)
    return "\n".join([*parts, "", *doubts] if doubts else parts)


def _can(name: str, program: Program) -> bool:
    """Whether an engine takes a program, and this processor the engine."""
    found = engine(name)
    return found.refusal(program.client.parameters) is None and found.processor_problem() is None


def warnings(graph: Graph) -> list[str]:
    """What passes warn of, with the node; without one and once, where it is about the whole network."""
    found = ((n, d) for n in graph for d in n.decisions if d.warning)
    whole = (AssignBudget.name, FitPolynomials.name, FitIntegers.name, SelectSlots.name, FitWords.name)
    return list(dict.fromkeys(d.warning if d.made_by in whole else f"{n}: {d.warning}" for n, d in found))


def predicted(program: Program, cost: CostModel | None = None, engine: str | None = None) -> Estimate:
    """What one pass of a program is expected to take, by default on the machine of the user's cost model.

    engine: the one that executes it, by default the first that takes such programs.
    """
    name = engine or best_engine(program.client.parameters, here=False)[0].name
    return estimate(program.schedule, for_engine(cost or cost_file.current(), name))


def schedule_text(schedule: Schedule, wide: bool = False) -> str:
    """A line for each instruction: what it does to which registers, and the node it comes from.

    wide: all registers and names, however many and long; otherwise what makes the columns wide is shortened.
    """
    limit = 0 if wide else _WIDTH
    rows = [("instruction", "target", "sources", "what", "node")]
    for i in schedule.instructions:
        match i:
            case Load(target=t, name=name, part=part):
                row = ("load", f"r{t}", "", f"{name}[{part}]")
            case TransientDot(target=t, sources=sources, weights=weights, total=total):
                earlier = "" if total is None else f" + r{total}"
                row = ("transient dot", f"r{t}", _registers(sources), f"{len(sources)} x {weights}{earlier}")
            case Dot(target=t, sources=sources, weights=weights, total=total):
                earlier = "" if total is None else f" + r{total}"
                row = ("dot", f"r{t}", _registers(sources), f"{len(sources)} x {weights}{earlier}")
            case EncryptedDot(target=t, sources=sources, weights=weights, total=total):
                earlier = "" if total is None else f" + r{total}"
                row = ("encrypted dot", f"r{t}", _registers(sources), f"{len(sources)} x {weights}{earlier}")
            case ConjugateDot(target=t, sources=sources, weights=weights, total=total, parts=parts):
                earlier = "" if total is None else f" + r{total}"
                what = f"{i.count * parts} parts x {weights}{earlier}"
                row = ("conjugate dot", f"r{t}", _registers(sources), what)
            case Conjugates(targets=targets, source=source, parts=parts, stride=stride):
                row = ("conjugates", _registers(targets), f"r{source}", f"for {parts} classes of stride {stride}")
            case Split(targets=targets, source=source, parts=parts, stride=stride):
                row = ("split", _registers(targets), f"r{source}", f"{parts} classes of stride {stride}")
            case Divide(target=t, source=source, factor=factor):
                row = ("divide", f"r{t}", f"r{source}", f"by {factor}, exactly")
            case ToTorus(target=t, source=source, slots=slots):
                row = ("to torus", f"r{t}", f"r{source}", f"{slots} slots")
            case FromTorus(target=t, source=source):
                row = ("from torus", f"r{t}", f"r{source}", "")
            case Powers(target=t, source=source, slots=slots, degree=degree):
                row = ("powers", f"r{t}", f"r{source}", f"degree {degree}, {slots} slots")
            case Evaluate(target=t, powers=powers, functions=functions, divisor=divisor, mask=mask):
                kept = "" if mask is None else f", keeps {mask}"
                row = ("evaluate", f"r{t}", f"r{powers}", f"{' then '.join(map(str, functions))} / {divisor}{kept}")
            case SlotDot(target=t, sources=sources, bias=bias):
                row = ("dot", f"r{t}", _registers(sources), f"{len(sources)} numbers, bias {bias:.3g}")
            case SlotProduct(target=t, pairs=pairs, sources=sources):
                products = " ".join(f"r{a}*r{b}" for a, b in pairs)
                row = ("product", f"r{t}", products, f"+ {len(sources)} x numbers" if sources else "")
            case Drop(target=t, source=source, levels=levels):
                row = ("drop", f"r{t}", f"r{source}", f"to {counted(levels, 'level')}")
            case IntegerDot(target=t, sources=sources, bias=bias):
                row = ("dot", f"r{t}", _registers(sources), f"{len(sources)} integers, bias {bias}")
            case IntegerProduct(target=t, a=a, b=b):
                row = ("product", f"r{t}", f"r{a}*r{b}", "")
            case IntegerBlocks(target=t, sources=sources, block=block, bias=bias):
                row = ("block sum", f"r{t}", _registers(sources), f"blocks of {block} slots, bias {bias}")
            case ClientRequest(targets=targets, sources=sources, request=request):
                what = f"times {request.ratio:.3g}, rounded"
                if request.bits:
                    what = f"{request.bits} bits of {request.ratio:.3g} v + {request.shift:.3g}"
                row = ("client", _registers(targets), _registers(sources), what)
            case Gate(target=t, kind=gate, sources=sources, negated=negated):
                bits = " ".join(f"{'not ' if no else ''}r{r}" for r, no in zip(sources, negated, strict=True))
                row = ("gate", f"r{t}", bits, gate.value)
            case Opposite(target=t, source=source):
                row = ("not", f"r{t}", f"r{source}", "")
            case ConstantBit(target=t, value=value):
                row = ("constant", f"r{t}", "", str(int(value)))
            case Store(source=source, name=name, part=part):
                row = ("store", "", f"r{source}", f"{name}[{part}]")
            case Free(registers=registers):
                row = ("free", "", _registers(registers), "")
            case _:
                raise AssertionError(f"there is no line for the instruction {i.mnemonic!r}")
        kind, made, read, what = (_elided(cell, limit) for cell in row)
        rows.append((kind, made, read, what, f"%{i.node}"))
    return align(rows)


def _registers(registers: tuple[int, ...]) -> str:
    """A list of registers, runs shortened."""
    runs: list[list[int]] = []
    for register in registers:
        if runs and register == runs[-1][-1] + 1:
            runs[-1].append(register)
        else:
            runs.append([register])
    shown = ([f"r{run[0]}..r{run[-1]}"] if len(run) > 2 else [f"r{r}" for r in run] for run in runs)
    return " ".join(text for texts in shown for text in texts)


def _elided(text: str, limit: int) -> str:
    """A cell of at most ``limit`` signs (0: any number), without its middle if need be; of registers, whole ones."""
    if not limit or len(text) <= limit:
        return text
    words = text.split(" ")
    if all(word.startswith("r") for word in words) and len(words) > 2:
        last = f" ... {words[-1]}"
        kept = text[: limit - len(last) + 1].rpartition(" ")[0]
        return kept + last
    side = (limit - 3) // 2
    return f"{text[: limit - 3 - side]}...{text[-side:]}"


def totals(
    program: Program, estimates: Estimate, engine: str = "openfhe", others: Mapping[str, Estimate] | None = None
) -> str:
    """Bootstraps, predicted time and memory, key size, security, parameters.

    engine: the one of the estimates; others: estimates of other engines.
    """
    p = program.client.parameters
    if isinstance(p, SlotParameters):
        lost = _fitted(program, FitPolynomials.name, SelectSlots.name, "polynomials")
        return slot_totals(program, estimates, p, lost, _security(p))
    if isinstance(p, IntegerParameters):
        lost = _fitted(program, FitIntegers.name, FitIntegers.name, "integers")
        return integer_totals(program, estimates, p, lost, _security(p))
    if isinstance(p, WordParameters):
        return word_totals(
            program, estimates, p, _fitted(program, FitWords.name, FitWords.name, "integers"), _security(p)
        )
    batch = program.client.batch
    passes = -(-program.requested_batch // batch)
    asked = f" ({program.requested_batch} samples take {passes} passes)" if passes > 1 else ""
    sent = sum(port.layout.ciphertexts for port in program.client.inputs)
    budget = next((d for n in program.graph for d in n.decisions if d.made_by == AssignBudget.name), None)
    lines = [
        f"batch       {counted(batch, 'sample')} per pass{asked}",
        f"bootstraps  {estimates.bootstraps} per pass, each refreshes up to {2 * p.slots:,} values "
        f"({_fill(program.graph)})"
        if p.slots
        else "bootstraps  none",
        f"time        {estimates.seconds:.1f} s per pass predicted, {estimates.seconds / batch * 1e3:.1f} ms per "
        f"sample ({estimates.bootstrap_seconds:.1f} s in bootstraps) on the engine {engine}, as measured on "
        f"{estimates.measured_on}",
        f"memory      {estimates.memory_bytes / 1e9:.1f} GB peak predicted; evaluation keys "
        f"{estimates.key_bytes / 1e9:.1f} GB of it",
        *(
            f"            on the engine {name}: {e.seconds:.1f} s, {e.memory_bytes / 1e9:.1f} GB, keys "
            f"{e.key_bytes / 1e9:.1f} GB"
            for name, e in (others or {}).items()
        ),
        f"upload      {estimates.upload_bytes / 1e6:.1f} MB per pass, {counted(sent, 'ciphertext')}"
        f"{_smaller_upload(program.graph)}",
        f"security    {_security(p, engine)}",
        *(f"            on the engine {name}: {_security(p, name)}" for name in (others or {})),
        f"parameters  ring {p.ring}, t = 2^{p.plaintext_bits}, BGV modulus {p.bgv_bits} bits"
        + (", one prime on the engine kernels" if p.sum_limbs == 1 else "")
        + (
            f"; bootstrap: degree {p.degree}, {_levels(p, engine)}, {counted(p.slots, 'slot')}, level budget "
            f"{p.level_budget[0]}+{p.level_budget[1]}"
            + (f", {counted(p.baby_steps, 'baby step')}" if p.baby_steps else "")
            if p.slots
            else ""
        ),
    ]
    if budget is not None:
        lines[2:2] = accuracy_lines(budget.losses, f"series: {budget.chosen}")
    elif AssignBudget.name in program.stages and p.slots:
        lines.insert(2, "accuracy    not simulated, no error budget: there were no calibration samples")
    return "\n".join(lines)


def _smaller_upload(graph: Graph) -> str:
    """That there is one, which takes the server longer."""
    decisions = (d for n, _ in graph.of(Input) for d in n.decisions)
    return "; --prefer traffic makes them fewer (inspect --why)" if any(map(could_be_dense, decisions)) else ""


def _fitted(program: Program, fitted_by: str, judged_by: str, what: str) -> list[str]:
    """Accuracy lines of a program in slots: what functions became by one pass, what that loses by another."""
    made = {d.made_by: d for n in program.graph for d in n.decisions}
    if judged_by not in made:
        return []
    how = f"{what}: {made[fitted_by].chosen}" if fitted_by in made else f"no {what}"
    return accuracy_lines(made[judged_by].losses, how)


def run_summary(report: RunReport) -> str:
    """Time by stage, per sample, memory, security of a run."""
    rows = [("stage", "seconds")] + [(name, f"{s:.2f}") for name, s in report.seconds.items()]
    evaluated = report.seconds.get("evaluate", 0.0)
    lines = [align(rows), ""]
    per_sample = evaluated / report.samples * 1e3
    lines.append(
        f"samples     {report.samples} in {report.passes} pass{'es' if report.passes > 1 else ''}; "
        f"{per_sample:.3g} ms per sample evaluated"
    )
    if report.bootstrap_seconds and report.mode is Mode.ENCRYPTED:
        lines.append(
            f"bootstraps  {report.bootstrap_seconds:.2f} s of {evaluated:.2f} s evaluation: it takes "
            f"{evaluated / report.bootstrap_seconds:.3f} x the bare bootstrap calls"
        )
    if report.mode is Mode.ENCRYPTED:
        lines.append(f"engine      {report.engine}" + (f" ({report.engine_reason})" if report.engine_reason else ""))
    lines += losses_lines(report.promised, report.losses)
    lines.append(f"memory      {report.peak_memory / 1e9:.2f} GB peak of this process")
    lines.append(f"security    {report.security if report.security != 'insecure' else INSECURE_WARNING}")
    lines += [] if report.learns is None else [f"learns      {report.learns}"]
    return "\n".join(lines)


# -- columns --


def expression(graph: Graph, node: Node) -> str:
    """A node on one line: its op, operands, and what matters of its attributes."""
    op = node.op
    operands = ", ".join(f"%{i}" for i in node.operands)
    if isinstance(op, Input | Output):
        text = f"{op.mnemonic} {op.name} {operands}".rstrip()
    elif isinstance(op, Apply | Bootstrap):
        name = " then ".join(map(str, op.functions))
        kept = "" if op.mask is None else f", keeps {op.mask}"
        text = f"{'bootstrap ' if isinstance(op, Bootstrap) else ''}{name}({operands}){kept}"
    elif isinstance(op, TableLookup | WordTable):
        text = f"table for {' then '.join(map(str, op.functions))}({operands})"
    elif isinstance(op, Polynomial | IntegerPolynomial):
        text = f"polynomial for {' then '.join(map(str, op.functions))}({operands})"
    elif isinstance(op, Switch):
        text = f"switch {operands} {op.source.value}->{op.target.value}"
    elif isinstance(op, Unpack):
        text = f"unpack {operands} into {op.parts}" + (" exactly" if op.gain == 1 < op.parts else "")
        text += f", {op.edges} columns at either end of a row" if op.edges else ""
    elif isinstance(op, Fold):
        text = f"fold({operands}), every {op.by} pixels of a row as one"
    elif isinstance(op, Linear | Dense):
        shapes = [weight_shape(w, graph.constants) for w in op.weights]
        hidden = "encrypted " if isinstance(op, Linear) and op.encrypted else ""
        text = f"{hidden}{op.mnemonic}({operands}) {shapes[0][0]}x{'+'.join(str(columns) for _, columns in shapes)}"
    else:
        text = f"{op.mnemonic}({operands})"
    return f"%{node.id} = {text}"


def _scheme(type: TensorType) -> str:
    return "" if type.scheme is None else type.scheme.value


def _layout(layout: Layout | None) -> str:
    if layout is None:
        return ""
    count = f"{layout.chunks} x {layout.parts}" if layout.chunks > 1 else f"{layout.parts}"
    return f"{count} ct, {layout.occupancy:.1%} full, stride {layout.stride}/{layout.batch_stride}"


def _range(type: TensorType) -> str:
    return "" if type.calibration is None else f"[{type.calibration.lo:.4g}, {type.calibration.hi:.4g}]"


def _precision(graph: Graph, node: Node) -> str:
    fixed = node.type.fixed
    width = 0 if fixed is None else fixed.word_bits if node.type.encoding is Encoding.BITS else fixed.bits
    text = f"{width} bits" if width else ""
    if isinstance(node.op, Polynomial):
        fit = node.op.fit
        largest, rms = (np.log2(max(e, 2.0**-99)) for e in (fit.max_error, fit.rms_error))
        text += f", degree {fit.degree} (fit max 2^{largest:.1f} rms 2^{rms:.1f})"
    if isinstance(node.op, Bootstrap):
        series = node.op.series
        largest, rms = (np.log2(max(e, 2.0**-99)) for e in (series.max_error, series.rms_error))
        text += f", degree {series.degree} (fit max 2^{largest:.1f} rms 2^{rms:.1f})"
        if series.dead_zone:
            source = graph.operands(node)[0].type.fixed
            assert source is not None and isinstance(graph.parameters, Parameters)
            zone = series.dead_zone * graph.parameters.plaintext_modulus * source.scale[0]
            text += f", dead zone {zone:.2g} on either side of a jump"
    return text


def _errors(graph: Graph) -> dict[int, str]:
    """Rms error of every value, in real units: as it was simulated, else as the noise model predicts it."""
    if graph.level is not Level.LAIDOUT or graph.parameters is None:
        return {}
    out = {}
    for id, n in predicted_noise(graph).items():
        fixed, calibration = graph.node(id).type.fixed, graph.node(id).type.calibration
        if calibration is not None and calibration.error is not None:
            out[id] = f"{calibration.error:.1e}"
        elif fixed is not None and fixed.uniform:
            out[id] = f"{n.total * fixed.scale[0]:.1e}"
    return out


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def _fill(graph: Graph) -> str:
    """How full the bootstraps of each value are: functions of one value share theirs."""
    shares = {}
    for node, op in graph.of(Bootstrap):
        assert node.type.layout is not None
        layout = node.type.layout
        # of images, no more than one group of channels in a ciphertext
        shares[graph.bootstrapped(node).id] = graph.batch * node.type.size / (layout.ciphertexts * 2 * op.slots)
    return "full: " + ", ".join(f"{s:.0%}" for s in shares.values())


def _security(parameters: ProgramParameters, engine: str = "openfhe") -> str:
    """What protects the keys that this engine takes, and who checks it."""
    if not parameters.secure:
        return "NOT SECURE: a small ring, for tests only"
    if engine != "kernels" or not isinstance(parameters, Parameters):
        return f"128-bit ({parameters.security}, checked by OpenFHE when keys are made)"
    from glyphc.backends.kernels.shape import EngineShape  # loads compiled code

    bits = EngineShape(parameters).modulus_bits
    return (
        f"128-bit ({parameters.security} for the BGV context, checked by OpenFHE; keys of log QP {bits:.0f} under our "
        f"bound of {modulus_limit(parameters)}, checked when they are made and when they are read)"
    )


def _levels(parameters: Parameters, engine: str) -> str:
    """The bootstrap's levels and their bits, which are the engine's own."""
    if engine != "kernels":
        return f"{counted(parameters.depth, 'level')} of {parameters.scaling_bits} bits"
    from glyphc.backends.kernels.shape import EngineShape

    levels = EngineShape(parameters).chain_bits[1:]
    return f"{len(levels)} levels of {min(levels)} to {max(levels)} bits"
