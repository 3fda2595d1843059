"""All ways of a product of two encrypted operands: ours, then those of other packages."""

from __future__ import annotations

from glyphc.ways.registry import plug_ins

from .base import ProductWay
from .first_layers import FeaturesApart, SamplesApart
from .hidden_layers import Coarse, Grouped

GROUP = "glyphc.training_ways"
_WAYS: tuple[ProductWay, ...] = tuple(map(ProductWay, (FeaturesApart, SamplesApart, Coarse, Grouped)))


def product_ways() -> tuple[ProductWay, ...]:
    """Where two cost the same, the first is taken. GlyphcError for a bad plug-in."""
    return (*_WAYS, *plug_ins(GROUP, ProductWay))
