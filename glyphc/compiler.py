"""From a model to a program: the named stages of compilation."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphc import secret_weights
from glyphc.analysis import cost_file
from glyphc.analysis.cost import CostModel
from glyphc.analysis.kernels_cost import MODELLED
from glyphc.analysis.security import check_insecure_ring
from glyphc.codec import by_name
from glyphc.constraints import Constraints, Prefer, batch_seconds, best, check, in_passes, parse_prefer
from glyphc.errors import CalibrationError, GlyphcError
from glyphc.ir.accuracy import MeasureKind
from glyphc.ir.graph import Graph, Rewriter
from glyphc.ir.ops import Input
from glyphc.ir.parameters import INSECURE
from glyphc.ir.types import Encoding, Level
from glyphc.measures import kinds_text, parse_kinds
from glyphc.passes.assign_budget import AssignBudget
from glyphc.passes.assign_layout import AssignLayout
from glyphc.passes.base import MEMORY, Context, Pass
from glyphc.passes.fit_integers import FitIntegers
from glyphc.passes.fit_polynomials import FitPolynomials
from glyphc.passes.fit_words import FitWords
from glyphc.passes.merge import Merge
from glyphc.passes.pipeline import parse_pipeline, remaining, run_pipeline
from glyphc.passes.quantize import Quantize
from glyphc.passes.schemes import DEFAULT_STRATEGY, AssignScheme
from glyphc.passes.select_integers import SelectIntegers
from glyphc.passes.select_parameters import SelectParameters
from glyphc.passes.select_slots import SelectSlots
from glyphc.passes.tolerance import TolerancePass
from glyphc.passes.uploads import Uploads
from glyphc.passes.validate import ValidateSecurity
from glyphc.program import Program
from glyphc.progress import Silent
from glyphc.slow import check_patience
from glyphc.sources import is_graph, read_model, with_hints
from glyphc.substitution import changes
from glyphc.text_tables import counted
from glyphc.ways import strategies
from glyphc.ways.strategies import Size

if TYPE_CHECKING:
    import numpy.typing as npt

    from glyphc.progress import Reporter
    from glyphc.train.retraining import Data


# Passes that judge accuracy, as they are where nobody tells them anything of it.
_UNTOLD = (AssignBudget(), FitPolynomials(), FitIntegers(), FitWords(), FitWords(security=INSECURE))


@dataclass
class _Stages:
    """Graphs by stage name, in order; a stage is named after the pass that made it."""

    graphs: dict[str, Graph]

    def observe(self, name: str, graph: Graph) -> None:
        if not name.startswith("validate-"):
            self.graphs[name] = graph


def compile(
    model: str | os.PathLike[str] | bytes | Any,
    calibration: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None = None,
    batch: int | None = None,
    *,
    tolerance: float | None = None,
    logit_tolerance: float | None = None,
    measure: Mapping[str, str] | None = None,
    margin: float | None = None,
    passes: str | None = None,
    start: str | None = None,
    insecure_ring: int | None = None,
    cost: CostModel | None = None,
    encrypt_weights: str | Collection[str] | None = None,
    one_sample: bool = False,
    strategy: str | None = None,
    examples: Any = None,
    degree: int | None = None,
    table_bits: int | None = None,
    word_bits: int | None = None,
    retrain: Data | None = None,
    engine: str | None = None,
    reporter: Reporter | None = None,
    trips: int | None = None,
    memory: float | None = None,
    prefer: str | None = None,
    allow_slow: bool = False,
) -> Program:
    """Compile a network for encrypted inference at 128-bit security.

    model: path of an ONNX or .glyph file, an ONNX file's bytes, an ``onnx.ModelProto``; a fitted scikit-learn estimator
    or pipeline (extra ``sklearn``), a ``torch.nn.Module`` (extra ``torch``); or a graph of any level, as
    :class:`glyphc.ir.graph.Graph` or the path of its text (.gir). calibration: representative samples, shape (samples,
    *input shape); a mapping by input name is fine too, and a table (DataFrame), whose columns are checked and put in
    order here and when samples are run. They set value ranges and are not stored. examples: a module's arguments for
    its exporter, a tuple of tensors; by default the first calibration sample. batch: samples evaluated at once, by
    default what the file says, or 1; more samples per bootstrap cost less per sample. tolerance: percentage points of
    accuracy that may be lost beside the float network, 0.5 by default, or percent of a column's spread, 0.75 by
    default; logit_tolerance: rms error of the outputs that is tolerated, in their own units, instead (see
    ``glyphc.passes.assign_budget``); either takes calibration samples. measure: how outputs are judged, by name:
    "classes", "relative" (to the spread of each column) or "absolute"; by default what the model says or its values
    show, see ``glyphc.measures``. margin: factor by which hidden values may leave their calibrated range; by default
    what the tails of their distributions ask for. passes: the pipeline as text, see ``glyphc.passes.pipeline``; by
    default all that come after ``start``, the level or pass that the graph comes from. insecure_ring: a small ring
    dimension for tests; NOT SECURE, and every output says so. cost: what things cost, for choices and explanations; by
    default the user's model (``glyphc measure``), see ``glyphc.analysis.cost_file``. encrypt_weights: names of tensors
    that the server must not see, or ``"all"``: the client encrypts the linear maps that they are a part of, along with
    making keys. ``Program.save`` leaves their values out, ``Program.save_weights`` keeps them. one_sample: the ONNX
    file describes one sample, though its batch is open or its axis 0 looks like one. strategy: which ways of computing
    may be taken, by name (``glyphc.ways.strategies``), by default ``auto``: whatever is cheapest and keeps to the
    tolerance. degree: of the polynomials, for strategies that take it; by default the strategy's, or as the tolerance
    asks. table_bits: of the index of tables, for strategies that look functions up, by default the strategy's.
    word_bits: of words of bits, for strategies that compute on them. retrain: samples and labels to train the network
    again on, in the clear, after the strategy has replaced its nonlinearities; reporter is told of it, and of what
    takes long. engine: whose prices decide on layouts and parameters, by default those of the one that will execute the
    program here; every engine takes the result. trips: to the client, which sees hidden values there, that a batch may
    take at most: ``auto`` takes none unless it is told; memory: bytes at the peak of a run: a batch that takes more is
    done in passes of fewer samples, which is noted, and refused where one sample takes more; it also decides among
    configurations of bootstraps where the cost model knows several; prefer: "latency", "throughput" or "traffic". With
    any of these ``auto`` compiles by several strategies and takes what is best (``glyphc.constraints``). allow_slow:
    whether a batch may take more than ten minutes where gates or look-ups do it.

    Raises TypeError for what is no model, ModelError, CalibrationError or ParameterError with a message that names the
    culprit, GlyphcError for an unusable file of the cost model.
    """
    limits = Constraints(trips, memory, parse_prefer(prefer))
    _check_limits(limits)
    strategy = None if strategy is None else strategies.allowed(strategy, trips)
    known = cost or cost_file.current()
    told = reporter or Silent()

    def compiled(name: str | None, samples: int | None = None) -> Program:
        return _compile(
            model,
            calibration,
            samples or batch,
            tolerance=tolerance,
            logit_tolerance=logit_tolerance,
            measure=measure,
            margin=margin,
            passes=passes,
            start=start,
            insecure_ring=insecure_ring,
            cost=known,
            encrypt_weights=encrypt_weights,
            one_sample=one_sample,
            strategy=name,
            examples=examples,
            degree=degree,
            table_bits=table_bits,
            word_bits=word_bits,
            retrain=retrain,
            engine=engine,
            reporter=reporter,
            prefer=limits.prefer,
            memory=limits.memory_bytes,
        )

    def fitting(name: str | None) -> Program:
        def attempt(samples: int | None) -> Program:
            if samples is not None:
                told.stage(f"compile for passes of {counted(samples, 'sample')} (--memory)", 1.0)
            return compiled(name, samples)

        try:
            return in_passes(attempt, limits, known)
        finally:
            told.done()

    if limits.any and strategy in (None, DEFAULT_STRATEGY):
        program, note = best(fitting, limits, known)
        program.notes = (*program.notes, note)
    else:
        program = fitting(strategy)
        if limits.any:
            check(program, limits, known)
    check_patience(program.schedule, batch_seconds(program, known), program.requested_batch, allow_slow)
    program.warn_if_insecure()
    return program


def _check_limits(limits: Constraints) -> None:
    """GlyphcError for limits that are none."""
    if limits.trips is not None and limits.trips < 0:
        raise GlyphcError(f"trips are a number from 0 on, not {limits.trips}")
    if limits.memory_bytes is not None and not limits.memory_bytes > 0:
        raise GlyphcError(f"the memory that a run may take is positive, not {limits.memory_bytes}")


def _compile(
    model: str | os.PathLike[str] | bytes | Any,
    calibration: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None,
    batch: int | None,
    *,
    tolerance: float | None,
    logit_tolerance: float | None,
    measure: Mapping[str, str] | None,
    margin: float | None,
    passes: str | None,
    start: str | None,
    insecure_ring: int | None,
    cost: CostModel,
    encrypt_weights: str | Collection[str] | None,
    one_sample: bool,
    strategy: str | None,
    examples: Any,
    degree: int | None,
    table_bits: int | None,
    word_bits: int | None,
    retrain: Data | None,
    engine: str | None,
    reporter: Reporter | None,
    prefer: Prefer | None,
    memory: float | None,
) -> Program:
    """By one strategy; arguments as of :func:`compile`."""
    if batch is not None and batch < 1:
        raise GlyphcError(f"the batch must be at least 1, not {batch}")
    if start is not None and not is_graph(model):
        raise GlyphcError(
            "--from (start) says which stage a graph in text form (.gir) comes from; a network begins at its source: "
            f"leave out {start!r}"
        )
    columns: Mapping[str, tuple[str, ...]] = {}
    if not isinstance(model, Graph):
        from glyphc.frontends.from_python import exported  # onnx is loaded only when it is needed

        found = exported(model, calibration, examples)
        model, columns = found.model, found.columns
    given = read_model(model, one_sample, _sample_shapes(calibration))
    batch = batch or given.batch or 1
    kinds = parse_kinds(measure or {})
    name, passes = remaining(given.graph, start, passes)
    source = _with_batch(with_columns(given.graph, columns), batch)
    check_ring(source, insecure_ring)
    steps = [
        with_hints(_for_tolerance(for_ring(step, insecure_ring), tolerance, logit_tolerance, kinds), given.hints)
        for step in parse_pipeline(passes)
    ]
    steps = _with_margin(steps, margin)
    if prefer is not None:
        uploads = Uploads.BYTES if prefer is Prefer.TRAFFIC else Uploads.SECONDS
        steps = [replace(s, uploads=uploads) if isinstance(s, AssignLayout) else s for s in steps]
    network = source if source.level is Level.SOURCE else None
    room = MEMORY if memory is None else memory
    context = Context(samples(source, calibration), cost, network, engine=check_modelled(engine or ""), memory=room)
    _check_tolerance(steps, context, tolerance is not None or logit_tolerance is not None or bool(kinds))
    names = secret_weights.requested(encrypt_weights)
    hidden = secret_weights.maps_to_encrypt(model, source, names, steps, context) if names else ()
    steps = _with_strategy(_with_encrypted(steps, hidden), strategy, degree, table_bits, word_bits)
    stages = _Stages({name: source})
    changed = changes(source, strategy or DEFAULT_STRATEGY, degree, context.samples, retrain, reporter)
    if changed is not None:
        source = stages.graphs["substitute"] = changed.network
    run_pipeline(source, steps, context, stages.observe)
    last = next(reversed(stages.graphs.values()))
    if last.level is not Level.LAIDOUT or last.parameters is None:
        raise GlyphcError(f"the passes {passes!r} end before parameters are selected; no program can be made of that")
    # whatever the pipeline says, no program leaves without this check
    ValidateSecurity().run(last, context)
    if hidden:
        secret_weights.check(last, hidden)
    notes = given.notes if changed is None else (*given.notes, *changed.notes)
    return Program(stages.graphs, requested_batch=batch, notes=notes)


def check_modelled(engine: str) -> str:
    """The engine's name; GlyphcError unless its prices are known, or none is named."""
    if engine not in ("", *MODELLED):
        raise GlyphcError(f"programs are planned by the prices of the engines {' and '.join(MODELLED)}, not {engine!r}")
    return engine


