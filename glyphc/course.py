"""Where an instruction stands in a program, for people: which layer, which bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from glyphc.ir.instructions import (
    Conjugates,
    Divide,
    Evaluate,
    Free,
    FromTorus,
    Instruction,
    Load,
    Powers,
    Register,
    Split,
    Store,
    ToTorus,
)

# What only moves a value: it belongs to the layer that was begun last.
_MOVES = (Load, Store, Free, Divide, Split, Conjugates, ToTorus, FromTorus)


@dataclass(frozen=True)
class Course:
    """The number of each node's layer, as they are begun; the number of each bootstrap, by id of its instructions.

    A layer is a linear map or a function, or several at one place of the network. names: of layers, in their order.
    """

    layers: Mapping[int, int]
    names: Sequence[str]
    bootstraps: Mapping[int, int]
    refreshes: int

    @staticmethod
    def of(instructions: Sequence[Instruction], name: Callable[[int], str] = lambda node: "") -> Course:
        """name: of a node, empty where it has none or nobody knows it: neighbours of one name are one layer."""
        layers: dict[int, int] = {}
        names: list[str] = []
        bootstraps: dict[int, int] = {}
        refreshed: dict[Register, int] = {}
        for i in instructions:
            if i.node not in layers:
                if not isinstance(i, _MOVES):
                    called = name(i.node)
                    names += [called] if not called or names[-1:] != [called] else []
                layers[i.node] = max(1, len(names))
            if isinstance(i, Powers):
                refreshed[i.target] = bootstraps[id(i)] = len(refreshed) + 1
            elif isinstance(i, Evaluate):
                bootstraps[id(i)] = refreshed[i.powers]
        return Course(layers, names or [""], bootstraps, len(refreshed))

    def text(self, instruction: Instruction) -> str:
        """``layer relu1 (2 of 5), bootstrap 1 of 2``; what moves an input belongs to the first layer."""
        number = self.layers[instruction.node]
        name, at = self.names[number - 1], f"{number} of {len(self.names)}"
        layer = f"layer {name} ({at})" if name else f"layer {at}"
        if id(instruction) not in self.bootstraps:
            return layer
        return f"{layer}, bootstrap {self.bootstraps[id(instruction)]} of {self.refreshes}"
