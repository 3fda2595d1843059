"""What a pass is: a small frozen dataclass with a name, the levels it goes between, and options as fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glyphc.analysis.cost import REFERENCE_DEGREE, REFERENCE_RING, CostModel
from glyphc.analysis.kernels_cost import MODELLED, for_engine
from glyphc.analysis.security import secured
from glyphc.backends.engine import best_engine
from glyphc.errors import GlyphcError
from glyphc.ir.graph import Graph
from glyphc.ir.parameters import Parameters
from glyphc.ir.types import Encoding, Level

# Bytes that a run may take at its peak where nobody says what.
MEMORY = 14e9


@dataclass(frozen=True, eq=False)
class Context:
    """What passes may look at besides the graph.

    samples: calibration samples by input name. source: the float network, as the front end read it; None where only
    later levels are at hand. floats: the same as the last pass left it that works on floats. cost: what things cost on
    all engines. engine: the one that a program is planned for, by name; by default the one that would execute it here.
    memory: bytes that a run may take there at its peak (``--memory``).
    """

    samples: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    cost: CostModel = field(default_factory=CostModel)
    source: Graph | None = None
    floats: Graph | None = None
    engine: str = ""
    memory: float = MEMORY

    @cached_property
    def planned_for(self) -> str:
        """The engine that a program is planned for."""
        return self.engine or likely_engine(self.cost)

    @cached_property
    def prices(self) -> CostModel:
        """What things cost there."""
        return for_engine(self.cost, self.planned_for)

    @property
    def room(self) -> float:
        """Bytes that layouts are made for, and that a run may take at its peak on engines that are not planned for: no
        less than usual, whatever was asked for. What exceeds a smaller limit is compiled again for passes of fewer
        samples (``glyphc.constraints.in_passes``), as plans predict memory roughly.
        """
        return max(self.memory, MEMORY)

    def limit(self, engine: str) -> float:
        """Bytes that a run may take at its peak on an engine."""
        return self.memory if engine == self.planned_for else self.room

    @property
    def models(self) -> tuple[CostModel, ...]:
        """What they cost on every engine: a program has to fit all of them."""
        return tuple(for_engine(self.cost, name) for name in MODELLED)


def likely_engine(cost: CostModel) -> str:
    """What would execute a program of bootstraps, judged by a typical one: parameters are not chosen yet."""
    configuration = cost.usual[-1]
    typical = Parameters(
        ring=REFERENCE_RING,
        plaintext_bits=27,
        bgv_bits=55,
        slots=configuration.slots,
        degree=REFERENCE_DEGREE,
        level_budget=configuration.level_budget,
        large_digits=configuration.large_digits,
    )
    return best_engine(secured(typical), here=False)[0].name


class Pass(ABC):
    """Base of all passes. ``annotate/assign`` add facts, ``insert`` change the graph, ``validate`` change nothing."""

    name: ClassVar[str]
    requires: ClassVar[Level]
    ensures: ClassVar[Level]

    # Whether it is for graphs whose values stand in slots, for those in coefficient layouts, or for both (None).
    slots: ClassVar[bool | None] = None
    # What values are held as in the graphs that it is for, and in no others.
    only: ClassVar[Encoding | None] = None

    def applies(self, graph: Graph) -> bool:
        """Whether the pass is about such a graph; a pipeline leaves it out for others."""
        held = {node.type.encoding for node in graph}
        if self.only is not None:
            return self.only in held
        if held & {Encoding.INTEGERS, Encoding.BITS}:
            return self.slots is None
        return self.slots in (None, Encoding.SLOTS in held)

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> Graph:
        """The next graph; the given one is not changed. Raises GlyphcError when the network cannot be compiled."""

    def __str__(self) -> str:
        """The pass as text, e.g. ``quantize{input_bits=12}`` (options that differ from their defaults)."""
        changed = [
            f"{f.name}={getattr(self, f.name)}"
            for f in fields(self)  # type: ignore[arg-type]
            if getattr(self, f.name) != f.default
        ]
        return self.name + (f"{{{','.join(changed)}}}" if changed else "")


def parse_option(text: str, default: Any, where: str) -> Any:
    """An option's value from text, of the same type as its default."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(default)(text)
    except (ValueError, KeyError):
        if isinstance(default, Enum):
            raise GlyphcError(f"{where}: {text!r} is none of {', '.join(map(str, type(default)))}") from None
        raise GlyphcError(f"{where}: {text!r} is not a valid {type(default).__name__}") from None


def check_ring(name: str, ring: int) -> None:
    """GlyphcError unless a ring dimension is a power of two of a usable size."""
    if ring & (ring - 1):
        raise GlyphcError(f"pass {name!r}: ring={ring} is not a power of two")
    check_option(name, "ring", ring, 1024, 65536)


def check_option(name: str, option: str, value: float, lowest: float, highest: float) -> None:
    """GlyphcError unless an option's value lies in [lowest, highest]."""
    if not lowest <= value <= highest:
        raise GlyphcError(f"pass {name!r}: {option}={value} is out of range; {lowest:g} to {highest:g} are possible")
