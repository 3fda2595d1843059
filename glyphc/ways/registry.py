"""All ways and conversions: ours, then those of other packages; and the strategies, which are filters over them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TypeVar

from glyphc.errors import GlyphcError

from .base import Conversion, Way
from .bgv import EncryptedProduct, FreshInput, InPlace, PlaintextProduct
from .client import ClientTail, Decryption
from .slots import CONVERSIONS as SLOT_CONVERSIONS
from .slots import WAYS as SLOT_WAYS
from .torus import PackedBootstrap, SwitchFromTorus, SwitchToTorus
from .unavailable import ClientRefresh, CoefficientCKKS, LookUpTable, LweProduct, TensorProduct

_T = TypeVar("_T")
WAYS_GROUP = "glyphc.ways"
CONVERSIONS_GROUP = "glyphc.conversions"

_GLYPH: tuple[Way, ...] = (
    FreshInput(),
    InPlace(),
    PlaintextProduct(),
    EncryptedProduct(),
    PackedBootstrap(),
    ClientTail(),
)
_UNAVAILABLE: tuple[Way, ...] = (CoefficientCKKS(), LweProduct(), TensorProduct(), LookUpTable(), ClientRefresh())
_CONVERSIONS: tuple[Conversion, ...] = (SwitchToTorus(), SwitchFromTorus(), Decryption(), *SLOT_CONVERSIONS)


@dataclass(frozen=True)
class Strategy:
    """Which ways a program may take. names: None for all."""

    name: str
    summary: str
    names: frozenset[str] | None = None

    def allows(self, way: Way) -> bool:
        return self.names is None or way.name in self.names


AUTO = Strategy("auto", "whatever is cheapest")
GLYPH = Strategy(
    "glyph",
    "BGV for linear maps, functional bootstraps for nonlinearities (Lou et al. 2020)",
    frozenset(way.name for way in (*_GLYPH, *_UNAVAILABLE)),
)
SLOTS = Strategy(
    "slots",
    "leveled CKKS on numbers in slots, polynomials for nonlinearities",
    frozenset(way.name for way in (*SLOT_WAYS, ClientTail())),
)
STRATEGIES = {strategy.name: strategy for strategy in (AUTO, GLYPH, SLOTS)}


def strategy(name: str) -> Strategy:
    """GlyphcError when there is none of that name."""
    if name not in STRATEGIES:
        raise GlyphcError(f"there is no strategy {name!r}; there are: {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def ways(chosen: Strategy = AUTO) -> tuple[Way, ...]:
    """The ways that a strategy allows; where two cost the same, the first is taken. GlyphcError for a bad plug-in."""
    found = (*_GLYPH, *SLOT_WAYS, *_UNAVAILABLE, *plug_ins(WAYS_GROUP, Way))  # type: ignore[type-abstract]
    return tuple(way for way in found if chosen.allows(way))


def conversions() -> tuple[Conversion, ...]:
    """All conversions; GlyphcError for a bad plug-in."""
    return (*_CONVERSIONS, *plug_ins(CONVERSIONS_GROUP, Conversion))  # type: ignore[type-abstract]


def plug_ins(group: str, kind: type[_T]) -> tuple[_T, ...]:
    found = []
    for point in sorted(entry_points(group=group), key=lambda p: p.name):
        loaded = point.load()
        made = loaded() if isinstance(loaded, type) else loaded
        if not isinstance(made, kind):
            raise GlyphcError(f"the entry point {point.name!r} ({point.value}) of {group} is no {kind.__name__}")
        found.append(made)
    return tuple(found)
