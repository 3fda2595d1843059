"""Lowering on coefficients: what has to be computed, chunk by chunk, and the rule of each op that emits it.

A rule is registered for a class of ops by the module of the way that makes such ops (:func:`lowers`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from glyphc.errors import ParameterError
from glyphc.ir.evaluate import decrypted
from glyphc.ir.galois import Conjugation
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import (
    ConjugateDot,
    Conjugates,
    Divide,
    Dot,
    EncryptedDot,
    EncryptedMap,
    Instruction,
    Polynomials,
    Register,
    Store,
)
from glyphc.ir.layout import Layout
from glyphc.ir.matrices import Parts
from glyphc.ir.ops import Input, Linear, Op, Output, Reshape, Unpack
from glyphc.ir.stencils import Stencil
from glyphc.ir.unpackings import conjugation

from .weight_polynomials import monomial

# Parts of a value that are alive at once: inputs are loaded so many at a time, and a large unpacking is split in two
# steps, where what comes of each piece of the first is used up before the next one is split.
GROUP = 64


@dataclass(frozen=True)
class Task:
    """Something to compute: chunk ``chunk`` of a node.

    step: of a linear map, how many of its products to add up; of a value that comes in groups, which group. -1: all, or
    of an unpacking in groups the pieces that these come from.
    """

    node: int
    chunk: int
    step: int = -1


@dataclass(frozen=True)
class Step:
    """One sum of products of a linear map: a group of parts of one chunk of an operand, -1 for all of them."""

    operand: int
    chunk: int
    group: int

    def source(self, operands: tuple[Node, ...]) -> Task:
        return Task(operands[self.operand].id, self.chunk, self.group)


Needs = Callable[["Lowering", Task, Node], list[Task]]
Emit = Callable[["Lowering", Task, Node], None]
_E = TypeVar("_E", bound=Emit)


@dataclass(frozen=True)
class Rule:
    """How an op is lowered. emit: appends the instructions of a task, whose needs are met, and notes its registers.

    needs: the tasks before it; None for the same chunk and step of all operands.
    """

    emit: Emit
    needs: Needs | None


_RULES: dict[type[Op], Rule] = {}


def lowers(op: type[Op], needs: Needs | None = None) -> Callable[[_E], _E]:
    """Decorator: the function emits the tasks of this class of ops."""

    def register(emit: _E) -> _E:
        _RULES[op] = Rule(emit, needs)
        return emit

    return register


def rule(node: Node) -> Rule:
    """The rule of a node's op; ParameterError when there is none."""
    try:
        return _RULES[type(node.op)]
    except KeyError:
        raise ParameterError(f"{node} has no instruction") from None


