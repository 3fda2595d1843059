"""Packed functional bootstraps (TFHE-like) for nonlinearities, and the switches between BGV and the torus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import Evaluate, FromTorus, Powers, Register, ToTorus
from glyphc.ir.layout import next_power_of_two
from glyphc.ir.ops import Apply, Bootstrap, Pixels, Switch
from glyphc.ir.series import FEWEST_LOOKUP_BITS, MOST_LOOKUP_BITS
from glyphc.ir.types import Scheme

from .base import BGV, TORUS, Conversion, Offer, Question, Refusal, Way
from .lowering import Lowering, Task, lowers

# Typical; the series is chosen later.
DEGREE = 27


class PackedBootstrap(Way):
    """All values of a ciphertext in one pass."""

    name = "packed functional bootstrap"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Apply):
            return None
        slots, passes = _passes(node, question)
        each = question.cost.bootstrap_seconds(slots, DEGREE, question.ring)
        reason = f"one pass refreshes {node.type.size * question.batch:,} values and applies the function"
        return Offer(TORUS, TORUS, each * passes, reason)


class TableBootstrap(Way):
    """A table in place of the function, looked up by Gray-code bits of its index: a series for each, and products."""

    name = "table by bits of a functional bootstrap"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        bits = question.table_bits
        if not isinstance(node.op, Apply) or not bits:
            return None
        if not FEWEST_LOOKUP_BITS <= bits <= MOST_LOOKUP_BITS:
            return Refusal(f"tables have an index of {FEWEST_LOOKUP_BITS} to {MOST_LOOKUP_BITS} bits, not {bits}")
        slots, passes = _passes(node, question)
        shared = question.cost.powers_seconds(slots, DEGREE, question.ring)
        each = question.cost.evaluate_seconds(slots, DEGREE, question.ring)
        reason = f"one pass gives {bits} bits of indices, whose products look up a table of {1 << bits} entries"
        return Offer(TORUS, TORUS, passes * (shared + bits * each), reason)


def _passes(node: Node, question: Question) -> tuple[int, int]:
    """Slots of a bootstrap of a node's values, and how many there are."""
    values = node.type.size * question.batch
    return min(question.ring // 2, max(2, next_power_of_two(values) // 2)), -(-values // question.ring)


class SwitchToTorus(Conversion):
    """A modulus switch; no key."""

    name = "switch to the torus"
    source = BGV
    target = TORUS

    def offer(self, value: Node, question: Question) -> Offer | Refusal:
        return Offer(self.source, self.target, _switches(value, question), "a modulus switch, no key")


class SwitchFromTorus(Conversion):
    """The way back, likewise."""

    name = "switch from the torus"
    source = TORUS
    target = BGV

    def offer(self, value: Node, question: Question) -> Offer | Refusal:
        return Offer(self.source, self.target, _switches(value, question), "a modulus switch, no key")


def _switches(value: Node, question: Question) -> float:
    """Seconds, one switch for each full ciphertext."""
    return question.cost.switch * max(1, -(-value.type.size * question.batch // question.ring))


# -- instructions --


@lowers(Switch)
def _switch(lowering: Lowering, task: Task, node: Node) -> None:
    assert isinstance(node.op, Switch) and lowering.graph.parameters is not None
    (before,) = lowering.same(task, node)
    sources = lowering.registers[before]
    targets = lowering.registers[task] = lowering.fresh(len(sources))
    for target, source in zip(targets, sources, strict=True):
        if node.op.target is Scheme.TORUS:
            lowering.instructions.append(ToTorus(target, source, lowering.graph.parameters.slots, node.id))
        else:
            lowering.instructions.append(FromTorus(target, source, node.id))


@lowers(Bootstrap)
def _bootstraps(lowering: Lowering, task: Task, node: Node) -> None:
    """All functions of one value at once: the precomputation they share is large."""
    value = lowering.graph.bootstrapped(node)
    (before,) = lowering.same(task, node)
    readers = [(n, n.op) for n in _readers(lowering.graph, value) if isinstance(n.op, Bootstrap)]
    made: dict[int, list[Register]] = {n.id: [] for n, _ in readers}
    first, op = readers[0]
    for source in lowering.registers[before]:
        (powers,) = lowering.fresh()
        lowering.instructions.append(Powers(powers, source, op.slots, op.series.degree, first.id))
        for reader, own in readers:
            assert value.type.fixed is not None and reader.type.fixed is not None
            (target,) = lowering.fresh()
            formats = (value.type.fixed, reader.type.fixed)
            lowering.instructions.append(
                Evaluate(target, powers, own.series, own.functions, *formats, own.divisor, reader.id, own.mask)
            )
            made[reader.id].append(target)
    for id, targets in made.items():
        lowering.registers[Task(id, task.chunk)] = tuple(targets)


def _readers(graph: Graph, value: Node) -> Iterator[Node]:
    """What reads a value, or some pixels of it."""
    for user in graph.users(value):
        if isinstance(user.op, Pixels):
            yield from _readers(graph, user)
        else:
            yield user
