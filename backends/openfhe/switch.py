"""Scheme switches between BGV and the bootstrapping context. No key and no secret is needed: both share one secret.

BGV keeps m + t*e modulo Q (least significant bits), the bootstrap reads (q/t)*m + e (most significant bits). As Q = 1
(mod t),
multiplying all coefficients by -1/t modulo Q leads from the first to the second, and by -t back; in between, the
modulus is switched.
"""

from __future__ import annotations

from typing import Any

from .bridge import CiphertextMould, residues
from .keys import EvaluationKeys
from .ring import rescale


class Switcher:
    """Switches ciphertexts of one client; needs the public key only to make an empty ciphertext as a mould."""

    def __init__(self, keys: EvaluationKeys) -> None:
        self._contexts = keys.contexts
        self._public_key = keys.public_key
        self._bgv_mould = keys.bgv_mould
        self._torus_moulds: dict[int, CiphertextMould] = {}

    def to_torus(self, ciphertext: Any, slots: int) -> Any:
        """BGV ciphertext -> ciphertext at the bottom of the bootstrapping context, for ``slots``."""
        source, target = self._contexts.bgv_ring, self._contexts.torus_ring
        factor = -pow(self._contexts.parameters.plaintext_modulus, -1, source.q)
        elements = self._bgv_mould.coefficients(ciphertext)
        c0, c1 = (rescale(source.scale(c, factor), source, target) for c in elements)
        return self.mould(slots).cast(c0, c1)

    def from_torus(self, ciphertext: Any) -> Any:
        """The way back."""
        source, target = self._contexts.torus_ring, self._contexts.bgv_ring
        factor = -self._contexts.parameters.plaintext_modulus
        elements = (source.to_coefficients(c) for c in residues(ciphertext, source.n, (source.q,), 2))
        c0, c1 = (target.scale(rescale(c, source, target), factor) for c in elements)
        return self._bgv_mould.cast(c0, c1)

    def mould(self, slots: int) -> CiphertextMould:
        """The form of a ciphertext at the bottom of the bootstrapping context."""
        if slots not in self._torus_moulds:
            context = self._contexts.torus
            assert context is not None
            lowest = self._contexts.parameters.depth
            zero = context.MakeCKKSPackedPlaintext([0.0], 1, lowest, None, slots)
            empty = context.Encrypt(self._public_key, zero)
            self._torus_moulds[slots] = CiphertextMould.of(empty, self._contexts.torus_ring)
        return self._torus_moulds[slots]
