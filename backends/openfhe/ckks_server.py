"""Training on OpenFHE ciphertexts: CKKS products, selections, bootstraps. No secret, no way to decrypt.

Messages stand in the coefficients. OpenFHE encodes CKKS messages in slots, so its own plaintexts are not used:
monomials are trivial ciphertexts, and constants that must not cost a limb are multiplied into the residues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np

from glyphc.ir.ckks import Refresh
from glyphc.ir.parameters import Parameters

from .bootstrap import Bootstrapper
from .bridge import BridgeError, Mould
from .contexts import Contexts
from .keys import unpack_automorphism
from .library import fhe
from .ring import U64


@dataclass(frozen=True, eq=False)
class TrainingKeys:
    """What the server holds: contexts and public key.

    The keys for bootstraps, products and selections live in OpenFHE's own tables, filed under the public key's tag.
    """

    contexts: Contexts
    public_key: Any


def automorphisms_of(parameters: Parameters, counts: Sequence[int]) -> tuple[int, ...]:
    """Automorphism indices for ``Select`` with these counts."""
    ring, found = parameters.ring, set()
    for count in counts:
        found |= {unpack_automorphism(ring, 1 << level) for level in range(int(log2(count)))}
        found |= {(1 << level) + 1 for level in range(1, _trace_levels(ring, count) + 1)}
    return tuple(sorted(found))


def _trace_levels(ring: int, count: int) -> int:
    """Levels of packing and trace together: each piece of a selection has N/count coefficients."""
    return int(max(log2(count), log2(ring // count)))


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

    def select(self, source: Any, count: int) -> Any:
        """Unpack into ``count`` pieces, pack them again at N/count while the trace removes what is not wanted, unpack.

        What is wanted of a piece ends up alone in its ciphertext, and is moved to its place. Packing as in Chen, Dai,
        Kim, Song, "Efficient homomorphic conversion between (ring) LWE ciphertexts" (2021), algorithm 2: one
        automorphism for two pieces. Every level doubles what it keeps; the residues are divided by the whole factor
        beforehand, which is exact modulo odd primes. No coefficient, noise included, may escape the trace then: what
        is not doubled as often would stay a large residue.
        """
        ring, halvings = self._parameters.ring, int(log2(count))
        levels = _trace_levels(ring, count)
        divided = self._divided(source, levels + 2 * halvings)
        packed = self._packed(self._unpacked(divided, count, 1))
        for level in range(halvings + 1, levels + 1):
            packed = self._context.EvalAdd(packed, self._automorphism(packed, (1 << level) + 1))
        pieces = self._unpacked(packed, count, ring // count)
        return self.sum([(self._shifted(piece, j), 1) for j, piece in enumerate(pieces)])

    # -- parts of a selection --

    def _unpacked(self, source: Any, parts: int, stride: int) -> list[Any]:
        """parts * (the residue classes of exponents modulo parts*stride), each moved down to multiples of that."""
        pieces = {0: source}
        step = 1
        while step < parts:
            index = unpack_automorphism(self._parameters.ring, stride * step)
            halves: dict[int, Any] = {}
            for residue, piece in pieces.items():
                image = self._automorphism(piece, index)
                halves[residue] = self._context.EvalAdd(piece, image)
                odd = self._context.EvalSub(piece, image)
                halves[residue + step] = self._shifted(odd, -stride * step)
            pieces = halves
            step *= 2
        return [pieces[r] for r in range(parts)]

    def _packed(self, pieces: list[Any]) -> Any:
        """Coefficient 0 of every piece, times their number, at multiples of N divided by it; garbage elsewhere."""
        if len(pieces) == 1:
            return pieces[0]
        even, odd = self._packed(pieces[::2]), self._packed(pieces[1::2])
        moved = self._shifted(odd, self._parameters.ring // len(pieces))
        image = self._automorphism(self._context.EvalSub(even, moved), len(pieces) + 1)
        return self._context.EvalAdd(self._context.EvalAdd(even, moved), image)

    def _automorphism(self, ciphertext: Any, index: int) -> Any:
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
        product = self._context.EvalMultNoRelin(ciphertext, self._monomials[key])
        # the monomial has no scale, and its third element is zero
        product.SetElements(list(product.GetElements())[:2])
        product.SetNoiseScaleDeg(1)
        product.SetScalingFactor(ciphertext.GetScalingFactor())
        return product

    def _divided(self, ciphertext: Any, doublings: int) -> Any:
        """Residues times 2^-doublings modulo each prime."""
        mould = Mould.of(ciphertext, self._parameters.ring, tuple(self._rings))
        if len(mould.towers) != 2 * self._limbs(ciphertext):
            raise BridgeError(f"found {len(mould.towers)} towers in a ciphertext on {self._limbs(ciphertext)} limbs")
        arrays: list[U64] = []
        for offset, q in mould.towers:
            residues = np.frombuffer(mould.blob, dtype="<u8", count=self._parameters.ring, offset=offset)
            arrays.append(self._rings[q].scale(residues.astype(np.uint64), pow(2, -doublings, q)))
        return fhe.DeserializeCiphertextString(mould.with_residues(arrays), fhe.BINARY)

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
