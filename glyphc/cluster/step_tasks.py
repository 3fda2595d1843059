"""A training step's instructions as tasks, which need nothing of one another but ciphertexts.

Slot forms (the middle of a bootstrap) have no wire form, so whatever they connect stays in one task: a *core*.
Everything else belongs to a task with what comes after the same cores and before the same cores: what is connected
stays together, and what is not (products of a layer's gradient, say) is dealt out to a few tasks. Every instruction is
executed once and as on one machine, so the bits are the same, sums in their order included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from glyphc.ir.instructions import Code, Instruction, Load, Register, Store, with_frees
from glyphc.ir.instructions.base import Free, Kind
from glyphc.ir.instructions.ckks import Convolve, Raise, Reduce, Refresh, Reverse, Scaled, Sum, register_levels

# What takes one key switch at most: no longer than sending its operands to another worker.
_LIGHT = (Sum, Scaled, Raise, Reduce, Reverse, Convolve, Store)
# A live value's name; no ciphertext of a program has one that begins so.
_LIVE = "@"
# Tasks of instructions between the same cores.
_MOST = 8
Edges = Iterable[tuple[int, int]]


@dataclass(frozen=True)
class Task:
    """code: loads and stores what the step does, and live values by the names of ``live``; after: numbers of the tasks
    that store these, in their order, all before this one."""

    code: Code
    after: tuple[int, ...]

    @property
    def stores(self) -> bool:
        """Something of the step's results."""
        return any(isinstance(i, Store) and not i.name.startswith(_LIVE) for i in self.code)


def live(register: Register) -> str:
    """What a register's value is called between tasks."""
    return f"{_LIVE}{register}"


def divide(code: Code) -> tuple[Task, ...]:
    """The tasks of a step, each behind those that it needs. What nothing comes of is left out."""
    work = _needed(code)
    loads = {i.target: i for i in code if isinstance(i, Load)}
    makers = {register: at for at, i in enumerate(work) for register in i.writes}
    slots = {register for i in work if i.result is Kind.SLOTS for register in i.writes}
    reads = [(makers[r], at, r in slots) for at, i in enumerate(work) for r in i.reads if r not in loads]
    forward = [(a, b) for a, b, _ in reads]
    joined = _components(len(work), [*forward, *((b, a) for a, b, inside in reads if inside)], "strong")
    between = _signatures(work, joined, forward)
    connected = _components(len(work), [(a, b) for a, b in forward if between[a] == between[b]], "weak")
    return _tasks(work, _fused(work, _dealt(between, connected), forward), loads, makers)


def live_limbs(code: Code, fresh: Mapping[str, int], kept: int, slot_levels: int) -> dict[str, int]:
    """Of all live values that can be, by name; arguments as of ``ckks.register_levels``."""
    return {live(r): n for r, n in register_levels(code, fresh, kept, slot_levels).items()}


def _components(size: int, edges: Edges, connection: str) -> list[int]:
    """The component of each node."""
    pairs = np.array(list(edges), dtype=np.int64).reshape(-1, 2)
    matrix = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    return [int(n) for n in connected_components(matrix.tocsr(), connection=connection)[1]]


def _successors(group: list[int], edges: Edges) -> dict[int, set[int]]:
    """Of every group, others that have an edge from it."""
    found: dict[int, set[int]] = {g: set() for g in group}
    for a, b in edges:
        if group[a] != group[b]:
            found[group[a]].add(group[b])
    return found


def _reversed(after: Mapping[int, set[int]]) -> dict[int, set[int]]:
    before: dict[int, set[int]] = {g: set() for g in after}
    for a, targets in after.items():
        for b in targets:
            before[b].add(a)
    return before


def _needed(code: Code) -> list[Instruction]:
    """All instructions but loads that a store comes of."""
    read: set[Register] = set()
    found = []
    for instruction in reversed(code):
        if isinstance(instruction, Store) or read.intersection(instruction.writes):
            read.update(instruction.reads)
            found.append(instruction)
    return [i for i in reversed(found) if not isinstance(i, Free | Load)]


