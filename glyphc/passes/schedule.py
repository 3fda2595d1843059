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
    EncryptedDot,
    EncryptedMap,
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
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Level, Scheme
from glyphc.slots.lowering import slot_schedule

I64 = npt.NDArray[np.int64]

# Parts of a value that are alive at once: inputs are loaded so many at a time, and a large unpacking is split in two
# steps, where what comes of each piece of the first is used up before the next one is split.
GROUP = 64


def schedule(graph: Graph) -> Schedule:
    """The instructions of a laid-out graph with parameters, in an order that keeps few ciphertexts alive."""
    if graph.level is not Level.LAIDOUT or graph.parameters is None:
        raise ParameterError("only a laid-out graph with parameters can be scheduled")
    if isinstance(graph.parameters, SlotParameters):
        return slot_schedule(graph)
    lowering = _Lowering(graph)
    for node, op in graph.of(Output):
        lowering.output(node, op)
    ports = [_port(graph, node, op) for node, op in graph.of(Output)]
    inputs = [_input_port(node, op) for node, op in graph.of(Input)]
    client = ClientSpec(graph.parameters, tuple(inputs), tuple(ports), graph.batch, tuple(lowering.encrypted.values()))
    return Schedule(client, tuple(_with_lifetimes(lowering.instructions)), lowering.polynomials, lowering.secret)


def chunk_order(graph: Graph) -> dict[int, tuple[int, ...]]:
    """The chunks of every computed node in the order in which its instructions make them, by node id."""
    lowering = _Lowering(graph)
    for node, op in graph.of(Output):
        lowering.output(node, op)
    order: dict[int, tuple[int, ...]] = {}
    for task in lowering.registers:
        if task.step < 0:
            order[task.node] = (*order.get(task.node, ()), task.chunk)
    return order


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
    """Something to compute: chunk ``chunk`` of a node.

    step: of a linear map, how many of its products to add up; of a value that comes in groups, which group. -1: all, or
    of an unpacking in groups the pieces that these come from.
    """

    node: int
    chunk: int
    step: int = -1


@dataclass(frozen=True)
class _Step:
    """One sum of products of a linear map: a group of parts of one chunk of an operand, -1 for all of them."""

    operand: int
    chunk: int
    group: int

    def source(self, operands: tuple[Node, ...]) -> _Task:
        return _Task(operands[self.operand].id, self.chunk, self.group)


