"""Lower a laid-out graph to instructions on numbered ciphertexts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from glyphc.errors import ParameterError
from glyphc.ir.evaluate import client_tail
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import (
    ClientSpec,
    Dot,
    Evaluate,
    Free,
    FromTorus,
    Instruction,
    Load,
    Polynomials,
    Port,
    Powers,
    Register,
    Schedule,
    Split,
    Store,
    ToTorus,
)
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Bootstrap, Input, Linear, Output, Reshape, Switch, Unpack
from glyphc.ir.types import Level, Scheme

I64 = npt.NDArray[np.int64]


def schedule(graph: Graph) -> Schedule:
    """The instructions of a laid-out graph with parameters, in graph order, with the lifetime of every register."""
    if graph.level is not Level.LAIDOUT or graph.parameters is None:
        raise ParameterError("only a laid-out graph with parameters can be scheduled")
    lowering = _Lowering(graph)
    for node in graph:
        lowering.visit(node)
    ports = [_port(graph, node, op) for node, op in graph.of(Output)]
    inputs = [_input_port(node, op) for node, op in graph.of(Input)]
    client = ClientSpec(graph.parameters, tuple(inputs), tuple(ports), graph.batch)
    return Schedule(client, tuple(_with_lifetimes(lowering.instructions)), lowering.polynomials)


def _input_port(node: Node, op: Input) -> Port:
    assert node.type.fixed is not None and node.type.layout is not None
    return Port(op.name, op.shape, node.type.fixed, node.type.layout)


def _port(graph: Graph, node: Node, op: Output) -> Port:
    tail = client_tail(graph, node)
    source = graph.operands(tail[0] if tail else node)[0]
    assert source.type.fixed is not None and source.type.layout is not None
    return Port(op.name, source.type.shape, source.type.fixed, source.type.layout, tuple(n.op for n in tail))


@dataclass
class _Lowering:
    graph: Graph
    instructions: list[Instruction] = field(default_factory=list)
    polynomials: dict[str, Polynomials] = field(default_factory=dict)
    registers: dict[int, tuple[Register, ...]] = field(default_factory=dict)
    powers: dict[Register, Register] = field(default_factory=dict)  # one precomputation serves all functions
    count: int = 0

    def fresh(self, number: int = 1) -> tuple[Register, ...]:
        self.count += number
        return tuple(range(self.count - number, self.count))

    def visit(self, node: Node) -> None:
        op = node.op
        if isinstance(op, Output):
            tail = client_tail(self.graph, node)
            source = self.graph.operands(tail[0] if tail else node)[0]
            for part, register in enumerate(self.registers[source.id]):
                self.instructions.append(Store(register, op.name, part, node.id))
        elif node.type.scheme is Scheme.CLIENT:
            return
        elif isinstance(op, Input):
            assert node.type.layout is not None
            targets = self.fresh(node.type.layout.parts)
            self.instructions += [Load(r, op.name, part, node.id) for part, r in enumerate(targets)]
            self.registers[node.id] = targets
        else:
            self._compute(node)

    def _compute(self, node: Node) -> None:
        op = node.op
        (operand,) = self.graph.operands(node)
        sources = self.registers[operand.id]
        if isinstance(op, Reshape):
            self.registers[node.id] = sources
            return
        if isinstance(op, Unpack):
            assert operand.type.layout is not None
            # parts beyond the features hold nothing that anybody reads
            targets = self.fresh(min(op.parts, node.type.size))
            self.instructions.append(Split(targets, sources[0], op.parts, operand.type.layout.stride, node.id))
            self.registers[node.id] = targets
            return
        (target,) = self.fresh()
        self.registers[node.id] = (target,)
        if isinstance(op, Linear):
            assert operand.type.layout is not None and node.type.layout is not None
            name = f"{node.location or 'linear'}%{node.id}"
            weight, bias = (self.graph.constant(c.name).astype(np.int64) for c in (op.weight, op.bias))
            self.polynomials[name] = weight_polynomials(weight, bias, operand.type.layout, node.type.layout)
            self.instructions.append(Dot(target, sources, name, node.id))
        elif isinstance(op, Switch) and op.target is Scheme.TFHE:
            assert self.graph.parameters is not None
            self.instructions.append(ToTorus(target, sources[0], self.graph.parameters.slots, node.id))
        elif isinstance(op, Switch):
            self.instructions.append(FromTorus(target, sources[0], node.id))
        elif isinstance(op, Bootstrap):
            self._bootstrap(node, op, operand, sources[0], target)
        else:
            raise ParameterError(f"{node} has no instruction")

    def _bootstrap(self, node: Node, op: Bootstrap, operand: Node, source: Register, target: Register) -> None:
        if source not in self.powers:
            (self.powers[source],) = self.fresh()
            self.instructions.append(Powers(self.powers[source], source, op.slots, op.series.degree, node.id))
        assert operand.type.fixed is not None and node.type.fixed is not None
        self.instructions.append(
            Evaluate(
                target,
                self.powers[source],
                op.series,
                op.functions,
                operand.type.fixed,
                node.type.fixed,
                op.divisor,
                node.id,
            )
        )


def weight_polynomials(weight: I64, bias: I64, source: Layout, target: Layout) -> Polynomials:
    """Polynomials of a dense map, W_r = sum_{k, q} w[k, r + q*parts] X^(k*s_out - q*s_in), and the bias at the end.

    weight: (out, in), bias: (out,). Parts that hold no feature have no polynomial.
    """
    n = source.ring
    rows: list[tuple[I64, I64]] = []
    outputs = np.arange(weight.shape[0], dtype=np.int64) * target.stride
    for part in range(min(source.parts, source.features)):
        block = weight[:, part :: source.parts]
        inputs = np.arange(block.shape[1], dtype=np.int64) * source.stride
        rows.append(_wrap((outputs[:, None] - inputs[None, :]).ravel(), block.ravel(), n))
    positions = target.positions(0)
    rows.append(_wrap(positions.ravel(), np.broadcast_to(bias, positions.shape).ravel(), n))
    offsets = np.cumsum([0] + [len(e) for e, _ in rows])
    return Polynomials(
        offsets.astype(np.int64),
        np.concatenate([e for e, _ in rows]).astype(np.int32),
        np.concatenate([v for _, v in rows]).astype(np.int64),
    )


def _wrap(exponents: I64, values: I64, n: int) -> tuple[I64, I64]:
    """Exponents into [0, n) with X^n = -1; terms that are zero are dropped."""
    keep = values != 0
    exponents, values = exponents[keep], values[keep]
    turns = np.floor_divide(exponents, n)
    return exponents - turns * n, np.where(turns % 2 == 0, values, -values)


def _with_lifetimes(instructions: list[Instruction]) -> list[Instruction]:
    """Insert a Free behind the last use of every register."""
    last: dict[Register, int] = {}
    for at, instruction in enumerate(instructions):
        for register in _registers(instruction):
            last[register] = at
    out: list[Instruction] = []
    for at, instruction in enumerate(instructions):
        out.append(instruction)
        dead = tuple(r for r in sorted(set(_registers(instruction))) if last[r] == at)
        if dead:
            out.append(Free(dead, instruction.node))
    return out


def _registers(instruction: Instruction) -> tuple[Register, ...]:
    """All registers that an instruction reads or writes."""
    match instruction:
        case Load(target=t):
            return (t,)
        case Dot(target=t, sources=s):
            return (t, *s)
        case Split(targets=t, source=s):
            return (*t, s)
        case ToTorus(target=t, source=s) | FromTorus(target=t, source=s) | Powers(target=t, source=s):
            return (t, s)
        case Evaluate(target=t, powers=p):
            return (t, p)
        case Store(source=s):
            return (s,)
        case _:
            return ()
