"""How tensors of images stand in an image plan, and how linear maps read them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from glyphc.ir.image_layout import Steps


@dataclass(frozen=True)
class Standing:
    """How a tensor's images stand: in how many chunks, how far apart their pixels, which share a slot, how many groups
    of channels a ciphertext has, how far apart, and how many pixels of a row have become channels of one."""

    chunks: int
    dilation: Steps = (1, 1)
    levels: tuple[Steps, ...] = ()
    sites: int = 1
    apart: Steps = (0, 0)
    fold: int = 1

    def room(self, axis: int) -> int:
        """Rows or columns from the first of the images of a slot to the last, and of their groups of channels."""
        return sum(level[axis] for level in self.levels) + (self.sites - 1) * self.apart[axis]


@dataclass(frozen=True)
class Read:
    """How a linear map reads an operand: whole, or from every one of ``firsts`` on, every ``step``-th pixel, where the
    images of ``1 << len(levels)`` chunks are brought together; then every ``fold`` pixels of a row as one."""

    firsts: tuple[Steps, ...] = ()
    step: Steps = (1, 1)
    levels: tuple[Steps, ...] = ()
    fold: int = 1

    @property
    def once(self) -> Read:
        """Without what maps differ in that read the same."""
        return replace(self, firsts=())


WHOLE = Read()

# What is unpacked at once: of a value by id, whole (None) or from these pixels on, as it is read.
Unpacked = tuple[int, Steps | None, Read]
