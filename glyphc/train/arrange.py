"""Ways and places for all layers of a step: the cheapest path of offers, from the data to the last sums.

The ring has room for so many samples, units and features at once; docs/training-steps.md derives what each way needs.
All arrangements that fit are compared by their predicted seconds, bootstraps included; losers and refusals are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from math import log2

from glyphc.analysis.cost import CostModel
from glyphc.analysis.training_cost import Bootstraps, primitive_seconds
from glyphc.ir.graph import Candidate, Decision, Node
from glyphc.ways.base import Context, Offer, Refusal

from .units import Units, blocks_to_move, groups_to_move, power_of_two
from .ways.base import MASKS, Placed, ProductWay, placed
from .ways.layers import LayerQuestion, Trained
from .ways.registry import product_ways


@dataclass(frozen=True)
class Wanted:
    """What is to be arranged. products: of each layer's values and weights, with its operands; trained: of each layer.

    softmax: errors of the last layer come all at once, not in groups, and sums over its units spread to both sides of
    them without meeting. pixels: of the first layer, where it is a convolution. added: of layers whose activations are
    added to another one's sums, with that one.
    """

    inputs: int
    widths: tuple[int, ...]
    batch: int
    ring: int
    softmax: bool
    products: tuple[tuple[Node, tuple[Node, ...]], ...]
    trained: tuple[Trained, ...]
    pixels: int = 1
    added: tuple[tuple[int, int], ...] = ()

    @property
    def rooms(self) -> tuple[int, ...]:
        """Places that the last layer's units may have room for, powers of two."""
        outputs = self.widths[-1]
        spread = (2 * outputs - 1,) if self.softmax else ()
        return tuple(sorted({power_of_two(n) for n in (outputs, *spread)}))


