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

Rows can also follow one another without a border (*seamless*). What products carry from one row to the next is taken
back by products with the columns at the ends of rows, which are unpacked by themselves: a pixel's channels and its
column are the low bits of its exponent, so automorphisms split them apart. A stride along rows then makes channels of
the pixels between (``Fold``): no mask for each parity, no room between pixels, and images of more chunks are brought
together along columns alone.

A transposed convolution with a stride, or what enlarges images, makes pixels between those it reads. So that there is
room, the input's stand apart from the beginning, as far as is enlarged later; nothing else is put there then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import hypot

from glyphc.analysis.cost import Configuration, CostModel, deepest, split_automorphisms
from glyphc.analysis.estimate import ENCODING
from glyphc.ir.galois import Conjugation
from glyphc.ir.graph import Graph, Node
from glyphc.ir.image_layout import Raster, Steps
from glyphc.ir.layout import next_power_of_two
from glyphc.ir.noise import DECODING_FLOOR, MEASURED_AT, VALUE_NOISE
from glyphc.ir.ops import Apply, Input, Linear, Reshape, Switch
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import OUTPUT_BITS
from glyphc.ir.stencils import Stencil, disturbed
from glyphc.ir.types import Scheme
from glyphc.ir.unpackings import takes_sums
from glyphc.text_tables import counted

from .fit_series import plaintext_bits
from .image_standings import WHOLE, Read, Standing, Unpacked
from .layout_search import DEGREE, MIN_SLOTS, NOISE
from .pictures import Pictures
from .readers import is_bootstrapped

# Along which groups of channels stand in the room between pixels, in rows and columns: any two of them cross once.
_DIRECTIONS: tuple[Steps, ...] = ((1, 0), (0, 1), (1, 1))