def _signatures(work: list[Instruction], joined: list[int], edges: list[tuple[int, int]]) -> list[Hashable]:
    """Of each instruction, the cores that it comes after and those that it comes before, itself included."""
    cores = {joined[at] for at, i in enumerate(work) if isinstance(i, Refresh) or i.result is Kind.SLOTS}
    after = _successors(joined, edges)

    def reached(graph: Mapping[int, set[int]]) -> dict[int, frozenset[int]]:
        found: dict[int, frozenset[int]] = {}
        for node in TopologicalSorter(graph).static_order():
            found[node] = frozenset({node} & cores).union(*(found[n] for n in graph[node]))
        return found

    first, last = reached(_reversed(after)), reached(after)
    return [(first[n], last[n]) for n in joined]


def _dealt(between: list[Hashable], connected: list[int]) -> list[int]:
    """Components of a signature in at most so many groups, neighbours together."""
    found: dict[Hashable, dict[int, None]] = defaultdict(dict)
    for signature, component in zip(between, connected, strict=True):
        found[signature][component] = None
    group: dict[int, int] = {}
    for components in found.values():
        deals, first = min(_MOST, len(components)), len(group)
        group |= {c: first + at * deals // len(components) for at, c in enumerate(components)}
    return [group[c] for c in connected]


def _fused(work: list[Instruction], group: list[int], edges: list[tuple[int, int]]) -> list[int]:
    """Groups that are no worth a task of their own with a neighbour."""
    light = dict.fromkeys(group, True)
    for at, instruction in enumerate(work):
        light[group[at]] &= isinstance(instruction, _LIGHT)
    while (found := _fusible(_successors(group, edges), light)) is not None:
        a, b = found
        light[b] &= light[a]
        group = [b if g == a else g for g in group]
    return group


def _fusible(after: Mapping[int, set[int]], light: Mapping[int, bool]) -> tuple[int, int] | None:
    """Two groups that may be one, without a circle of groups: a chain; what is light, and its only neighbour on a side;
    and what is light and has the same neighbours, or none."""
    before = _reversed(after)
    for a, targets in after.items():
        for b in targets:
            only = len(targets) == 1, len(before[b]) == 1
            if all(only) or (only[0] and light[a]) or (only[1] and light[b]):
                return a, b
    places: dict[Hashable, int] = {}
    for group in filter(light.__getitem__, after):
        first = places.setdefault((frozenset(before[group]), frozenset(after[group])), group)
        if first != group:
            return group, first
    return None


def _tasks(
    work: list[Instruction], group: list[int], loads: Mapping[Register, Load], makers: Mapping[Register, int]
) -> tuple[Task, ...]:
    members: dict[int, list[Instruction]] = defaultdict(list)
    for at, instruction in enumerate(work):
        members[group[at]].append(instruction)
    wanted = {r for at, i in enumerate(work) for r in i.reads if r in makers and group[makers[r]] != group[at]}
    needs = {g: {group[makers[r]] for i in mine for r in i.reads if r in makers} - {g} for g, mine in members.items()}
    order = list(TopologicalSorter(needs).static_order())
    numbers = {g: number for number, g in enumerate(order)}
    tasks = []
    for g in order:
        mine = members[g]
        made = {r for i in mine for r in i.writes}
        read = dict.fromkeys(r for i in mine for r in i.reads if r not in made)
        given: list[Instruction] = [loads.get(r) or Load(r, live(r)) for r in read]
        taken: list[Instruction] = [Store(r, live(r)) for r in sorted(made & wanted)]
        tasks.append(Task(tuple(with_frees([*given, *mine, *taken])), tuple(sorted(numbers[n] for n in needs[g]))))
    return tuple(tasks)
