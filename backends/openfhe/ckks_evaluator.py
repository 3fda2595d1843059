"""Training on OpenFHE ciphertexts: CKKS products, selections, bootstraps. No secret, no way to decrypt.

Messages stand in the coefficients. OpenFHE encodes CKKS messages in slots, so its own plaintexts are not used:
monomials are trivial ciphertexts. Everything but bootstraps happens in the linear context (see ``ckks_contexts``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np

from glyphc.ir.instructions.ckks import Bootstrap, Refresh

from .bootstrap import Bootstrapper
from .bridge import CiphertextMould, Mould, residues
from .ckks_contexts import TrainingContexts, encrypted_in
from .keys import unpack_automorphism
from .library import fhe
from .masks import bit_reversed
from .rescaling import Rescaling
from .ring import rescale


@dataclass(frozen=True, eq=False)
class TrainingKeys:
    """What the server holds: contexts, the bootstrapping context's public key, and an encryption of zero.

    zero: on all limbs of the linear context. The keys for bootstraps, products and packing live in OpenFHE's own
    tables, filed under the tags of these two.
    """

    contexts: TrainingContexts
    public_key: Any
    zero: Any


def automorphisms_of(ring: int, periods: Sequence[int]) -> tuple[int, ...]:
    """Automorphism indices for ``Reverse``, and ``Pack`` and ``Unpack`` where stride * parts is one of these."""
    found = {2 * ring - 1}
    for period in periods:
        found |= {unpack_automorphism(ring, 1 << level) for level in range(int(log2(period)))}
    return tuple(sorted(found))


class OpenFHECKKS:
    """OpenFHE behind training's instructions (``glyphc.ir.instructions.ckks``)."""

    def __init__(self, keys: TrainingKeys) -> None:
        contexts = keys.contexts
        self._keys = keys
        self._context = contexts.linear
        self._torus = contexts.torus
        self._parameters = contexts.parameters
        self._rings = contexts.linear_rings
        self._scales = contexts.scales
        self._automorphisms = self._context.GetEvalAutomorphismKeyMap(keys.zero.GetKeyTag())
        self._bootstrapper = Bootstrapper(contexts.torus, contexts.torus_rings[0], contexts.parameters)
        decoded = contexts.torus_rings[: self._parameters.levels_kept + 1]
        self._decoded_rings = decoded
        self._rescaling = Rescaling.between(decoded, self._rings[: self._parameters.decoded_limbs])
        self._moulds: dict[int, Mould] = {}
        self._monomials: dict[tuple[int, int], Any] = {}
        lowest = self._torus.MakeCKKSPackedPlaintext([0.0], 1, self._parameters.depth, None, self._parameters.slots)
        empty = self._torus.Encrypt(keys.public_key, lowest)
        self._bottom = CiphertextMould.of(empty, contexts.torus_rings[0])

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

    def refresh(self, source: Any, instruction: Refresh) -> Any:
        powers = self._bootstrapper.powers(self._to_torus(source), instruction.series.degree)
        return self._from_torus(self._bootstrapper.evaluate(powers, instruction.series))

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

    def reduced(self, source: Any, limbs: int) -> Any:
        return self._reduced(source, limbs)

    def bootstrap(self, source: Any, instruction: Bootstrap) -> list[Any]:
        powers = self._bootstrapper.powers(self._to_torus(source), self._parameters.degree)
        return [self._bootstrapper.slot_form(powers, series) for series in instruction.series]

    def masked(self, source: Any, conditions: Sequence[tuple[int, int, int]]) -> Any:
        """The values of a sparse bootstrap stand in 2 * slots slots: two halves, each in bit-reversed order."""
        slots = self._parameters.slots
        order = bit_reversed(slots)
        exponents = np.concatenate([order, order + slots]) * (self._parameters.ring // (2 * slots))
        keep = np.ones(2 * slots, dtype=bool)
        for period, start, stop in conditions:
            keep &= (exponents % period >= start) & (exponents % period < stop)
        mask = self._torus.MakeCKKSPackedPlaintext([float(k) for k in keep], 1, source.GetLevel(), None, 2 * slots)
        return self._torus.Rescale(self._torus.EvalMult(source, mask))

    def slot_product(self, a: Any, b: Any) -> Any:
        level = max(a.GetLevel(), b.GetLevel())
        a, b = (self._torus.LevelReduce(c, None, level - c.GetLevel()) if c.GetLevel() < level else c for c in (a, b))
        return self._torus.Rescale(self._torus.EvalMult(a, b))

    def decode(self, source: Any) -> Any:
        p = self._parameters
        # levels of the second transform and those that are kept lie below a slot form, and one for each product to come
        unused = p.depth - source.GetLevel() - p.levels_kept - p.level_budget[1]
        return self._from_torus(self._bootstrapper.decoded(source, unused))

    def unpack(self, source: Any, parts: int, stride: int, count: int) -> list[Any]:
        """A tree with one automorphism for each part but the last, as ``LinearEngine.split`` in BGV."""
        pieces = {0: source}
        step = 1
        while step < parts:
            halves: dict[int, Any] = {}
            for residue, piece in pieces.items():
                image = self._automorphism(piece, stride * step)
                halves[residue] = self._context.EvalAdd(piece, image)
                if residue + step < count:
                    odd = self._context.EvalSub(piece, image)
                    halves[residue + step] = self._shifted(odd, -stride * step)
            pieces = halves
            step *= 2
        return [pieces[r] for r in range(count)]

    def pack(self, sources: Sequence[Any | None], parts: int, stride: int) -> Any:
        """One automorphism for two sources, and a trace.

        As Chen, Dai, Kim, Song, "Efficient homomorphic conversion between (ring) LWE ciphertexts" (2021), algorithms 2
        and 3, with several coefficients of each source kept.
        """
        packed = self._merged([*sources, *[None] * (parts - len(sources))], stride * parts)
        step = stride // 2
        while step:
            packed = self._context.EvalAdd(packed, self._automorphism(packed, step))
            step //= 2
        return packed

    def _merged(self, sources: list[Any | None], period: int) -> Any | None:
        """Coefficients at multiples of the period, source r's moved by r * period / their number."""
        if len(sources) == 1:
            return sources[0]
        even, odd = self._merged(sources[::2], period), self._merged(sources[1::2], period)
        by = period // len(sources)
        if odd is None:
            return None if even is None else self._context.EvalAdd(even, self._automorphism(even, by))
        moved = self._shifted(odd, by)
        if even is None:
            return self._context.EvalSub(moved, self._automorphism(moved, by))
        image = self._automorphism(self._context.EvalSub(even, moved), by)
        return self._context.EvalAdd(self._context.EvalAdd(even, moved), image)

    # -- beside instructions --

    def with_public(self, source: Any, message: np.ndarray[Any, Any]) -> Any:
        """A ciphertext plus a message of N numbers in the clear; ValueError for what its limbs do not hold."""
        return encrypted_in(self._keys.contexts, source, message, self._limbs(source))

    # -- parts of instructions --

    def _automorphism(self, ciphertext: Any, stride: int) -> Any:
        """X -> X^g that keeps exponents that are even multiples of ``stride`` and negates the odd ones."""
        index = unpack_automorphism(self._parameters.ring, stride)
        return self._context.EvalAutomorphism(ciphertext, index, self._automorphisms)

    def _shifted(self, ciphertext: Any, by: int) -> Any:
        """X^by times a ciphertext."""
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
            empty = self._dropped(self._keys.zero, limbs)
            self._moulds[limbs] = Mould.of(empty, self._parameters.ring, tuple(r.q for r in self._rings[:limbs]))
        return self._moulds[limbs]

    def _trivial(self, message: np.ndarray[Any, Any], limbs: int) -> Any:
        """The "ciphertext" (m, 0) of public integers."""
        arrays = [r.to_evaluation(r.reduce(message)) for r in self._rings[:limbs]]
        arrays += [np.zeros(self._parameters.ring, dtype=np.uint64)] * limbs
        return fhe.DeserializeCiphertextString(self._mould(limbs).with_residues(arrays), fhe.BINARY)

    # -- between the contexts: both have the same secret, so switching the modulus is all there is to do --

    def _to_torus(self, source: Any) -> Any:
        (ring,) = self._rings[:1]
        elements = (ring.to_coefficients(c) for c in residues(source, ring.n, (ring.q,), 2))
        c0, c1 = (rescale(c, ring, self._bottom.ring) for c in elements)
        return self._bottom.cast(c0, c1)

    def _from_torus(self, source: Any) -> Any:
        rings, limbs = self._decoded_rings, self._parameters.decoded_limbs
        towers = residues(source, self._parameters.ring, tuple(r.q for r in rings), 2 * len(rings))
        arrays = []
        for element in (towers[: len(rings)], towers[len(rings) :]):
            coefficients = [r.to_coefficients(c) for r, c in zip(rings, element, strict=True)]
            switched = self._rescaling(coefficients)
            arrays += [r.to_evaluation(c) for r, c in zip(self._rings[:limbs], switched, strict=True)]
        return fhe.DeserializeCiphertextString(self._mould(limbs).with_residues(arrays), fhe.BINARY)
