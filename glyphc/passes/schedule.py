"""Lower a laid-out graph to instructions on numbered ciphertexts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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
    """The instructions of a laid-out graph with parameters, in an order that keeps few ciphertexts alive."""
    if graph.level is not Level.LAIDOUT or graph.parameters is None:
        raise ParameterError("only a laid-out graph with parameters can be scheduled")
    lowering = _Lowering(graph)
    for node, op in graph.of(Output):
        lowering.output(node, op)
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


@dataclass(frozen=True)
class _Task:
    """Something to compute: chunk ``chunk`` of a node. step: of a linear map, which operand's which chunk to add."""

    node: int
    chunk: int
    step: int = -1


@dataclass
class _Lowering:
    """Emits what the outputs need, depth first: a chunk goes through the network before the next one begins."""

    graph: Graph
    instructions: list[Instruction] = field(default_factory=list)
    polynomials: dict[str, Polynomials] = field(default_factory=dict)
    registers: dict[_Task, tuple[Register, ...]] = field(default_factory=dict)
    sources: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of a linear map's weights: the parts they meet
    count: int = 0

    def fresh(self, number: int = 1) -> tuple[Register, ...]:
        self.count += number
        return tuple(range(self.count - number, self.count))

    def output(self, node: Node, op: Output) -> None:
        tail = client_tail(self.graph, node)
        source = self.graph.operands(tail[0] if tail else node)[0]
        part = 0
        for chunk in range(_layout(source).chunks):
            for register in self.compute(_Task(source.id, chunk)):
                self.instructions.append(Store(register, op.name, part, node.id))
                part += 1

    def compute(self, wanted: _Task) -> tuple[Register, ...]:
        """Registers of a task, after everything it needs. An explicit stack: networks may be deep."""
        stack = [wanted]
        while stack:
            task = stack[-1]
            missing = [t for t in self._needs(task) if t not in self.registers]
            if task in self.registers:
                stack.pop()
            elif missing:
                stack.append(missing[0])
            else:
                self._emit(task)
                stack.pop()
        return self.registers[wanted]

    # -- what a task needs --

    def _needs(self, task: _Task) -> list[_Task]:
        node = self.graph.node(task.node)
        operands = self.graph.operands(node)
        if isinstance(node.op, Linear):
            steps = self._steps(node, task.chunk)
            if task.step < 0:
                return [replace(task, step=len(steps) - 1)]
            before = [replace(task, step=task.step - 1)] if task.step else []
            operand, chunk = steps[task.step]
            return [*before, _Task(operands[operand].id, chunk)]
        return [_Task(o.id, task.chunk) for o in operands]

    def _steps(self, node: Node, chunk: int) -> list[tuple[int, int]]:
        """(operand, its chunk) of all that adds up to one chunk of a linear map."""
        chunks = _layout(node).chunks
        steps = [
            (number, source)
            for number, operand in enumerate(self.graph.operands(node))
            for source in range(chunk, _layout(operand).chunks, chunks)
        ]
        # chunk by chunk: operands that share a bootstrap are made together and need not wait for one another
        return sorted(steps, key=lambda step: (step[1], step[0]))

    # -- instructions --

    def _emit(self, task: _Task) -> None:
        node = self.graph.node(task.node)
        op, layout = node.op, _layout(node)
        if isinstance(op, Input):
            targets = self.fresh(layout.parts)
            first = task.chunk * layout.parts
            self.instructions += [Load(r, op.name, first + part, node.id) for part, r in enumerate(targets)]
            self.registers[task] = targets
            return
        if isinstance(op, Linear):
            self._linear(task, node, op)
            return
        (operand,) = self.graph.operands(node)
        sources = self.registers[_Task(operand.id, task.chunk)]
        if isinstance(op, Reshape):
            self.registers[task] = sources
        elif isinstance(op, Unpack):
            # parts beyond the features hold nothing that anybody reads
            targets = self.fresh(min(op.parts, node.type.size))
            self.instructions.append(Split(targets, sources[0], op.parts, _layout(operand).stride, node.id))
            self.registers[task] = targets
        elif isinstance(op, Bootstrap):
            self._bootstraps(operand, task.chunk, sources[0])
        elif isinstance(op, Switch):
            (target,) = self.registers[task] = self.fresh()
            if op.target is Scheme.TFHE:
                assert self.graph.parameters is not None
                self.instructions.append(ToTorus(target, sources[0], self.graph.parameters.slots, node.id))
            else:
                self.instructions.append(FromTorus(target, sources[0], node.id))
        else:
            raise ParameterError(f"{node} has no instruction")

    def _linear(self, task: _Task, node: Node, op: Linear) -> None:
        """One step: the products with one chunk of one operand, added to the steps before."""
        steps = self._steps(node, task.chunk)
        if task.step < 0:
            self.registers[task] = self.registers[replace(task, step=len(steps) - 1)]
            return
        number, chunk = steps[task.step]
        operand, target = self.graph.operands(node)[number], _layout(node)
        sources = self.registers[_Task(operand.id, chunk)]
        name = self._weights(node, op, number)
        total = self.registers[replace(task, step=task.step - 1)][0] if task.step else None
        place = chunk // target.chunks * target.batch_stride
        (result,) = self.fresh()
        chosen = tuple(sources[part] for part in self.sources[name])
        self.instructions.append(Dot(result, chosen, name, None if place else total, node.id))
        if place:
            # narrow tensors of several chunks stand side by side in one
            (moved,) = self.fresh()
            self.instructions.append(Dot(moved, (result,), self._monomial(place), total, node.id))
            result = moved
        self.registers[task] = (result,)

    def _weights(self, node: Node, op: Linear, number: int) -> str:
        """Name of the polynomials for one operand; the bias goes with the first."""
        name = f"{node.location or 'linear'}%{node.id}" + (f".{number}" if number else "")
        if name not in self.polynomials:
            weight = self.graph.constant(op.weights[number].name).astype(np.int64)
            bias = None if number else self.graph.constant(op.bias.name).astype(np.int64)
            source = _layout(self.graph.operands(node)[number])
            used = tuple(p for p in range(min(source.parts, source.features)) if weight[:, p :: source.parts].any())
            self.sources[name] = used or (0,)
            self.polynomials[name] = weight_polynomials(weight, bias, source, _layout(node), self.sources[name])
        return name

    def _monomial(self, exponent: int) -> str:
        name = f"X^{exponent}"
        self.polynomials[name] = Polynomials(np.array([0, 1]), np.array([exponent], dtype=np.int32), np.array([1]))
        return name

    def _bootstraps(self, operand: Node, chunk: int, source: Register) -> None:
        """All functions of one value at once: the precomputation they share is large."""
        readers = [(n, n.op) for n in self.graph.users(operand) if isinstance(n.op, Bootstrap)]
        (powers,) = self.fresh()
        first, op = readers[0]
        self.instructions.append(Powers(powers, source, op.slots, op.series.degree, first.id))
        for node, op in readers:
            assert operand.type.fixed is not None and node.type.fixed is not None
            (target,) = self.registers[_Task(node.id, chunk)] = self.fresh()
            formats = (operand.type.fixed, node.type.fixed)
            self.instructions.append(Evaluate(target, powers, op.series, op.functions, *formats, op.divisor, node.id))