def _with_batch(graph: Graph, batch: int) -> Graph:
    if graph.level is not Level.SOURCE:
        if batch != graph.batch:
            raise GlyphcError(f"a graph at level {graph.level.value!r} keeps its batch of {graph.batch}, not {batch}")
        return graph
    rewriter = Rewriter(graph, batch=batch)
    for node in graph:
        rewriter.keep(node)
    return rewriter.new


def with_columns(graph: Graph, columns: Mapping[str, tuple[str, ...]]) -> Graph:
    """The graph with names for the elements of its inputs, where there are as many; "" stands for the only input."""
    inputs = list(graph.of(Input))
    known = {op.name: columns.get(op.name) or columns.get("" if len(inputs) == 1 else op.name, ()) for _, op in inputs}
    if graph.level is not Level.SOURCE or not any(known.values()):
        return graph
    rewriter = Rewriter(graph)
    for node in graph:
        if isinstance(node.op, Input) and node.op.shape == (len(known[node.op.name]),):
            op = replace(node.op, columns=known[node.op.name])
            rewriter.replace(node, rewriter.new.add(op, location=node.location))
        else:
            rewriter.keep(node)
    return rewriter.new


def check_ring(graph: Graph, insecure_ring: int | None) -> None:
    """GlyphcError when the layouts of a graph are of another ring than the one asked for."""
    for node in graph:
        layout = node.type.layout
        ring = 0 if layout is None else layout.ring * (2 if node.type.encoding is Encoding.SLOTS else 1)
        if insecure_ring is not None and layout is not None and ring != insecure_ring:
            raise GlyphcError(
                f"{node} is laid out for ring {ring}, not for the insecure ring {insecure_ring}; begin with a "
                "graph from before assign-layout, or leave out --insecure-ring (insecure_ring)"
            )


