"""Networks for the pass fold, and the form that it leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, ArgMax, Const, Dense, Gather, Input, Op, Output, Reshape, Scale, Softmax
from glyphc.ir.types import Level
from glyphc.ir.verify import verify
from glyphc.passes.base import Context
from glyphc.passes.fold import Fold

F64 = npt.NDArray[np.float64]


class Network:
    """A source graph, written down step by step; every node is named after the step."""

    def __init__(self, *shape: int) -> None:
        self.graph = Graph(Level.SOURCE, 1)
        self.rng = np.random.default_rng(7)
        self.x = self.graph.add(Input("x", shape), location="x")

    def _const(self, value: Any) -> Const:
        return Const(self.graph.add_constant("c", np.asarray(value, dtype=np.float64)))

    def add(self, op: Op, x: Node, name: str) -> Node:
        return self.graph.add(op, (x,), location=name)

    def dense(self, x: Node, width: int, name: str) -> Node:
        weight, bias = self.rng.normal(size=(width, x.type.size)), self.rng.normal(size=width)
        return self.add(Dense((self._const(weight),), self._const(bias)), x, name)

    def scale(self, x: Node, factor: Any, shift: Any, name: str) -> Node:
        return self.add(Scale(self._const(factor), self._const(shift)), x, name)

    def apply(self, x: Node, name: str, *functions: Function) -> Node:
        return self.add(Apply(functions or (Function(name),)), x, name)

    def gather(self, x: Node, indices: npt.NDArray[np.int64], name: str) -> Node:
        return self.add(Gather(Const(self.graph.add_constant("i", indices))), x, name)

    def reshape(self, x: Node, *shape: int) -> Node:
        return self.add(Reshape(shape), x, "reshape")

    def output(self, x: Node, name: str = "y") -> None:
        self.add(Output(name), x, name)

    def fold(self) -> Graph:
        """The folded graph, after all checks that hold for every network."""
        folded = fold(self.graph)
        check_form(folded)
        x = {"x": self.rng.normal(size=(17, *self.x.type.shape))}
        assert_same(evaluate(self.graph, x), evaluate(folded, x))
        return folded


def fold(graph: Graph) -> Graph:
    folded = Fold().run(graph, Context())
    verify(folded)
    return folded


def assert_same(wanted: dict[str, Any], got: dict[str, Any]) -> None:
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        assert got[name].shape == value.shape
        np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


def ops(graph: Graph) -> list[type[Op]]:
    return [type(n.op) for n in graph]


def origins(graph: Graph, node: Node) -> list[Node]:
    """The operands, seen through reshapes."""
    return [
        origin
        for operand in graph.operands(node)
        for origin in (origins(graph, operand) if isinstance(operand.op, Reshape) else [operand])
    ]


def check_form(graph: Graph) -> None:
    client = (Softmax, ArgMax, Output)
    for node in graph:
        read = origins(graph, node)
        match node.op:
            case Dense():
                assert all(isinstance(n.op, Input | Apply) for n in read), f"{node} reads {read}"
                assert len({n.id for n in read}) == len(read), f"{node} reads a value twice"
                assert node.type.shape == (node.type.size,)
            case Apply():
                assert isinstance(graph.operands(node)[0].op, Dense), f"{node} reads {read}"
                assert node.type.shape == (node.type.size,)
            case Softmax() | ArgMax() | Output():
                # what the client computes starts from something encrypted that was computed
                assert not any(isinstance(n.op, Input) for n in read)
            case Reshape():
                source = graph.operands(node)[0].op
                if not isinstance(source, Input):  # reshapes inside move nothing: only the client's are left
                    assert all(isinstance(u.op, (*client, Reshape)) for u in graph.users(node))
            case Input():
                pass
            case _:
                pytest.fail(f"{node} is left")
        if not isinstance(node.op, Input | Output):
            assert graph.users(node), f"{node} is dead"
    used = {name for n in graph for name in n.op.constant_names()}
    assert set(graph.constants) == used