def _layout(node: Node) -> Layout:
    assert node.type.layout is not None
    return node.type.layout


def weight_polynomials(
    weight: I64, bias: I64 | None, source: Layout, target: Layout, used: tuple[int, ...] | None = None
) -> Polynomials:
    """Polynomials of a dense map, W_r = sum_{k, q} w[k, r + q*parts] X^(k*s_out - q*s_in), and the bias at the end.

    weight: (out, in), bias: (out,) or none. used: the parts r, by default all that hold a feature. The results of the
    samples of a source chunk stand at the source's distances; the caller moves them to their places in the target.
    """
    n = source.ring
    rows: list[tuple[I64, I64]] = []
    outputs = np.arange(weight.shape[0], dtype=np.int64) * target.stride
    for part in range(min(source.parts, source.features)) if used is None else used:
        block = weight[:, part :: source.parts]
        inputs = np.arange(block.shape[1], dtype=np.int64) * source.stride
        rows.append(_wrap((outputs[:, None] - inputs[None, :]).ravel(), block.ravel(), n))
    if bias is not None:
        samples = np.arange(source.per_chunk, dtype=np.int64) * source.batch_stride
        positions = samples[:, None] + outputs[None, :]
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
        case Dot(target=t, sources=s, total=total):
            return (t, *s) if total is None else (t, *s, total)
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