def for_ring(step: Pass, insecure_ring: int | None) -> Pass:
    """A pass for a small ring of tests, if there is one; GlyphcError for other rings than those."""
    if insecure_ring is None:
        return step
    check_insecure_ring(insecure_ring)
    if isinstance(step, AssignScheme | Merge | AssignLayout):
        return replace(step, ring=insecure_ring)
    if isinstance(step, SelectParameters | FitWords):
        return replace(step, security=INSECURE)
    if isinstance(step, SelectSlots | SelectIntegers):
        return replace(step, ring=insecure_ring)
    return step


def _with_encrypted(steps: list[Pass], maps: tuple[str, ...]) -> list[Pass]:
    """The passes, told which linear maps have encrypted weights; GlyphcError when none of them is the one to tell."""
    if maps and not any(isinstance(step, AssignScheme) for step in steps):
        raise GlyphcError(
            f"which weights are encrypted is for the pass {AssignScheme.name!r}, which is not among the passes to run: "
            f"{', '.join(step.name for step in steps) or 'none'}"
        )
    if not maps:
        return steps
    return [replace(s, encrypt_weights=";".join(maps)) if isinstance(s, AssignScheme) else s for s in steps]


def _with_margin(steps: list[Pass], margin: float | None) -> list[Pass]:
    """The passes, told the margin; GlyphcError when none of them is the one to tell, or for one below 1."""
    if margin is None:
        return steps
    if not any(isinstance(step, Quantize) for step in steps):
        raise GlyphcError(
            f"a margin is for the pass {Quantize.name!r}, which is not among the passes to run: "
            f"{', '.join(step.name for step in steps) or 'none'}"
        )
    if not margin >= 1:
        raise GlyphcError(f"the margin is a factor of at least 1, not {margin}")
    return [replace(s, margin=margin) if isinstance(s, Quantize) else s for s in steps]


