"""What compilation promised of a program's outputs, and what became of it on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.accuracy import Loss, MeasureKind
from glyphc.ir.graph import Graph
from glyphc.ir.types import Level
from glyphc.measures import Judge, Limits
from glyphc.measures import text as loss_text

if TYPE_CHECKING:
    from glyphc.program import Program

F64 = npt.NDArray[np.floating[Any]]


def promised(program: Program) -> tuple[Loss, ...]:
    """What every output loses by the accuracy line; empty for a program that was compiled without calibration."""
    return next((d.losses for n in program.graph for d in n.decisions if d.losses), ())


def float_network(program: Program) -> Graph | None:
    """The network as it was given, which accuracy is measured beside; None for a program of a quantized graph."""
    return next((g for g in program.stages.values() if g.level is Level.SOURCE), None)


def prepared_network(program: Program) -> Graph | None:
    """The last graph in float, with what stands for functions that it replaces: its nodes are those that are
    quantized. None for a program of a quantized graph."""
    return next((g for g in reversed(program.stages.values()) if g.level is Level.SOURCE), None)


def judge(program: Program, network: Graph, samples: Mapping[str, F64]) -> Judge:
    """Judges outputs on samples as they were judged at compile time: by the spreads of the calibration samples, as few
    samples may have others; by their own spreads where those were not kept."""
    losses = promised(program)
    usual = Limits(0.5)
    limits = {loss.kind: loss.limit for loss in losses}
    found = Judge.of(
        network,
        samples,
        Limits(
            limits.get(MeasureKind.CLASSES, usual.percent),
            limits.get(MeasureKind.ABSOLUTE, usual.absolute),
            limits.get(MeasureKind.RELATIVE, usual.spread),
        ),
        {loss.output: loss.kind for loss in losses},
    )
    known = {loss.output: loss.spreads for loss in losses}
    measures = (
        replace(m, spreads=known[m.output]) if len(known.get(m.output, ())) == len(m.spreads) else m
        for m in found.measures
    )
    return replace(found, measures=tuple(measures))


def happened(program: Program, samples: Mapping[str, F64], outputs: Mapping[str, F64]) -> tuple[Loss, ...]:
    """What every output of a run on samples lost beside the network as given; empty where there is none."""
    network = float_network(program)
    if network is None:
        return ()
    with np.errstate(all="ignore"):  # samples outside a function's domain have no truth, and their losses are NaN
        return judge(program, network, samples).losses(outputs)


def accuracy_lines(losses: Sequence[Loss], how: str) -> list[str]:
    """What every output loses in simulation, and how it is judged. how: what functions became."""
    lines = []
    for loss in losses:
        output = f"output {loss.output}: " if len(losses) > 1 else ""
        which = f" of column {loss.column + 1} of {loss.columns}" if loss.columns > 1 else ""
        error = "" if loss.kind is MeasureKind.RELATIVE else f"; rms error {loss.error:.2g} % of the spread{which}"
        lines += [
            f"accuracy    {output}simulated: {loss_text(loss)} ({how})",
            f"            measure {loss.kind.value}, {loss.reason}{error}",
        ]
    return lines


def losses_lines(promised: Sequence[Loss], losses: Sequence[Loss]) -> list[str]:
    """What every output was to lose, and what it lost; none where nothing is known."""
    texts = []
    for name in dict.fromkeys(loss.output for loss in (*promised, *losses)):
        output = f"output {name}: " if len(losses or promised) > 1 else ""
        texts += [f"{output}promised: {loss_text(loss)}" for loss in promised if loss.output == name]
        beside = "beside the float network"
        texts += [f"{output}this run: {loss_text(loss, 'samples')}, {beside}" for loss in losses if loss.output == name]
    return [f"{'' if i else 'accuracy':<12}{text}" for i, text in enumerate(texts)]
