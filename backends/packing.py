"""Packing and unpacking of coefficients by automorphisms, whatever the ciphertexts are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

# Subtrees of a packing, which do not depend on one another and are gone through one after another within.
_SUBTREES = 16

C = TypeVar("C")
T = TypeVar("T")
U = TypeVar("U")


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

    def _each(self, function: Callable[[T], U], items: Iterable[T]) -> list[U]:
        """function(item) for all items, which do not depend on one another."""
        return [function(item) for item in items]

    def unpack(self, source: C, parts: int, stride: int, count: int) -> list[C]:
        """A tree with one automorphism for each part but the last, as ``LinearEngine.split`` in BGV."""
        pieces = {0: source}
        step = 1
        while step < parts:
            by, needed = stride * step, count - step

            def halves(item: tuple[int, C], by: int = by, needed: int = needed) -> list[C]:
                residue, piece = item
                image = self._automorphism(piece, by)
                found = [self._add(piece, image)]
                return [*found, self._shifted(self._subtract(piece, image), -by)] if residue < needed else found

            found = self._each(halves, pieces.items())
            pieces = {r + step * i: half for r, both in zip(pieces, found, strict=True) for i, half in enumerate(both)}
            step *= 2
        return [pieces[r] for r in range(count)]

    def pack(self, sources: Sequence[C | None], parts: int, stride: int) -> C:
        """One automorphism for two sources, and a trace.

        As Chen, Dai, Kim, Song, "Efficient homomorphic conversion between (ring) LWE ciphertexts" (2021), algorithms 2
        and 3, with several coefficients of each source kept.
        """
        leaves = [*sources, *[None] * (parts - len(sources))]
        trees = min(parts, _SUBTREES)
        nodes = self._each(lambda first: self._subtree(leaves, first, trees, stride), range(trees))
        while len(nodes) > 1:
            half = len(nodes) // 2

            def merged(pair: tuple[C | None, C | None], by: int = stride * half) -> C | None:
                return self._merged(*pair, by)

            nodes = self._each(merged, zip(nodes[:half], nodes[half:], strict=True))
        (packed,) = nodes
        assert packed is not None
        step = stride // 2
        while step:
            packed = self._add(packed, self._automorphism(packed, step))
            step //= 2
        return packed

    def _subtree(self, leaves: Sequence[C | None], first: int, every: int, stride: int) -> C | None:
        """Every so many leaves from the first one merged, depth first: few results are there at once."""
        if every == len(leaves):
            return leaves[first]
        even, odd = (self._subtree(leaves, at, 2 * every, stride) for at in (first, first + every))
        return self._merged(even, odd, stride * every)

    def _merged(self, even: C | None, odd: C | None, by: int) -> C | None:
        """Twice the coefficients at multiples of 2*by, those of ``odd`` moved by ``by``; what stood there is gone."""
        if odd is None:
            return None if even is None else self._add(even, self._automorphism(even, by))
        moved = self._shifted(odd, by)
        if even is None:
            return self._subtract(moved, self._automorphism(moved, by))
        image = self._automorphism(self._subtract(even, moved), by)
        return self._add(self._add(even, moved), image)