def _with_strategy(
    steps: list[Pass], name: str | None, degree: int | None, table_bits: int | None, word_bits: int | None
) -> list[Pass]:
    """The passes, told the strategy; GlyphcError when none of them is the one to tell."""
    if name is None and degree is None and table_bits is None and word_bits is None:
        return steps
    if not any(isinstance(step, AssignScheme) for step in steps):
        raise GlyphcError(
            f"a strategy is for the pass {AssignScheme.name!r}, which is not among the passes to run: "
            f"{', '.join(step.name for step in steps) or 'none'}"
        )
    chosen = strategies.strategy(name or DEFAULT_STRATEGY)
    asked = {Size.DEGREE: degree, Size.TABLE_BITS: table_bits, Size.WORD_BITS: word_bits}
    found, tables, words = (strategies.size_of(chosen, size, value) for size, value in asked.items())
    out = []
    for step in steps:
        if isinstance(step, AssignScheme):
            step = replace(step, strategy=chosen.name, degree=found, table_bits=tables, word_bits=words)
        elif isinstance(step, Quantize) and chosen.replacement is strategies.Replacement.TABLE:
            step = replace(step, reserve=False)
        elif isinstance(step, FitPolynomials):
            step = replace(step, degree=found)
        elif isinstance(step, FitIntegers):
            refresh = chosen.refresh is strategies.Refresh.CLIENT and not tables
            step = replace(step, refresh=refresh, table_bits=tables)
        elif isinstance(step, FitWords) and words:
            step = replace(step, bits=words)
        out.append(step)
    return out


