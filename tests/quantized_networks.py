"""Networks of dense layers for the passes calibrate and quantize."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import assume
from hypothesis import strategies as st

from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, Const, Dense, Input, Output, Reshape
from glyphc.ir.types import FixedPoint, Level
from glyphc.ir.verify import verify
from glyphc.passes.base import Context
from glyphc.passes.calibrate import Calibrate
from glyphc.passes.fold import Fold
from glyphc.passes.quantize import Quantize

F64 = npt.NDArray[np.float64]

# Functions that never stretch a difference.
CONTRACTIONS = ("relu", "tanh", "sigmoid", "softplus", "abs")


@dataclass(frozen=True)
class Network:
    """Dense layers with nonlinearities in between: weights and biases of each, and the functions."""

    weights: tuple[F64, ...]
    biases: tuple[F64, ...]
    functions: tuple[str, ...]

    @staticmethod
    def random(rng: np.random.Generator, widths: tuple[int, ...], functions: tuple[str, ...]) -> Network:
        shapes = list(zip(widths[1:], widths[:-1], strict=True))
        weights = tuple(rng.normal(size=s) / np.sqrt(s[1]) for s in shapes)
        return Network(weights, tuple(rng.normal(size=s[0]) / 4 for s in shapes), functions)

    def graph(self, shape: tuple[int, ...] = ()) -> Graph:
        graph = Graph(Level.SOURCE, 1)
        size = self.weights[0].shape[1]
        x = graph.add(Input("x", shape or (size,)), location="x")
        if len(shape) > 1:
            x = graph.add(Reshape((size,)), (x,), location="flat")
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            names = graph.add_constant(f"w{i}", w), graph.add_constant(f"b{i}", b)
            x = graph.add(Dense((Const(names[0]),), Const(names[1])), (x,), location=f"fc{i}")
            if i < len(self.functions):
                x = graph.add(Apply((Function(self.functions[i]),)), (x,), location=self.functions[i])
        graph.add(Output("y"), (x,), location="y")
        return graph


@dataclass(frozen=True)
class Quantized:
    source: Graph
    calibrated: Graph
    graph: Graph
    x: F64

    @property
    def float_values(self) -> F64:
        return np.asarray(evaluate(self.source, {"x": self.x})["y"])

    @property
    def values(self) -> F64:
        return np.asarray(evaluate(self.graph, {"x": self.x})["y"])

    @property
    def error(self) -> float:
        """Rms error of the outputs, as a share of their range."""
        wanted = self.float_values
        return float(np.sqrt(np.mean((self.values - wanted) ** 2)) / (np.ptp(wanted) or 1.0))

    def format(self, kind: type[Any], number: int = 0) -> FixedPoint:
        fixed = [n.type.fixed for n, _ in self.graph.of(kind)][number]
        assert fixed is not None
        return fixed


def quantized(source: Graph, x: F64, options: Quantize | None = None) -> Quantized:
    context = Context({"x": x})
    calibrated = Calibrate().run(Fold().run(source, context), context)
    graph = (options or Quantize()).run(calibrated, context)
    verify(graph)
    return Quantized(source, calibrated, graph, x)


@st.composite
def networks(draw: Any) -> tuple[Network, F64]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    widths = tuple(draw(st.lists(st.integers(1, 30), min_size=2, max_size=4)))
    # a map of one number to one number is no layer: it becomes part of the function that reads it
    assume(not any(before == after == 1 for before, after in pairwise(widths[1:-1])))
    functions = tuple(draw(st.sampled_from(CONTRACTIONS)) for _ in widths[2:])
    x = rng.normal(size=(draw(st.sampled_from([2, 50])), widths[0])) * 10.0 ** draw(st.integers(-3, 3))
    if draw(st.booleans()):
        x = np.abs(x)
    return Network.random(rng, widths, functions), x
