"""Layouts in numbers, before any is made: chunks, parts and strides of every tensor, and what they cost.

All bootstraps of a program refresh the same number V of values, which stand on one grid g = N / V. A tensor of w
elements per sample, w' the next power of two, takes w' grid positions per sample; a batch that needs more than V
positions is cut into C = batch w' / V chunks, one ciphertext each: sample s stands in chunk s mod C at block s div C.
So a narrow tensor takes fewer ciphertexts, and fewer bootstraps, than a wide one.

* A linear map of a *fresh* input (zero outside its useful positions): inputs are the fast index, outputs the slow one.
  x = sum_j x_j X^(j s), W = sum_ij w_ij X^(i g - j s) with all j s < g: z_i stands at X^(i g). Several inputs per
  ciphertext, no unpacking, nothing but results on the grid.
* A linear map of a *resident* (bootstrapped) value on the grid, garbage between: take it apart into P >= (outputs)
  parts by automorphisms; part r holds features r, r+P, ... at stride P g; W_r = sum_iq w_i,(r+qP) X^(i g - q P g). z_i
  stands at X^(i g); other terms land on other multiples of g in the block or on no useful position.
* From more chunks to fewer: with P = w' every part holds one feature, so there is no garbage at all; the chunks'
  results, shifted side by side, add up. Chunks never become more from one bootstrap to the next. Where a wide tensor
  would take more automorphisms than the bootstraps saved are worth, the chunks are left as they are.

These facts are tested with exact polynomial products (tests/test_ir_layout.py, tests/test_chunks.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from math import hypot

from glyphc.analysis.configurations import possible
from glyphc.analysis.cost import ENCRYPTED_WEIGHT_POLYNOMIALS, Configuration, CostModel, split_automorphisms
from glyphc.analysis.security import largest_modulus
from glyphc.errors import ParameterError
from glyphc.ir.galois import Conjugation
from glyphc.ir.graph import Graph, Node
from glyphc.ir.layout import next_power_of_two
from glyphc.ir.noise import DECODING_FLOOR, MEASURED_AT, VALUE_NOISE
from glyphc.ir.ops import Apply, Input, Linear, Reshape, Switch
from glyphc.ir.parameters import INSECURE, SECURE, Parameters
from glyphc.ir.series import OUTPUT_BITS
from glyphc.ir.types import Scheme
from glyphc.ir.unpackings import takes_sums

from .base import check_option, check_ring
from .fit_series import plaintext_bits
from .readers import is_bootstrapped, is_resident, linear_users, origin

# A transform of level budget b needs at least 2^b slots.
MIN_SLOTS = 8
# Parts of a value that only one map reads, at a time: see ``schedule``.
_ALIVE = 64 + 16
DEGREE = 27  # typical; the series is chosen later
# Noise of a bootstrap above this share of a value's range is avoided where another layout has less.
NOISE = 2.0**-10


@dataclass(frozen=True)
class Summed:
    """How many ciphertexts of a value each chunk has before it is unpacked, and over which conjugates sums go."""

    sources: int
    steps: Conjugation


@dataclass
class LayoutPlan:
    """Layouts for bootstraps of ``values`` values. By node id of an assigned graph:

    chunks: ciphertexts (before unpacking) of inputs, linear maps and nonlinearities; strides: of the results of linear
    maps; parts: that resident values are split into (of the node that linear maps read). spread: linear maps whose
    results stay in as many chunks as their operands. dense: inputs that the server unpacks, with how many features of
    each sample stand side by side in a ciphertext of theirs. configuration: of the bootstraps, None for the usual one.
    apart: values whose parts linear maps read, where they could take sums over conjugates as well.
    """

    graph: Graph
    ring: int
    batch: int
    values: int
    spread: frozenset[int] = frozenset()
    configuration: Configuration | None = None
    apart: frozenset[int] = frozenset()
    chunks: dict[int, int] = field(default_factory=dict)
    strides: dict[int, int] = field(default_factory=dict)
    parts: dict[int, int] = field(default_factory=dict)
    dense: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in reversed(list(self.graph)):
            self._count_chunks(node)
        for node in self.graph:
            self._settle_chunks(node)
        for node, _ in self.graph.of(Linear):
            self._split_operands(node)
        for node, _ in self.graph.of(Linear):
            self._stride(node)

    @property
    def grid(self) -> int:
        return self.ring // self.values

    @property
    def label(self) -> str:
        spread = f", {len(self.spread)} left in chunks" if self.spread else ""
        return f"{self.values // 2} slots{spread}"

    @property
    def bootstraps(self) -> int:
        return sum(self.chunks[n.id] for n in self._bootstrapped)

    @property
    def fill(self) -> float:
        """Share of what is bootstrapped that carries a useful value."""
        useful = sum(n.type.size * self.batch for n in self._bootstrapped)
        return useful / (self.values * max(1, self.bootstraps))

    @property
    def noise(self) -> float:
        """Largest share of a nonlinearity's range that a bootstrap's noise takes for being unpacked into parts.

        The bootstrap divides by the number of parts, so its value sinks towards the noise of SlotsToCoeffs, which
        does not.
        """
        modulus = 2.0 ** plaintext_bits(self.graph)
        floor = hypot(VALUE_NOISE * self.ring / MEASURED_AT / 2.0**OUTPUT_BITS, DECODING_FLOOR) * modulus
        shares = [0.0]
        for node, _ in self.graph.of(Apply):
            fixed, parts = node.type.fixed, [self.parts.get(u.id, 1) for u in self._same(node)]
            if fixed is not None:
                shares.append(floor * max(parts) / max(1, fixed.hi - fixed.lo))
        return max(shares)

    def rank(self, cost: CostModel) -> tuple[float, float]:
        """Plans of noise that shows come last, the less of it the better; of the others the fastest is best."""
        return (self.noise if self.noise > NOISE else 0.0, self.seconds(cost))

    def _same(self, node: Node) -> list[Node]:
        """The nodes of one value: a nonlinearity, switches and reshapes of it."""
        found = [node]
        for user in self.graph.users(node):
            if isinstance(user.op, Switch | Reshape):
                found += self._same(user)
        return found

    def block(self, chunks: int) -> int:
        """Coefficients between two samples of one ciphertext."""
        return min(self.ring, self.ring * chunks // next_power_of_two(self.batch))

    def gap(self, node: Node) -> int:
        """Coefficients between two outputs of the maps that read an input: the room for its features."""
        block = self.block(self.chunks[node.id])
        return min((self.strides[u.id] for u in linear_users(node, self.graph)), default=block)

    def seconds(self, cost: CostModel) -> float:
        """Predicted seconds of all that depends on the plan, for its whole batch."""
        cost = cost.taking(self.configuration)
        slots, ring = self.values // 2, self.ring
        refresh = cost.powers_seconds(slots, DEGREE, ring) + cost.scaled(cost.switch, ring)
        function = cost.evaluate_seconds(slots, DEGREE, ring) + cost.scaled(cost.switch, ring)
        functions = sum(self.chunks[n.id] for n, _ in self.graph.of(Apply))
        unpacked = sum(self.unpacking_seconds(self.graph.node(i), cost) for i in (*self.parts, *self.dense))
        return (
            self.bootstraps * refresh
            + unpacked
            + functions * function
            + self._products(False) * cost.scaled(cost.product, ring)
            + self._products(True) * cost.scaled(cost.encrypted_product, ring)
        )

    def memory_bytes(self, cost: CostModel) -> float:
        """Predicted peak of a run, roughly: contexts and keys, weights, and what of inputs and unpackings is alive."""
        maps = [(node, operand) for node, _ in self.graph.of(Linear) for operand in self.graph.operands(node)]
        sums = [s.steps for _, operand in maps if (s := self._summed(operand)) is not None]
        keys = tuple(sorted({g for steps in sums for g in steps.elements}))
        parameters = Parameters(
            self.ring, plaintext_bits=0, bgv_bits=0, slots=self.values // 2, degree=DEGREE, conjugates=keys
        )
        # values that several maps read are kept until the last of them
        alive = sum(min(self._held(o), _ALIVE) if self._read_once(o) else self._held(o) for _, o in maps)
        # a sum of products for each giant step
        alive += max((steps.giants for steps in sums), default=0)
        # two polynomials of 64-bit coefficients for each limb; weights take as much as on one limb
        held = 2 * 8 * self.ring * (self.polynomials + cost.limbs * alive)
        cost = cost.taking(self.configuration)
        return cost.idle_bytes(parameters) + cost.work_bytes(parameters) + held

    @property
    def polynomials(self) -> int:
        """Weight polynomials that a run holds; encrypted ones count as many as they take the room of."""
        maps = [(node, operand) for node, _ in self.graph.of(Linear) for operand in self.graph.operands(node)]
        return sum(self._parts_of(operand) * _polynomials(node) + 1 for node, operand in maps)

    def _read_once(self, node: Node) -> bool:
        return len(self.graph.users(node)) == 1

    def _products(self, encrypted: bool) -> int:
        """Polynomial products of all linear maps with plaintext weights, or with encrypted ones."""
        maps = (node for node, op in self.graph.of(Linear) if op.encrypted is encrypted)
        operands = [o for node in maps for o in self.graph.operands(node)]
        return sum(self._parts_of(o) * self.chunks[o.id] for o in operands)

    def _held(self, operand: Node) -> int:
        """Ciphertexts of each chunk of a value that linear maps read."""
        summed = self._summed(operand)
        return self._parts_of(operand) if summed is None else summed.sources * summed.steps.babies

    def _parts_of(self, operand: Node) -> int:
        """Parts of each chunk of a value, each of which meets a weight polynomial."""
        return self._parts_read(operand, self._summed(operand))

    def _parts_read(self, operand: Node, summed: Summed | None) -> int:
        if summed is not None:
            return summed.sources * summed.steps.parts
        features = operand.type.size
        if is_resident(operand, self.graph):
            return min(features, self.parts[operand.id])
        fresh = origin(operand, self.graph)
        return features if fresh.id in self.dense else self._read(fresh)

    def babies(self, node: Node) -> int:
        """Baby steps of the sums over a value's conjugates; 0 where its parts are read."""
        summed = self._summed(node)
        return 0 if summed is None else summed.steps.babies

    def _summed(self, operand: Node) -> Summed | None:
        """Of a value whose sums go over conjugates; None where it is not unpacked, or its parts themselves are read."""
        return None if self._unpacked(operand).id in self.apart else self.summable(operand)

    def _unpacked(self, operand: Node) -> Node:
        """What is unpacked for a linear map: its operand, or the input that this is."""
        return operand if is_resident(operand, self.graph) else origin(operand, self.graph)

    def summable(self, operand: Node) -> Summed | None:
        """The same of a value whose sums can go over conjugates."""
        node = self._unpacked(operand)
        resident = node.id in self.parts
        parts = (self.parts if resident else self.dense).get(node.id, 1)
        # what switches read is not unpacked
        readers = [u for u in self.graph.users(node) if not isinstance(u.op, Switch)]
        if parts == 1 or not all(takes_sums(self.graph, u) for u in readers):
            return None
        stride, sources = (self.grid, 1) if resident else (1, -(-node.type.size // parts))
        return Summed(sources, Conjugation.of(self.ring, parts, stride))

    def by_price(self, cost: CostModel) -> LayoutPlan:
        """The plan in which the parts of a value are read where that is cheaper than sums over conjugates: of many
        parts that hold few features, or for many readers."""
        found = copy(self)
        found.apart = frozenset(id for id in (*self.parts, *self.dense) if self._cheaper_apart(id, cost))
        return found

    def _cheaper_apart(self, id: int, cost: CostModel) -> bool:
        node = self.graph.node(id)
        summed = self.summable(node)
        return summed is not None and self.reading_seconds(node, None, cost) < self.reading_seconds(node, summed, cost)

    def reading_seconds(self, node: Node, summed: Summed | None, cost: CostModel) -> float:
        """What the server takes to unpack all chunks of a value and to multiply what linear maps read, by sums over
        conjugates or by parts (None)."""
        readers = self.chunks[node.id] * len(linear_users(node, self.graph, Reshape))
        products = readers * self._parts_read(node, summed) * cost.scaled(cost.product, self.ring)
        return products + self._unpacking_seconds(node, summed, cost)

    def unpacking_seconds(self, node: Node, cost: CostModel) -> float:
        """What the server takes to unpack all chunks of a value that is split, or of a dense input; 0 for others."""
        return self._unpacking_seconds(node, self._summed(node), cost)

    def _unpacking_seconds(self, node: Node, summed: Summed | None, cost: CostModel) -> float:
        resident = node.id in self.parts
        parts = self.parts[node.id] if resident else self.dense.get(node.id)
        if not parts:
            return 0.0
        sources = 1 if resident else -(-node.type.size // parts)
        divisions = 0 if resident else sources
        if summed is None:
            wanted = [min(parts, -(-(node.type.size - p) // sources)) for p in range(sources)]
            splits = sum(split_automorphisms(parts, w) for w in wanted)
            seconds = splits * cost.scaled(cost.automorphism, self.ring)
        else:
            readers = len(linear_users(node, self.graph, Reshape))
            seconds = sources * cost.conjugates_seconds(summed.steps) + readers * cost.giants_seconds(summed.steps)
        return self.chunks[node.id] * (seconds + divisions * cost.scaled(cost.switch, self.ring))

    # -- inputs --

    def with_dense(self, node: Node, parts: int) -> LayoutPlan:
        """The plan with so many features of this input side by side."""
        return LayoutPlan(
            *(self.graph, self.ring, self.batch, self.values, self.spread, self.configuration, self.apart),
            dense={**self.dense, node.id: parts},
        )

    def sent(self, node: Node) -> int:
        """Ciphertexts of an input that the client encrypts."""
        parts = self.dense.get(node.id)
        return self.chunks[node.id] * (-(-node.type.size // parts) if parts else self._read(node))

    def _read(self, node: Node) -> int:
        """Ciphertexts of each chunk of an input, as linear maps read them: with the features between two outputs."""
        return -(-node.type.size // min(self.gap(node), next_power_of_two(node.type.size)))

    @cached_property
    def _bootstrapped(self) -> list[Node]:
        return [n for n, _ in self.graph.of(Linear) if is_bootstrapped(n, self.graph)]

    # -- chunks --

    def _count_chunks(self, node: Node) -> None:
        """As many as the node's own values need, but no fewer than what is computed from it (users come first)."""
        if node.type.scheme is Scheme.CLIENT:
            return
        later = [self.chunks[u.id] for u in self.graph.users(node) if u.id in self.chunks]
        if isinstance(node.op, Input | Reshape | Switch):
            self.chunks[node.id] = max(later, default=1)
            return
        # what the client decrypts may stand between the grid's positions
        to_client = isinstance(node.op, Linear) and not is_bootstrapped(node, self.graph)
        positions = next_power_of_two(self.batch) * next_power_of_two(node.type.size)
        self.chunks[node.id] = max(1, positions // (self.ring if to_client else self.values), *later)

    def _settle_chunks(self, node: Node) -> None:
        """Only linear maps change the number of chunks, and those for the client take what there is."""
        if node.id not in self.chunks or isinstance(node.op, Input):
            return
        operands = self.graph.operands(node)
        if not isinstance(node.op, Linear):
            self.chunks[node.id] = self.chunks[operands[0].id]
            return
        resident = [self.chunks[o.id] for o in operands if is_resident(o, self.graph)]
        if resident and (node.id in self.spread or not is_bootstrapped(node, self.graph)):
            self.chunks[node.id] = min(resident)
        for operand in operands:
            while isinstance(operand.op, Reshape | Input):
                self.chunks[operand.id] = max(self.chunks[operand.id], self.chunks[node.id])
                if isinstance(operand.op, Input):
                    break
                (operand,) = self.graph.operands(operand)

    def merging(self) -> list[int]:
        """Linear maps that bring chunks together where they need not."""
        found = []
        for node in self._bootstrapped:
            resident = [self.chunks[o.id] for o in self.graph.operands(node) if is_resident(o, self.graph)]
            if resident and min(resident) > self.chunks[node.id]:
                found.append(node.id)
        return found

    def leaving_apart(self, maps: Iterable[int]) -> LayoutPlan:
        """The plan in which these maps, too, leave chunks as they are."""
        spread = self.spread.union(maps)
        return LayoutPlan(self.graph, self.ring, self.batch, self.values, spread, self.configuration)

    # -- parts and strides --

    def _split_operands(self, node: Node) -> None:
        """Parts of the resident operands of a linear map."""
        outputs = next_power_of_two(node.type.size)
        for operand in self.graph.operands(node):
            if not is_resident(operand, self.graph):
                continue
            chunks = self.chunks[operand.id]
            if chunks > self.chunks[node.id]:
                parts = self.block(chunks) // self.grid
            elif is_bootstrapped(node, self.graph):
                parts = outputs
            else:
                # what the client reads need not stand on the grid: outputs may fill the gaps in between
                parts = max(1, outputs // self.grid)
            self.parts[operand.id] = max(parts, self.parts.get(operand.id, 1))

    def _stride(self, node: Node) -> None:
        """Distance of two results in one sample's block."""
        if is_bootstrapped(node, self.graph):
            self.strides[node.id] = self.grid
            return
        outputs = next_power_of_two(node.type.size)
        rooms = [self.grid * self.parts[o.id] for o in self.graph.operands(node) if o.id in self.parts]
        self.strides[node.id] = max(1, min([self.block(self.chunks[node.id]), *rooms]) // outputs)


@dataclass(frozen=True)
class Room:
    """What one pass of a batch may take: ciphertexts for one tensor, and bytes of memory on every engine.

    What plans take is predicted roughly. Whether a program keeps to less than usual is known once it is scheduled.
    """

    ring: int
    max_chunks: int
    memory: float


def check_room(name: str, ring: int, max_chunks: int) -> None:
    """GlyphcError, naming the pass and its option, unless there is some."""
    check_ring(name, ring)
    check_option(name, "max_chunks", max_chunks, 1, 1024)


def configurations(cost: CostModel, ring: int, slots: int, masks: bool = False) -> tuple[Configuration | None, ...]:
    """Those that bootstraps of typical series, maybe with masks, could have, None for the usual one where there are no
    others."""
    if len(cost.alternatives(slots)) == 1:
        return (None,)
    security = SECURE if largest_modulus(ring) else INSECURE
    levels = int(masks)
    typical = Parameters(
        ring, 0, 0, slots=slots, degree=DEGREE, slot_levels=levels, folded_levels=levels, security=security
    )
    return tuple(possible(cost, typical))


@dataclass(frozen=True)
class Search:
    """The cheapest plan of each size and configuration of bootstraps, and the cheapest of all that fit into memory.

    Configurations only price layouts here: a program gets its own when its parameters are selected.
    """

    plans: tuple[LayoutPlan, ...]
    best: LayoutPlan

    @staticmethod
    def over(graph: Graph, room: Room, cost: CostModel, models: Sequence[CostModel] = ()) -> Search:
        """Plans for as much of the graph's batch as there is room for; ParameterError if a layer is too wide.

        cost: of the engine that is planned for. models: of all engines that there must be room on; by default that one.
        """
        chunks = 1 << (room.max_chunks.bit_length() - 1)  # chunks, like batches, come in powers of two
        batch = min(graph.batch, _capacity(graph, room.ring, chunks))
        while True:
            sizes = _sizes(graph, room.ring, batch, chunks)
            plans = tuple(
                _settled(LayoutPlan(graph, room.ring, batch, values, configuration=configuration), cost)
                for values in sizes
                for configuration in configurations(cost, room.ring, values // 2)
            )
            fitting = [p for p in plans if max(map(p.memory_bytes, models or (cost,))) <= room.memory]
            if fitting or batch == 1:
                return Search(plans, min(fitting or plans, key=lambda p: p.rank(cost)))
            batch = next_power_of_two(batch) // 2

    def by_label(self, cost: CostModel) -> tuple[LayoutPlan, ...]:
        """Of each layout the plan with the cheapest configuration; of the best one's, that one."""
        found: dict[str, LayoutPlan] = {}
        for plan in self.plans:
            known = found.setdefault(plan.label, plan)
            if plan is self.best or (known is not self.best and plan.rank(cost) < known.rank(cost)):
                found[plan.label] = plan
        return tuple(found.values())

    def seconds_per_sample(self, cost: CostModel) -> float:
        """Predicted, when the best plan's batch is full."""
        return self.best.seconds(cost) / self.best.batch


def _settled(plan: LayoutPlan, cost: CostModel) -> LayoutPlan:
    """Leave chunks apart, map by map, where bringing them together costs more than it saves; and read parts where that
    costs less than sums over conjugates."""
    plan = plan.by_price(cost)
    for id in plan.merging():
        apart = plan.leaving_apart({id}).by_price(cost)
        # chunks left apart by one map may only meet in the next one: or stay apart there, too
        throughout = apart
        while new := set(throughout.merging()) - set(plan.merging()):
            throughout = throughout.leaving_apart(new).by_price(cost)
        plan = min(plan, apart, throughout, key=lambda p: p.rank(cost))
    return plan


def _capacity(graph: Graph, ring: int, max_chunks: int) -> int:
    """Largest batch of one pass, a power of two."""
    widest = max((n for n, _ in graph.of(Linear)), key=lambda n: n.type.size)
    width = next_power_of_two(widest.type.size)
    if width > ring:
        raise ParameterError(
            f"{widest} has {widest.type.size} outputs; a layer can have at most {ring}, the ring dimension. "
            "Split it into several layers or use a narrower network"
        )
    return max_chunks * (ring // width)


def _sizes(graph: Graph, ring: int, batch: int, max_chunks: int) -> list[int]:
    """Numbers of values that a bootstrap of the program could refresh: powers of two."""
    widths = [next_power_of_two(n.type.size) for n, _ in graph.of(Apply)]
    if not widths:
        return [ring]
    # one sample's values stay together; nothing is gained beyond the whole batch in one ciphertext
    lowest = max(max(widths), 2 * MIN_SLOTS)
    highest = min(ring, max(lowest, next_power_of_two(batch) * max(widths)))
    sizes = [lowest]
    while sizes[-1] < highest:
        sizes.append(2 * sizes[-1])
    return [v for v in sizes if next_power_of_two(batch) * max(widths) // v <= max_chunks]


def _polynomials(node: Node) -> int:
    """How many times a plaintext weight's room a weight takes on the server."""
    assert isinstance(node.op, Linear)
    return ENCRYPTED_WEIGHT_POLYNOMIALS // 2 if node.op.encrypted else 1
