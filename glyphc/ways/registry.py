"""All ways and conversions: ours, then those of other packages."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TypeVar

from glyphc.errors import GlyphcError

from .base import Conversion, Way
from .bgv import EncryptedProduct, FreshInput, InPlace, PlaintextProduct
from .client import ClientTail, Decryption
from .integers import CONVERSIONS as INTEGER_CONVERSIONS
from .integers import WAYS as INTEGER_WAYS
from .slots import CONVERSIONS as SLOT_CONVERSIONS
from .slots import WAYS as SLOT_WAYS
from .torus import PackedBootstrap, SwitchFromTorus, SwitchToTorus
from .unavailable import ClientRefresh, CoefficientCKKS, LookUpTable, LweProduct, TensorProduct

_T = TypeVar("_T")
WAYS_GROUP = "glyphc.ways"
CONVERSIONS_GROUP = "glyphc.conversions"

GLYPH_WAYS: tuple[Way, ...] = (
    FreshInput(),
    InPlace(),
    PlaintextProduct(),
    EncryptedProduct(),
    PackedBootstrap(),
    ClientTail(),
)
UNAVAILABLE_WAYS: tuple[Way, ...] = (CoefficientCKKS(), LweProduct(), TensorProduct(), LookUpTable(), ClientRefresh())
_CONVERSIONS: tuple[Conversion, ...] = (
    SwitchToTorus(),
    SwitchFromTorus(),
    Decryption(),
    *SLOT_CONVERSIONS,
    *INTEGER_CONVERSIONS,
)


def ways() -> tuple[Way, ...]:
    """All ways; where two cost the same, the first is taken. GlyphcError for a bad plug-in."""
    return (*GLYPH_WAYS, *SLOT_WAYS, *INTEGER_WAYS, *UNAVAILABLE_WAYS, *_plug_ins(WAYS_GROUP, Way))  # type: ignore[type-abstract]


def conversions() -> tuple[Conversion, ...]:
    """All conversions; GlyphcError for a bad plug-in."""
    return (*_CONVERSIONS, *_plug_ins(CONVERSIONS_GROUP, Conversion))  # type: ignore[type-abstract]


def _plug_ins(group: str, kind: type[_T]) -> tuple[_T, ...]:
    found = []
    for point in sorted(entry_points(group=group), key=lambda p: p.name):
        loaded = point.load()
        made = loaded() if isinstance(loaded, type) else loaded
        if not isinstance(made, kind):
            raise GlyphcError(f"the entry point {point.name!r} ({point.value}) of {group} is no {kind.__name__}")
        found.append(made)
    return tuple(found)