@dataclass(frozen=True)
class Arrangement:
    """ways, units: of each layer. seconds: predicted, of a step. decisions: why each layer got its way."""

    ways: tuple[ProductWay, ...]
    units: tuple[Units, ...]
    seconds: float
    decisions: tuple[Decision, ...] = field(default=(), compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(way.name for way in self.ways)

    @property
    def slots(self) -> int:
        return self.units[0].ring // (2 * self.units[0].grid)

    @property
    def masks(self) -> bool:
        """Whether errors come in groups, with nothing beside them."""
        return any(way.layer.masks for way in self.ways)

    @property
    def clean(self) -> bool:
        """Whether the first layer's errors have nothing beside them."""
        return self.masks or len(self.ways) == 1


def arrange(wanted: Wanted, cost: CostModel) -> Arrangement | None:
    """The fastest arrangement, with the reasons against all others; None when nothing fits."""
    search = _Search(wanted, cost)
    found = list(search.arrangements())
    if not found:
        return None
    best = min(found, key=lambda a: a.seconds)
    return replace(best, decisions=search.decisions(best, found))


def arrangements(wanted: Wanted, cost: CostModel) -> Iterator[Arrangement]:
    """All that fit."""
    return _Search(wanted, cost).arrangements()


def most_samples(wanted: Wanted, cost: CostModel) -> int:
    """The largest batch that fits, a power of two; 0 when none does."""
    batch = wanted.ring
    while batch and next(arrangements(replace(wanted, batch=batch), cost), None) is None:
        batch //= 2
    return batch


class _Search:
    def __init__(self, wanted: Wanted, cost: CostModel) -> None:
        self._wanted = wanted
        self._cost = cost
        self._ways = product_ways()
        self._offered = lru_cache(maxsize=None)(self._offer)
        self._refusals: dict[tuple[int, str], str] = {}

    def arrangements(self) -> Iterator[Arrangement]:
        w = self._wanted
        first = [way for way in self._ways if way.layer.first]
        hidden = [way for way in self._ways if not way.layer.first]
        for room in w.rooms:
            for behind in product(hidden, repeat=len(w.widths) - 1):
                # sparse bootstraps read every second coefficient at most, and 16 at least
                for bits in range(int(log2(w.ring)) - 4, 0, -1):
                    for way in first:
                        found = self._arranged((way, *behind), room, 1 << bits)
                        if found is not None:
                            yield found

    def _arranged(self, ways: tuple[ProductWay, ...], room: int, grid: int) -> Arrangement | None:
        """These ways on this grid, or None when one of them refuses."""
        w = self._wanted
        clean = len(ways) == 1 or any(way.layer.masks for way in ways)
        rooms = [*map(power_of_two, w.widths[:-1]), room]
        units: list[Units] = []
        offers: list[Offer] = []
        for at, way in enumerate(ways):
            tight = at + 1 < len(ways) and ways[at + 1].layer.tight_source
            offer = self._offered(at, way, units[-1].flat if units else None, rooms[at], grid, tight, clean)
            if isinstance(offer, Refusal):
                self._refusals[at, way.name] = offer.reason  # of the finest grid in the end
                return None
            assert isinstance(offer.result, Placed) and offer.result.units is not None
            units.append(offer.result.units)
            offers.append(offer)
        last = units[-1]
        if w.softmax and (last.used_groups > 1 or (2 * w.widths[-1] - 1) * last.period > w.ring):
            self._refusals[len(ways) - 1, ways[-1].name] = "sums over a softmax's outputs would meet"
            return None
        contexts = frozenset[Context]().union(*(offer.contexts for offer in offers))
        masks = MASKS in contexts
        for source, target in w.added:
            # values come in as many blocks as it takes, errors in the groups that there are
            if groups_to_move(units[target], units[source], units[target].used_groups if masks else 1) is None:
                self._refusals[target, ways[target].name] = "errors of what is added to its sums would meet"
                return None
        seconds = sum(offer.seconds for offer in offers) + self._bootstraps(units, masks)
        return Arrangement(ways, tuple(units), seconds)

    def _offer(
        self, at: int, way: ProductWay, source: Units | None, room: int, grid: int, tight: bool, clean: bool
    ) -> Offer | Refusal:
        w = self._wanted
        question = LayerQuestion(
            w.ring,
            w.batch,
            self._cost,
            inputs=w.inputs if source is None else len(source.numbers),
            source=source,
            count=w.widths[at],
            room=room,
            grid=grid,
            trained=w.trained[at],
            tight=tight,
            clean=clean,
            pixels=1 if at else w.pixels,
        )
        node, operands = w.products[at]
        return way.offer(node, operands, question) or Refusal("it is not about such a product")

    def _bootstraps(self, units: Sequence[Units], masks: bool) -> float:
        """Of a step: activations with their slopes, values block by block where they are added to other sums, errors
        sent back group by group, and the loss."""
        hidden, loss = len(units) - 1, 2 if self._wanted.softmax else 1
        levels = 2 if masks or self._wanted.softmax else int(hidden > 0)
        work = Bootstraps(units[0].ring // (2 * units[0].grid), levels=levels)
        groups = sum(u.used_groups for u in units) if masks else len(units)
        added = [(source, units[target]) for source, target in self._wanted.added]
        values = sum(len(blocks_to_move(u, [to for s, to in added if s == at])) for at, u in enumerate(units[:-1]))
        decodes = values + groups + loss - 1
        counts = {"powers": 2 * hidden + loss, "function": 3 * hidden + loss, "decode": decodes, "from_torus": decodes}
        counts |= {"to_torus": 2 * hidden + loss, "slot_product": hidden + loss - 1}
        counts |= {"mask": values + (groups if masks else loss - 1)}
        ring = self._wanted.ring
        return sum(n * primitive_seconds(name, 1, work, ring, self._cost) for name, n in counts.items())

    def decisions(self, best: Arrangement, found: Sequence[Arrangement]) -> tuple[Decision, ...]:
        """For each layer, what became of every way: the seconds of a step with it, the rest as good as can be."""
        out = []
        for at, chosen in enumerate(best.ways):
            candidates = []
            for way in self._ways:
                seconds = min((a.seconds for a in found if a.ways[at] is way), default=None)
                if way is chosen:
                    candidates.append(Candidate(way.name, best.seconds, str(placed(best.units[at]))))
                elif seconds is not None:
                    candidates.append(Candidate(way.name, seconds, "a step takes longer"))
                elif way.layer.first is chosen.layer.first:
                    reason = self._refusals.get((at, way.name), "no layer before or behind fits")
                    candidates.append(Candidate(way.name, None, reason))
            out.append(Decision("assign-ways", chosen.name, tuple(candidates)))
        return tuple(out)
