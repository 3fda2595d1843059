"""The ``quantize`` sections of a ``.glyph`` file: options of the pass, and bits of single values."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

from .dsl_ast import Quantize
from .dsl_errors import MistakeError, similar
from .dsl_network import NodePrecision, QuantizationHints

_WHOLE = ("input_bits", "activation_bits", "weight_precision")
_REAL = ("margin", "input_margin")


def read_hints(sections: Sequence[Quantize], values: Iterable[str]) -> QuantizationHints:
    """All sections as one; MistakeError for unknown settings and values, and for what is said twice."""
    settings: dict[str, int | float] = {}
    known = (*_WHOLE, *_REAL)
    for name, number in (item for section in sections for item in section.settings):
        if name.text not in known:
            hint = f"{similar(name.text, known)}settings: {', '.join(known)}"
            raise MistakeError(name.span, f"there is no setting {name.text!r} of quantization", hint)
        if name.text in settings:
            raise MistakeError(name.span, f"{name.text} is set twice", "keep one of them")
        if name.text in _WHOLE and not number.integer:
            raise MistakeError(number.span, f"{name.text} is a whole number of bits", "write e.g. 12")
        settings[name.text] = int(number.value) if name.text in _WHOLE else number.value
    names: Container[str] = set(values)
    nodes: dict[str, NodePrecision] = {}
    for name, number in (item for section in sections for item in section.precisions):
        if name.text not in names:
            hint = f"{similar(name.text, values)}values: {', '.join(values)}"
            raise MistakeError(name.span, f"there is no value {name.text!r}", hint)
        if name.text in nodes:
            raise MistakeError(name.span, f"the bits of {name.text!r} are given twice", "keep one of them")
        if not number.integer or not 2 <= number.value <= 20:
            raise MistakeError(number.span, "a value has 2 to 20 bits", "write e.g. '14 bits'")
        nodes[name.text] = NodePrecision(name.text, int(number.value))
    chosen: dict[str, Any] = dict(settings)
    return QuantizationHints(**chosen, nodes=tuple(nodes.values()))
