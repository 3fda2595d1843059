"""A network on words of bits, with its layouts and parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.errors import CalibrationError
from glyphc.gates.formats import with_words
from glyphc.ir.evaluate import evaluate_all
from glyphc.ir.graph import Decision, Graph, Rewriter
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Linear, Output
from glyphc.ir.parameters import SECURE
from glyphc.ir.types import Encoding, Level
from glyphc.ir.word_parameters import MOST_WORD_BITS, WordParameters
from glyphc.measures import text as loss_text
from glyphc.measures import worst

from .base import Context, check_option
from .tolerance import Halves, TolerancePass

F64 = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class FitWords(TolerancePass):
    """Every value a word of ``bits`` bits, one sample in a pass; and what that loses, on held-out calibration samples.

    security: as in ``select-parameters``. Other options as in ``assign-budget``.
    """

    name: ClassVar[str] = "fit-words"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.LAIDOUT
    only: ClassVar[Encoding | None] = Encoding.BITS
    bits: int = 8
    samples: int = 2048
    security: str = SECURE

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(self.name, "bits", self.bits, 2, MOST_WORD_BITS)
        check_option(self.name, "samples", self.samples, 1, 1_000_000)

    def run(self, graph: Graph, context: Context) -> Graph:
        network = context.source or context.floats
        if not context.samples or network is None:
            raise CalibrationError(
                "what words of bits lose is simulated on calibration samples beside the float network: pass "
                "--calibration (calibration=...)"
            )
        made = with_words(graph, self.bits)
        halves = Halves.of(context.samples, self.samples)
        values = evaluate_all(made, halves.second)
        outputs = {op.name: np.asarray(values[n.id], dtype=np.float64) for n, op in made.of(Output)}
        judge = self.judge(network, halves.both).on(halves.second)
        losses = tuple(replace(loss, held_out=halves.held_out) for loss in judge.losses(outputs))
        name = f"words of {self.bits} bits"
        warning = "" if all(loss.kept for loss in losses) else f"{name}: {loss_text(worst(losses))}"
        return self._laid_out(made, Decision(self.name, name, (), warning, losses))

    def _laid_out(self, graph: Graph, decision: Decision) -> Graph:
        """A ciphertext for each bit, of one sample."""
        rewriter = Rewriter(graph, Level.LAIDOUT, 1)
        for node in graph:
            size = node.type.size
            bits = node.type.encoding is Encoding.BITS
            layout = Layout(1, 1, size, size, 1, 1, 1, True) if bits else None
            decisions = (decision,) if isinstance(node.op, Linear) else ()
            rewriter.keep(node, replace(node.type, layout=layout), decisions)
        rewriter.new.parameters = WordParameters(self.bits, self.security)
        return rewriter.new
