"""Where the nodes of a graph stand in a picture: layers from top to bottom, few crossings, long chains in columns.

After Sugiyama, Tagawa, Toda, *Methods for Visual Understanding of Hierarchical System Structures* (1981): longest-path
layers, placeholders where an edge passes a layer, and orders by the mean place of the neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, sqrt

# Sizes in pixels: of a node's box, and of the gaps around it.
WIDTH, HEIGHT = 190.0, 46.0
_GAP_X, _GAP_Y, _LANE = 28.0, 30.0, 24.0
GAP_COLUMN = 64.0
# Graphs of up to so many layers stay in one column; larger ones become so many times as wide as high.
_ROWS, _ASPECT = 9, 1.6
# Longer edges get no placeholders: they would be more than the nodes.
_LONGEST = 40
_SWEEPS = 6


@dataclass(frozen=True)
class Placing:
    """Centres of the nodes by id, and of the points that edges pass between (source, target); size of the picture.

    pitch: from the left side of a column to that of the next.
    """

    nodes: Mapping[int, tuple[float, float]]
    bends: Mapping[tuple[int, int], tuple[tuple[float, float], ...]]
    width: float
    height: float
    pitch: float


def place(operands: Mapping[int, Sequence[int]]) -> Placing:
    """A picture of an acyclic graph, given every node's operands; operands come before their users."""
    return _Layers(operands).placing()


@dataclass(eq=False)
class _Spot:
    """A node, or a placeholder for an edge; above and below: its neighbours in the layers next to it."""

    layer: int
    size: float
    x: float = 0.0
    above: list[_Spot] = field(default_factory=list)
    below: list[_Spot] = field(default_factory=list)


class _Layers:
    def __init__(self, operands: Mapping[int, Sequence[int]]) -> None:
        self.edges = list(dict.fromkeys((o, n) for n, ids in operands.items() for o in ids))
        layers = self._longest_paths(operands)
        self.spots = {id: _Spot(layer, WIDTH + _GAP_X) for id, layer in layers.items()}
        count = max(layers.values(), default=-1) + 1
        self.layers: list[list[_Spot]] = [[] for _ in range(count)]
        for spot in self.spots.values():
            self.layers[spot.layer].append(spot)
        self.chains = {edge: self._chain(*edge) for edge in self.edges}
        for _ in range(_SWEEPS):
            self._sweep(range(count), above=True)
            self._sweep(range(count - 2, -1, -1), above=False)

    def _longest_paths(self, operands: Mapping[int, Sequence[int]]) -> dict[int, int]:
        layers: dict[int, int] = {}
        for id, ids in operands.items():
            layers[id] = max((layers[o] + 1 for o in ids), default=0)
        users: dict[int, list[int]] = {}
        for o, n in self.edges:
            users.setdefault(o, []).append(layers[n])
        # what has no operands stands just above its first user
        for id, ids in operands.items():
            if not ids and id in users:
                layers[id] = min(users[id]) - 1
        return layers

    def _chain(self, source: int, target: int) -> list[_Spot]:
        """Placeholders of an edge in the layers between its ends."""
        first, last = self.spots[source], self.spots[target]
        spots = [first]
        if last.layer - first.layer <= _LONGEST:
            for layer in range(first.layer + 1, last.layer):
                spots.append(_Spot(layer, _LANE))
                self.layers[layer].append(spots[-1])
        spots.append(last)
        for upper, lower in pairwise(spots):
            upper.below.append(lower)
            lower.above.append(upper)
        return spots[1:-1]

    def _sweep(self, order: range, above: bool) -> None:
        for number in order:
            layer = self.layers[number]
            wanted = {id(s): _mean(s.above if above else s.below, s.x) for s in layer}
            layer.sort(key=lambda s: wanted[id(s)])
            at = 0.0
            for spot in layer:
                spot.x = max(wanted[id(spot)], at + spot.size / 2)
                at = spot.x + spot.size / 2
            # what was pushed to the right is shared with the left
            shift = sum(s.x - wanted[id(s)] for s in layer) / max(1, len(layer))
            for spot in layer:
                spot.x -= shift
        lowest = min((s.x - s.size / 2 for layer in self.layers for s in layer), default=0.0)
        for layer in self.layers:
            for spot in layer:
                spot.x -= lowest

    def placing(self) -> Placing:
        width = max((s.x + s.size / 2 for layer in self.layers for s in layer), default=0.0)
        step = HEIGHT + _GAP_Y
        rows = max(_ROWS, ceil(sqrt(len(self.layers) * (width + GAP_COLUMN) / step / _ASPECT)))
        columns = max(1, ceil(len(self.layers) / rows))

        def point(spot: _Spot) -> tuple[float, float]:
            column, row = divmod(spot.layer, rows)
            x = spot.x + column * (width + GAP_COLUMN)
            return round(x, 1), round(row * step + step / 2, 1)

        return Placing(
            {id: point(spot) for id, spot in self.spots.items()},
            {edge: tuple(map(point, chain)) for edge, chain in self.chains.items()},
            columns * (width + GAP_COLUMN),
            min(rows, len(self.layers)) * step,
            width + GAP_COLUMN,
        )


def _mean(spots: Sequence[_Spot], otherwise: float) -> float:
    return sum(s.x for s in spots) / len(spots) if spots else otherwise
