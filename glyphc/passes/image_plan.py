"""Image layouts in numbers: which networks are maps of images, where their pixels would stand, and what that costs.

All tensors stand on one raster (:mod:`glyphc.ir.image_layout`). A linear map that does the same at every pixel takes a
product for each channel that it reads and each group of channels that it makes. What stands between the pixels of a
row's or an image's border is garbage afterwards, which the next bootstrap clears by a mask. A map with a stride reads
pixels by parity: the bootstrap before it is finished with a mask for each, and the images of several chunks are brought
together, so later bootstraps stay full.

A single chunk has no others to bring together, but more channels behind a stride than before it. They can take the
room between the pixels: a ciphertext holds groups of channels at several *sites*, j times (1, 0), (0, 1) or (1, 1)
behind the first one. A product moves every group read to every group made, site by site: where maps read along one of
these directions and make their results along another one, the differences of sites never meet, as the sums of j (1, 0)
and k (0, 1) are all different modulo the distance of pixels. So nothing is unpacked but the channels of a group, and
what lands elsewhere is garbage that the next mask clears.

A transposed convolution with a stride, or what enlarges images, makes pixels between those it reads. So that there is
room, the input's stand apart from the beginning, as far as is enlarged later; nothing else is put there then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import hypot

from glyphc.analysis.cost import Configuration, CostModel, deepest, split_automorphisms
from glyphc.ir.galois import Conjugation
from glyphc.ir.graph import Graph, Node
from glyphc.ir.image_layout import Raster, Steps
from glyphc.ir.noise import DECODING_FLOOR, MEASURED_AT, VALUE_NOISE
from glyphc.ir.ops import Apply, Input, Linear, Reshape, Switch
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import OUTPUT_BITS
from glyphc.ir.stencils import Stencil, disturbed
from glyphc.ir.types import Scheme
from glyphc.ir.unpackings import takes_sums
from glyphc.text_tables import counted

from .fit_series import plaintext_bits
from .layout_search import DEGREE, MIN_SLOTS, NOISE
from .pictures import Pictures
from .readers import is_bootstrapped

# Along which groups of channels stand in the room between pixels, in rows and columns: any two of them cross once.
_DIRECTIONS: tuple[Steps, ...] = ((1, 0), (0, 1), (1, 1))


@dataclass(frozen=True)
class Standing:
    """How a tensor's images stand: in how many chunks, how far apart their pixels, which share a slot, and how many
    groups of channels a ciphertext has, how far apart."""

    chunks: int
    dilation: Steps = (1, 1)
    levels: tuple[Steps, ...] = ()
    sites: int = 1
    apart: Steps = (0, 0)

    def room(self, axis: int) -> int:
        """Rows or columns from the first of the images of a slot to the last, and of their groups of channels."""
        return sum(level[axis] for level in self.levels) + (self.sites - 1) * self.apart[axis]


@dataclass(frozen=True)
class Read:
    """How a linear map reads an operand: whole, or from every one of ``firsts`` on, every ``step``-th pixel, where the
    images of ``1 << len(levels)`` chunks are brought together."""

    firsts: tuple[Steps, ...] = ()
    step: Steps = (1, 1)
    levels: tuple[Steps, ...] = ()


WHOLE = Read()


@dataclass
class ImagePlan:
    """Image layouts of an assigned graph. group: channels side by side; chunks: of the inputs; spread: whether groups
    of channels stand in the room between pixels, too.

    standings: by node id; reads: by linear map and operand. rows, pitch: of the raster; stride: between two channels.
    problem: why it cannot be, if so. configuration: of the bootstraps, None for the usual one.
    """

    graph: Graph
    pictures: Pictures
    ring: int
    batch: int
    group: int
    chunks: int
    spread: bool = False
    configuration: Configuration | None = None
    standings: dict[int, Standing] = field(default_factory=dict)
    reads: dict[tuple[int, int], Read] = field(default_factory=dict)
    rows: int = 1
    pitch: int = 1
    stride: int = 1
    problem: str = ""

    def __post_init__(self) -> None:
        spacing = self.pictures.spacing(self.graph)
        for node in self.graph:
            if node.type.scheme is Scheme.CLIENT:
                continue
            if isinstance(node.op, Input):
                self.standings[node.id] = Standing(self.chunks, spacing)
            elif isinstance(node.op, Linear):
                self._linear(node)
            else:
                self.standings[node.id] = self.standings[node.operands[0]]
            if self.problem:
                return
        if self.spread and (met := self._make_sites()):
            self.problem = f"groups of channels that {met} reads and makes would meet"
            return
        needed = max(self._slots(s) for s in self.standings.values()) * self.rows * self.pitch * self.group
        if needed > self.ring:
            self.problem = f"{self.batch} images in {self.chunks} chunks take {needed:,} coefficients of a ciphertext"
            return
        while 2 * self.stride * needed <= self.ring and self.ring // (2 * self.stride) >= 2 * MIN_SLOTS:
            self.stride *= 2

    # -- where images stand --

    def _linear(self, node: Node) -> None:
        found: list[tuple[Stencil, Standing, Standing]] = []
        merged: tuple[Steps, ...] | None = None
        operands, stencils = self.graph.operands(node), self.pictures.stencils
        # inputs stay where they are; then what has most images together, as they were brought there by former strides
        order = [(self.resident(o), -len(self.standings[o.id].levels), n) for n, o in enumerate(operands)]
        for _, _, number in sorted(order):
            operand, own = operands[number], stencils[node.id, number]
            before = self.standings[operand.id]
            read = self._read(own, before, merged) if self.resident(operand) else WHOLE
            self.reads[node.id, number] = read
            if any(d % u for d, u in zip(before.dilation, own.up, strict=True)):
                self.problem = f"{node} enlarges images that have no room between their pixels"
                return
            found += [(part, at, self._after(part, at)) for part, at in self._parts(own, before, read)]
            merged = found[-1][2].levels
        if len({after for _, _, after in found}) > 1:
            self.problem = f"the images that {node} adds up stand differently"
        standing = found[-1][2]
        if self.spread:
            standing = self._spread(standing, [before for _, before, _ in found], self.pictures.images[node.id][0])
        for part, before, _ in found:
            self._leave_room(part, before, standing)
        self.standings[node.id] = standing

    def _spread(self, standing: Standing, operands: Sequence[Standing], channels: int) -> Standing:
        """Groups of channels between the pixels, along a direction that no operand has: as many as the pixels read are
        apart."""
        taken = {before.apart for before in operands if before.sites > 1}
        free = [direction for direction in _DIRECTIONS if direction not in taken]
        sites = min(-(-channels // self.group), *(min(before.dilation) for before in operands))
        if standing.levels or not free or sites < 2:
            return standing
        return replace(standing, sites=sites, apart=free[0])

    def _read(self, own: Stencil, before: Standing, merged: tuple[Steps, ...] | None) -> Read:
        """A map with a stride brings images together, as many as there are chunks for, or groups of channels. merged:
        the images of a slot that its other operands have, with which these must stand."""
        step, wanted = own.stride, () if merged is None else merged[: max(0, len(merged) - len(before.levels))]
        if merged is not None:
            # where a single pixel is made, any stride reads for it
            down, right = (sum(level[axis] > 0 for level in wanted) for axis in (0, 1))
            step = (1 << down if own.target[1] == 1 else step[0]), (1 << right if own.target[2] == 1 else step[1])
        if step == (1, 1) or self.pictures.enlarged or any(s & (s - 1) for s in step):
            return WHOLE
        if self.spread and own.target[0] > self.group:
            return Read(own.parities(step), step)
        # rows before columns, the last ones first, as if several maps had done it one after another
        rows, columns = (
            [d << bit for bit in reversed(range(by.bit_length() - 1))]
            for d, by in zip(before.dilation, step, strict=True)
        )
        levels = (*((0, right) for right in columns), *((down, 0) for down in rows))
        most = min(len(levels), before.chunks.bit_length() - 1)
        if merged is None:
            wanted = levels[len(levels) - most :]
        elif len(wanted) > most or not set(wanted) <= set(levels):
            return WHOLE
        return Read(own.parities(step), step, wanted) if wanted else WHOLE

    def _parts(self, own: Stencil, before: Standing, read: Read) -> list[tuple[Stencil, Standing]]:
        if not read.firsts:
            return [(own, before)]
        return [(own.part(first, read.step), self.together(before, read)) for first in read.firsts]

    def together(self, before: Standing, read: Read) -> Standing:
        """How what a map reads stands, once the images of several chunks are together."""
        dilation = (before.dilation[0] * read.step[0], before.dilation[1] * read.step[1])
        chunks, levels = before.chunks >> len(read.levels), read.levels + before.levels
        return replace(before, chunks=chunks, dilation=dilation, levels=levels)

    @staticmethod
    def _after(own: Stencil, before: Standing) -> Standing:
        down, right = (
            1 if size == 1 else d * s // u
            for size, d, s, u in zip(own.target[1:], before.dilation, own.stride, own.up, strict=True)
        )
        return Standing(before.chunks, (down, right), before.levels)

    def _leave_room(self, own: Stencil, before: Standing, after: Standing) -> None:
        """Rows and columns enough for both images, and for the zeros that are read beside the first."""
        room = []
        for axis in (0, 1):
            read, d, up = own.reads[:, axis], before.dilation[axis], own.up[axis]
            behind = own.stride[axis] * (own.target[axis + 1] - 1) + int(read.max()) - up * (own.source[axis + 1] - 1)
            border = d // up * max(0, behind, -int(read.min()))
            room.append(
                1
                + max(
                    (own.source[axis + 1] - 1) * d + border + before.room(axis),
                    (own.target[axis + 1] - 1) * after.dilation[axis] + after.room(axis),
                )
            )
        self.rows, self.pitch = max(self.rows, room[0]), max(self.pitch, room[1])

    def _slots(self, standing: Standing) -> int:
        images = standing.chunks << len(standing.levels)
        return -(-self.batch // images)

    def raster(self, node: Node) -> Raster:
        """Of a node's images, channels side by side."""
        standing = self.standings[node.id]
        return Raster(
            *self.pictures.images[node.id],
            self.group,
            self.group,
            self.rows,
            self.pitch,
            standing.dilation,
            levels=standing.levels,
            sites=standing.sites,
            apart=standing.apart,
        )

    def _make_sites(self) -> Node | None:
        """Room in which groups of channels do not meet; where there is none, a map whose groups do."""
        # from one row and image to the next, sites stay what they are
        apart = max(max(s.dilation) for s in self.standings.values())
        self.rows, self.pitch = (-(-size // apart) * apart for size in (self.rows, self.pitch))
        if self._meeting() is None:
            return None
        # what lands beside a row is at another site in the next one
        self.pitch += apart
        return self._meeting()

    def _meeting(self) -> Node | None:
        samples = -(-self.batch // self.chunks)
        for node, _ in self.graph.of(Linear):
            made = self.raster(node)
            for number, operand in enumerate(self.graph.operands(node)):
                own, read = self.pictures.stencils[node.id, number], self.reads[node.id, number]
                before = replace(self.raster(operand), beside=1)
                for first in read.firsts or (None,):
                    part = own if first is None else own.part(first, read.step)
                    where = before if first is None else before.window(first, read.step)
                    if disturbed(part, where, made, samples, made.slots(samples) * made.slot):
                        return node
        return None

    # -- what it costs --

    @property
    def label(self) -> str:
        more = " and between pixels" if self.spread else ""
        side = f"{counted(self.group, 'channel')} side by side"
        return f"images, {side}{more}"

    @property
    def reason(self) -> str:
        """In words, what it comes to."""
        at = f"{self.bootstraps} bootstraps, {self.fill:.0%} full"
        return (
            f"{at}; {self.rows} x {self.pitch} places an image in {self.chunks} chunks, which hold {self.most} images"
        )

    @property
    def most(self) -> int:
        """The largest batch that the same ciphertexts hold, so that takes as long."""
        return self.chunks * (self.ring // (self.stride * self.group * self.rows * self.pitch))

    @property
    def slots(self) -> int:
        """Half of the values that a bootstrap refreshes."""
        return self.ring // self.stride // 2

    @property
    def bootstraps(self) -> int:
        return sum(self._ciphertexts(n) for n in self._bootstrapped)

    @property
    def fill(self) -> float:
        """Share of what is bootstrapped that carries a useful value."""
        useful = sum(n.type.size * self.batch for n in self._bootstrapped)
        return useful / (self.ring // self.stride * max(1, self.bootstraps))

    @property
    def noise(self) -> float:
        """Largest share of a nonlinearity's range that a bootstrap's noise takes for being unpacked into channels."""
        modulus = 2.0 ** plaintext_bits(self.graph)
        floor = hypot(VALUE_NOISE * self.ring / MEASURED_AT / 2.0**OUTPUT_BITS, DECODING_FLOOR) * modulus
        spans = [n.type.fixed.hi - n.type.fixed.lo for n, _ in self.graph.of(Apply) if n.type.fixed is not None]
        return floor * self.group / max(1, min(spans, default=1))

    def rank(self, cost: CostModel) -> tuple[float, float]:
        """As that of other plans."""
        return (self.noise if self.noise > NOISE else 0.0, self.seconds(cost))

    def seconds(self, cost: CostModel) -> float:
        """Predicted seconds of all that depends on the plan, for its whole batch."""
        cost = cost.taking(self.configuration)
        slots, ring = self.slots, self.ring
        context = deepest(self._parameters(), cost.engine)
        switch = cost.scaled(cost.switch, ring)
        shared = cost.powers_seconds(slots, DEGREE, ring, context) + switch
        function = cost.evaluate_seconds(slots, DEGREE, ring, context) + cost.mask_seconds(slots, ring) + switch
        functions = products = 0
        unpacking = 0.0
        for (value, _, _), levels in self._functions().items():
            made = self._ciphertexts(self.graph.node(value))
            functions += made
            products += made if levels else 0
            unpacking += (self.standings[value].chunks >> levels) * self._unpacking_seconds(value, cost)
        for node, count in self._polynomials().items():
            products += self.standings[node].chunks * count
        return (
            self.bootstraps * shared
            + functions * function
            + unpacking
            + self._giants_seconds(cost)
            + products * cost.scaled(cost.product, ring)
        )

    @property
    def _steps(self) -> Conjugation | None:
        """Over which conjugates sums of the channels of a group go."""
        return Conjugation.of(self.ring, self.group, self.stride) if self.group > 1 else None

    def _conjugated(self, value: Node) -> bool:
        """Whether sums of a nonlinearity's channels go over conjugates."""
        return self._steps is not None and isinstance(value.op, Apply) and self._summed(value)

    def _summed(self, node: Node) -> bool:
        """Whether only sums of a value's channels are read."""
        return all(
            self._summed(u) if isinstance(u.op, Switch) else takes_sums(self.graph, u) for u in self.graph.users(node)
        )

    def babies(self, value: Node) -> int:
        """Baby steps of the sums over conjugates of a value's channels; 0 where the channels are read."""
        return self._steps.babies if self._steps is not None and self._summed(value) else 0

    def _unpacking_seconds(self, value: int, cost: CostModel) -> float:
        """Of the channels of a nonlinearity in one chunk, before any sums."""
        steps, image = self._steps, self.raster(self.graph.node(value))
        if steps is None:
            return 0.0
        if self._summed(self.graph.node(value)):
            return image.parts * cost.conjugates_seconds(steps)
        wanted = (min(self.group, len(image.channels_of(part))) for part in range(image.parts))
        splits = sum(split_automorphisms(self.group, w) for w in wanted)
        return splits * cost.scaled(cost.automorphism, self.ring)

    def _giants_seconds(self, cost: CostModel) -> float:
        """Of all sums over conjugates: one for each operand that is unpacked and each group of channels made."""
        steps = self._steps
        if steps is None:
            return 0.0
        sums = 0
        for (id, number), read in self.reads.items():
            value = self.value(self.graph.operands(self.graph.node(id))[number])
            if self._conjugated(value):
                sums += self._ciphertexts(self.graph.node(id)) * len(read.firsts or (None,))
        return sums * cost.giants_seconds(steps)

    def memory_bytes(self, cost: CostModel) -> float:
        """Predicted peak of a run, roughly: contexts and keys, weights, and the channels of what a map reads."""
        cost = cost.taking(self.configuration)
        keys = () if self._steps is None else tuple(sorted(self._steps.elements))
        parameters = self._parameters(keys)
        channels = max(image[0] for image in self.pictures.images.values())
        alive = 4 * channels + sum(self._ciphertexts(n) for n in self._bootstrapped[:2])
        held = 2 * 8 * self.ring * (self.polynomials + cost.limbs * alive)
        return cost.idle_bytes(parameters) + cost.work_bytes(parameters) + held

    def _parameters(self, conjugates: tuple[int, ...] = ()) -> Parameters:
        """Typical ones of its bootstraps."""
        return Parameters(
            self.ring, 0, 0, slots=self.slots, degree=DEGREE, slot_levels=1, folded_levels=1, conjugates=conjugates
        )

    def resident(self, node: Node) -> bool:
        """Whether a value comes from a bootstrap."""
        return isinstance(self.value(node).op, Apply)

    def value(self, node: Node) -> Node:
        """The nonlinearity, map or input that a value is, through whatever leaves it as it is."""
        while isinstance(node.op, Switch | Reshape):
            (node,) = self.graph.operands(node)
        return node

    def _ciphertexts(self, node: Node) -> int:
        return self.standings[node.id].chunks * self.raster(node).parts

    @property
    def _bootstrapped(self) -> list[Node]:
        return [n for n, _ in self.graph.of(Linear) if is_bootstrapped(n, self.graph)]

    def _functions(self) -> dict[tuple[int, Steps | None, Steps], int]:
        """Of each nonlinearity by id, whole (None) or from these pixels on: the levels of merging behind it."""
        found: dict[tuple[int, Steps | None, Steps], int] = {}
        for node, _ in self.graph.of(Linear):
            for number, operand in enumerate(self.graph.operands(node)):
                read, value = self.reads[node.id, number], self.value(operand)
                if isinstance(value.op, Apply):
                    found.update({(value.id, first, read.step): len(read.levels) for first in read.firsts or (None,)})
        for node, _ in self.graph.of(Apply):
            if not any(value == node.id for value, _, _ in found):
                found[node.id, None, WHOLE.step] = 0
        return found

    @property
    def polynomials(self) -> int:
        """Weight polynomials that a run holds."""
        return sum(self._polynomials().values())

    def _polynomials(self) -> dict[int, int]:
        """Weight polynomials of each linear map."""
        found = {}
        for node, _ in self.graph.of(Linear):
            reads = (
                len(self.reads[node.id, n].firsts or (None,)) * self._multiplied(o)
                for n, o in enumerate(self.graph.operands(node))
            )
            found[node.id] = self.raster(node).parts * (sum(reads) + 1)
        return found

    def _multiplied(self, operand: Node) -> int:
        """How many ciphertexts of an operand a map multiplies: its channels, or whole groups of them where sums go over
        conjugates."""
        channels = replace(self.raster(operand), beside=1).parts
        return -(-channels // self.group) * self.group if self._conjugated(self.value(operand)) else channels
