"""What every op is: attributes and the rule for its shape. See :mod:`.ops` for all there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .errors import IRError
from .types import Level

Shape = tuple[int, ...]
Constants = Mapping[str, npt.NDArray[np.generic]]

FLOAT = frozenset({Level.SOURCE})
FIXED = frozenset({Level.QUANTIZED, Level.ASSIGNED, Level.LAIDOUT})
ALL = FLOAT | FIXED


@dataclass(frozen=True)
class Const:
    """A reference to a constant of the graph, by name."""

    name: str


@dataclass(frozen=True)
class Op:
    """Base of all ops."""

    mnemonic: ClassVar[str] = "?"
    levels: ClassVar[frozenset[Level]] = frozenset()

    @property
    def arity(self) -> int | None:
        """Number of operands; None where any number from one on is fine."""
        return 1

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        """Shape of the result for operand shapes ``shapes``; IRError when they don't fit."""
        return shapes[0]

    def constant_names(self) -> tuple[str, ...]:
        values = (getattr(self, f.name) for f in fields(self))
        flat = (v for value in values for v in (value if isinstance(value, tuple) else (value,)))
        return tuple(v.name for v in flat if isinstance(v, Const))


def linear_shape(shapes: tuple[Shape, ...], weights: tuple[Const, ...], bias: Const, constants: Constants) -> Shape:
    """Shape of the result of a dense map; IRError when operands and weights don't fit."""
    if not weights:
        raise IRError("a dense layer needs at least one weight")
    outputs = constants[bias.name].shape
    for shape, const in zip(shapes, weights, strict=True):
        weight = constants[const.name]
        if weight.ndim != 2 or outputs != weight.shape[:1]:
            raise IRError(f"weight {list(weight.shape)} and bias {list(outputs)} are not (out, in) and (out,)")
        if not shape or shape[-1] != weight.shape[1]:
            raise IRError(
                f"a weight of shape {list(weight.shape)} cannot be applied to a tensor of shape {list(shape)}"
            )
        if len(shape) != 1:
            raise IRError(f"a dense layer needs a flat tensor of one sample, not shape {list(shape)}")
    return (int(outputs[0]),)
