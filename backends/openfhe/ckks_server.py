"""Training on OpenFHE ciphertexts: CKKS products, selections, bootstraps. No secret, no way to decrypt.

Messages stand in the coefficients. OpenFHE encodes CKKS messages in slots, so its own plaintexts are not used:
monomials are trivial ciphertexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np

from glyphc.ir.ckks import Bootstrap, Refresh

from .bootstrap import Bootstrapper
from .bridge import Mould
from .contexts import Contexts
from .keys import unpack_automorphism
from .library import fhe


@dataclass(frozen=True, eq=False)
class TrainingKeys:
    """What the server holds: contexts and public key.

    The keys for bootstraps, products and packing live in OpenFHE's own tables, filed under the public key's tag.
    """

    contexts: Contexts
    public_key: Any


def automorphisms_of(ring: int, periods: Sequence[int]) -> tuple[int, ...]:
    """Automorphism indices for ``Pack`` and ``Unpack`` where stride * parts is one of these."""
    found: set[int] = set()
    for period in periods:
        found |= {unpack_automorphism(ring, 1 << level) for level in range(int(log2(period)))}
    return tuple(sorted(found))


class OpenFHECKKS:
    """OpenFHE behind training's instructions (see ``glyphc.backends.ckks_machine.CKKSMachine``)."""

    def __init__(self, keys: TrainingKeys) -> None:
        context = keys.contexts.torus
        assert context is not None
        self._keys = keys
        self._context = context
        self._parameters = keys.contexts.parameters
        self._rings = {r.q: r for r in keys.contexts.torus_rings}
        self._automorphisms = context.GetEvalAutomorphismKeyMap(keys.public_key.GetKeyTag())
        self._bootstrapper = Bootstrapper(keys.contexts)
        self._moulds: dict[int, Mould] = {}
        self._monomials: dict[tuple[int, int], Any] = {}

    # -- instructions --

    def scaled(self, source: Any, factor: float) -> Any:
        return self._context.Rescale(self._context.EvalMult(source, float(factor)))

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
        powers = self._bootstrapper.powers(source, instruction.series.degree)
        return self._bootstrapper.evaluate(powers, instruction.series)

    def reverse(self, source: Any) -> Any:
        return self._context.EvalAutomorphism(source, 2 * self._parameters.ring - 1, self._automorphisms)

    def convolved(self, source: Any, exponents: Sequence[int], weight: int) -> Any:
        ring = self._parameters.ring
        wrapped = np.asarray(exponents) % (2 * ring)
        factor = np.zeros(ring, dtype=np.int64)
        np.add.at(factor, wrapped % ring, np.where(wrapped < ring, weight, -weight))
        return self._times(source, self._trivial(factor, self._limbs(source)))

    def raised(self, source: Any, value: float) -> Any:
        everywhere = np.full(self._parameters.ring, round(value * 2.0**self._parameters.scaling_bits), dtype=np.int64)
        return self._context.EvalAdd(source, self._trivial(everywhere, self._limbs(source)))

    def reduced(self, source: Any, limbs: int) -> Any:
        return self._reduced(source, limbs)

    def bootstrap(self, source: Any, instruction: Bootstrap) -> list[Any]:
        powers = self._bootstrapper.powers(source, self._parameters.degree)
        return [self._bootstrapper.slot_form(powers, series) for series in instruction.series]

    def masked(self, source: Any, conditions: Sequence[tuple[int, int]]) -> Any:
        """The values of a sparse bootstrap stand in 2 * slots slots: two halves, each in bit-reversed order."""
        slots = self._parameters.slots
        bits = slots.bit_length() - 1
        order = np.array([int(f"{k:0{bits}b}"[::-1], 2) if bits else 0 for k in range(slots)])
        exponents = np.concatenate([order, order + slots]) * (self._parameters.ring // (2 * slots))
        keep = np.ones(2 * slots, dtype=bool)
        for period, count in conditions:
            keep &= exponents % period < count
        mask = self._context.MakeCKKSPackedPlaintext([float(k) for k in keep], 1, source.GetLevel(), None, 2 * slots)
        return self._context.Rescale(self._context.EvalMult(source, mask))

    def slot_product(self, a: Any, b: Any) -> Any:
        limbs = min(self._limbs(a), self._limbs(b))
        return self._context.Rescale(self._context.EvalMult(self._reduced(a, limbs), self._reduced(b, limbs)))

    def decode(self, source: Any) -> Any:
        p = self._parameters
        # levels of the second transform and those that are kept lie below a slot form, and one for each product to come
        unused = self._limbs(source) - 1 - p.levels_kept - p.level_budget[1]
        return self._bootstrapper.decoded(source, unused)

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
        return int(self._parameters.depth + 1 - ciphertext.GetLevel())

    def _reduced(self, ciphertext: Any, limbs: int) -> Any:
        surplus = self._limbs(ciphertext) - limbs
        return self._context.LevelReduce(ciphertext, None, surplus) if surplus else ciphertext

    def _trivial(self, message: np.ndarray[Any, Any], limbs: int) -> Any:
        """The "ciphertext" (m, 0) of public integers."""
        if limbs not in self._moulds:
            level = self._parameters.depth + 1 - limbs
            zero = self._context.MakeCKKSPackedPlaintext([0.0], 1, level, None, self._parameters.slots)
            empty = self._context.Encrypt(self._keys.public_key, zero)
            self._moulds[limbs] = Mould.of(empty, self._parameters.ring, tuple(self._rings))
        mould = self._moulds[limbs]
        rings = [self._rings[q] for _, q in mould.towers[:limbs]]
        arrays = [r.to_evaluation(r.reduce(message)) for r in rings]
        arrays += [np.zeros(self._parameters.ring, dtype=np.uint64)] * limbs
        return fhe.DeserializeCiphertextString(mould.with_residues(arrays), fhe.BINARY)
