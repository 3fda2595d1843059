"""From a graph whose values are integers in slots to instructions: one ciphertext per feature, depth first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from glyphc.errors import ParameterError
from glyphc.ir.evaluate import client_tail
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import (
    ClientSpec,
    Instruction,
    IntegerDot,
    IntegerProduct,
    IntegerRefresh,
    Load,
    Port,
    Register,
    Schedule,
    Store,
    with_frees,
)
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.ops import ClientRefresh, Input, IntegerPolynomial, Linear, Op, Output, Reshape
from glyphc.ir.types import Encoding


def integer_schedule(graph: Graph) -> Schedule:
    """The instructions of a laid-out graph with parameters for integers."""
    assert isinstance(graph.parameters, IntegerParameters)
    code = integer_code(graph)
    outputs = []
    for node, op in graph.of(Output):
        tail = client_tail(graph, node)
        source = graph.operands(tail[0] if tail else node)[0]
        outputs.append(_port(op.name, source, tuple(n.op for n in tail)))
    inputs = [_port(op.name, node) for node, op in graph.of(Input)]
    client = ClientSpec(graph.parameters, tuple(inputs), tuple(outputs), graph.batch)
    return Schedule(client, tuple(with_frees(code)), {})


def integer_code(graph: Graph) -> tuple[Instruction, ...]:
    """The instructions alone: they need no layout."""
    lowering = _Lowering(graph)
    for node, op in graph.of(Output):
        tail = client_tail(graph, node)
        source = graph.operands(tail[0] if tail else node)[0]
        for feature in range(source.type.size):
            register = lowering.feature(source, feature)
            lowering.code.append(Store(register, op.name, feature, source.id))
    return tuple(lowering.code)


def _port(name: str, node: Node, tail: tuple[Op, ...] = ()) -> Port:
    assert node.type.fixed is not None and node.type.layout is not None
    return Port(name, node.type.shape, node.type.fixed, node.type.layout, tail, Encoding.INTEGERS)


@dataclass
class _Lowering:
    """registers: of every feature that was computed, by node id and feature."""

    graph: Graph
    code: list[Instruction] = field(default_factory=list)
    registers: dict[tuple[int, int], Register] = field(default_factory=dict)
    count: int = 0

    def feature(self, node: Node, feature: int) -> Register:
        """The register of one feature of a node, computed when it is first asked for."""
        while isinstance(node.op, Reshape):
            (node,) = self.graph.operands(node)
        key = (node.id, feature)
        if key not in self.registers:
            self.registers[key] = self._compute(node, feature)
        return self.registers[key]

    def _compute(self, node: Node, feature: int) -> Register:
        match node.op:
            case Input(name=name):
                target = self._fresh()
                self.code.append(Load(target, name, feature, node.id))
                return target
            case Linear():
                return self._linear(node, node.op, feature)
            case IntegerPolynomial(coefficients=coefficients):
                source = self.feature(self.graph.operands(node)[0], feature)
                return _Powers(self, source, node.id).polynomial(coefficients)
            case ClientRefresh(ratio=ratio):
                source = self.feature(self.graph.operands(node)[0], feature)
                target = self._fresh()
                self.code.append(IntegerRefresh(target, source, ratio, node.id))
                return target
        raise ParameterError(f"{node} cannot be computed on integers in slots")

    def _linear(self, node: Node, op: Linear, feature: int) -> Register:
        sources: list[Register] = []
        weights: list[int] = []
        first: Register | None = None
        for operand, weight in zip(self.graph.operands(node), op.weights, strict=True):
            used, row = self.graph.matrix(weight).row(feature)
            first = self.feature(operand, 0) if first is None and not len(used) else first
            sources += [self.feature(operand, int(i)) for i in used]
            weights += [int(w) for w in row]
        if not sources:
            # a constant, but computed from something
            assert first is not None
            sources, weights = [first, first], [1, -1]
        bias = int(self.graph.constant(op.bias.name)[feature])
        return self.dot(sources, weights, bias, node.id)

    def dot(self, sources: Sequence[Register], weights: Sequence[int], bias: int, node: int) -> Register:
        """A weighted sum; nothing is done where that is its only operand."""
        if list(weights) == [1] and bias == 0:
            return sources[0]
        target = self._fresh()
        self.code.append(IntegerDot(target, tuple(sources), tuple(weights), bias, node))
        return target

    def product(self, a: Register, b: Register, node: int) -> Register:
        target = self._fresh()
        self.code.append(IntegerProduct(target, a, b, node))
        return target

    def _fresh(self) -> Register:
        self.count += 1
        return self.count - 1


@dataclass
class _Powers:
    """Powers of x whose exponents are powers of two, each made when it is needed."""

    lowering: _Lowering
    x: Register
    node: int
    known: list[Register] = field(default_factory=list)

    def polynomial(self, coefficients: Sequence[int]) -> Register:
        """Split at powers of two all the way down: as many products one after another as the degree has bits."""
        sources: list[Register] = []
        weights: list[int] = []
        c = list(coefficients)
        while True:
            while len(c) > 1 and not c[-1]:
                c.pop()
            if len(c) <= 2:
                break
            k = (len(c) - 1).bit_length() - 1
            high, c = c[1 << k :], c[: 1 << k]
            power = self.power(k)
            if len(high) == 1:
                sources.append(power)
                weights.append(high[0])
            else:
                sources.append(self.lowering.product(power, self.polynomial(high), self.node))
                weights.append(1)
        if len(c) == 2 or not sources:
            sources.append(self.x)
            weights.append(c[1] if len(c) == 2 else 0)
        if not any(weights):
            sources, weights = [self.x, self.x], [1, -1]
        return self.lowering.dot(sources, weights, c[0], self.node)

    def power(self, k: int) -> Register:
        """x^(2^k)."""
        self.known = self.known or [self.x]
        while len(self.known) <= k:
            self.known.append(self.lowering.product(self.known[-1], self.known[-1], self.node))
        return self.known[k]
