"""The linear algebra of training on OpenFHE ciphertexts: CKKS products, selections. No secret, no way to decrypt.

Messages stand in the coefficients. OpenFHE encodes CKKS messages in slots, so its own plaintexts are not used:
monomials are trivial ciphertexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, prod
from typing import Any

import numpy as np

from ..packing import Packing
from .bridge import Mould
from .ckks_contexts import LinearContexts
from .keys import unpack_automorphism
from .library import fhe
from .ring import U64


@dataclass(frozen=True, eq=False)
class LinearKeys:
    """What products, automorphisms and packing take: the context, and an encryption of zero on all of its limbs.

    The keys live in OpenFHE's own tables, filed under its tag.
    """

    contexts: LinearContexts
    zero: Any


def automorphisms_of(ring: int, periods: Sequence[int]) -> tuple[int, ...]:
    """Automorphism indices for ``Reverse``, and ``Pack`` and ``Unpack`` where stride * parts is one of these."""
    found = {2 * ring - 1}
    for period in periods:
        found |= {unpack_automorphism(ring, 1 << level) for level in range(int(log2(period)))}
    return tuple(sorted(found))


class LinearCKKS(Packing[Any]):
    """OpenFHE behind those of training's instructions (``glyphc.ir.instructions.ckks``) that bootstrap nothing."""

    def __init__(self, keys: LinearKeys) -> None:
        contexts = keys.contexts
        self._zero = keys.zero
        self._context = contexts.linear
        self._parameters = contexts.parameters
        self._rings = contexts.linear_rings
        self._scales = contexts.scales
        self._automorphisms = self._context.GetEvalAutomorphismKeyMap(keys.zero.GetKeyTag())
        self._moulds: dict[int, Mould] = {}
        self._monomials: dict[tuple[int, int], Any] = {}

    # -- instructions --

    def scaled(self, source: Any, factor: float) -> Any:
        return self._rescaled(source, self._limbs(source), factor)

    def product(self, pairs: Sequence[tuple[Any, Any]]) -> Any:
        limbs = min(self._limbs(c) for pair in pairs for c in pair)
        total = None
        for a, b in pairs:
            product = self._context.EvalMultNoRelin(self._reduced(a, limbs), self._reduced(b, limbs))
            if total is None:
                total = product
            else:
                self._context.EvalAddInPlace(total, product)
        return self._context.Rescale(self._context.Relinearize(total))

    def sum(self, terms: Sequence[tuple[Any, int]]) -> Any:
        limbs = min(self._limbs(c) for c, _ in terms)
        total = None
        for ciphertext, sign in terms:
            term = self._reduced(ciphertext, limbs)
            if total is None:
                total = term if sign > 0 else self._context.EvalNegate(term)
            else:
                total = self._context.EvalAdd(total, term) if sign > 0 else self._context.EvalSub(total, term)
        return total

    def reverse(self, source: Any) -> Any:
        return self._context.EvalAutomorphism(source, 2 * self._parameters.ring - 1, self._automorphisms)

    def convolved(self, source: Any, exponents: Sequence[int], weight: int) -> Any:
        ring = self._parameters.ring
        wrapped = np.asarray(exponents) % (2 * ring)
        factor = np.zeros(ring, dtype=np.int64)
        np.add.at(factor, wrapped % ring, np.where(wrapped < ring, weight, -weight))
        return self._times(source, self._trivial(factor, self._limbs(source)))

    def raised(self, source: Any, value: float) -> Any:
        limbs = self._limbs(source)
        everywhere = np.full(self._parameters.ring, round(value * self._scales[limbs - 1]), dtype=np.int64)
        return self._context.EvalAdd(source, self._trivial(everywhere, limbs))

    def with_public(self, source: Any, message: np.ndarray[Any, Any]) -> Any:
        """A ciphertext plus N numbers in the clear; ValueError for what its limbs, or 62 bits, do not hold. No
        instruction does this."""
        limbs = self._limbs(source)
        integers = np.rint(message * self._scales[limbs - 1])
        if np.abs(integers).max() >= min(2.0**62, prod(r.q for r in self._rings[:limbs]) / 2):
            raise ValueError(f"a message of magnitude {np.abs(message).max():.3g} is too large for {limbs} limbs")
        return self._context.EvalAdd(source, self._trivial(integers.astype(np.int64), limbs))

    def reduced(self, source: Any, limbs: int) -> Any:
        return self._reduced(source, limbs)

    # -- parts of instructions --

    def _add(self, a: Any, b: Any) -> Any:
        return self._context.EvalAdd(a, b)

    def _subtract(self, a: Any, b: Any) -> Any:
        return self._context.EvalSub(a, b)

    def _automorphism(self, ciphertext: Any, stride: int) -> Any:
        index = unpack_automorphism(self._parameters.ring, stride)
        return self._context.EvalAutomorphism(ciphertext, index, self._automorphisms)

    def _shifted(self, ciphertext: Any, by: int) -> Any:
        if by == 0:
            return ciphertext
        key = (by, self._limbs(ciphertext))
        if key not in self._monomials:
            monomial = np.zeros(self._parameters.ring, dtype=np.int64)
            monomial[by] = 1 if by > 0 else -1  # X^-k = -X^(N-k)
            self._monomials[key] = self._trivial(monomial, key[1])
        return self._times(ciphertext, self._monomials[key])

    def _times(self, ciphertext: Any, public: Any) -> Any:
        """Product with a trivial ciphertext of integers, which has no scale; the third element is zero."""
        product = self._context.EvalMultNoRelin(ciphertext, public)
        product.SetElements(list(product.GetElements())[:2])
        product.SetNoiseScaleDeg(1)
        product.SetScalingFactor(ciphertext.GetScalingFactor())
        return product

    # -- limbs --

    def _limbs(self, ciphertext: Any) -> int:
        return int(self._parameters.linear_limbs - ciphertext.GetLevel())

    def _reduced(self, ciphertext: Any, limbs: int) -> Any:
        """The same message on fewer limbs, with the scale that belongs to them."""
        has = self._limbs(ciphertext)
        return self._rescaled(self._dropped(ciphertext, limbs + 1), has, 1.0) if has > limbs else ciphertext

    def _dropped(self, ciphertext: Any, limbs: int) -> Any:
        surplus = self._limbs(ciphertext) - limbs
        return self._context.LevelReduce(ciphertext, None, surplus) if surplus else ciphertext

    def _rescaled(self, ciphertext: Any, scaled_for: int, factor: float) -> Any:
        """factor * ciphertext on one limb less, from the scale for ``scaled_for`` limbs to that for the new ones."""
        limbs = self._limbs(ciphertext)
        constant = factor * self._scales[limbs - 2] * self._rings[limbs - 1].q / self._scales[scaled_for - 1]
        product = self._context.EvalMult(ciphertext, constant / 2.0**self._parameters.linear_bits)
        return self._context.Rescale(product)

    def _mould(self, limbs: int) -> Mould:
        if limbs not in self._moulds:
            empty = self._dropped(self._zero, limbs)
            self._moulds[limbs] = Mould.of(empty, self._parameters.ring, tuple(r.q for r in self._rings[:limbs]))
        return self._moulds[limbs]

    def _trivial(self, message: np.ndarray[Any, Any], limbs: int) -> Any:
        """The "ciphertext" (m, 0) of public integers."""
        values = [r.to_evaluation(r.reduce(message)) for r in self._rings[:limbs]]
        return self._cast([*values, *[np.zeros(self._parameters.ring, dtype=np.uint64)] * limbs])

    def _cast(self, arrays: Sequence[U64]) -> Any:
        """A ciphertext from the values of both elements modulo each prime."""
        return fhe.DeserializeCiphertextString(self._mould(len(arrays) // 2).with_residues(arrays), fhe.BINARY)
