"""From a graph whose values are integers in slots to instructions: one ciphertext per feature, depth first.

What is looked up in a table has several features in the blocks of a register: the client, which encrypts the bits, puts
them side by side, so that one look-up serves as many features as there are blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from glyphc.errors import ParameterError
from glyphc.ir.client_requests import Request
from glyphc.ir.evaluate import decrypted
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import (
    ClientRequest,
    ClientSpec,
    Instruction,
    IntegerBlocks,
    IntegerDot,
    IntegerProduct,
    Load,
    Port,
    Register,
    Schedule,
    Store,
    requests_of,
    with_frees,
)
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.layout import next_power_of_two
from glyphc.ir.ops import ClientBits, ClientRefresh, Input, IntegerPolynomial, Linear, Op, Output, Reshape, TableLookup
from glyphc.ir.types import Encoding

from .table_lookup import Arithmetic, Lookup


def integer_schedule(graph: Graph) -> Schedule:
    """The instructions of a laid-out graph with parameters for integers."""
    assert isinstance(graph.parameters, IntegerParameters)
    code = integer_code(graph, graph.parameters.slots)
    outputs = []
    for node, op in graph.of(Output):
        source, tail = decrypted(graph, node)
        outputs.append(_port(op.name, source, tail))
    inputs = [_port(op.name, node) for node, op in graph.of(Input)]
    client = ClientSpec(graph.parameters, tuple(inputs), tuple(outputs), graph.batch, requests=requests_of(code))
    return Schedule(client, tuple(with_frees(code)), {})


def block_of(batch: int, slots: int) -> int:
    """Slots that the samples of one feature take, where others stand beside them; all slots where none can."""
    block = next_power_of_two(min(batch, slots))
    return block if block <= slots // 2 else slots


def integer_code(graph: Graph, slots: int) -> tuple[Instruction, ...]:
    """The instructions alone: they need no layout, but the slots of a ciphertext."""
    lowering = _Lowering(graph, slots, block_of(graph.batch, slots))
    for node, op in graph.of(Output):
        source, _ = decrypted(graph, node)
        for feature in range(source.type.size):
            register = lowering.feature(source, feature)
            lowering.code.append(Store(register, op.name, feature, source.id))
    return tuple(lowering.code)


def block_summed(code: Sequence[Instruction]) -> int:
    """Slots of the blocks that are summed up; 0 where none are."""
    return next((i.block for i in code if isinstance(i, IntegerBlocks)), 0)


def _port(name: str, node: Node, tail: tuple[Op, ...] = ()) -> Port:
    assert node.type.fixed is not None and node.type.layout is not None
    return Port(name, node.type.shape, node.type.fixed, node.type.layout, tail, Encoding.INTEGERS)


@dataclass
class _Lowering:
    """registers: of every feature that was computed, by node id and feature. blocks: of every node whose features
    stand side by side in blocks; answers: of every node that the client computes."""

    graph: Graph
    slots: int
    block: int
    code: list[Instruction] = field(default_factory=list)
    registers: dict[tuple[int, int], Register] = field(default_factory=dict)
    blocks: dict[int, tuple[Register, ...]] = field(default_factory=dict)
    answers: dict[int, tuple[Register, ...]] = field(default_factory=dict)
    count: int = 0

    def feature(self, node: Node, feature: int) -> Register:
        """The register of one feature of a node, computed when it is first asked for."""
        node = self._source(node)
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
                return PowerTree(self, source, node.id).polynomial(coefficients)
            case ClientRefresh():
                return self._answered(node)[feature]
            case TableLookup():
                found = self._looked_up(node)
                if self.block == self.slots:
                    return found[feature]
                row = np.zeros(node.type.size, dtype=np.int64)
                row[feature] = 1
                return self._block_sum(found, row, 0, node.id)
        raise ParameterError(f"{node} cannot be computed on integers in slots")

    def _source(self, node: Node) -> Node:
        """The node whose features a node has as they are."""
        while isinstance(node.op, Reshape):
            (node,) = self.graph.operands(node)
        return node

    # -- the client --

    def _answered(self, node: Node) -> tuple[Register, ...]:
        """What the client makes of all features of a value, in one trip."""
        if node.id not in self.answers:
            operand = self.graph.operands(node)[0]
            sources = tuple(self.feature(operand, i) for i in range(operand.type.size))
            match node.op:
                case ClientRefresh(ratio=ratio):
                    request = Request(len(sources), ratio)
                case ClientBits(ratio=ratio, shift=shift, bits=bits):
                    request = Request(len(sources), ratio, shift, bits, self.block)
                case _:
                    raise AssertionError(f"{node} is nothing that the client does")
            targets = tuple(self._fresh() for _ in range(request.results(self.slots)))
            self.code.append(ClientRequest(targets, sources, request, node.id))
            self.answers[node.id] = targets
        return self.answers[node.id]

    # -- tables --

    def _looked_up(self, node: Node) -> tuple[Register, ...]:
        """Registers with features side by side in blocks."""
        if node.id not in self.blocks:
            assert isinstance(node.op, TableLookup)
            bits = self._source(self.graph.operands(node)[0])
            registers, count = self._answered(bits), bits.type.shape[0]
            groups = (registers[at : at + count] for at in range(0, len(registers), count))
            self.blocks[node.id] = tuple(Lookup(self, group, node.id).of(node.op.table) for group in groups)
        return self.blocks[node.id]

    def _block_sum(self, sources: Sequence[Register], row: npt.NDArray[np.int64], bias: int, node: int) -> Register:
        """A weighted sum of features that stand in blocks."""
        per = self.slots // self.block
        weights = np.zeros(len(sources) * per, dtype=np.int64)
        weights[: len(row)] = row
        rows = weights.reshape(len(sources), per)
        kept = [at for at in range(len(sources)) if rows[at].any()] or [0]
        target = self._fresh()
        chosen = tuple(tuple(int(w) for w in rows[at]) for at in kept)
        registers = tuple(sources[at] for at in kept)
        self.code.append(IntegerBlocks(target, registers, chosen, self.block, bias, node))
        return target

    # -- linear maps --

    def _linear(self, node: Node, op: Linear, feature: int) -> Register:
        sources: list[Register] = []
        weights: list[int] = []
        first: Register | None = None
        bias = int(self.graph.constant(op.bias.name)[feature])
        several = len(op.weights) > 1
        for operand, weight in zip(self.graph.operands(node), op.weights, strict=True):
            used, row = self.graph.matrix(weight).row(feature)
            source = self._source(operand)
            if isinstance(source.op, TableLookup) and self.block < self.slots:
                whole = np.zeros(operand.type.size, dtype=np.int64)
                whole[used] = row
                if not several:
                    return self._block_sum(self._looked_up(source), whole, bias, node.id)
                sources.append(self._block_sum(self._looked_up(source), whole, 0, node.id))
                weights.append(1)
                continue
            first = self.feature(operand, 0) if first is None and not len(used) else first
            sources += [self.feature(operand, int(i)) for i in used]
            weights += [int(w) for w in row]
        if not sources:
            # a constant, but computed from something
            assert first is not None
            sources, weights = [first, first], [1, -1]
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
class PowerTree:
    """Powers of x whose exponents are powers of two, each made when it is needed."""

    lowering: Arithmetic
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