@dataclass
class Lowering:
    """Emits what the outputs need, depth first: a chunk goes through the network before the next one begins."""

    graph: Graph
    instructions: list[Instruction] = field(default_factory=list)
    polynomials: dict[str, Polynomials] = field(default_factory=dict)
    encrypted: dict[str, EncryptedMap] = field(default_factory=dict)
    secret: dict[str, Polynomials] = field(default_factory=dict)
    registers: dict[Task, tuple[Register, ...]] = field(default_factory=dict)
    # of the polynomials of a step: which of the registers of its source they meet
    sources: dict[str, tuple[int, ...]] = field(default_factory=dict)
    met: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # groups by map and operand
    sums: dict[tuple[int, int], list[Step]] = field(default_factory=dict)  # by map and chunk
    weights: dict[tuple[int, int], Parts] = field(default_factory=dict)  # matrices by map and operand
    stencils: dict[tuple[int, int], Stencil] = field(default_factory=dict)  # of images, by map and operand
    count: int = 0

    def fresh(self, number: int = 1) -> tuple[Register, ...]:
        self.count += number
        return tuple(range(self.count - number, self.count))

    def conjugates(self, source: Register, steps: Conjugation, node: Node) -> tuple[Register, ...]:
        """A register and those of its conjugates, in the order of baby steps."""
        targets = self.fresh(steps.babies - 1)
        self.instructions.append(Conjugates(targets, source, steps.parts, steps.stride, node.id))
        return source, *targets

    def divided(self, sources: tuple[Register, ...], factor: int, node: Node) -> tuple[Register, ...]:
        """Registers of quotients, by a power of two."""
        if factor == 1:
            return sources
        targets = self.fresh(len(sources))
        self.instructions += [Divide(t, s, factor, node.id) for t, s in zip(targets, sources, strict=True)]
        return targets

    def product(
        self,
        operand: Node,
        target: Register,
        sources: tuple[Register, ...],
        weights: str,
        total: Register | None,
        node: Node,
    ) -> None:
        """A sum of products with the registers of an operand, whatever they hold."""
        assert isinstance(node.op, Linear)
        steps = conjugation(self.graph, operand)
        if steps is None:
            kind = EncryptedDot if node.op.encrypted else Dot
            self.instructions.append(kind(target, sources, weights, total, node.id))
            return
        numbers = {"parts": steps.parts, "stride": steps.stride, "babies": steps.babies}
        self.instructions.append(ConjugateDot(target, sources, weights, total, node.id, **numbers))

    def output(self, node: Node, op: Output) -> None:
        source, _ = decrypted(self.graph, node)
        part = 0
        for chunk in range(layout(source).chunks):
            for register in self.compute(Task(source.id, chunk)):
                self.instructions.append(Store(register, op.name, part, node.id))
                part += 1

    def compute(self, wanted: Task) -> tuple[Register, ...]:
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
                node = self.graph.node(task.node)
                rule(node).emit(self, task, node)
                stack.pop()
        return self.registers[wanted]

    # -- what a task needs --

    def _needs(self, task: Task) -> list[Task]:
        node = self.graph.node(task.node)
        found = rule(node).needs
        return self.same(task, node) if found is None else found(self, task, node)

    def same(self, task: Task, node: Node) -> list[Task]:
        """The same chunk and step of all operands."""
        return [Task(o.id, task.chunk, task.step) for o in self.graph.operands(node)]

    def steps(self, node: Node, chunk: int) -> list[Step]:
        """All that adds up to one chunk of a linear map."""
        key = (node.id, chunk)
        if key not in self.sums:
            self.sums[key] = self._steps(node, chunk)
        return self.sums[key]

    def _steps(self, node: Node, chunk: int) -> list[Step]:
        chunks = layout(node).chunks
        steps = [
            Step(number, source, group)
            for number, operand in enumerate(self.graph.operands(node))
            for source in range(chunk, layout(operand).chunks, chunks)
            for group in self.groups_met(node, number)
        ]
        # chunk by chunk: operands that share a bootstrap are made together and need not wait for one another
        return sorted(steps, key=lambda step: (step.chunk, step.operand))

    def groups_met(self, node: Node, number: int) -> list[int]:
        """The groups of an operand's parts that have weights, at least one."""
        key = (node.id, number)
        if key not in self.met:
            self.met[key] = self.find_groups(node, number)
        return self.met[key]

    def find_groups(self, node: Node, number: int) -> list[int]:
        operand = self.graph.operands(node)[number]
        groups = self.groups(operand)
        if groups == 1:
            return [-1]
        assert isinstance(node.op, Linear)
        if node.op.encrypted:
            return list(range(groups))  # where its zeros are is a secret, too
        weight = self.weight(node, number)
        met = [g for g in range(groups) if any(weight.used(p) for p in self.parts(operand, g))]
        return met or [0]

    def groups(self, node: Node) -> int:
        """How many groups the parts of a value come in: several of many parts that only linear maps read."""
        if isinstance(node.op, Reshape):
            return self.groups(self.graph.operands(node)[0])
        if layout(node).image is not None:  # parts are channels, which are few
            return 1
        if not isinstance(node.op, Input | Unpack) or not self.only_maps_read(node):
            return 1
        if isinstance(node.op, Unpack):
            if conjugation(self.graph, node) is not None:
                return 1
            # of each ciphertext that is split: several of them fill more groups than their parts do
            return layout(node).parts // min(node.op.parts, GROUP)
        return -(-layout(node).parts // GROUP)

    def only_maps_read(self, node: Node) -> bool:
        users = self.graph.users(node)
        return all(isinstance(u.op, Linear) or (isinstance(u.op, Reshape) and self.only_maps_read(u)) for u in users)

    def parts(self, node: Node, group: int) -> list[int]:
        """The parts of a value that hold a feature, or those of them in one group."""
        parts = min(layout(node).parts, node.type.size)
        return list(range(parts) if group < 0 else range(group, parts, self.groups(node)))

    def monomial(self, exponent: int) -> str:
        """Name of the polynomial X^exponent, of either sign."""
        assert self.graph.parameters is not None
        name = f"X^{exponent}"
        if name not in self.polynomials:
            self.polynomials[name] = monomial(exponent, self.graph.parameters.ring)
        return name

    def weight(self, node: Node, number: int) -> Parts:
        """The matrix of an operand of a linear map, in the parts of that operand."""
        assert isinstance(node.op, Linear)
        key = (node.id, number)
        if key not in self.weights:
            parts = layout(self.graph.operands(node)[number]).parts
            self.weights[key] = self.graph.matrix(node.op.weights[number]).parts(parts)
        return self.weights[key]


def layout(node: Node) -> Layout:
    assert node.type.layout is not None
    return node.type.layout
