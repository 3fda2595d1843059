"""From a graph whose values are in slots to instructions: one ciphertext per feature, depth first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import ParameterError
from glyphc.ir.evaluate import decrypted
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import ClientSpec, Port, Register, Schedule, with_frees
from glyphc.ir.ops import Input, Linear, Op, Output, Polynomial, Reshape
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Encoding, FixedPoint

from .depth import reads_input
from .writer import SlotWriter

F64 = npt.NDArray[np.floating[Any]]


def slot_schedule(graph: Graph) -> Schedule:
    """The instructions of a laid-out graph with parameters for slots."""
    assert isinstance(graph.parameters, SlotParameters)
    lowering = _Lowering(graph, graph.parameters.depth)
    outputs = []
    for node, op in graph.of(Output):
        source, tail = decrypted(graph, node)
        lowering.output(source, op)
        outputs.append(replace(_port(op.name, source, tail), labels=op.labels))
    inputs = [
        replace(_port(op.name, node), shape=op.shape, ranks=op.ranks, columns=op.columns, ids=op.ids)
        for node, op in graph.of(Input)
    ]
    client = ClientSpec(graph.parameters, tuple(inputs), tuple(outputs), graph.batch)
    return Schedule(client, tuple(with_frees(lowering.writer.instructions)), {})


def _port(name: str, node: Node, tail: tuple[Op, ...] = ()) -> Port:
    assert node.type.fixed is not None and node.type.layout is not None
    return Port(name, node.type.shape, node.type.fixed, node.type.layout, tail, Encoding.SLOTS)


@dataclass
class _Lowering:
    """A register holds a feature in units of its format's magnitude, divided by the ``factor`` of its node."""

    graph: Graph
    depth: int
    writer: SlotWriter = field(default_factory=SlotWriter)
    registers: dict[tuple[int, int], Register] = field(default_factory=dict)
    factors: dict[int, float] = field(default_factory=dict)

    def output(self, source: Node, op: Output) -> None:
        for feature in range(source.type.size):
            register = self.feature(source, feature)
            self.writer.node = source.id
            if self.factors.get(source.id, 1.0) != 1.0:
                raise ParameterError(f"{source} leaves its factor to the client; this is a bug, please report it")
            # on one limb: less to send
            self.writer.store(self.writer.drop(register, 0), op.name, feature)

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
                self.writer.node = node.id
                return self.writer.load(name, feature, self.depth)
            case Linear():
                return self._linear(node, node.op, feature)
            case Polynomial(fit=fit):
                source = self.feature(self.graph.operands(node)[0], feature)
                self.writer.node = node.id
                if reads_input(self.graph, node):
                    source = self.writer.dot([source], [1.0], 0.0)
                register, self.factors[node.id] = self.writer.polynomial(source, fit.coefficients)
                return register
        raise ParameterError(f"{node} cannot be computed in slots")

    def _linear(self, node: Node, op: Linear, feature: int) -> Register:
        sources: list[Register] = []
        weights: list[float] = []
        target = _magnitude(node.type.fixed)
        for operand, weight in zip(self.graph.operands(node), op.weights, strict=True):
            used, row = self.graph.matrix(weight).row(feature)
            if not len(used) and not sources:
                used, row = np.zeros(1, dtype=np.int64), np.zeros(1)  # a constant, but computed from something
            sources += [self.feature(operand, int(i)) for i in used]
            scale = _magnitude(operand.type.fixed) * self._factor(operand) / target
            weights += [float(w) * scale for w in row]
        self.writer.node = node.id
        return self.writer.dot(sources, weights, float(self.graph.constant(op.bias.name)[feature]) / target)

    def _factor(self, node: Node) -> float:
        while isinstance(node.op, Reshape):
            (node,) = self.graph.operands(node)
        return self.factors.get(node.id, 1.0)


def _magnitude(fixed: FixedPoint | None) -> float:
    assert fixed is not None
    return float(max(fixed.magnitude, 1))
