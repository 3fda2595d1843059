"""Packing and unpacking of coefficients by automorphisms, whatever the ciphertexts are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

C = TypeVar("C")


class Packing(ABC, Generic[C]):
    """What a machine of training's instructions packs with, from a few operations on its ciphertexts."""

    @abstractmethod
    def _add(self, a: C, b: C) -> C:
        """a + b."""

    @abstractmethod
    def _subtract(self, a: C, b: C) -> C:
        """a - b."""

    @abstractmethod
    def _automorphism(self, ciphertext: C, stride: int) -> C:
        """X -> X^g that keeps exponents that are even multiples of ``stride`` and negates the odd ones."""

    @abstractmethod
    def _shifted(self, ciphertext: C, by: int) -> C:
        """X^by times a ciphertext."""

    def unpack(self, source: C, parts: int, stride: int, count: int) -> list[C]:
        """A tree with one automorphism for each part but the last, as ``LinearEngine.split`` in BGV."""
        pieces = {0: source}
        step = 1
        while step < parts:
            halves: dict[int, C] = {}
            for residue, piece in pieces.items():
                image = self._automorphism(piece, stride * step)
                halves[residue] = self._add(piece, image)
                if residue + step < count:
                    halves[residue + step] = self._shifted(self._subtract(piece, image), -stride * step)
            pieces = halves
            step *= 2
        return [pieces[r] for r in range(count)]

    def pack(self, sources: Sequence[C | None], parts: int, stride: int) -> C:
        """One automorphism for two sources, and a trace.

        As Chen, Dai, Kim, Song, "Efficient homomorphic conversion between (ring) LWE ciphertexts" (2021), algorithms 2
        and 3, with several coefficients of each source kept.
        """
        packed = self._merged([*sources, *[None] * (parts - len(sources))], stride * parts)
        assert packed is not None
        step = stride // 2
        while step:
            packed = self._add(packed, self._automorphism(packed, step))
            step //= 2
        return packed

    def _merged(self, sources: list[C | None], period: int) -> C | None:
        """Coefficients at multiples of the period, source r's moved by r * period / their number."""
        if len(sources) == 1:
            return sources[0]
        even, odd = self._merged(sources[::2], period), self._merged(sources[1::2], period)
        by = period // len(sources)
        if odd is None:
            return None if even is None else self._add(even, self._automorphism(even, by))
        moved = self._shifted(odd, by)
        if even is None:
            return self._subtract(moved, self._automorphism(moved, by))
        image = self._automorphism(self._subtract(even, moved), by)
        return self._add(self._add(even, moved), image)
