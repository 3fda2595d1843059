"""A small network, and running a part of the pipeline on it: for the tests of single passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node, Rewriter
from glyphc.ir.ops import (
    Apply,
    Const,
    Dense,
    Input,
    Output,
    Reshape,
)
from glyphc.ir.parameters import Parameters
from glyphc.ir.types import Level
from glyphc.passes.base import Context
from glyphc.passes.pipeline import DEFAULT, parse_pipeline, run_pipeline

F64 = npt.NDArray[np.float64]


class Network:
    """A source graph, written down step by step."""

    def __init__(self, *shape: int) -> None:
        self.graph = Graph(Level.SOURCE, 1)
        self.rng = np.random.default_rng(7)
        self.x = self.graph.add(Input("x", shape), location="x")

    def dense(self, x: Node, width: int, name: str) -> Node:
        if len(x.type.shape) != 1:
            x = self.graph.add(Reshape((x.type.size,)), (x,))
        w = Const(self.graph.add_constant("w", self.rng.normal(size=(width, x.type.size)) / np.sqrt(x.type.size)))
        b = Const(self.graph.add_constant("b", self.rng.normal(size=width) / 4))
        return self.graph.add(Dense((w,), b), (x,), location=name)

    def apply(self, x: Node, name: str) -> Node:
        return self.graph.add(Apply((Function(name),)), (x,), location=name)

    def output(self, x: Node, name: str = "y") -> None:
        self.graph.add(Output(name), (x,), location=name)


def mlp(function: str = "tanh") -> Graph:
    n = Network(2, 3)
    x = n.apply(n.dense(n.x, 8, "fc1"), function)
    n.output(n.dense(x, 4, "fc2"))
    return n.graph


SAMPLES = np.random.default_rng(8).normal(size=(100, 2, 3))


def run(graph: Graph, passes: str, batch: int = 2) -> tuple[Graph, Context]:
    context = Context({"x": SAMPLES})
    rewriter = Rewriter(graph, batch=batch)
    for node in graph:
        rewriter.keep(node)
    return run_pipeline(rewriter.new, parse_pipeline(passes), context), context


def upto(name: str) -> str:
    """The default pipeline up to and with this pass, with bootstraps at a small ring."""
    names = DEFAULT.split(",")
    text = ",".join(names[: names.index(name) + 1])
    text = text.replace("assign-layout", "assign-layout{ring=1024}").replace("merge", "merge{ring=1024}")
    text = text.replace("assign-scheme", "assign-scheme{strategy=glyph}")
    return text.replace("select-parameters", "select-parameters{security=insecure}")


def rebuilt(graph: Graph, change: Callable[[Node], Node], parameters: Parameters | None = None) -> Graph:
    """A copy of the graph with nodes replaced; ids and operands stay."""
    rewriter = Rewriter(graph)
    rewriter.new.parameters = parameters or graph.parameters
    for node in graph:
        rewriter.copy_constants(node)
        new = change(node)
        added = rewriter.new.add(new.op, rewriter.operands(node), new.type, new.location, new.decisions)
        rewriter.replace(node, added)
    return rewriter.new