def _for_tolerance(step: Pass, points: float | None, logits: float | None, kinds: Mapping[str, MeasureKind]) -> Pass:
    if points is not None and logits is not None:
        raise GlyphcError("give either a tolerance (points of accuracy) or a logit tolerance (units of the outputs)")
    if not isinstance(step, TolerancePass):
        return step
    if logits is not None and not logits > 0:
        raise GlyphcError(f"the logit tolerance must be positive, not {logits}")
    if points is not None:
        step = replace(step, points=points, spread=points)
    return replace(step, logits=logits or step.logits, measures=kinds_text(kinds) if kinds else step.measures)


def _check_tolerance(steps: list[Pass], context: Context, given: bool) -> None:
    """No tolerance that somebody asked for goes unheeded: GlyphcError, CalibrationError."""
    budgets = [step for step in steps if isinstance(step, AssignBudget | FitPolynomials | FitIntegers | FitWords)]
    if given and not budgets:
        raise GlyphcError(
            f"a tolerance or measure is for the pass {AssignBudget.name!r}, which is not among the passes to run: "
            f"{', '.join(step.name for step in steps) or 'none'}"
        )
    if not context.samples and (given or any(step not in _UNTOLD for step in budgets)):
        raise CalibrationError(
            "what accuracy is lost is simulated on calibration samples, and there are none: pass --calibration "
            "(calibration=...) with the tolerance or measure"
        )


def _sample_shapes(calibration: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of one calibration sample by input, of what has a shape; "" for the only input."""
    given = calibration if isinstance(calibration, Mapping) else {"": calibration}
    return {name: tuple(np.shape(v))[1:] for name, v in given.items() if len(getattr(v, "shape", ())) > 0}


def samples(graph: Graph, calibration: Any) -> dict[str, npt.NDArray[np.float64]]:
    """Calibration samples by input name as float64; CalibrationError for what is no array of numbers."""
    names = [n.op.name for n in graph.inputs if isinstance(n.op, Input)]
    if calibration is None:
        return {}
    given = by_name(calibration, {op.name: op.columns for _, op in graph.of(Input)}, "the table of calibration samples")
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise CalibrationError(
            f"calibration samples for unknown input(s) {', '.join(unknown)}; inputs: {', '.join(names)}"
        )
    found = {}
    for name, values in given.items():
        try:
            array = np.asarray(values)
        except ValueError:
            text = f"the calibration samples for input {name!r} have rows of different lengths"
            raise CalibrationError(text) from None
        if array.dtype.kind not in "fiub":
            raise CalibrationError(f"the calibration samples for input {name!r} are {array.dtype}, not numbers")
        found[name] = array.astype(np.float64)
    return found