@dataclass
class _Lowering:
    """Emits what the outputs need, depth first: a chunk goes through the network before the next one begins."""

    graph: Graph
    instructions: list[Instruction] = field(default_factory=list)
    polynomials: dict[str, Polynomials] = field(default_factory=dict)
    encrypted: dict[str, EncryptedMap] = field(default_factory=dict)
    secret: dict[str, Polynomials] = field(default_factory=dict)
    registers: dict[_Task, tuple[Register, ...]] = field(default_factory=dict)
    # of the polynomials of a step: which of the registers of its source they meet
    sources: dict[str, tuple[int, ...]] = field(default_factory=dict)
    met: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # groups by map and operand
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
            return [*before, steps[task.step].source(operands)]
        if isinstance(node.op, Unpack) and task.step >= 0:
            return [replace(task, step=-1)]
        return [_Task(o.id, task.chunk, task.step) for o in operands]

    def _steps(self, node: Node, chunk: int) -> list[_Step]:
        """All that adds up to one chunk of a linear map."""
        chunks = _layout(node).chunks
        steps = [
            _Step(number, source, group)
            for number, operand in enumerate(self.graph.operands(node))
            for source in range(chunk, _layout(operand).chunks, chunks)
            for group in self._groups_met(node, number)
        ]
        # chunk by chunk: operands that share a bootstrap are made together and need not wait for one another
        return sorted(steps, key=lambda step: (step.chunk, step.operand))

    def _groups_met(self, node: Node, number: int) -> list[int]:
        """The groups of an operand's parts that have weights, at least one."""
        key = (node.id, number)
        if key not in self.met:
            self.met[key] = self._find_groups(node, number)
        return self.met[key]

    def _find_groups(self, node: Node, number: int) -> list[int]:
        operand = self.graph.operands(node)[number]
        groups = self._groups(operand)
        if groups == 1:
            return [-1]
        assert isinstance(node.op, Linear)
        if node.op.encrypted:
            return list(range(groups))  # where its zeros are is a secret, too
        weight, parts = self._weight(node, number), _layout(operand).parts
        met = [g for g in range(groups) if any(weight[:, p::parts].any() for p in self._parts(operand, g))]
        return met or [0]

    def _groups(self, node: Node) -> int:
        """How many groups the parts of a value come in: several of many parts that only linear maps read."""
        if isinstance(node.op, Reshape):
            return self._groups(self.graph.operands(node)[0])
        if not isinstance(node.op, Input | Unpack) or not self._only_maps_read(node):
            return 1
        return -(-_layout(node).parts // GROUP)

    def _only_maps_read(self, node: Node) -> bool:
        users = self.graph.users(node)
        return all(isinstance(u.op, Linear) or (isinstance(u.op, Reshape) and self._only_maps_read(u)) for u in users)

    def _parts(self, node: Node, group: int) -> list[int]:
        """The parts of a value that hold a feature, or those of them in one group."""
        parts = min(_layout(node).parts, node.type.size)
        return list(range(parts) if group < 0 else range(group, parts, self._groups(node)))

    # -- instructions --

    def _emit(self, task: _Task) -> None:
        node = self.graph.node(task.node)
        op, layout = node.op, _layout(node)
        if isinstance(op, Input):
            first, parts = task.chunk * layout.parts, self._parts(node, task.step)
            targets = self.registers[task] = self.fresh(len(parts))
            self.instructions += [Load(r, op.name, first + p, node.id) for r, p in zip(targets, parts, strict=True)]
            return
        if isinstance(op, Linear):
            self._linear(task, node, op)
            return
        (operand,) = self.graph.operands(node)
        if isinstance(op, Unpack):
            self._unpack(task, node, op)
            return
        sources = self.registers[_Task(operand.id, task.chunk, task.step)]
        if isinstance(op, Reshape):
            self.registers[task] = sources
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

    def _unpack(self, task: _Task, node: Node, op: Unpack) -> None:
        """All parts, or the pieces that they come from, or the parts in one of these."""
        (operand,) = self.graph.operands(node)
        groups, stride = self._groups(node), _layout(operand).stride
        # parts beyond the features hold nothing that anybody reads
        if task.step < 0:
            (source,), parts = self.registers[_Task(operand.id, task.chunk)], op.parts if groups == 1 else groups
            targets = self.fresh(min(parts, node.type.size))
        else:
            source, parts = self.registers[replace(task, step=-1)][task.step], GROUP
            targets, stride = self.fresh(len(self._parts(node, task.step))), stride * groups
        self.instructions.append(Split(targets, source, parts, stride, node.id))
        self.registers[task] = targets

    def _linear(self, task: _Task, node: Node, op: Linear) -> None:
        """One step: products with some parts of one chunk of one operand, added to the steps before."""
        steps = self._steps(node, task.chunk)
        if task.step < 0:
            self.registers[task] = self.registers[replace(task, step=len(steps) - 1)]
            return
        step, operands, target = steps[task.step], self.graph.operands(node), _layout(node)
        sources = self.registers[step.source(operands)]
        name = self._weights(node, op, step)
        total = self.registers[replace(task, step=task.step - 1)][0] if task.step else None
        place = step.chunk // target.chunks * target.batch_stride
        (result,) = self.fresh()
        chosen = tuple(sources[part] for part in self.sources[name])
        product = EncryptedDot if op.encrypted else Dot
        self.instructions.append(product(result, chosen, name, None if place else total, node.id))
        if place:
            # narrow tensors of several chunks stand side by side in one
            (moved,) = self.fresh()
            self.instructions.append(Dot(moved, (result,), self._monomial(place), total, node.id))
            result = moved
        self.registers[task] = (result,)

    def _weights(self, node: Node, op: Linear, step: _Step) -> str:
        """Name of the polynomials for one step, of whatever chunk; the bias goes with the first of a chunk."""
        name = f"{node.location or 'linear'}%{node.id}" + (f".{step.operand}" if step.operand else "")
        name += "" if step.group < 0 else f"/{step.group}"
        if name not in self.sources:
            operand = self.graph.operands(node)[step.operand]
            first = step.operand == 0 and step.group == self._groups_met(node, 0)[0]
            if op.encrypted:
                self._encrypted_weights(node, op, step, name, first)
                return name
            weight, source = self._weight(node, step.operand), _layout(operand)
            bias = self.graph.constant(op.bias.name).astype(np.int64) if first else None
            parts = self._parts(operand, step.group)
            used = [p for p in parts if weight[:, p :: source.parts].any()] or parts[:1]
            self.sources[name] = tuple(parts.index(p) for p in used)
            self.polynomials[name] = weight_polynomials(weight, bias, source, _layout(node), tuple(used))
        return name

    def _encrypted_weights(self, node: Node, op: Linear, step: _Step, name: str, first: bool) -> None:
        """What the client has to encrypt for one step; the polynomials themselves where the graph has the values.

        A polynomial for every part, whatever the values: what the server sees follows from shapes alone.
        """
        operand = self.graph.operands(node)[step.operand]
        parts = self._parts(operand, step.group)
        self.sources[name] = tuple(range(len(parts)))
        self.encrypted[name] = EncryptedMap(name, len(parts), first)
        if self.graph.withheld.isdisjoint(op.constant_names()):
            weight = self._weight(node, step.operand)
            bias = self.graph.constant(op.bias.name).astype(np.int64) if first else None
            self.secret[name] = weight_polynomials(weight, bias, _layout(operand), _layout(node), tuple(parts))

    def _weight(self, node: Node, number: int) -> I64:
        assert isinstance(node.op, Linear)
        return self.graph.constant(node.op.weights[number].name).astype(np.int64, copy=False)

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
        case Dot(target=t, sources=s, total=total) | EncryptedDot(target=t, sources=s, total=total):
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
