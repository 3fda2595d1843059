"""Ops of image layouts: how what comes of a stride is brought together again."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from .errors import IRError
from .image_layout import Image, Steps, strided
from .op import Constants, Op, Shape
from .types import Level


@dataclass(frozen=True)
class Pixels(Op):
    """Every ``step``-th pixel of an image, from ``first`` on: where it stands, nothing is moved.

    image: channels, rows, columns of the operand, which is flat.
    """

    mnemonic = "pixels"
    levels = frozenset({Level.LAIDOUT})
    image: Image
    first: Steps
    step: Steps

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if shapes[0] != (prod(self.image),) or min(self.image) < 1:
            raise IRError(f"a tensor of shape {list(shapes[0])} is no image of {list(self.image)}")
        if not all(0 <= f < min(s, n) for f, s, n in zip(self.first, self.step, self.image[1:], strict=True)):
            raise IRError(f"there is no pixel {list(self.first)} among every {list(self.step)} of {list(self.image)}")
        return (self.image[0] * prod(strided(self.image[1:], self.first, self.step)),)


@dataclass(frozen=True)
class Interleave(Op):
    """The same tensor in fewer chunks: the images of several share the room that a stride has left between pixels."""

    mnemonic = "interleave"
    levels = frozenset({Level.LAIDOUT})