@dataclass
class ImagePlan:
    """Image layouts of an assigned graph. group: channels side by side; chunks: of the inputs; spread: whether groups
    of channels stand in the room between pixels, too; seamless: whether rows have no border between them.

    standings: by node id; reads: by linear map and operand; edges: of what maps read, how many columns at either end of
    a row are unpacked by themselves. rows, pitch: of the raster; stride: between two channels.
    problem: why it cannot be, if so. configuration: of the bootstraps, None for the usual one.
    """

    graph: Graph
    pictures: Pictures
    ring: int
    batch: int
    group: int
    chunks: int
    spread: bool = False
    seamless: bool = False
    configuration: Configuration | None = None
    standings: dict[int, Standing] = field(default_factory=dict)
    edges: dict[Unpacked, int] = field(default_factory=dict)
    reads: dict[tuple[int, int], Read] = field(default_factory=dict)
    rows: int = 1
    pitch: int = 1
    stride: int = 1
    problem: str = ""

    def __post_init__(self) -> None:
        spacing = self.pictures.spacing(self.graph)
        if self.seamless:
            self.pitch = next_power_of_two(max(image[2] for image in self.pictures.images.values()))
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
        # columns are split from the lowest bits of exponents on
        while (
            not self.seamless
            and 2 * self.stride * needed <= self.ring
            and self.ring // (2 * self.stride) >= 2 * MIN_SLOTS
        ):
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
            if own.source[0] % (self.group * before.fold if read.fold > 1 else 1) or own.source[2] % read.fold:
                self.problem = f"no channels can be made of every {read.fold} pixels of a row of {operand}"
                return
            if self.seamless and not self.resident(operand) and not isinstance(self.value(operand).op, Input):
                self.problem = f"{node} reads a linear map, whose rows hold more than its results"
                return
            parts = self._parts(own, before, read)
            found += [(part, at, self._after(part, at)) for part, at in parts]
            merged = found[-1][2].levels
            for first, (part, at) in zip(read.firsts or (None,), parts, strict=True):
                key = (self.value(operand).id, first, read.once)
                self.edges[key] = max(self.edges.get(key, 0), self._crossing(part, at))
        if len({after for _, _, after in found}) > 1:
            self.problem = f"the images that {node} adds up stand differently"
        standing = found[-1][2]
        if self.spread:
            standing = self._spread(standing, [before for _, before, _ in found], self.pictures.images[node.id][0])
        for part, before, _ in found:
            self._leave_room(part, before, standing)
            if self.seamless and not self._fits_rows(part, before, standing):
                self.problem = f"{node} makes rows that do not fit those of its operands without a border between"
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
        fold = 1
        if self.seamless:
            step, fold = (step[0], 1), step[1]
        if any(s & (s - 1) for s in (*step, fold)):
            return WHOLE
        if step == (1, 1) or self.pictures.enlarged:
            return Read(fold=fold)
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
            return Read(fold=fold)
        return Read(own.parities(step), step, wanted, fold) if wanted else Read(fold=fold)

    def _parts(self, own: Stencil, before: Standing, read: Read) -> list[tuple[Stencil, Standing]]:
        together = self.together(before, read)
        parts = [own.part(first, read.step) for first in read.firsts] or [own]
        if read.fold > 1:
            parts = [part.folded(self.group * before.fold, read.fold) for part in parts]
        return [(part, together) for part in parts]

    def together(self, before: Standing, read: Read) -> Standing:
        """How what a map reads stands, once the images of several chunks are together."""
        dilation = (before.dilation[0] * read.step[0], before.dilation[1] * read.step[1])
        chunks, levels = before.chunks >> len(read.levels), read.levels + before.levels
        return replace(before, chunks=chunks, dilation=dilation, levels=levels, fold=before.fold * read.fold)

    @staticmethod
    def _after(own: Stencil, before: Standing) -> Standing:
        down, right = (
            1 if size == 1 else d * s // u
            for size, d, s, u in zip(own.target[1:], before.dilation, own.stride, own.up, strict=True)
        )
        return Standing(before.chunks, (down, right), before.levels, fold=before.fold)

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
        self.rows = max(self.rows, room[0])
        if not self.seamless:
            self.pitch = max(self.pitch, room[1])

    def _crossing(self, own: Stencil, before: Standing) -> int:
        """How many columns at the ends of rows products carry to other rows."""
        return own.overhang if self.seamless and own.source[2] * before.fold == self.pitch else 0

    def _fits_rows(self, own: Stencil, before: Standing, after: Standing) -> bool:
        """Whether rows without a border hold what a map reads and makes, and what crosses their ends can be taken back:
        from the whole columns that a row is made of, at most half of them."""
        width, made, pitch = own.source[2], own.target[2], self.pitch // before.fold
        if after.fold != before.fold or after.dilation[1] > 1 or max(width, made) > pitch:
            return False
        return own.overhang <= pitch - width or (width == pitch and made <= width and 2 * own.overhang <= width)

    def _slots(self, standing: Standing) -> int:
        images = standing.chunks << len(standing.levels)
        return -(-self.batch // images)

    def raster(self, node: Node) -> Raster:
        """Of a node's images, channels side by side."""
        standing = self.standings[node.id]
        group = self.group * standing.fold
        return Raster(
            *self.pictures.images[node.id],
            group,
            group,
            self.rows,
            self.pitch // standing.fold,
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
        more = " and between pixels" if self.spread else ", rows without a border" if self.seamless else ""
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
        widest = self.group * max(s.fold for s in self.standings.values())
        return floor * widest / max(1, min(spans, default=1))

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
        functions, products = 0, 0.0
        for (value, _, _), levels in self._functions().items():
            made = self._ciphertexts(self.graph.node(value))
            functions += made
            products += made if levels else 0
        for node, _ in self.graph.of(Linear):
            kept, transient = self._polynomials(node)
            products += self.standings[node.id].chunks * (kept + (1 + ENCODING) * transient)
        return (
            self.bootstraps * shared
            + functions * function
            + sum(self._unpacking_seconds(what, edges, cost) for what, edges in self.edges.items())
            + self._giants_seconds(cost)
            + products * cost.scaled(cost.product, ring)
        )

    def beside(self, value: Node, read: Read) -> int:
        """Channels side by side of a value as it is read."""
        return self.group * self.standings[value.id].fold * read.fold

    def _steps(self, group: int) -> Conjugation | None:
        """Over which conjugates sums of the channels of a group go."""
        return Conjugation.of(self.ring, group, self.stride) if group > 1 else None

    def conjugated(self, value: Node, read: Read) -> Conjugation | None:
        """Over which conjugates sums of a nonlinearity's channels go, as it is read; None where channels are read."""
        if not isinstance(value.op, Apply) or not self._summed(value):
            return None
        return self._steps(self.beside(value, read))

    def _summed(self, node: Node) -> bool:
        """Whether only sums of a value's channels are read."""
        return all(
            self._summed(u) if isinstance(u.op, Switch) else takes_sums(self.graph, u) for u in self.graph.users(node)
        )

    def _unpacking_seconds(self, what: Unpacked, edges: int, cost: CostModel) -> float:
        """Of the channels of a value in all chunks, before any sums, and of the columns at the ends of its rows."""
        (id, _, read), automorphism = what, cost.scaled(cost.automorphism, self.ring)
        value = self.graph.node(id)
        group, image = self.beside(value, read), self.raster(value)
        # an input has its channels apart
        parts = image.parts if isinstance(value.op, Apply) else image.channels
        seconds = 0.0
        if edges:
            splits = split_automorphisms(self.group * self.pitch, 2 * edges * group)
            seconds += parts * (splits * automorphism + cost.scaled(cost.product, self.ring))
        if isinstance(value.op, Apply) and group > 1:
            steps = self.conjugated(value, read)
            if steps is not None:
                seconds += parts * cost.conjugates_seconds(steps)
            else:
                wanted = (min(group, read.fold * len(image.channels_of(part))) for part in range(parts))
                seconds += sum(split_automorphisms(group, w) for w in wanted) * automorphism
        return (self.standings[id].chunks >> len(read.levels)) * seconds

    def _giants_seconds(self, cost: CostModel) -> float:
        """Of all sums over conjugates: one for each operand that is unpacked and each group of channels made."""
        seconds = 0.0
        for (id, number), read in self.reads.items():
            value = self.value(self.graph.operands(self.graph.node(id))[number])
            steps = self.conjugated(value, read)
            if steps is not None:
                sums = self._ciphertexts(self.graph.node(id)) * len(read.firsts or (None,))
                seconds += sums * cost.giants_seconds(steps)
        return seconds

    def memory_bytes(self, cost: CostModel) -> float:
        """Predicted peak of a run, roughly: contexts and keys, weights, and the channels of what a map reads."""
        cost = cost.taking(self.configuration)
        ends = max(self.edges.values(), default=0)
        columns = (self.group * self.pitch).bit_length() - 1 if ends else 0
        parameters = self._parameters(self._keys(), tuple(self.stride << level for level in range(columns)))
        channels = max(image[0] for image in self.pictures.images.values())
        alive = (4 + 2 * ends) * channels + sum(self._ciphertexts(n) for n in self._bootstrapped[:2])
        held = 2 * 8 * self.ring * (self.polynomials + cost.limbs * alive)
        return cost.idle_bytes(parameters) + cost.work_bytes(parameters) + held

    def _parameters(self, conjugates: tuple[int, ...] = (), unpack_strides: tuple[int, ...] = ()) -> Parameters:
        """Typical ones of its bootstraps."""
        return Parameters(
            self.ring,
            plaintext_bits=0,
            bgv_bits=0,
            unpack_strides=unpack_strides,
            slots=self.slots,
            degree=DEGREE,
            slot_levels=1,
            folded_levels=1,
            conjugates=conjugates,
        )

    def _keys(self) -> tuple[int, ...]:
        """Of the automorphisms of all sums over conjugates."""
        groups = {self.beside(self.graph.node(id), read) for id, _, read in self.edges}
        return tuple(sorted({g for group in groups if (steps := self._steps(group)) for g in steps.elements}))

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
        return sum(self._polynomials(node)[0] for node, _ in self.graph.of(Linear))

    def _polynomials(self, node: Node) -> tuple[int, int]:
        """Weight polynomials of a linear map: those that are held, and those that take back what crosses the ends of
        rows, which are not."""
        kept, transient = 1, 0
        for number, operand in enumerate(self.graph.operands(node)):
            read, value = self.reads[node.id, number], self.value(operand)
            firsts, group = read.firsts or (None,), self.beside(value, read)
            channels = replace(self.raster(operand), beside=1).parts * read.fold
            whole = channels if self.conjugated(value, read) is None else -(-channels // group) * group
            kept += len(firsts) * whole
            transient += 2 * channels * sum(self.edges[value.id, first, read.once] for first in firsts)
        parts = self.raster(node).parts
        return parts * kept, parts * transient
