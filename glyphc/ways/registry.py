"""All ways and conversions: ours, then those of other packages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from glyphc.errors import GlyphcError

from .base import Conversion, Way
from .bgv import EncryptedProduct, FreshInput, InPlace, PlaintextProduct
from .client import ClientTail, Decryption
from .integers import CONVERSIONS as INTEGER_CONVERSIONS
from .integers import WAYS as INTEGER_WAYS
from .slots import CONVERSIONS as SLOT_CONVERSIONS
from .slots import WAYS as SLOT_WAYS
from .torus import PackedBootstrap, SwitchFromTorus, SwitchToTorus, TableBootstrap
from .unavailable import ClientRefresh, CoefficientCKKS, LookUpTable, LweProduct, TensorProduct
from .words import CONVERSIONS as WORD_CONVERSIONS
from .words import WAYS as WORD_WAYS

_T = TypeVar("_T")
WAYS_GROUP = "glyphc.ways"
CONVERSIONS_GROUP = "glyphc.conversions"

# What every network on coefficients takes, beside what functions become: a series or a table.
COEFFICIENT_WAYS: tuple[Way, ...] = (
    FreshInput(),
    InPlace(),
    PlaintextProduct(),
    EncryptedProduct(),
    ClientTail(),
)
BOOTSTRAP_WAYS: tuple[Way, ...] = (PackedBootstrap(),)
GRAY_WAYS: tuple[Way, ...] = (TableBootstrap(),)
UNAVAILABLE_WAYS: tuple[Way, ...] = (CoefficientCKKS(), LweProduct(), TensorProduct(), LookUpTable(), ClientRefresh())
_CONVERSIONS: tuple[Conversion, ...] = (
    SwitchToTorus(),
    SwitchFromTorus(),
    Decryption(),
    *SLOT_CONVERSIONS,
    *INTEGER_CONVERSIONS,
    *WORD_CONVERSIONS,
)


def ways() -> tuple[Way, ...]:
    """All ways; where two cost the same, the first is taken. GlyphcError for a bad plug-in."""
    coefficients = (*COEFFICIENT_WAYS, *BOOTSTRAP_WAYS, *GRAY_WAYS)
    others = (*SLOT_WAYS, *INTEGER_WAYS, *WORD_WAYS, *UNAVAILABLE_WAYS)
    return (*coefficients, *others, *plug_ins(WAYS_GROUP, Way))  # type: ignore[type-abstract]


def conversions() -> tuple[Conversion, ...]:
    """All conversions; GlyphcError for a bad plug-in."""
    return (*_CONVERSIONS, *plug_ins(CONVERSIONS_GROUP, Conversion))  # type: ignore[type-abstract]


@lru_cache(maxsize=8)
def _points(scan: Callable[..., Iterable[EntryPoint]], group: str) -> tuple[EntryPoint, ...]:
    """Sorted by name; what is installed is looked through once in a process, which takes tens of milliseconds."""
    return tuple(sorted(scan(group=group), key=lambda p: p.name))


def plug_ins(group: str, kind: type[_T]) -> tuple[_T, ...]:
    """What other packages' entry points of a group add; GlyphcError for what is no ``kind``."""
    found = []
    for point in _points(entry_points, group):
        loaded = point.load()
        made = loaded() if isinstance(loaded, type) else loaded
        if not isinstance(made, kind):
            raise GlyphcError(f"the entry point {point.name!r} ({point.value}) of {group} is no {kind.__name__}")
        found.append(made)
    return tuple(found)
