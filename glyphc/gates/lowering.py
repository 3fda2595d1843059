"""From a graph on words to gates, and from these to instructions: one sample in a pass, a register for each bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from glyphc.analysis.word_figures import GATE_SECONDS
from glyphc.errors import ParameterError
from glyphc.ir.evaluate import decrypted
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import (
    ClientSpec,
    ConstantBit,
    EncryptedMap,
    Gate,
    Instruction,
    Load,
    Opposite,
    Polynomials,
    Port,
    Register,
    Schedule,
    Store,
    with_frees,
)
from glyphc.ir.layout import Layout
from glyphc.ir.op import weight_shape
from glyphc.ir.ops import Input, Linear, Op, Output, Reshape, Shorten, WordTable
from glyphc.ir.rescaling import word_bits
from glyphc.ir.types import Encoding
from glyphc.ir.word_parameters import WordParameters

from .circuit import Bit, Circuit, Signal
from .words import Word, Words, constant, extended

I64 = npt.NDArray[np.int64]

# A circuit of more gates takes gigabytes to plan and half a day for a sample.
MOST_GATES = 1 << 20


def word_schedule(graph: Graph) -> Schedule:
    """The instructions of a laid-out graph on words. ParameterError for one of too many gates."""
    assert isinstance(graph.parameters, WordParameters)
    made = NetworkCircuit.of(graph)
    ports = []
    for node, op in graph.of(Output):
        ports.append(replace(_port(op.name, *decrypted(graph, node)), labels=op.labels))
    inputs = [replace(_port(op.name, n), ranks=op.ranks, columns=op.columns, ids=op.ids) for n, op in graph.of(Input)]
    maps = tuple(EncryptedMap(name, len(bits), False) for name, bits in made.secret_wires.items())
    client = ClientSpec(graph.parameters, tuple(inputs), tuple(ports), graph.batch, maps)
    return Schedule(client, tuple(with_frees(made.code())), {}, _secret_bits(graph))


def _port(name: str, node: Node, tail: tuple[Op, ...] = ()) -> Port:
    fixed, layout = node.type.fixed, node.type.layout
    assert fixed is not None and layout is not None
    bits = fixed.word_bits * layout.features
    return Port(name, node.type.shape, fixed, Layout(1, 1, bits, bits, 1, 1, 1, True), tail, Encoding.BITS)


@dataclass
class NetworkCircuit:
    """A network's gates. wires: (name, bit) of each input of the circuit, encrypted weights behind the inputs; words:
    of the encrypted values, by node id; outputs: bits of each output. secret_wires: of each encrypted map."""

    graph: Graph
    circuit: Circuit
    wires: list[tuple[str, int]] = field(default_factory=list)
    words: dict[int, tuple[Word, ...]] = field(default_factory=dict)
    weights: dict[int, tuple[Word, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[Bit, ...]] = field(default_factory=dict)
    secret_wires: dict[str, range] = field(default_factory=dict)

    @staticmethod
    def of(graph: Graph) -> NetworkCircuit:
        """ParameterError for one of more than ``MOST_GATES``, before it is made."""
        if (most := most_gates(graph)) > MOST_GATES:
            raise ParameterError(
                f"a sample takes up to {most:,} gates, {most * GATE_SECONDS / 3600:,.0f} hours; circuits of up to "
                f"{MOST_GATES:,} gates can be planned"
            )
        made = NetworkCircuit(graph, Circuit())
        made._inputs()
        for node in graph:
            made.circuit.node = node.id
            if node.type.encoding is Encoding.BITS and node.id not in made.words:
                made.words[node.id] = made._computed(node)
        for node, op in graph.of(Output):
            made.outputs[op.name] = tuple(bit for word in made.words[decrypted(graph, node)[0].id] for bit in word)
        return made

    def code(self) -> list[Instruction]:
        """Its instructions."""
        nodes = {op.name: node.id for node, op in self.graph.of(Output)}
        return circuit_code(self.circuit, self.wires, self.outputs, nodes)

    def _inputs(self) -> None:
        """All wires from outside: those of a circuit come first."""
        for node, op in self.graph.of(Input):
            assert node.type.fixed is not None
            self.words[node.id] = self._given(op.name, [node.type.fixed.word_bits] * node.type.size)
        for name, node, widths in _secrets(self.graph):
            start = len(self.wires)
            self.weights[node.id] = self._given(name, widths)
            self.secret_wires[name] = range(start, len(self.wires))

    def _given(self, name: str, widths: list[int]) -> tuple[Word, ...]:
        self.wires += [(name, bit) for bit in range(sum(widths))]
        return tuple(self.circuit.word(width) for width in widths)

    def _computed(self, node: Node) -> tuple[Word, ...]:
        words = Words(self.circuit)
        operands = [self.words[n.id] for n in self.graph.operands(node)]
        match node.op:
            case Linear():
                return self._sums(node, node.op, words, tuple(word for operand in operands for word in operand))
            case Shorten(shift=shift, bits=bits):
                return tuple(words.saturate(extended(w[shift:], max(len(w) - shift, bits)), bits) for w in operands[0])
            case WordTable(table=table):
                width = (len(table) - 1).bit_length()
                return tuple(words.lookup(word, table, width) for word in operands[0])
            case Reshape():
                return operands[0]
            case _:
                raise ParameterError(f"{node} has no circuit")

    def _sums(self, node: Node, op: Linear, words: Words, values: tuple[Word, ...]) -> tuple[Word, ...]:
        wide = sum_bits(self.graph, node)
        found = []
        rows, columns = node.type.size, len(values)
        matrix = None if op.encrypted else np.hstack([self.graph.matrix(w).dense() for w in op.weights])
        biases = None if op.encrypted else shifted_bias(self.graph, node, op)
        for row in range(rows):
            if matrix is None or biases is None:
                given = self.weights[node.id]
                mine = given[row * (columns + 1) : (row + 1) * (columns + 1)]
                bias, products = mine[-1], [words.multiply(x, w, wide) for x, w in zip(values, mine[:-1], strict=True)]
            else:
                bias = constant(int(biases[row]), wide)
                products = [words.scale(x, int(w), wide) for x, w in zip(values, matrix[row], strict=True) if w]
            found.append(words.total([*products, bias], wide))
        return tuple(found)


def shifted_bias(graph: Graph, node: Node, op: Linear) -> I64:
    """The bias, with what rounds to the nearest where the sum is cut off: half of the bits that go."""
    shorten = next((u.op for u in graph.users(node) if isinstance(u.op, Shorten)), None)
    half = 0 if shorten is None else (1 << shorten.shift) >> 1
    return np.asarray(graph.constant(op.bias.name).astype(np.int64) + half)


def sum_bits(graph: Graph, node: Node) -> int:
    """Bits of a word that holds every sum of a linear map, its rounded bias included, whatever the operands are.

    Of encrypted weights, by their widths alone.
    """
    assert isinstance(node.op, Linear)
    if node.op.encrypted:
        # a bias is at most as large as all that it is added to
        return (2 * _largest_secret_sum(graph, node)).bit_length() + 1
    sizes = np.abs(shifted_bias(graph, node, node.op)).astype(np.float64)
    for weight, operand in zip(node.op.weights, graph.operands(node), strict=True):
        assert operand.type.fixed is not None
        size = np.array([float(operand.type.fixed.magnitude)])
        sizes = sizes + graph.matrix(weight).floats().each(lambda w, i, j: np.abs(w)).weighted(size)
    return int(sizes.max()).bit_length() + 1


def _largest_secret_sum(graph: Graph, node: Node) -> int:
    """Of products with weights that nobody but the client knows."""
    assert isinstance(node.op, Linear)
    total = 0
    for weight, operand in zip(node.op.weights, graph.operands(node), strict=True):
        assert operand.type.fixed is not None
        total += weight_shape(weight, graph.constants)[1] * (operand.type.fixed.magnitude << _weight_bits(graph) - 1)
    return total


def _weight_bits(graph: Graph) -> int:
    assert isinstance(graph.parameters, WordParameters)
    return graph.parameters.bits


def _secrets(graph: Graph) -> Iterator[tuple[str, Node, list[int]]]:
    """Of each encrypted map: its name, and the widths of the words that the client encrypts, row by row, bias last."""
    number = 0
    for node, op in graph.of(Linear):
        if op.encrypted:
            columns = sum(weight_shape(w, graph.constants)[1] for w in op.weights)
            row = [*[_weight_bits(graph)] * columns, sum_bits(graph, node)]
            yield f"{node.location or 'weights'}#{number}", node, row * node.type.size
            number += 1


def _secret_bits(graph: Graph) -> dict[str, Polynomials]:
    """The bits of encrypted weights, each a polynomial of its own, where their values are at hand.

    ParameterError for a bias that no word of the sum holds.
    """
    found = {}
    for name, node, _ in _secrets(graph):
        op = node.op
        assert isinstance(op, Linear)
        if not graph.withheld.isdisjoint(op.constant_names()):
            continue
        width, wide = _weight_bits(graph), sum_bits(graph, node)
        biases = shifted_bias(graph, node, op)
        if int(np.abs(biases).max()) > _largest_secret_sum(graph, node):
            raise ParameterError(f"{node}: its encrypted bias is larger than all that it is added to")
        matrix = np.hstack([graph.matrix(w).dense() for w in op.weights]).astype(np.int64)
        bits = np.hstack([word_bits(matrix, width), word_bits(biases[:, None], wide)]).ravel()
        rows = np.arange(len(bits) + 1, dtype=np.int64)
        found[name] = Polynomials(rows, np.zeros(len(bits), dtype=np.int32), bits)
    return found


def most_gates(graph: Graph) -> int:
    """A bound of the gates of a sample, without making them: sums of shifted words, saturation, tables as trees."""
    total = 0
    for node in graph:
        match node.op:
            case Linear(encrypted=True):
                columns = sum(weight_shape(w, graph.constants)[1] for w in node.op.weights)
                total += node.type.size * (columns * _weight_bits(graph) * 4 + 3) * sum_bits(graph, node)
            case Linear():
                digits = 0
                for weight in node.op.weights:
                    if graph.matrix(weight).count > MOST_GATES:
                        return total + 3 * graph.matrix(weight).count
                    values = np.abs(graph.matrix(weight).csr().data.astype(np.int64))
                    # digits other than 0 of the non-adjacent form, as in ``Words.scale``
                    digits += int(sum(int(v).bit_count() for v in (values ^ (3 * values)).ravel()))
                total += 3 * (2 * digits + node.type.size) * sum_bits(graph, node)
            case Shorten(bits=bits):
                total += node.type.size * 5 * bits
            case WordTable(table=table):
                total += node.type.size * 3 * len(table) * (len(table) - 1).bit_length()
    return total


def circuit_code(
    circuit: Circuit, wires: Sequence[tuple[str, int]], outputs: Mapping[str, Sequence[Bit]], nodes: Mapping[str, int]
) -> list[Instruction]:
    """Instructions of the gates that outputs depend on. wires: (name, bit) of each input of the circuit; outputs: bits
    of each, by name; nodes: that they are of."""
    return _Writer(circuit, wires).code(outputs, nodes)


@dataclass
class _Writer:
    """Instructions in the order of the gates; inputs are loaded where they are first read."""

    circuit: Circuit
    wires: Sequence[tuple[str, int]]
    registers: dict[int, Register] = field(default_factory=dict)
    written: list[Instruction] = field(default_factory=list)
    count: int = 0

    def code(self, outputs: Mapping[str, Sequence[Bit]], nodes: Mapping[str, int]) -> list[Instruction]:
        circuit = self.circuit
        for number in circuit.needed([bit for bits in outputs.values() for bit in bits]):
            gate = circuit.gates[number]
            sources = tuple(self._wire(s.wire, gate.node) for s in gate.operands)
            target = self.registers[circuit.inputs + number] = self._fresh()
            negated = tuple(s.negated for s in gate.operands)
            self._write(Gate(target, gate.kind, sources, negated, gate.node))
        for name, bits in outputs.items():
            for part, bit in enumerate(bits):
                self._write(Store(self._bit(bit, nodes[name]), name, part, nodes[name]))
        return self.written

    def _bit(self, bit: Bit, node: int) -> Register:
        if isinstance(bit, Signal) and not bit.negated:
            return self._wire(bit.wire, node)
        if isinstance(bit, Signal):
            source = self._wire(bit.wire, node)
            return self._write(Opposite(self._fresh(), source, node)).writes[0]
        return self._write(ConstantBit(self._fresh(), bit, node)).writes[0]

    def _wire(self, wire: int, node: int) -> Register:
        if wire not in self.registers:
            name, part = self.wires[wire]
            self.registers[wire] = self._fresh()
            self._write(Load(self.registers[wire], name, part, node))
        return self.registers[wire]

    def _fresh(self) -> Register:
        self.count += 1
        return self.count - 1

    def _write(self, instruction: Instruction) -> Instruction:
        self.written.append(instruction)
        return instruction
