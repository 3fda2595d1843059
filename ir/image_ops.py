"""Ops of image layouts: how what a stride reads, and what comes of it, is brought together."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True)
class Fold(Op):
    """Every ``by`` pixels of a row as one of ``by`` times as many channels: where they stand, nothing is moved.

    image: channels, rows, columns of the operand, which is flat. group: channels side by side, c of them of each pixel;
    channel (q*by + x)*group + c of the result is channel q*group + c of the operand at every ``by``-th pixel from x on.
    """

    mnemonic = "fold"
    levels = frozenset({Level.LAIDOUT})
    image: Image
    group: int
    by: int

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if shapes[0] != (prod(self.image),) or min(self.image) < 1:
            raise IRError(f"a tensor of shape {list(shapes[0])} is no image of {list(self.image)}")
        if min(self.group, self.by) < 1 or self.image[0] % self.group or self.image[2] % self.by:
            raise IRError(
                f"{list(self.image)} is no image of {self.by} pixels for one and {self.group} channels a group"
            )
        return shapes[0]

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """Of each element of the result, which one of the operand it is."""
        channels, height, width = self.image
        numbers = np.arange(prod(self.image), dtype=np.int64)
        split = numbers.reshape(channels // self.group, self.group, height, width // self.by, self.by)
        return split.transpose(0, 4, 1, 2, 3).ravel()
